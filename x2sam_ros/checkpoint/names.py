"""Tensor names of the published checkpoints and what they are called here."""

from __future__ import annotations

_LANGUAGE_PREFIXES = ("vlm.base_model.model.", "vlm.")
"""Wrappers around the vision-language model: with LoRA adapters, and without. The base model has neither."""

_MOVED = (
    ("model.language_model.norm.", "language.final_norm."),
    ("model.language_model.", "language.text."),
    ("model.visual.", "language.visual."),
)
# picture_projector is ours: an export of a network that has one keeps it
_KEPT = ("segmentor.", "extra_projector.", "picture_projector.", "mlm_projector.", "bg_embeds.")
_LANGUAGE, _LAYERS = "language.", "language.text.layers."
_BASE_LAYER = ".base_layer."

EMBEDDING = "language.text.embed_tokens.weight"
LORA_A, LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"
HEAD = "lm_head.weight"
DROPPED = {
    HEAD: "tied to the embedding table",
    "segmentor.shared_image_embedding.positional_embedding": "part of SAM 2's prompt encoder, which nothing reads",
}
"""Published tensors that have no place here, by name without a wrapper's prefix, and the reason."""

_TRAINED = (EMBEDDING, "language.visual.merger.", "language.visual.deepstack_merger_list.")
"""Parts of the vision-language model that X2SAM trained: the base model's would be the wrong ones."""


def bare_name(official: str) -> str:
    """Return a published name without the wrappers that LoRA and X2SAM put around the vision-language model."""
    for prefix in _LANGUAGE_PREFIXES:
        if official.startswith(prefix):
            official = official[len(prefix) :]
            break
    return official.replace(_BASE_LAYER, ".")


def our_name(official: str) -> str | None:
    """Return our name of a published tensor, or None where it is not needed (see ``DROPPED``).

    LoRA factors keep their suffix; an unknown name is returned as it is, for the caller to report.
    """
    name = bare_name(official)
    if name in DROPPED:
        return None
    if name.startswith(_KEPT):
        return name
    for theirs, ours in _MOVED:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return official


def is_published(official: str) -> bool:
    """Tell whether a name is of the published layout, whatever the network's size."""
    name = bare_name(official)
    return name in DROPPED or name.startswith((*_KEPT, *(theirs for theirs, _ in _MOVED)))


def official_name(ours: str) -> str:
    """Return the name one of our tensors has in a published file without LoRA adapters."""
    for theirs, prefix in _MOVED:
        if ours.startswith(prefix):
            return "vlm." + theirs + ours[len(prefix) :]
    return ours


def is_language(ours: str) -> bool:
    """Tell whether a tensor of ours belongs to the vision-language model."""
    return ours.startswith(_LANGUAGE)


def comes_from_base(ours: str) -> bool:
    """Tell whether X2SAM left a tensor as the base model has it, so that an export may lack it."""
    return is_language(ours) and not ours.startswith(_TRAINED)


def takes_lora(ours: str) -> bool:
    """Tell whether X2SAM adapted a weight: each projection of each language layer."""
    return ours.startswith(_LAYERS) and ours.endswith("_proj.weight")


def is_adapted(official: str) -> bool:
    """Tell whether a published name says that LoRA factors belong to the weight."""
    return _BASE_LAYER in official
