"""The page says what was found, loads nothing, trusts no name, and stays small."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.evaluation.report.made_up import cell_result, evaluate, scenes
from x2sam_ros.errors import TruthError
from x2sam_ros.evaluation.report.cards import MAX_CARDS_OF_CELL
from x2sam_ros.evaluation.report.page import write_report
from x2sam_ros.evaluation.report.values import number
from x2sam_ros.evaluation.results import Cell, CellResult, Results, SequenceResult
from x2sam_ros.truth.dataset import Dataset

MAX_PAGE_BYTES = 4_000_000
EVIL = "<script>alert('x')</script>\"'&"


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return scenes(2)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> tuple[Path, Results]:
    out = tmp_path_factory.mktemp("out")
    return out, evaluate(out, dataset)


@pytest.fixture(scope="module")
def page(evaluated: tuple[Path, Results], dataset: Dataset) -> str:
    out, results = evaluated
    path = write_report(results, out, lambda cell: dataset)
    assert path == out / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_page_says_what_was_found(page: str, evaluated: tuple[Path, Results]) -> None:
    _, results = evaluated
    for cell in results.cells:
        assert all(f">{number(name, value)}<" in page for name, value in cell.metrics.items() if name != "IDsw")
        for result in cell.sequences:
            assert result.error or f"<td>{number('J&F', result.metrics['J&F'])}</td>" in page
            assert all(f'<div class="name">{curve.name}</div>' in page for curve in result.curves)
    best, second = (number("J&F", cell.metrics["J&F"]) for cell in results.cells)
    assert f'<td class="best"><span>{best}</span></td>' in page and f"<td>{second}</td>" in page
    assert "failed: broken/labels: 3 images, 4 annotations; record it again</td>" in page
    assert "1 of 3 sequences failed" in page and ">2 of 3</td>" in page
    assert '<td class="bad">2</td>' in page and '<td class="bad">4</td>' in page, "lost frames, by sequence and by cell"
    assert re.search(r'aria-label="J&amp;F of [^"]*absent from frame \d+ to \d+', page)
    assert page.count('<rect class="gone"') and page.count('<line class="mark late"')
    for words in ("c0ffee" * 10, "ab" * 32, "/data/scenes", "engine.score_threshold", "2 cores", "2026-11-21"):
        assert words in page
    assert "the prompted frame counts" in page and "(2 sequences)" in page
    assert all(part in page for part in ("p50", "p95", "first_mask_s", "reacquired_share"))


def test_the_worst_frames_are_pictures_with_words(page: str, evaluated: tuple[Path, Results]) -> None:
    _, results = evaluated
    images = re.findall(r'<img src="data:image/jpeg;base64,[^"]+" alt="([^"]+)">', page)
    shown = [cell.sequences[place].worst[0] for cell in results.cells for place in (0, 1)]
    assert len(images) == page.count("<img") >= 3 * len(shown)
    for frame in shown:
        assert {f"Image of frame {frame}"} <= set(images)
        assert any(text.startswith(f"Ground truth of frame {frame}, ") for text in images)
        assert any(text.startswith(f"Prediction for frame {frame}, ") for text in images)


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    targets = re.findall(r"""(?:src|href|srcset|data|action)\s*=\s*["']?([^"'\s>]+)""", page)
    assert targets and all(target.startswith(("data:image/jpeg;base64,", "#")) for target in targets)
    assert not re.search(r"url\(|@import|<link|<iframe|<object|<embed|https?://", page)
    assert "default-src 'none'" in page


def test_plots_are_written_and_old_ones_are_gone(page: str, evaluated: tuple[Path, Results], dataset: Dataset) -> None:
    out, results = evaluated
    names = {path.name for path in (out / "plots").iterdir()}
    assert "scores_generated_scenes_objects.png" in names and all(name.endswith(".png") for name in names)
    assert sum(name.startswith("latency_") for name in names) == 2
    assert sum(name.startswith("curves_") for name in names) == 4
    write_report(replace(results, cells=results.cells[:1]), out, None)
    left = {path.name for path in (out / "plots").iterdir()}
    assert sum(name.startswith("latency_") for name in left) == 1
    again = write_report(results, out, lambda cell: dataset).read_text(encoding="utf-8")
    assert again == page and {path.name for path in (out / "plots").iterdir()} == names
    assert not list(out.glob(".*"))


def test_names_from_files_are_only_text(tmp_path: Path) -> None:
    dataset = scenes(1)
    results = evaluate(tmp_path, dataset, (1,))
    (cell,) = results.cells
    result = cell.sequences[0]
    curves = tuple(replace(curve, name=EVIL) for curve in result.curves)
    sequences = (
        replace(result, sequence=EVIL, curves=curves, notes=(EVIL,)),
        SequenceResult(f"{EVIL}2", error=EVIL),
    )
    evil = replace(
        cell,
        cell=Cell(EVIL, "objects", EVIL, EVIL, EVIL, EVIL, EVIL),
        sequences=sequences,
        metrics={**cell.metrics, EVIL: 0.5},
        truth_path=EVIL,
        truth_layout=EVIL,
        fingerprint="",
        weights_sha256=EVIL,
    )
    broken = TruthError(EVIL)

    def refuse(found: CellResult) -> Dataset:
        raise broken

    path = write_report(Results((evil,), {EVIL: EVIL}, {EVIL: EVIL}), tmp_path, refuse)
    text = path.read_text(encoding="utf-8")
    assert "alert" in text and "<script>alert" not in text
    assert text.count("<script") == text.count("</script>") == 1
    assert EVIL not in text and not re.search(r"""=\s*"[^"]*alert\('x""", text)


@pytest.mark.parametrize("case", ["not given", "gone", "another", "no such sequence", "no predictions"])
def test_truth_that_is_gone_costs_the_pictures_only(case: str, tmp_path: Path, dataset: Dataset) -> None:
    results = evaluate(tmp_path, dataset, (1,))

    def open_truth(cell: CellResult) -> Dataset:
        if case == "gone":
            raise TruthError("/data/scenes does not exist; give it again")
        if case == "another":
            return replace(dataset, fingerprint="cd" * 32)
        return replace(dataset, sequences=()) if case == "no such sequence" else dataset

    if case == "no predictions":
        for path in tmp_path.rglob("*.json.gz"):
            path.unlink()
    text = write_report(results, tmp_path, None if case == "not given" else open_truth).read_text(encoding="utf-8")
    said = {
        "not given": "No frames are drawn: the ground truth was not given.",
        "gone": "No frames are drawn: /data/scenes does not exist; give it again",
        "another": "the ground truth at /data/scenes is another one than was scored",
        "no such sequence": "has no sequence",
        "no predictions": "holds no predictions",
    }[case]
    assert text.count(said) == 2 and "<img" not in text
    assert text.count('class="curves"') == 2


@pytest.mark.parametrize(
    "results",
    [
        Results(()),
        Results((cell_result(Cell("d", "panoptic", "x2sam", "nano", "fifo", "classes", "clip"), (), "c"),)),
        Results(
            (
                CellResult(
                    Cell("d", "semantic", "x2sam", "nano", "fifo", "classes", "stream"),
                    "c",
                    {"mIoU": float("nan"), "IoU/road": 0.25},
                    (SequenceResult("a", {"mIoU": 0.5}, num_frames=1), SequenceResult("b", {}), SequenceResult("c")),
                ),
            )
        ),
    ],
    ids=["no cell", "no sequence", "no curves"],
)
def test_little_to_say_is_still_a_page(results: Results, tmp_path: Path) -> None:
    text = write_report(results, tmp_path, None).read_text(encoding="utf-8")
    said = text[text.index("<body>") : text.index("<script>")]
    assert text.endswith("</html>") and not re.search(r"\bnan\b|\bNone\b", said)


def test_hundreds_of_sequences_stay_a_small_page(tmp_path: Path, dataset: Dataset) -> None:
    results = evaluate(tmp_path, dataset, (1,))
    (cell,) = results.cells
    pattern = cell.sequences[0]
    many = tuple(
        replace(pattern, sequence=f"bag_{place:03}", metrics={**pattern.metrics, "J&F": place / 500})
        for place in range(500)
    )
    cells = tuple(
        replace(cell, cell=replace(cell.cell, prompt=prompt), sequences=many) for prompt in ("point", "box", "mask")
    )
    path = write_report(replace(results, cells=cells), tmp_path, None)
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size < MAX_PAGE_BYTES
    assert all(text.count(f">bag_{place:03}</th>") == 3 for place in range(500))
    assert text.count('class="curves"') == 3 * MAX_CARDS_OF_CELL
    assert f"The {MAX_CARDS_OF_CELL} sequences with the lowest J&amp;F. The other {500 - MAX_CARDS_OF_CELL} are" in text
    assert re.findall(r"<h4>(\w+)</h4>", text)[:2] == ["bag_000", "bag_001"]
