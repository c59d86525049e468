"""Training batches from generated clips: pictures, prompts in words and regions, and who is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from x2sam_ros.config import TrainConfig
from x2sam_ros.engine.preprocess import mask_encoder_pixels
from x2sam_ros.model.config import X2SAMConfig
from x2sam_ros.model.conversation import Conversation, ConversationBuilder, Media
from x2sam_ros.model.tokenizer import Tokenizer
from x2sam_ros.training.drawn import LanguageView, Scenes, Things, attribute_shares, draw, object_shares
from x2sam_ros.training.prompts import CLICK_ODDS, PROMPT_ODDS, PromptMaker, PromptSample
from x2sam_ros.training.scenes import KINDS, Clip, lay_out
from x2sam_ros.training.scenes.layout import Layout
from x2sam_ros.training.scenes.render import sketch
from x2sam_ros.training.scenes.render_torch import Canvas

FIRST_TRAINING_SEED = 1_000_000
"""Scenes of smaller seeds are held out: no training batch ever draws them."""

TRAINING_SEEDS = (FIRST_TRAINING_SEED, 2**62)
HELD_OUT_SEEDS = (0, FIRST_TRAINING_SEED)
"""First scene seed, and the one behind the last."""

ASPECTS = ((480, 640), (512, 512), (360, 640), (640, 480))
_ASPECT_ODDS = (0.5, 0.2, 0.2, 0.1)


@dataclass(frozen=True)
class Batch:
    """I clips of T frames with P prompts each; N = I * P, the prompts of a clip side by side.

    Args:
        pixel_values: float (T, I, 3, S, S).
        patches, grid: the language side's view of each clip's first frame, or of the clip, (patches, 1536) and (I, 3).
        conversations: N prompts for masks.
        texts: questions for words alone, as many for each clip, those of a clip side by side.
        regions: bool (R, S, S), region prompts in prompt order; region_rows: int64 (R,), the prompt of each.
        masks: float (T, N, M, S / 4, S / 4), share of each cell that a wanted object covers.
        labels: int64 (N, M), the phrase each wanted object answers; -1 where there is none.
        attributes: float (T, I, A, S / 4, S / 4), share of each cell by shape, colour and size.
        centres: float (N, 3), x and y of the first wanted object, and 1 where there is one.
        strides: int64 (N,), camera frames between two frames of the prompt's clip.
        cells: float (V, A + 1), for each picture token of the language side in order, the share of its cell by shape,
            colour and size, and how many objects have their centre in it.
        ignore: bool (T, N, S / 4, S / 4), cells that teach nothing; None where all do.
        remembered: bool (N,), prompts whose words fit several objects: only a memory tells which is meant; None: none.
    """

    pixel_values: Tensor
    patches: Tensor
    grid: Tensor
    conversations: list[Conversation]
    texts: list[Conversation]
    regions: Tensor
    region_rows: Tensor
    masks: Tensor
    labels: Tensor
    attributes: Tensor
    centres: Tensor
    strides: Tensor
    cells: Tensor
    ignore: Tensor | None = None
    remembered: Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """All that is chosen for a batch; what is left is to draw it.

    Args:
        scenes: I clips.
        things: their objects.
        strides: camera frames between two frames of each clip.
        prompts: N prompts for masks, those of a clip side by side.
        texts: questions for words alone, as many for each clip.
        view: how the language side is shown the clips.
        seeds: the clips', for messages.
    """

    scenes: Scenes
    things: Things
    strides: tuple[int, ...]
    prompts: list[PromptSample]
    texts: list[Conversation]
    view: LanguageView
    seeds: tuple[int, ...] = ()

    def to(self, device: torch.device | str) -> Plan:
        """Have it drawn by torch on a device."""
        canvas = self.scenes if isinstance(self.scenes, Canvas) else Canvas.of(self.scenes)
        return replace(self, scenes=canvas.to(device))


class SceneBatches(Dataset[Batch]):
    """Batch ``i`` of a phase, made from its number alone: any order, any worker, any resumption gives the same.

    Args:
        config: the recipe.
        model: the network the batches are for.
        tokenizer: its tokenizer.
        phase: name of the phase.
        start, stop: number of the first batch, and of the one behind the last.
        seeds: scene seeds to draw from, the last left out.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: X2SAMConfig,
        tokenizer: Tokenizer,
        phase: str,
        start: int,
        stop: int,
        seeds: tuple[int, int] = TRAINING_SEEDS,
    ) -> None:
        self.config, self.model, self.phase, self.start, self.stop = config, model, phase, start, stop
        self.seeds = seeds
        self.shape = config.phase(phase)
        builder = ConversationBuilder(tokenizer, model.language.phrase_markers)
        self.maker = PromptMaker(builder, model.language.templates, CLICK_ODDS if phase == "clicks" else PROMPT_ODDS)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Batch:
        return collate(self.plan(index), self.model)

    def plan(self, index: int) -> Plan:
        """Choose what a batch is made of, on the host: the same on every device."""
        step = self.start + index
        phase_number = self.config.phases.index(self.phase)
        rng = np.random.Generator(np.random.PCG64([self.config.seed, phase_number, step]))
        height, width = ASPECTS[int(rng.choice(len(ASPECTS), p=_ASPECT_ODDS))]
        side = self.model.segmentor.image_size
        whole_clip = (
            self.phase != "memory" and self.shape.frames > 1 and rng.random() < self.config.clip_share
        )  # the memory phase trains nothing that would tell a clip from a picture
        # where nothing is followed, only what the language model is shown is drawn
        frames = self.shape.frames if whole_clip or self.phase != "words" else 1
        if self.phase == "memory" and 3 * step < self.shape.steps:
            frames = 2  # one memory, always told the truth, is learnt to be read before a chain of them is
        drawn = (self._layout(rng, side, width / height, frames) for _ in range(self.shape.clips))
        layouts, strides, seeds = zip(*drawn)
        view = LanguageView.of(height, width, frames if whole_clip else None, self.model.language)
        asked = self.shape.prompts or self.shape.texts
        clips = [sketch(layout) for layout in layouts if asked]
        prompts = [p for clip in clips for p in self._prompts(clip, rng, view.media)]
        texts = [t for clip in clips for t in self.maker.texts(clip, rng, self.shape.texts, view.media)]
        return Plan(layouts, Things.of(layouts), strides, prompts, texts, view, seeds)

    def _prompts(self, clip: Clip, rng: np.random.Generator, media: Media) -> list[PromptSample]:
        """Draw the prompts for masks; in the memory phase a share, ``remembered_share``, for the memory to decide."""
        count, config = self.shape.prompts, self.config
        if self.phase != "memory":
            return self.maker.prompts(clip, rng, count, media)
        told = int(rng.binomial(count, config.remembered_share))
        drawn = [self.maker.remembered(clip, rng, media, config.nameless_share) for _ in range(told)]
        samples = [sample for sample in drawn if sample is not None]
        return [*samples, *self.maker.prompts(clip, rng, count - len(samples), media)]

    def _layout(self, rng: np.random.Generator, side: int, aspect: float, frames: int) -> tuple[Layout, int, int]:
        """Choose a clip; return it, how many camera frames lie between two of its frames, and its seed."""
        seed = int(rng.integers(*self.seeds))
        stride = int(rng.integers(1, self.shape.max_stride + 1))
        odds = self.config.memory_kind_odds if self.phase == "memory" else self.config.kind_odds
        kind = str(rng.choice(KINDS, p=odds)) if frames > 1 else _still_kind(rng)
        layout = lay_out(seed, (frames - 1) * stride + 1, side, side, kind=kind, aspect=aspect)
        return layout.every(stride), stride, seed


def _still_kind(rng: np.random.Generator) -> str:
    return str(rng.choice(("plain", "twins", "distractors"), p=(0.65, 0.1, 0.25)))


class ScenePlans(Dataset[Plan]):
    """The plans of `SceneBatches`, packed for torch: workers choose, and the training device draws."""

    def __init__(self, batches: SceneBatches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Plan:
        return self._batches.plan(index).to("cpu")


def collate(plan: Plan, model: X2SAMConfig) -> Batch:
    """Draw a plan and turn it into tensors, on the device that it is drawn on; what is small stays on the host."""
    drawn, view, things, prompts = draw(plan.scenes, plan.view), plan.view, plan.things, plan.prompts
    (frames, clips, side), device = drawn.labels.shape[:3], drawn.labels.device
    per_clip = len(prompts) // clips
    pixels = mask_encoder_pixels(drawn.frames.flatten(0, 1), side, device)
    patches, grid = view.patches(drawn.shown, model.language)
    shares = object_shares(drawn.labels, things.centre.shape[2])
    attributes = attribute_shares(shares, things)
    masks, labels = _wanted(prompts, shares)
    centres = torch.zeros(len(prompts), 3)
    for row, sample in enumerate(prompts):
        first = next((k for k, label in enumerate(sample.classes) if label >= 0), None)
        if first is not None:
            centres[row] = torch.tensor([*things.centre[0, row // per_clip, first].tolist(), 1.0])
    regions = [(row, region) for row, sample in enumerate(prompts) for region in sample.regions]
    return Batch(
        pixel_values=pixels.view(frames, clips, 3, side, side),
        patches=patches,
        grid=grid,
        conversations=[sample.conversation for sample in prompts],
        texts=plan.texts,
        regions=torch.from_numpy(np.stack([r for _, r in regions])) if regions else torch.zeros(0, side, side).bool(),
        region_rows=torch.tensor([row for row, _ in regions], dtype=torch.int64),
        masks=masks,
        labels=labels,
        attributes=attributes,
        centres=centres,
        strides=torch.tensor(plan.strides).repeat_interleave(max(per_clip, 1)),
        cells=view.cells(drawn.labels, things, attributes, model.language.vision),
        remembered=torch.tensor([sample.remembered for sample in prompts], dtype=torch.bool),
    )


def _wanted(prompts: Sequence[PromptSample], shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return masks (T, N, M, h, w) and labels (N, M) of what each prompt wants: objects, then the background."""
    wanted = []
    for sample in prompts:
        objects = [(k + 1, label) for k, label in enumerate(sample.classes) if label >= 0]
        wanted.append(objects + ([(0, sample.stuff)] if sample.stuff >= 0 else []))
    slots = max([1, *map(len, wanted)])
    planes = torch.zeros(len(prompts), slots, dtype=torch.int64)
    labels = torch.full_like(planes, -1)
    for row, items in enumerate(wanted):
        for slot, item in enumerate(items):
            planes[row, slot], labels[row, slot] = item
    clip = torch.arange(len(prompts)) // max(len(prompts) // shares.shape[1], 1)
    masks = shares[:, clip[:, None].to(shares.device), planes.to(shares.device)]
    return masks * (labels >= 0).to(shares.device)[..., None, None], labels
