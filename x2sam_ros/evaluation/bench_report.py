"""What ``x2sam bench`` found: one value that becomes tables, JSON and a plot.

The JSON is the value's fields as they are named here, below ``schema`` and ``version``. Fields may be added within a
version; one that changes its meaning or goes raises it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from x2sam_ros.errors import ConfigError
from x2sam_ros.evaluation.hardware import Hardware
from x2sam_ros.evaluation.whole_file import write_whole

SCHEMA, VERSION = "x2sam-bench", 1
VARIANTS = ("separate", "merged", "naive", "per clip", "SAM 2")
"""The ways to follow: ours with a conversation for each target and with one for all, then the peers."""

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, header and rows."""


@dataclass(frozen=True)
class ModelFacts:
    """The network measured.

    Args:
        name: preset or checkpoint as it was asked for.
        preset: the preset of its configuration.
        sha256: of its weights' file; "" where they are random.
        parameters: number of weights that were there.
        dtype: their type.
        image_side: side of the square it sees, pixels.
        notes: what a reader of the figures must know.
    """

    name: str
    preset: str
    sha256: str
    parameters: int
    dtype: str
    image_side: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageTime:
    """One stage of ``separate`` with that many targets; milliseconds per frame."""

    targets: int
    stage: str
    median_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Cost:
    """What a frame costs one variant with that many targets.

    Args:
        variant: one of ``VARIANTS``.
        targets: how many were asked for.
        frame_ms: mean over the places of a frame in a published clip of the median there, language passes included.
        median_ms, p95_ms: over all timed frames, without language passes.
        language_ms: what language passes cost per frame; 0 but for variants that ask again.
        followed: mean number of targets that were seen.
        held_mib: what is held for the targets from frame to frame.
        gpu_mib: most GPU memory that a step took beside what was held before; 0 on a CPU.
    """

    variant: str
    targets: int
    frame_ms: float
    median_ms: float
    p95_ms: float
    language_ms: float
    followed: float
    held_mib: float
    gpu_mib: float

    @property
    def frames_per_s(self) -> float:
        """Frames in a second, language passes included."""
        return 1e3 / self.frame_ms


@dataclass(frozen=True)
class LengthPoint:
    """The state of one long stream after some frames.

    Args:
        variant: one of ``VARIANTS``.
        frame: frames so far.
        median_ms: over the newest ``LENGTH_WINDOW`` of them.
        held_mib: what is held for the targets.
        resident_mib: the process's resident size.
        gpu_mib: allocated on the GPU; 0 on a CPU.
    """

    variant: str
    frame: int
    median_ms: float
    held_mib: float
    resident_mib: float
    gpu_mib: float


@dataclass(frozen=True)
class BenchReport:
    """Everything a run found.

    Args:
        hardware: the machine.
        model: the network.
        image_size: (height, width) of the pictures.
        timed_frames: frames timed of each variant and number of targets, after as many as a clip has.
        stream_targets: targets of the long stream.
        stages, costs, length: what was measured.
        resident_mib: the most resident memory seen.
        gpu_mib: the most GPU memory ever allocated; 0 on a CPU.
        sam2: how the SAM 2 peer was built; empty where it did not run.
    """

    hardware: Hardware
    model: ModelFacts
    image_size: tuple[int, int]
    timed_frames: int
    stream_targets: int
    stages: tuple[StageTime, ...]
    costs: tuple[Cost, ...]
    length: tuple[LengthPoint, ...]
    resident_mib: float
    gpu_mib: float
    sam2: dict[str, Any] = field(default_factory=dict)

    def cost(self, variant: str, targets: int) -> Cost | None:
        """Return what a variant costs with that many targets; None where it was not measured."""
        return next((c for c in self.costs if (c.variant, c.targets) == (variant, targets)), None)

    @property
    def targets(self) -> tuple[int, ...]:
        """The numbers of targets measured, ascending."""
        return tuple(sorted({cost.targets for cost in self.costs}))

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants measured."""
        return tuple(name for name in VARIANTS if any(cost.variant == name for cost in self.costs))


def to_dict(report: BenchReport) -> dict[str, Any]:
    """Return a report ready for JSON."""
    return {"schema": SCHEMA, "version": VERSION, **asdict(report)}


def from_dict(data: dict[str, Any]) -> BenchReport:
    """Build a report from `to_dict`'s output, as it is or as JSON brings it back.

    Raises:
        ConfigError: it is no report, or one of another version.
    """
    if (data.get("schema"), data.get("version")) != (SCHEMA, VERSION):
        raise ConfigError(
            f"expected schema {SCHEMA!r} version {VERSION}, got {data.get('schema')!r} version {data.get('version')!r}"
        )
    try:
        values = {item.name: data[item.name] for item in fields(BenchReport)}
        return BenchReport(
            **{
                **values,
                "hardware": Hardware(**values["hardware"]),
                "model": ModelFacts(**{**values["model"], "notes": tuple(values["model"]["notes"])}),
                "image_size": tuple(values["image_size"]),
                "stages": tuple(StageTime(**row) for row in values["stages"]),
                "costs": tuple(Cost(**row) for row in values["costs"]),
                "length": tuple(LengthPoint(**row) for row in values["length"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"the report is damaged: {error}; run x2sam bench again") from error


def write_json(report: BenchReport, path: Path) -> None:
    """Write a report as JSON; an older file is replaced when the new one is whole.

    Raises:
        ResultsError: it cannot be written.
    """
    write_whole(path, f"{json.dumps(to_dict(report), indent=1)}\n".encode())


def read_json(path: Path) -> BenchReport:
    """Read a report that `write_json` wrote.

    Raises:
        ConfigError: it is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds a {type(data).__name__}, expected a report of x2sam bench")
    return from_dict(data)


def headline(report: BenchReport) -> str:
    """Name the network and the machine in one line."""
    model = report.model
    size = f"{model.parameters / 1e6:,.1f} million parameters, {model.dtype}, {model.image_side} px"
    return f"{model.name}, {size}: {report.hardware}"


def tables(report: BenchReport) -> list[Table]:
    """Return the tables of a report, those without rows left out."""
    found = (_cost_table, _growth_table, _advantage_table, _detail_table, _stage_table, _length_table)
    return [table for table in (make(report) for make in found) if table[2]]


def _cost_table(report: BenchReport) -> Table:
    header = ("targets", *report.variants)
    rows = []
    for targets in report.targets:
        costs = [report.cost(variant, targets) for variant in report.variants]
        rows.append((str(targets), *("-" if c is None else f"{c.frame_ms:.1f}" for c in costs)))
    return "Milliseconds per frame, language passes included", header, rows


def _detail_table(report: BenchReport) -> Table:
    header = ("variant, targets", "frames/s", "median ms", "p95 ms", "language ms", "seen", "held MiB")
    on_gpu = ("step GPU MiB",) if report.gpu_mib else ()
    rows = []
    for cost in report.costs:
        times = (cost.frames_per_s, cost.median_ms, cost.p95_ms, cost.language_ms, cost.followed)
        memory = (cost.held_mib, *([cost.gpu_mib] if report.gpu_mib else []))
        rows.append((f"{cost.variant}, {cost.targets}", *(f"{v:.1f}" for v in times), *(f"{v:.2f}" for v in memory)))
    return "Each variant; median and p95 without language passes", (*header, *on_gpu), rows


def growth(report: BenchReport, variant: str, targets: int) -> float | None:
    """Return how many times as long a frame takes with that many targets as with one; None where not measured."""
    one, many = report.cost(variant, 1), report.cost(variant, targets)
    return None if one is None or many is None else many.frame_ms / one.frame_ms


def advantage(report: BenchReport, own: str, peer: str, targets: int, language: bool = True) -> float | None:
    """Return how many times the frames per second of a peer one of our variants has; None where not measured.

    Args:
        report: what was measured.
        own, peer: two of ``VARIANTS``.
        targets: with how many targets.
        language: whether the peer's language passes count.
    """
    ours, theirs = report.cost(own, targets), report.cost(peer, targets)
    if ours is None or theirs is None:
        return None
    return (theirs.frame_ms - (0.0 if language else theirs.language_ms)) / ours.frame_ms


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _growth_table(report: BenchReport) -> Table:
    header = ("variant", *(f"{targets} targets" for targets in report.targets if targets > 1))
    rows = [
        (variant, *(_times(growth(report, variant, targets)) for targets in report.targets if targets > 1))
        for variant in report.variants
    ]
    return "Times the milliseconds of one target", header, rows if 1 in report.targets and len(header) > 1 else []


def _advantage_table(report: BenchReport) -> Table:
    pairs = [("per clip", True), ("per clip", False), ("naive", True), ("SAM 2", True)]
    pairs = [(peer, language) for peer, language in pairs if peer in report.variants]
    rows = [
        (f"{own}, {targets}", *(_times(advantage(report, own, peer, targets, said)) for peer, said in pairs))
        for own in ("separate", "merged")
        for targets in report.targets
    ]
    names = [peer if language else f"{peer}, no language" for peer, language in pairs]
    return "Times the frames per second of a peer", ("variant, targets", *names), rows if pairs else []


def _stage_table(report: BenchReport) -> Table:
    targets = sorted({row.targets for row in report.stages})
    by_stage: dict[str, dict[int, StageTime]] = {}
    for row in report.stages:
        by_stage.setdefault(row.stage, {})[row.targets] = row
    rows = []
    for stage, found in by_stage.items():
        cells = (found.get(count) for count in targets)
        rows.append((stage, *("-" if c is None else f"{c.median_ms:.2f} / {c.p95_ms:.2f}" for c in cells)))
    header = ("stage", *(f"{count} target{'s' * (count != 1)}" for count in targets))
    return "Stages of separate, milliseconds: median / p95", header, rows


def _length_table(report: BenchReport) -> Table:
    header = ("variant, frames so far", "median ms", "held MiB", "resident MiB")
    on_gpu = ("GPU MiB",) if report.gpu_mib else ()
    rows: list[tuple[str, ...]] = []
    for point in report.length:
        memory: Sequence[float] = (point.held_mib, point.resident_mib, *([point.gpu_mib] if report.gpu_mib else []))
        name = f"{point.variant}, {point.frame}"
        rows.append((name, f"{point.median_ms:.1f}", *(f"{value:.2f}" for value in memory)))
    noun = f"{report.stream_targets} target{'s' * (report.stream_targets != 1)}"
    return f"One long stream, {noun}", (*header, *on_gpu), rows
