"""The report of an evaluation: one HTML page that needs nothing but itself, and its charts as PNG files."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from x2sam_ros import __version__
from x2sam_ros.evaluation.metrics.names import HEADLINES, about, ordered
from x2sam_ros.evaluation.report import svg
from x2sam_ros.evaluation.report.cards import Card, CardMaker, OpenTruth
from x2sam_ros.evaluation.report.plots import plot_chart, plot_histogram, plot_spread
from x2sam_ros.evaluation.report.series import Histogram, histogram, median_latency
from x2sam_ros.evaluation.report.values import best_of, heading, milliseconds, number
from x2sam_ros.evaluation.results import CellResult, Results, SequenceResult
from x2sam_ros.evaluation.whole_file import write_whole
from x2sam_ros.truth.dataset import Kind

MAX_ROWS = 1000
"""Most sequences of a cell's table."""

MAX_NOTES = 30
"""Most notes of a cell."""

STREAMING = (
    "first_mask_s",
    "latency_J&F",
    "reacquired_share",
    "reacquired_s",
    "stability",
    "false_alarm_share",
    "IDsw",
)
"""What a robot feels, shown above each cell's latencies."""


@dataclass(frozen=True)
class CellPage:
    """What the page says about one cell."""

    number: int
    label: str
    found: CellResult
    columns: tuple[str, ...]
    histogram: Histogram | None
    cards: tuple[Card, ...]
    notes: tuple[tuple[str, int], ...]

    @property
    def failed(self) -> tuple[SequenceResult, ...]:
        """The sequences without numbers."""
        return tuple(result for result in self.found.sequences if result.error)

    @property
    def rows(self) -> tuple[SequenceResult, ...]:
        """The sequences of the table, failed ones first."""
        return tuple(sorted(self.found.sequences, key=lambda result: not result.error))[:MAX_ROWS]

    @property
    def num_lost(self) -> int:
        """Frames without an answer."""
        return sum(result.num_lost for result in self.found.sequences)


@dataclass(frozen=True)
class Group:
    """The cells of one dataset, which can be compared."""

    dataset: str
    kind: str
    cells: tuple[CellPage, ...]
    columns: tuple[str, ...]
    metrics: tuple[str, ...]

    def values(self, name: str) -> list[float | None]:
        """Return a number of every cell."""
        return [cell.found.metrics.get(name) for cell in self.cells]

    @property
    def limit(self) -> float:
        """Where the axis of ``spread`` ends."""
        return max(1.0, *(score for _, scores in self.spread for score in scores if score == score))

    @property
    def spread(self) -> list[tuple[str, list[float]]]:
        """The first score of every sequence, by cell."""
        return [(cell.label, _scores(cell.found, self.columns[0])) for cell in self.cells if self.columns]


def write_report(results: Results, out: Path, open_truth: OpenTruth | None) -> Path:
    """Write ``out/report.html`` and ``out/plots/*.png``; older ones are replaced.

    Args:
        results: what was found.
        out: folder of the evaluation, which the cells' folders are relative to.
        open_truth: opens the ground truth of a cell, for pictures; None leaves them out.

    Returns:
        The page.

    Raises:
        ResultsError: the page cannot be written.
    """
    maker = CardMaker.sharing(results, out, open_truth)
    cells = [_cell_page(place, results, maker) for place in range(len(results.cells))]
    groups = _groups(cells)
    _plot(groups, out / "plots")
    page = out / "report.html"
    write_whole(page, _render(results, groups).encode())
    return page


def _groups(cells: list[CellPage]) -> list[Group]:
    together: dict[tuple[str, Kind], list[CellPage]] = {}
    for cell in cells:
        together.setdefault((cell.found.cell.dataset, Kind(cell.found.cell.kind)), []).append(cell)
    return [
        Group(
            dataset,
            kind.value,
            tuple(members),
            tuple(dict.fromkeys(name for cell in members for name in cell.columns)),
            tuple(ordered({name for cell in members for name in cell.found.metrics}, kind)),
        )
        for (dataset, kind), members in together.items()
    ]


def _cell_page(place: int, results: Results, maker: CardMaker) -> CellPage:
    found = results.cells[place]
    known = {*found.metrics, *(name for result in found.sequences for name in result.metrics)}
    columns = tuple(name for name in HEADLINES[Kind(found.cell.kind)] if name in known)
    notes = Counter(note for result in found.sequences for note in dict.fromkeys(result.notes))
    return CellPage(
        place + 1,
        _label(found, results.cells),
        found,
        columns,
        histogram(found),
        tuple(maker.cards(found, columns[0] if columns else None)),
        tuple(notes.most_common()),
    )


def _label(found: CellResult, others: Iterable[CellResult]) -> str:
    """Name a cell by what tells it from the others of its dataset, its method in any case."""
    rivals = [other.cell for other in others if other.cell.dataset == found.cell.dataset]
    said = [found.cell.method]
    for part in ("checkpoint", "memory_policy", "prompt", "mode"):
        if len({getattr(rival, part) for rival in rivals} - {""}) > 1:
            said.append(getattr(found.cell, part))
    return " · ".join(part for part in said if part)


def _scores(found: CellResult, name: str) -> list[float]:
    return [result.metrics.get(name, float("nan")) for result in found.sequences if not result.error]


def _plot(groups: list[Group], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for group in groups:
        if group.columns:
            plot_spread(group.spread, group.columns[0], folder / f"scores_{_slug(group.dataset)}_{group.kind}.png")
        for cell in group.cells:
            name = f"cell{cell.number}_{_slug(cell.label)}"
            if cell.histogram:
                plot_histogram(cell.histogram, f"{group.dataset}: {cell.label}", folder / f"latency_{name}.png")
            for place, card in enumerate(cell.cards, start=1):
                if card.chart:
                    path = folder / f"curves_{name}_{place:02}_{_slug(card.result.sequence)}.png"
                    plot_chart(card.chart, card.result.sequence, path)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._")[:60]


def _render(results: Results, groups: list[Group]) -> str:
    loader = PackageLoader("x2sam_ros.evaluation.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"milliseconds": milliseconds, "median_latency": median_latency}
    environment.globals |= {
        "about": about,
        "best_of": best_of,
        "heading": heading,
        "number": number,
        "svg": svg,
        "limits": {"notes": MAX_NOTES, "rows": MAX_ROWS},
        "streaming": STREAMING,
    }
    script = loader.get_source(environment, "page.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    every = [result for found in results.cells for result in found.sequences]
    return environment.get_template("page.html").render(
        results=results,
        groups=groups,
        cells=[cell for group in groups for cell in group.cells],
        totals={
            "sequences": len({(cell.cell.dataset, each.sequence) for cell in results.cells for each in cell.sequences}),
            "frames": sum(result.num_frames for result in every),
            "annotated": sum(result.num_annotated for result in every),
            "lost": sum(result.num_lost for result in every),
        },
        # Our own files; everything else is escaped.
        style=Markup(loader.get_source(environment, "page.css")[0]),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        version=__version__,
    )
