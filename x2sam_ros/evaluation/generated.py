"""Score a streaming session on clips with ground truth: one prompt per clip, every frame through `step`.

Nothing here draws scenes: cases come in, so that any source of clips can be scored (benchmarks/ passes the
generated ones).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.evaluation.metrics.panoptic import PanopticQuality, PanopticScore, Segments
from x2sam_ros.truth.drawn import FRAME_INTERVAL_NS
from x2sam_ros.types import BoolArray, ClassListPrompt, Frame, FrameResult, Prompt, Uint8Array

_NAN = float("nan")


class StreamSession(Protocol):
    """What is asked of a session (engine/session.py)."""

    def submit(self, prompt: Prompt, clip: Uint8Array | None = None) -> None:
        """Queue a prompt for the next frame, with the clip that the language model is to be shown."""

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
        truths: one per label that is asked for; () where only words are.
        prompt_frame: the frame the prompt is given with; earlier frames are stepped but not scored.
        clip: uint8 (C, H, W, 3), what the language model is shown in place of the prompt's frame; None: that frame.
        answer: the words expected; "" where the task has none of its own.
        chance: the score a guess is expected to get, in J, or in exact answers where there is no truth; NaN where a
            guess means nothing.
        segments: how the prompt's frame divides into objects and stuff, to be scored by panoptic quality.
        guess: how somebody divides it who sees the segments and guesses their names.
        by_mask: whether a truth is scored with the mask that overlaps it most, each mask once, whatever it is called
            (grounded captions; Source: X2SAM's GCG evaluation, where a phrase without a mask is left out and not 0).
    """

    kind: str
    frames: Uint8Array
    prompt: Prompt
    truths: tuple[Truth, ...] = ()
    prompt_frame: int = 0
    clip: Uint8Array | None = None
    answer: str = ""
    chance: float = _NAN
    segments: Segments | None = None
    guess: Segments | None = None
    by_mask: bool = False

    def __post_init__(self) -> None:
        expected = self.frames.shape[:3]
        shapes = [truth.masks.shape for truth in self.truths]
        if any(shape != expected for shape in shapes) or not 0 <= self.prompt_frame < len(self.frames):
            raise FrameError(
                f"case '{self.kind}' needs a truth of shape {expected} per label and a prompt frame inside the clip, "
                f"got shapes {shapes} and frame {self.prompt_frame}"
            )
        if not self.truths and not self.answer:
            raise FrameError(f"case '{self.kind}' has neither a truth nor an answer, so nothing can be scored")
        if (self.segments is None) != (self.guess is None):
            raise FrameError(f"case '{self.kind}' has segments or a guess; panoptic quality needs both")


@dataclass(frozen=True)
class CaseScore:
    """How one case went.

    Args:
        kind: the case's.
        j: J over the scored frames, one mean per label that is present, float64 (P,).
        quiet: for each absent label, whether no frame had a target of that label, bool (A,).
        answer: the words that were expected; "" where none were.
        exact: whether they were said.
        chance: the case's.
        quality: panoptic quality of the prompted frame, and that of the guess; None where the case has no segments.
    """

    kind: str
    j: npt.NDArray[np.float64]
    quiet: BoolArray
    answer: str = ""
    exact: bool = False
    chance: float = _NAN
    quality: tuple[PanopticQuality, PanopticQuality] | None = None


@dataclass(frozen=True)
class KindScore:
    """The cases of one kind together.

    Args:
        kind: their kind.
        num_cases: how many.
        j_mean: mean over cases of the mean J of the labels present; NaN where none was.
        j_error: standard error of that mean; NaN for fewer than two cases.
        quiet_share: share of absent labels without a target, 0 to 1; NaN where none was asked for.
        chance: mean of the cases' own, what guessing would get.
        exact_share: share of answers that say the expected words; NaN where none were expected.
        exact_error: standard error of that share.
        majority_share: what giving the most frequent of the expected answers every time would get.
        panoptic: panoptic quality over all cases; None where there is none.
        panoptic_chance: that of the cases' guesses.
    """

    kind: str
    num_cases: int
    j_mean: float
    j_error: float
    quiet_share: float
    chance: float = _NAN
    exact_share: float = _NAN
    exact_error: float = _NAN
    majority_share: float = _NAN
    panoptic: PanopticScore | None = None
    panoptic_chance: PanopticScore | None = None


def same_words(said: str, expected: str) -> bool:
    """Return whether two texts have the same words in the same order; case, punctuation and spaces do not count."""
    return _words(said) == _words(expected)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _mask_of(result: FrameResult, label: str) -> BoolArray:
    rows = [row for row, name in enumerate(result.labels) if not label or name == label]
    mask: BoolArray = np.asarray(result.masks[rows].any(axis=0), dtype=bool)
    return mask


def _paired(result: FrameResult, truths: Sequence[BoolArray]) -> list[BoolArray]:
    """Return for each truth the mask of the label that overlaps it most, the best pair first, each label once."""
    found = [_mask_of(result, label) for label in dict.fromkeys(result.labels)]
    pairs = [(region_similarity(mask, truth), i, k) for i, truth in enumerate(truths) for k, mask in enumerate(found)]
    chosen: dict[int, int] = {}
    for overlap, i, k in sorted(pairs, reverse=True):
        if overlap > 0 and i not in chosen and k not in chosen.values():
            chosen[i] = k
    return [found[chosen[i]] if i in chosen else np.zeros_like(truth) for i, truth in enumerate(truths)]


def _has_target(result: FrameResult, label: str) -> bool:
    return any(not label or name == label for name in result.labels)


def evaluate_case(session: StreamSession, case: Case) -> CaseScore:
    """Stream a case through a fresh session and score it.

    Args:
        session: without targets, and without frames stepped so far.
        case: frames, prompt and ground truth.

    Raises:
        FrameError: the case has segments, and the session's targets overlap.
    """
    j: list[list[float]] = [[] for _ in case.truths]
    seen = [False] * len(case.truths)
    said, quality = "", None
    for index, image in enumerate(case.frames):
        if index == case.prompt_frame:
            session.submit(case.prompt, case.clip)
        result = session.step(Frame(image, index * FRAME_INTERVAL_NS, index))
        if index < case.prompt_frame:
            continue
        if index == case.prompt_frame:
            said = " ".join(grounding.response for grounding in result.groundings)
            quality = _quality(case, result)
        masks = [_mask_of(result, truth.label) for truth in case.truths]
        if case.by_mask:
            masks = _paired(result, [truth.masks[index] for truth in case.truths])
        for position, truth in enumerate(case.truths):
            j[position].append(region_similarity(masks[position], truth.masks[index]))
            seen[position] |= _has_target(result, truth.label)
    present = [bool(truth.masks[case.prompt_frame :].any()) for truth in case.truths]
    return CaseScore(
        kind=case.kind,
        j=np.array([np.mean(values) for values, there in zip(j, present) if there], dtype=np.float64),
        quiet=np.array([not target for target, there in zip(seen, present) if not there], dtype=bool),
        answer=case.answer,
        exact=bool(case.answer) and same_words(said, case.answer),
        chance=case.chance,
        quality=quality,
    )


def _quality(case: Case, result: FrameResult) -> tuple[PanopticQuality, PanopticQuality] | None:
    """Compare a case's segments with the targets of a frame, and with its guess."""
    if case.segments is None or case.guess is None:
        return None
    found = [(label, mask) for label, mask in zip(result.labels, result.masks) if mask.any()]
    stuff = case.prompt.stuff if isinstance(case.prompt, ClassListPrompt) else ()
    own, guessed = PanopticQuality(stuff), PanopticQuality(stuff)
    own.update(Segments.of_masks(found, result.image_size), case.segments)
    guessed.update(case.guess, case.segments)
    return own, guessed


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
    quiet = np.concatenate([score.quiet for score in scores]).astype(np.float64)
    exact = np.array([score.exact for score in scores if score.answer], dtype=np.float64)
    answers = Counter(" ".join(_words(score.answer)) for score in scores if score.answer)
    own, guessed = PanopticQuality(), PanopticQuality()
    for score in scores:
        if score.quality is not None:
            own.merge(score.quality[0])
            guessed.merge(score.quality[1])
    judged = any(score.quality is not None for score in scores)
    return KindScore(
        kind=kind,
        num_cases=len(scores),
        j_mean=_mean(j),
        j_error=_error(j),
        quiet_share=_mean(quiet),
        chance=_mean(np.array([score.chance for score in scores])),
        exact_share=_mean(exact),
        exact_error=_error(exact),
        majority_share=max(answers.values()) / len(exact) if answers else _NAN,
        panoptic=own.quality() if judged else None,
        panoptic_chance=guessed.quality() if judged else None,
    )


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else _NAN


def _error(values: npt.NDArray[np.float64]) -> float:
    """Return the standard error of the mean."""
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else _NAN
