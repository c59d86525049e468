"""What the joint trainer minimises: modules that turn a batch into the terms of its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from x2sam_ros.errors import ConfigError
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.mask_decoder import LayerPrediction
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.auxiliary import AuxiliaryHeads
from x2sam_ros.training.feed import SourceBatch
from x2sam_ros.training.losses import segmentation_loss
from x2sam_ros.training.objective import batch_loss, batch_scores
from x2sam_ros.training.recipe import Recipe

CLASSES = 2
"""An object, or background."""


class JointLoss(nn.Module):
    """Words, masks and classes of any prompt, `Segmentor.step` unrolled over the frames; see `batch_loss`.

    Args:
        model: the network.
        recipe: its ``objective`` and ``loss``.
        heads: what else teaches, where batches say enough for them.
    """

    def __init__(self, model: X2SAM, recipe: Recipe, heads: AuxiliaryHeads | None = None) -> None:
        super().__init__()
        self.model, self.heads = model, heads
        self.objective, self.loss = recipe.objective, recipe.loss

    def forward(self, item: SourceBatch, scored: bool = False) -> dict[str, Tensor]:
        """Return the terms of the loss of a batch; where ``scored``, the values of `batch_scores`."""
        if scored:
            ious, exact = batch_scores(self.model, item.batch)
            return {"score": ious, "answers": exact.float()}
        loss = replace(self.loss, share_phrases=True) if item.share_phrases else self.loss
        return batch_loss(self.model, self.heads, item.batch, "joint", self.objective, loss)


class AgnosticLoss(nn.Module):
    """Masks of whatever is an object, without words: the published first stage.

    A linear head tells objects from background; it is not part of the network that is saved. Each picture counts
    once, with the objects of all its prompts; of a clip the first frame.

    Args:
        model: the network.
        recipe: its ``loss``.

    Source: wanghao9610/X2SAM, first stage.
    """

    def __init__(self, model: X2SAM, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.loss = model, recipe.loss
        self.head = nn.Linear(model.config.segmentor.decoder.hidden, CLASSES)

    def forward(self, item: SourceBatch, scored: bool = False) -> dict[str, Tensor]:
        """Return the terms of the loss of a batch; where ``scored``, the best IoU that each object has with a mask."""
        self.check([] if item.batch.conversations else [item.source])
        batch, segmentor = item.batch, self.model.segmentor
        device, pictures = self.model.device, batch.pixel_values.shape[1]
        features = segmentor.encode_image(batch.pixel_values[0].to(device))
        output = segmentor.step(segmentor.decode_pixels(features, first=True), self._silence(pictures))
        masks = batch.masks[0].to(device)
        masks = masks.reshape(pictures, -1, *masks.shape[-2:])  # prompts of one picture lie side by side
        labels = batch.labels.to(device).reshape(pictures, -1).clamp_max(0).masked_fill(_repeated(masks), -1)
        if scored:
            return {"score": self._overlaps(output.layers[-1], masks > 0.5)[labels >= 0]}
        ignore = None
        if batch.ignore is not None:
            ignore = batch.ignore[0].to(device).reshape(pictures, -1, *masks.shape[-2:]).any(1)
        terms: dict[str, Tensor] = {}
        for layer in output.layers:
            found = segmentation_loss(self.head(layer.queries), layer.mask_logits, labels, masks, self.loss, ignore)
            terms = {name: terms.get(name, 0.0) + term for name, term in found.items()}
        return {name: term / len(output.layers) if self.loss.layers == "mean" else term for name, term in terms.items()}

    @staticmethod
    def check(chats: Sequence[str]) -> None:
        """Raise ConfigError where there are chats, of which the names of the sources are given: they have no masks."""
        if chats:
            raise ConfigError(
                f"the stage segmentor learns masks, and chats have none: take {', '.join(chats)} out of the plan, or "
                "take another stage"
            )

    def _overlaps(self, layer: LayerPrediction, masks: Tensor) -> Tensor:
        """Return the best IoU of each mask (N, M, h, w) with those of queries that are rather objects, (N, M)."""
        thing, background = self.head(layer.queries).unbind(-1)
        found = ((layer.mask_logits > 0) & (thing > background)[..., None, None]).flatten(2).float()
        truth = masks.flatten(2).float()
        inter = truth @ found.transpose(1, 2)
        union = truth.sum(2)[..., None] + found.sum(2)[:, None] - inter
        return (inter / union.clamp_min(1)).amax(2)

    def _silence(self, pictures: int) -> PromptCondition:
        """Return a condition that says nothing."""
        width = self.model.config.segmentor.decoder.hidden
        nothing = torch.zeros(pictures, 1, width, device=self.model.device)
        heard = torch.ones(pictures, 1, dtype=torch.bool, device=nothing.device)
        return PromptCondition(nothing, heard, nothing, heard, nothing)


def _repeated(masks: Tensor) -> Tensor:
    """Return which of the masks (N, M, h, w) of a picture are the same as an earlier one of it, bool (N, M)."""
    kind = torch.stack([one.flatten(1).unique(dim=0, return_inverse=True)[1] for one in masks])
    return (kind[:, :, None] == kind[:, None]).tril(-1).any(2)
