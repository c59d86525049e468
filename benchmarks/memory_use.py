"""Measure whether the Mask Memory decides anything.

Twins: one of two that look alike is meant, by words that fit both. Its true mask is in the memory of the first frame.
J of the query surest of the words, at the network's own resolution, with that memory and without any; each twin is
meant once, so that without a memory nothing but luck remains.

Full occlusion: a board hides the target for at least ten frames in a row. The others have its colour and other shapes,
or are copies of it, which only place and motion tell apart. A session as the node's follows it, prompted once, on the
first frame. "Right" is a mask that covers the target with a J above 0.5 and no other object better: right before on the
last frame that has 95 % of the target in sight, right afterwards on the first that has so again. "Without memory" asks
a new session for the same words on that frame; "chance" chooses one of the objects in sight there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TypedDict

import numpy as np
import torch
from followed import Follower, settings
from pieces import Notes, in_pieces, mean_and_error, stop_after
from scene_cases import HEIGHT, HELD_OUT_SEED, WIDTH, prompt_for
from tables import arguments, at_least, hardware_line, number, print_table, printed_into, progress

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import NodeConfig
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.memory_use import MemoryUse, memory_use, twins
from x2sam_ros.training.samples import Batch
from x2sam_ros.training.scenes import Clip
from x2sam_ros.training.scenes.hiding import HIDDEN, lay_out_hidden
from x2sam_ros.training.scenes.render import draw
from x2sam_ros.types import BoolArray, FloatArray, Uint8Array

IN_SIGHT = 0.95
"""Visible share of a target that is in sight as a whole."""

LATER = 5
"""Frames that are followed after the one that is judged; for looking into what went wrong."""

RIGHT = 0.5
KINDS = (("other shapes", "text"), ("other shapes", "point"), ("look-alikes", "point"))
"""What the others are, and how the target is asked for; no words tell look-alikes apart."""

TWINS_HEADER = ("twins", "prompts", "J with memory", "J without", "gain", "std error", "J with the other twin")
HIDDEN_HEADER = (
    *("others", "prompt", "clips", "right before", "right afterwards", "std error"),
    *("without memory", "std error", "chance"),
)


def twin_rows(uses: list[MemoryUse]) -> list[tuple[str, ...]]:
    """Return a row for the frame after the memory, and one for all frames; each clip is one sample of the error."""
    rows = []
    for name, part in (("next frame", slice(0, 1)), ("all frames", slice(None))):
        true, none, other = (
            np.array([float(getattr(use, kind)[part].nanmean()) for use in uses]) for kind in ("true", "none", "other")
        )
        gain, error = mean_and_error(true - none)
        means = [number(mean_and_error(x)[0]) for x in (true, none)]
        count = str(sum(use.true.shape[1] for use in uses))
        rows.append((name, count, *means, number(gain), number(error), number(mean_and_error(other)[0])))
    return rows


@dataclass(frozen=True)
class Passage:
    """Frames of a clip: the last with the target in sight, the first and the last without, the first in sight again."""

    before: int
    gone: int
    last: int
    back: int

    @classmethod
    def of(cls, visible: FloatArray) -> Passage:
        """Read the visible share of the target in each frame, float (T,).

        Raises:
            ValueError: it is not hidden once, for ``HIDDEN`` frames in a row, between frames that show it.
        """
        hidden, shown = np.flatnonzero(visible <= 0), np.flatnonzero(visible >= IN_SIGHT)
        if len(hidden) < HIDDEN or np.any(np.diff(hidden) > 1):
            raise ValueError(f"the target is hidden on frames {hidden.tolist()}, expected {HIDDEN} or more in a row")
        gone, last = int(hidden[0]), int(hidden[-1])
        before, after = shown[shown < gone], shown[shown > last]
        if not len(before) or not len(after):
            raise ValueError(
                f"the target is in sight on frames {shown.tolist()}, expected some before and after {gone}"
            )
        return cls(int(before[-1]), gone, last, int(after[0]))


def hidden_clip(seed: int, others: str) -> tuple[Clip, Passage]:
    """Draw the clip of a seed, its target hidden; ``others`` is "other shapes" or "look-alikes"."""
    clip = draw(lay_out_hidden(seed, HEIGHT, WIDTH, alike=others == "look-alikes"))
    return clip, Passage.of(clip.visible[:, clip.target])


def overlaps(mask: BoolArray, labels: Uint8Array, num_objects: int) -> FloatArray:
    """Return the IoU of a mask with each object of a map of labels, (K,)."""
    count = num_objects + 1
    areas, shared = np.bincount(labels.ravel(), minlength=count), np.bincount(labels[mask], minlength=count)
    return np.asarray((shared / np.maximum(areas + np.count_nonzero(mask) - shared, 1))[1:], np.float64)


def is_right(found: FloatArray, target: int) -> bool:
    """Tell whether a mask of these overlaps with the objects, (K,), is the target's."""
    return bool(found[target] > RIGHT and found.argmax() == target)


class Outcome(TypedDict):
    """How a target was followed through its occlusion.

    Args:
        right_before, right_after: on `Passage`'s frames ``before`` and ``back``.
        without_memory: the answer of a new session on ``back``; None where there are no words to ask by.
        chance: of choosing it among the objects that are in sight on ``back``.
        target, other: IoU with the target in each frame, and the highest with another object.
        passage: the frames.
    """

    right_before: bool
    right_after: bool
    without_memory: bool | None
    chance: float
    target: list[float]
    other: list[float]
    passage: dict[str, int]


def outcome(model: X2SAM, policy: str, others: str, prompt_kind: str, seed: int) -> Outcome:
    """Follow the hidden target of a seed."""
    clip, passage = hidden_clip(seed, others)
    target = clip.target
    prompt = prompt_for(clip, target, 0, prompt_kind, np.random.default_rng(seed))
    assert prompt is not None  # it has a shape of its own where it is asked for by words

    def look(follower: Follower, index: int) -> FloatArray:
        return overlaps(follower.step(clip, index), clip.labels[index], len(clip.objects))

    follower = Follower(model, policy, prompt)
    found = np.stack([look(follower, index) for index in range(min(passage.back + 1 + LATER, len(clip.frames)))])
    alone = None
    if prompt_kind == "text":
        alone = is_right(look(Follower(model, policy, prompt), passage.back), target)
    return Outcome(
        right_before=is_right(found[passage.before], target),
        right_after=is_right(found[passage.back], target),
        without_memory=alone,
        chance=1 / int((clip.visible[passage.back] >= IN_SIGHT).sum()),
        target=found[:, target].round(3).tolist(),
        other=np.delete(found, target, axis=1).max(axis=1).round(3).tolist(),
        passage=asdict(passage),
    )


def hidden_row(others: str, prompt_kind: str, found: list[Outcome]) -> tuple[str, ...]:
    """Return the row of one kind of scene and prompt."""
    before, after, alone, chance = (
        mean_and_error([one[name] for one in found])
        for name in ("right_before", "right_after", "without_memory", "chance")
    )
    return (others, prompt_kind, str(len(found)), *map(number, (before[0], *after, *alone, chance[0])))


def hidden_rows(model: X2SAM, notes: Notes, policy: str, count: int) -> list[tuple[str, ...]]:
    """Return the rows of all `KINDS`, ``count`` clips of each."""
    rows = []
    for kind in KINDS:
        name = ", ".join(kind)
        seeds = progress(range(HELD_OUT_SEED, HELD_OUT_SEED + count), name, count)
        found = [notes.of(f"{name}, {seed}", partial(outcome, model, policy, *kind, seed)) for seed in seeds]
        rows.append(hidden_row(*kind, found))
    return rows


def twin_uses(model: X2SAM, notes: Notes, count: int) -> list[MemoryUse]:
    """Return how much the memory decides on each of ``count`` clips of twins."""
    batches = progress(twins(count, model.config, model.tokenizer), "twins", count)
    found = [notes.of(f"twins, {index}", partial(twin_use, model, batch)) for index, batch in enumerate(batches)]
    return [MemoryUse(**{name: torch.tensor(values) for name, values in parts.items()}) for parts in found]


def twin_use(model: X2SAM, batch: Batch) -> dict[str, list[list[float]]]:
    """Return how much the memory decides on a clip, in plain numbers."""
    return {name: values.tolist() for name, values in vars(memory_use(model, batch)).items()}


def main() -> None:
    """Measure and print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--memory-policy", default=NodeConfig.memory_policy)
    parser.add_argument("--twins", type=at_least(0), default=100, help="clips of twins; 0 leaves them out")
    parser.add_argument(
        "--occlusions", type=at_least(0), default=100, help="clips of each kind of prompt; 0 leaves them out"
    )
    in_pieces(parser)
    options = parser.parse_args()
    stop_after(options.minutes)
    markdown = options.markdown or bool(options.into)
    notes = Notes(options.out, settings(options))
    model = load_model(options.model, options.device)
    with printed_into(options.into, "memory-use"):
        print(f"{options.model}: {hardware_line(options.device)}")
        if options.twins:
            rows = twin_rows(twin_uses(model, notes, options.twins))
            print_table("Held-out twins, the truth in the first memory", TWINS_HEADER, rows, markdown)
        if options.occlusions:
            rows = hidden_rows(model, notes, options.memory_policy, options.occlusions)
            title = f"Hidden for {HIDDEN} frames or more among others of the same colour, streaming"
            print_table(title, HIDDEN_HEADER, rows, markdown)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
