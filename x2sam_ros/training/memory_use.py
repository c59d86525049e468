"""How much the memory decides: twins that only it can tell apart, with it and without."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from x2sam_ros.config import TrainConfig
from x2sam_ros.model.config import X2SAMConfig
from x2sam_ros.model.memory import MemoryEntry
from x2sam_ros.model.segmentor import StepOutput
from x2sam_ros.model.tokenizer import Tokenizer
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.drawn import LanguageView, Things
from x2sam_ros.training.memory_phase import look
from x2sam_ros.training.objective import recall, remember
from x2sam_ros.training.samples import Batch, Plan, SceneBatches, collate
from x2sam_ros.training.scenes import Clip, lay_out
from x2sam_ros.training.scenes import vocabulary as words
from x2sam_ros.training.scenes.render import sketch

TWINS_SEED = 700_000
"""First seed of the twins, held out from training."""

_SIZE = (480, 640)
_MIN_AREA = 0.003


@dataclass(frozen=True)
class MemoryUse:
    """J of the later frames of N prompts, each float (T - 1, N); NaN where the object is out of sight.

    Args:
        true: with the right mask in the first frame's memory, and what was predicted in those of later frames.
        none: without a memory, each frame as if it were the first.
        other: as ``true``, but against the mask of the other twin.
    """

    true: Tensor
    none: Tensor
    other: Tensor

    def gain(self) -> Tensor:
        """Return J with the memory less J without, the mean of each prompt, (N,)."""
        return (self.true - self.none).nanmean(0)


def twins(count: int, model: X2SAMConfig, tokenizer: Tokenizer, frames: int = 5, stride: int = 2) -> list[Batch]:
    """Draw ``count`` held-out clips of twins, one a batch; each twin is meant once, by the same words."""
    maker = SceneBatches(TrainConfig(), model, tokenizer, "memory", 0, 1).maker
    view = LanguageView.of(*_SIZE, None, model.language)
    side, seed = model.segmentor.image_size, TWINS_SEED
    drawn: list[Batch] = []
    while len(drawn) < count:
        layout = lay_out(seed, (frames - 1) * stride + 1, side, side, kind="twins", aspect=_SIZE[1] / _SIZE[0])
        layout = layout.every(stride)
        pair = _pair(clip := sketch(layout))
        if pair:
            me = clip.objects[clip.target]
            text = words.phrase(f"{me.colour} {me.shape}")
            prompts = [maker.of_object(clip, k, text, view.media) for k in pair]
            drawn.append(collate(Plan((layout,), Things.of([layout]), (stride,), prompts, [], view), model))
        seed += 1
    return drawn


def _pair(clip: Clip) -> tuple[int, int] | None:
    """Return the twins, if there are just two, both in full sight on the first frame."""
    me = clip.objects[clip.target]
    alike = [k for k, o in enumerate(clip.objects) if (o.shape, o.colour) == (me.shape, me.colour)]
    seen = [k for k in alike if clip.visible[0, k] > 0.9 and np.mean(clip.labels[0] == k + 1) > _MIN_AREA]
    return (seen[0], seen[1]) if len(alike) == len(seen) == 2 else None


@torch.no_grad()
def memory_use(model: X2SAM, batch: Batch) -> MemoryUse:
    """Measure a batch of `twins`; the memory streams, from the truth in the first frame."""
    seen = look(model, batch, alone=True)
    truth = seen.masks[:, :, 0] > 0.5
    output = model.segmentor.step(seen.frames[0], seen.condition)
    bank: list[MemoryEntry] = []
    true, none, other = [], [], []
    for t in range(1, len(seen.frames)):
        told = torch.full_like(seen.remembered, t == 1)
        bank.append(remember(model.segmentor, seen.frames[t - 1], output, seen.masks[t - 1], told))
        output = model.segmentor.step(seen.frames[t], seen.condition, recall(model.segmentor, bank, seen.strides))
        mask = surest(output)
        true.append(_j(mask, truth[t]))
        other.append(_j(mask, truth[t].flip(0)))
        none.append(_j(surest(model.segmentor.step(seen.alone[t], seen.condition)), truth[t]))
    return MemoryUse(*(torch.stack(x) for x in (true, none, other)))


def surest(output: StepOutput) -> Tensor:
    """Return the mask of the query surest of the first phrase, bool (N, H, W); empty where none is sure."""
    score, query = output.class_logits.float().softmax(-1)[..., 0].max(1)
    mask = output.mask_logits[torch.arange(len(query), device=query.device), query] > 0
    return mask & (score > 0.5)[:, None, None]


def _j(mask: Tensor, truth: Tensor) -> Tensor:
    """Return the IoU of masks (N, H, W), NaN where there is no true one."""
    inter, union = (mask & truth).flatten(1).sum(1), (mask | truth).flatten(1).sum(1)
    return torch.where(truth.flatten(1).any(1), inter / union.clamp_min(1), torch.nan).cpu()
