"""Score a streaming session on clips with ground truth: one prompt per clip, every frame through `step`.

Nothing here draws scenes: cases come in, so that any source of clips can be scored (benchmarks/ passes the
generated ones).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics import region_similarity
from x2sam_ros.types import BoolArray, Frame, FrameResult, Prompt, Uint8Array

FRAME_INTERVAL_NS = 33_333_333
"""Time between the frames of a case: a camera of 30 Hz."""


class StreamSession(Protocol):
    """What is asked of a session (engine/session.py)."""

    def submit(self, prompt: Prompt) -> None:
        """Queue a prompt for the next frame."""

    def step(self, frame: Frame) -> FrameResult:
        """Segment one frame."""


@dataclass(frozen=True)
class Truth:
    """What one label should cover.

    Args:
        label: compared with the results' labels; "" takes every target together.
        masks: bool (T, H, W); without any pixel the label is absent, and no target is the right answer.
    """

    label: str
    masks: BoolArray


@dataclass(frozen=True)
class Case:
    """One prompt on one clip; an image is a clip of one frame.

    Args:
        kind: what the case is counted under.
        frames: uint8 (T, H, W, 3), RGB.
        prompt: the only prompt.
        truths: one per label that is asked for.
        prompt_frame: the frame the prompt is given with; earlier frames are stepped but not scored.
    """

    kind: str
    frames: Uint8Array
    prompt: Prompt
    truths: tuple[Truth, ...]
    prompt_frame: int = 0

    def __post_init__(self) -> None:
        expected = self.frames.shape[:3]
        shapes = [truth.masks.shape for truth in self.truths]
        if not shapes or any(shape != expected for shape in shapes) or not 0 <= self.prompt_frame < len(self.frames):
            raise FrameError(
                f"case '{self.kind}' needs a truth of shape {expected} per label and a prompt frame inside the clip, "
                f"got shapes {shapes} and frame {self.prompt_frame}"
            )


@dataclass(frozen=True)
class CaseScore:
    """How one case went.

    Args:
        kind: the case's.
        j: J over the scored frames, one mean per label that is present, float64 (P,).
        quiet: for each absent label, whether no frame had a target of that label, bool (A,).
    """

    kind: str
    j: npt.NDArray[np.float64]
    quiet: BoolArray


@dataclass(frozen=True)
class KindScore:
    """The cases of one kind together.

    Args:
        kind: their kind.
        num_cases: how many.
        j_mean: mean over cases of the mean J of the labels present; NaN where none was.
        j_error: standard error of that mean; NaN for fewer than two cases.
        quiet_share: share of absent labels without a target, 0 to 1; NaN where none was asked for.
    """

    kind: str
    num_cases: int
    j_mean: float
    j_error: float
    quiet_share: float


def _mask_of(result: FrameResult, label: str) -> BoolArray:
    rows = [row for row, name in enumerate(result.labels) if not label or name == label]
    mask: BoolArray = np.asarray(result.masks[rows].any(axis=0), dtype=bool)
    return mask


def _has_target(result: FrameResult, label: str) -> bool:
    return any(not label or name == label for name in result.labels)


def evaluate_case(session: StreamSession, case: Case) -> CaseScore:
    """Stream a case through a fresh session and score it.

    Args:
        session: without targets, and without frames stepped so far.
        case: frames, prompt and ground truth.
    """
    j: list[list[float]] = [[] for _ in case.truths]
    seen = [False] * len(case.truths)
    for index, image in enumerate(case.frames):
        if index == case.prompt_frame:
            session.submit(case.prompt)
        result = session.step(Frame(image, index * FRAME_INTERVAL_NS, index))
        if index < case.prompt_frame:
            continue
        for position, truth in enumerate(case.truths):
            j[position].append(region_similarity(_mask_of(result, truth.label), truth.masks[index]))
            seen[position] |= _has_target(result, truth.label)
    present = [bool(truth.masks[case.prompt_frame :].any()) for truth in case.truths]
    return CaseScore(
        kind=case.kind,
        j=np.array([np.mean(values) for values, there in zip(j, present) if there], dtype=np.float64),
        quiet=np.array([not target for target, there in zip(seen, present) if not there], dtype=bool),
    )


def evaluate(open_session: Callable[[], StreamSession], cases: Iterable[Case]) -> tuple[KindScore, ...]:
    """Score every case in a session of its own.

    Args:
        open_session: returns a session without targets; its model may be shared.
        cases: consumed one at a time, so they may be generated lazily.

    Returns:
        One score per kind, in order of first appearance.
    """
    by_kind: dict[str, list[CaseScore]] = {}
    for case in cases:
        by_kind.setdefault(case.kind, []).append(evaluate_case(open_session(), case))
    return tuple(_summarise(kind, scores) for kind, scores in by_kind.items())


def _summarise(kind: str, scores: list[CaseScore]) -> KindScore:
    j = np.array([score.j.mean() for score in scores if score.j.size])
    quiet = np.concatenate([score.quiet for score in scores])
    return KindScore(
        kind=kind,
        num_cases=len(scores),
        j_mean=float(j.mean()) if j.size else float("nan"),
        j_error=float(j.std(ddof=1) / np.sqrt(j.size)) if j.size > 1 else float("nan"),
        quiet_share=float(quiet.mean()) if quiet.size else float("nan"),
    )
