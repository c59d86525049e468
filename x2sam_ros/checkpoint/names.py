"""Tensor names of the published checkpoints and what they are called here."""

from __future__ import annotations

_LANGUAGE_PREFIXES = ("vlm.base_model.model.", "vlm.")
"""Wrappers around the vision-language model: with LoRA adapters, and without."""

_MOVED = (
    ("model.language_model.norm.", "language.final_norm."),
    ("model.language_model.", "language.text."),
    ("model.visual.", "language.visual."),
)
_KEPT = ("segmentor.", "extra_projector.", "mlm_projector.", "bg_embeds.")

_DROPPED = frozenset(
    {
        # Tied to the embedding table.
        "lm_head.weight",
        # Part of the SAM 2 prompt encoder, which nothing here reads.
        "segmentor.shared_image_embedding.positional_embedding",
    }
)

EMBEDDING = "language.text.embed_tokens.weight"
LORA_A, LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"


def our_name(official: str) -> str | None:
    """Return our name of a published tensor, or None where it is not needed.

    LoRA factors keep their suffix; an unknown name is returned as it is, for the caller to report.
    """
    name = official
    for prefix in _LANGUAGE_PREFIXES:
        if name.startswith(prefix):
            name = name[len(prefix) :]
            break
    name = name.replace(".base_layer.", ".")
    if name in _DROPPED:
        return None
    if name.startswith(_KEPT):
        return name
    for theirs, ours in _MOVED:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return official
