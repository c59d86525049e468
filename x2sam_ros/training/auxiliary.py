"""Heads that only teach: what each cell shows, and where the meant object is. Dropped when weights are exported."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.pixel_decoder import PixelFeatures
from x2sam_ros.training.drawn import ATTRIBUTE_SIZES

NUM_MAPS = 7
"""Three of the encoder, three multi-scale ones and the mask features of the pixel decoder."""


class AuxiliaryHeads(nn.Module):
    """Dense attributes from pixel features, a dense grounding map, and the meant object's centre from ``<SEG>``.

    Args:
        channels: width of the pixel features.
        text_width: width of the language side's picture tokens.
    """

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        self.cells = nn.Linear(text_width, sum(ATTRIBUTE_SIZES) + 1)
        self.attributes = nn.ModuleList(nn.Conv2d(channels, sum(ATTRIBUTE_SIZES), 1) for _ in range(NUM_MAPS))
        self.grounding = nn.Linear(channels, channels)
        self.grounding_bias = nn.Parameter(torch.tensor(-2.0))
        self.centre = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, 3))

    def attribute_loss(self, maps: tuple[Tensor, ...], shares: Tensor) -> Tensor:
        """Cross entropy of shape, colour and size in every cell of every map.

        Args:
            maps: the encoder's pyramid, fine to coarse, then the pixel decoder's maps, each (B, D, H, W).
            shares: (B, A, h, w) at stride 4.
        """
        total = shares.new_zeros(())
        for head, features in zip(self.attributes, maps):
            logits = head(features).float()
            truth = F.adaptive_avg_pool2d(shares, logits.shape[-2:])
            # objects cover a fifth of the picture: weigh their cells up, or background is all that is learnt
            weight = 0.25 + (1 - truth[:, 0])
            for part, target in zip(logits.split(ATTRIBUTE_SIZES, 1), truth.split(ATTRIBUTE_SIZES, 1)):
                cross = -(target * part.log_softmax(1)).sum(1)
                total = total + (cross * weight).sum() / weight.sum()
        return total / len(maps)

    def cell_loss(self, embeds: Tensor, cells: Tensor) -> Tensor:
        """Cross entropy of shape, colour and size in every picture token, and its number of objects' centres.

        Args:
            embeds: (V, D), picture tokens of the language side.
            cells: (V, A + 1), see ``Batch.cells``.
        """
        predicted = self.cells(embeds).float()
        weight = 0.25 + (1 - cells[:, 0])
        parts = zip(predicted[:, :-1].split(ATTRIBUTE_SIZES, 1), cells[:, :-1].split(ATTRIBUTE_SIZES, 1))
        cross = sum((-(truth * part.log_softmax(1)).sum(1) for part, truth in parts), start=torch.zeros_like(weight))
        counted = F.smooth_l1_loss(predicted[:, -1], cells[:, -1], beta=0.3)
        return (cross * weight).sum() / weight.sum() + 3 * counted

    def grounding_loss(
        self, pixels: PixelFeatures, condition: PromptCondition, labels: Tensor, masks: Tensor
    ) -> Tensor:
        """Binary cross entropy of "this cell shows what phrase c names", straight from phrase and mask features."""
        features = pixels.mask_features.flatten(2)  # (B, D, P)
        phrases = self.grounding(condition.cond_embeds[:, :-1])  # (N, C, D)
        batch, count = features.shape[0], phrases.shape[1]
        scores = phrases.reshape(batch, -1, phrases.shape[-1]) @ features / features.shape[1] ** 0.5
        scores = scores.float().view(phrases.shape[0], count, -1) + self.grounding_bias
        member = F.one_hot(labels.clamp_min(0), count) * (labels >= 0)[..., None]  # (N, M, C)
        truth = torch.einsum("nmc,nmp->ncp", member.to(masks.dtype), masks.flatten(2)).clamp(0, 1)
        keep = condition.embed_mask[:, :-1, None].float()
        cross = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
        probs = scores.sigmoid()
        dice = 1 - (2 * (probs * truth).sum(2) + 1) / (probs.sum(2) + truth.sum(2) + 1)
        wanted = (truth.sum(2) > 0).float() * keep[..., 0]
        bce_mean = (cross * keep).mean(2).sum() / keep.sum()
        return 5 * bce_mean + (dice * wanted).sum() / wanted.sum().clamp_min(1)

    def centre_loss(self, condition: PromptCondition, centres: Tensor) -> Tensor:
        """Distance of the meant object's centre, and whether there is one, read from the state at ``<SEG>``."""
        predicted = self.centre(condition.seg_embeds[:, 0]).float()
        there = centres[:, 2]
        distance = F.smooth_l1_loss(predicted[:, :2].sigmoid(), centres[:, :2], reduction="none", beta=0.1).sum(1)
        presence = F.binary_cross_entropy_with_logits(predicted[:, 2], there)
        return (distance * there).sum() / there.sum().clamp_min(1) + 0.5 * presence
