"""What an evaluation found: the JSON file that reports and comparisons are made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT = "x2sam-results-1"


@dataclass(frozen=True)
class Cell:
    """One way of evaluating: what is compared with what.

    Args:
        dataset: name of the dataset or bag.
        kind: ``Kind`` of the dataset.
        method: x2sam, copy_first or optical_flow.
        checkpoint: preset, file or folder; '' for a baseline.
        memory_policy: '' for a baseline.
        prompt: text, point, scribble, box, mask, classes, regions or caption.
        mode: stream, clip or live.
    """

    dataset: str
    kind: str
    method: str
    checkpoint: str
    memory_policy: str
    prompt: str
    mode: str


@dataclass(frozen=True)
class Curve:
    """One object over time, for plots: one value a frame, None where the frame is not annotated or does not count.

    Args:
        object_id: which object.
        name: category or expression.
        prompt_id: the prompt that asked for it.
        j, f: region and boundary accuracy, 0 to 1.
        is_absent: whether the object is not there on that frame: outside, or hidden.
    """

    object_id: int
    name: str
    prompt_id: str
    j: tuple[float | None, ...]
    f: tuple[float | None, ...]
    is_absent: tuple[bool, ...]


@dataclass(frozen=True)
class SequenceResult:
    """One sequence in one cell.

    Args:
        sequence: its name.
        metrics: numbers of this sequence alone.
        curves: by object; () for kinds without identities.
        stamps_ns: of the frames.
        latencies_ms: of the frames; None where no answer came.
        worst: frame indices with the lowest mean J, worst first, at most 5.
        num_frames, num_annotated, num_lost: images, those with ground truth, and those without an answer.
        wall_s: time of the replay; ``scoring_s``: time of the scoring.
        notes: problems that did not end it, and rules that were applied.
        error: why there are no metrics; '' where there are.
        counts: states of the metrics by name, to be merged.
    """

    sequence: str
    metrics: dict[str, float] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    stamps_ns: tuple[int, ...] = ()
    latencies_ms: tuple[float | None, ...] = ()
    worst: tuple[int, ...] = ()
    num_frames: int = 0
    num_annotated: int = 0
    num_lost: int = 0
    wall_s: float = 0.0
    scoring_s: float = 0.0
    notes: tuple[str, ...] = ()
    error: str = ""
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class CellResult:
    """All sequences of one cell, and the numbers over all of them.

    Args:
        folder: of this cell, relative to the results file: ``predictions/<sequence>.json.gz`` are in it.
        truth_path: what was given to open the dataset, for pictures of the worst frames.
        truth_layout: its layout.
        fingerprint: of the ground truth.
        weights_sha256: of the checkpoint; '' for a baseline.
    """

    cell: Cell
    folder: str
    metrics: dict[str, float]
    sequences: tuple[SequenceResult, ...]
    truth_path: str = ""
    truth_layout: str = ""
    fingerprint: str = ""
    weights_sha256: str = ""


@dataclass(frozen=True)
class Results:
    """One evaluation.

    Args:
        cells: in the order they were asked for.
        configuration: every setting that was used, by dotted name.
        environment: hardware, versions, date.
    """

    cells: tuple[CellResult, ...]
    configuration: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
