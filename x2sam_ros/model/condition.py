"""What the language lane hands to the frame lane: the embeddings that steer the mask decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PromptCondition:
    """The projected language states of B prompts; plain tensors, no history.

    Args:
        cond_embeds: float (B, C+1, D), mean state of each phrase, zero where padded, background row last.
        embed_mask: bool (B, C+1), True where a row of ``cond_embeds`` is real; the background always is.
        token_embeds: float (B, L, D), every phrase token, phrase after phrase, zero where padded.
        token_mask: bool (B, L), True where a row of ``token_embeds`` is real.
        seg_embeds: float (B, 1, D), state at ``<SEG>``.
    """

    cond_embeds: Tensor
    embed_mask: Tensor
    token_embeds: Tensor
    token_mask: Tensor
    seg_embeds: Tensor

    @property
    def num_phrases(self) -> int:
        """C: the number of phrase rows, padding included, background excluded."""
        return int(self.cond_embeds.shape[1]) - 1

    @property
    def nbytes(self) -> int:
        """Bytes held by the five tensors."""
        return sum(t.element_size() * t.numel() for t in (getattr(self, f.name) for f in fields(self)))

    def rows(self, index: Tensor | slice | list[int]) -> PromptCondition:
        """Return the prompts chosen by ``index`` (int64 (N,), a list or a slice); a row may be taken more than once."""
        return PromptCondition(*(getattr(self, f.name)[index] for f in fields(self)))

    def to(self, device: torch.device | str) -> PromptCondition:
        """Return the same condition on ``device``."""
        return PromptCondition(*(getattr(self, f.name).to(device) for f in fields(self)))

    @classmethod
    def merge(
        cls, conditions: Sequence[PromptCondition], least_phrases: int = 0, least_tokens: int = 0
    ) -> PromptCondition:
        """Join prompts into one batch; the background row stays last, padding goes in front of it.

        Args:
            conditions: the prompts.
            least_phrases, least_tokens: how many of each the batch has room for at least.
        """
        phrases = max(least_phrases, *(c.num_phrases for c in conditions))
        tokens = max(least_tokens, *(c.token_embeds.shape[1] for c in conditions))

        def phrase_rows(x: Tensor) -> Tensor:
            return torch.cat([_pad_rows(x[:, :-1], phrases), x[:, -1:]], dim=1)

        return cls(
            cond_embeds=torch.cat([phrase_rows(c.cond_embeds) for c in conditions]),
            embed_mask=torch.cat([phrase_rows(c.embed_mask) for c in conditions]),
            token_embeds=torch.cat([_pad_rows(c.token_embeds, tokens) for c in conditions]),
            token_mask=torch.cat([_pad_rows(c.token_mask, tokens) for c in conditions]),
            seg_embeds=torch.cat([c.seg_embeds for c in conditions]),
        )


def _pad_rows(x: Tensor, length: int) -> Tensor:
    """Pad dimension 1 of (B, L) or (B, L, D) to ``length`` with zeros (False)."""
    missing = length - x.shape[1]
    return F.pad(x, [0, 0] * (x.ndim - 2) + [0, missing]) if missing else x
