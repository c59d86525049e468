"""GCG: masks of phrases, the right rules and the official ones, and the words of descriptions."""

from __future__ import annotations

import importlib.util
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.unit.evaluation.metrics.merging import check_merging
from tests.unit.evaluation.metrics.moving_disks import HEIGHT, WIDTH, disk
from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.captions import CaptionText, GroundedMasks, Phrase, match_phrases, token_overlap
from x2sam_ros.evaluation.predictions import rle_of

LEFT, MIDDLE, RIGHT = (rle_of(disk(x, 100, 30)) for x in (60, 180, 300))


def phrase(text: str, *rles: str | None, score: float = 1.0) -> Phrase:
    return Phrase(text, (HEIGHT, WIDTH), rles, score)


def scores(predicted: list[Phrase], truths: list[Phrase], official_quirks: bool = False) -> dict[str, float]:
    metric = GroundedMasks(official_quirks=official_quirks)
    metric.update("one", predicted, truths)
    return metric.compute()


def test_words_are_compared_without_case_articles_and_order() -> None:
    assert token_overlap("The black dog.", "a dog, black") == 1.0
    assert token_overlap("a black dog", "a white dog") == 0.5
    assert token_overlap("dog", "car") == 0.0 and token_overlap("", "the") == 1.0


def test_official_matching_ends_where_the_right_one_goes_on() -> None:
    iou = np.array([[0.9, 0.1], [0.6, 0.8]])
    similarity = np.array([[0.2, 1.0], [0.9, 0.9]])
    assert match_phrases(iou, similarity, official_quirks=True) == []
    assert match_phrases(iou, similarity) == [(1, 1)]
    assert match_phrases(np.zeros((0, 3)), np.zeros((0, 3))) == []


def test_phrases_without_a_partner_count() -> None:
    truths = [phrase("a dog", LEFT), phrase("a car", MIDDLE)]
    predicted = [phrase("the dog", LEFT), phrase("a tree", RIGHT)]
    found, official = scores(predicted, truths), scores(predicted, truths, official_quirks=True)
    assert found["gcg_miou"] == pytest.approx(1 / 3) and official["gcg_miou"] == pytest.approx(1.0)
    assert found["gcg_recall"] == official["gcg_recall"] == 0.5
    assert found["gcg_ap50"] == pytest.approx(51 / 101)


def test_recall_needs_the_words_and_the_whole_clip() -> None:
    truths = [phrase("a dog", LEFT, MIDDLE, RIGHT)]
    assert scores([phrase("a dog", LEFT, MIDDLE, None)], truths)["gcg_recall"] == 1.0
    assert scores([phrase("a dog", LEFT, None, None)], truths)["gcg_recall"] == 0.0
    assert scores([phrase("a car", LEFT, MIDDLE, RIGHT)], truths)["gcg_recall"] == 0.0


def test_official_numbers_of_clips_leave_out_what_they_leave_out() -> None:
    truths = [phrase("a dog", LEFT, None), phrase("a car", MIDDLE, None)]
    predicted = [phrase("a dog", LEFT, None), phrase("a tree", RIGHT, None)]
    found, official = scores(predicted, truths), scores(predicted, truths, official_quirks=True)
    assert found["gcg_miou"] == pytest.approx(1 / 3)
    assert official["gcg_miou"] == 0.5  # the empty second frame is 0
    assert found["gcg_ap50"] == pytest.approx(51 / 101) and official["gcg_ap50"] == 0.0  # the second phrase alone


def test_an_image_without_an_answer_counts_but_officially() -> None:
    assert scores([], [phrase("a dog", LEFT)])["gcg_recall"] == 0.0
    assert np.isnan([*scores([], [phrase("a dog", LEFT)], official_quirks=True).values()]).all()
    assert np.isnan([*scores([], []).values()]).all()
    with pytest.raises(FrameError, match="one: phrases have one size and one length"):
        scores([phrase("a dog", LEFT)], [phrase("a dog", LEFT, None)])


@pytest.mark.parametrize("official_quirks", [False, True])
def test_masks_merge(official_quirks: bool) -> None:
    rng = np.random.default_rng(0)
    updates = []
    for number in range(9):
        true, own = (
            [
                phrase(str(rng.choice(["a dog", "a cat"])), *rng.choice([LEFT, MIDDLE, RIGHT], 2), score=rng.random())
                for _ in range(rng.integers(4))
            ]
            for _ in range(2)
        )
        updates.append(partial(GroundedMasks.update, sample=str(number), predicted=own, truths=true))
    found = check_merging(lambda: GroundedMasks(official_quirks=official_quirks), updates)
    assert 0 < found["gcg_miou"] < 1 and 0 < found["gcg_recall"] < 1


def test_words_without_java_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    metric = CaptionText()
    metric.update("a", "a dog", ["a dog"])
    assert np.isnan([*metric.compute().values()]).all()
    assert "no java" in metric.notes[0] and "pip install pycocoevalcap==1.2" in metric.notes[0]
    with pytest.raises(FrameError, match="'b' has no reference"):
        metric.update("b", "a dog", [])
    with pytest.raises(FrameError, match="'a' is counted already"):
        metric.update("a", "a dog", ["a dog"])


@pytest.mark.skipif(importlib.util.find_spec("pycocoevalcap") is None, reason="needs pycocoevalcap")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its clean-up finds the pipe closed
@pytest.mark.parametrize("num_samples", [1, 2])
def test_words_with_a_java_that_fails_are_not_measured(
    num_samples: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    metric = CaptionText()
    for number in range(num_samples):
        metric.update(str(number), "a dog", ["a dog"])
    assert np.isnan([*metric.compute().values()]).all() and "no METEOR and CIDEr" in metric.notes[0]


@pytest.mark.skipif(
    shutil.which("java") is None or importlib.util.find_spec("pycocoevalcap") is None,
    reason="needs pycocoevalcap and Java",
)
def test_words_are_measured_by_the_library() -> None:
    metric, other = CaptionText(), CaptionText()
    metric.update("a", "A black dog runs on the grass.", ["a dark dog is running over grass"])
    metric.update("c", "two cars ||| and a bus\n in the street", ["two cars and one bus", "cars in a street"])
    metric.update("d", "...", ["nothing"])
    other.restore({"b": ["", ["a man rides a bicycle"]]})
    metric.merge(other)
    # By pycocoevalcap 1.2 alone, with the texts on one line each and without bars.
    assert metric.compute() == pytest.approx({"meteor": 0.24236937982631884, "cider": 0.730911013535792}, abs=1e-6)
    assert metric.notes == ()
