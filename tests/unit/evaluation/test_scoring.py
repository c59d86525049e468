"""Every rule of scoring, on sequences that can be counted by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.evaluation.made_sequences import (
    NOTHING,
    SIZE,
    MadeSequence,
    answered,
    columns,
    made_dataset,
    prompt,
    true_frame,
)
from x2sam_ros.errors import ResultsError, TruthError
from x2sam_ros.evaluation.metrics.names import HEADLINES, about
from x2sam_ros.evaluation.predictions import SequencePredictions
from x2sam_ros.evaluation.results import SequenceResult
from x2sam_ros.evaluation.results_file import sequence_result_from_json, sequence_result_to_json
from x2sam_ros.evaluation.scoring import combine, score_sequence
from x2sam_ros.truth.dataset import Category, Expression, Kind, TrueFrame, TrueObject
from x2sam_ros.truth.sequences import FailedSequence

HALF = columns(0, 2)  # of columns(0, 4): J is 1 / 2


def score(sequence: MadeSequence, answers: SequencePredictions, kind: Kind = Kind.OBJECTS, **more) -> SequenceResult:
    categories = more.pop("categories", ())
    result = score_sequence(sequence, made_dataset(kind, sequence, categories=categories), answers, **more)
    assert not [name for name in result.metrics if about(name).meaning == name]  # everything is explained
    return result


def test_a_clip_is_scored_object_by_object() -> None:
    truth = [{1: columns(0, 4), 2: columns(4, 6)}] * 3
    sequence = MadeSequence(truth, (TrueObject(1), TrueObject(2)))
    prompts = (prompt(), prompt("object-2", ids=(2,)))
    answers = answered(
        [{5: columns(0, 4), 6: columns(4, 6)}, {5: HALF, 6: columns(4, 6)}, {5: NOTHING, 6: columns(4, 6)}],
        prompts,
        of_prompt={6: "object-2"},
    )
    result = score(sequence, answers)
    assert result.error == ""
    assert result.metrics["J"] == pytest.approx(((1 + 0.5 + 0) / 3 + 1) / 2)
    assert result.metrics["J_davis"] == pytest.approx((0.5 + 1) / 2)  # the middle frame alone
    assert result.metrics["J_recall"] == pytest.approx((1 / 3 + 1) / 2)
    assert result.metrics["J&F"] == pytest.approx((result.metrics["J"] + result.metrics["F"]) / 2)
    assert result.metrics["IDsw"] == 0 and result.metrics["IDP"] == 1
    assert [curve.j for curve in result.curves] == [(1.0, 0.5, 0.0), (1.0, 1.0, 1.0)]
    assert result.worst == (2, 1, 0)
    assert (result.num_frames, result.num_annotated, result.num_lost) == (3, 3, 0)
    assert result.latencies_ms == (20.0,) * 3 and result.stamps_ns[1] == 100_000_000
    assert result.wall_s == 1.0 and result.scoring_s > 0
    assert tuple(result.metrics)[:3] == HEADLINES[Kind.OBJECTS][:3]


def test_images_are_not_decoded_again() -> None:
    sequence = MadeSequence([{1: HALF}] * 3)
    assert score(sequence, answered([{1: HALF}] * 3)).metrics["J"] == 1
    assert sequence.source.num_decoded == 0


def test_frames_before_the_prompt_and_without_annotation_do_not_count() -> None:
    sequence = MadeSequence([{1: HALF}, {1: HALF}, None, {1: HALF}])
    answers = answered([{1: NOTHING}, {1: HALF}, {1: NOTHING}, {1: NOTHING}], (prompt(frame_index=1),))
    result = score(sequence, answers)
    assert result.metrics["J"] == 0.5
    assert result.curves[0].j == (None, 1.0, None, 0.0)
    assert result.num_annotated == 3
    assert result.metrics["IDR"] == 0.5


def test_a_lost_frame_counts_as_empty() -> None:
    result = score(MadeSequence([{1: HALF}] * 2), answered([{1: HALF}, None]))
    assert result.metrics["J"] == 0.5 and result.num_lost == 1 and result.latencies_ms == (20.0, None)


def test_where_the_object_is_absent_an_empty_mask_is_right() -> None:
    result = score(MadeSequence([{1: HALF}, {}, {1: NOTHING}]), answered([{1: HALF}, {}, {1: HALF}]))
    assert result.curves[0].j == (1.0, 1.0, 0.0) and result.curves[0].f[:2] == (1.0, 1.0)
    assert result.curves[0].is_absent == (False, True, True)
    assert result.metrics["false_alarm_share"] == 0.5


def test_pixels_that_nobody_annotated_are_taken_out_of_both() -> None:
    truth = true_frame({1: columns(0, 3)}, ignore=columns(2, 4))
    result = score(MadeSequence([truth] * 2), answered([{1: columns(0, 4)}] * 2))
    assert result.metrics["J"] == 1 and result.metrics["HOTA"] == 1 and result.metrics["stability"] == 1


def test_a_prompt_of_several_objects_is_scored_as_one_and_their_identities_by_overlap() -> None:
    truth = [{1: columns(0, 2), 2: columns(4, 6)}] * 2
    sequence = MadeSequence(truth, (TrueObject(1), TrueObject(2)))
    answers = answered(
        [{7: columns(0, 2), 8: columns(4, 6)}, {8: columns(0, 2), 7: columns(4, 6)}], (prompt(ids=(1, 2)),)
    )
    result = score(sequence, answers)
    assert result.metrics["J"] == 1 and result.metrics["IDsw"] == 2 and result.metrics["IDF1"] == 0.5


def test_an_object_that_two_prompts_mean_has_one_identity() -> None:
    prompts = (prompt("a"), prompt("b"))
    result = score(MadeSequence([{1: HALF}] * 2), answered([{1: HALF, 2: HALF}] * 2, prompts, of_prompt={2: "b"}))
    assert result.metrics["IDF1"] == 1 and result.metrics["J"] == 1 and len(result.curves) == 2


def test_official_quirks_give_every_frame_the_same_weight() -> None:
    sequence = MadeSequence([{1: HALF}] * 4)
    prompts = (prompt(), prompt("late", frame_index=3))
    answers = answered([{1: HALF}] * 4, prompts)
    assert score(sequence, answers).metrics["J"] == 0.5
    assert score(sequence, answers, official_quirks=True).metrics["J"] == 0.8


def test_phrases_have_iou_and_those_of_clips_j_and_f_too() -> None:
    prompts = (
        prompt("a", "text", query="the left one"),
        prompt("none", "text", ids=()),
        prompt("said", "text", ids=()),
    )
    truth = {1: columns(0, 4)}
    answers = answered([{1: HALF, 2: HALF}], prompts, of_prompt={1: "a", 2: "said"})
    image = score(MadeSequence([truth]), answers, Kind.REFERRING)
    assert image.metrics["gIoU"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert image.metrics["cIoU"] == pytest.approx(8 / (16 + 8))
    assert image.metrics["N-acc"] == 0.5 and image.metrics["T-acc"] == 1 and image.metrics["Pr@0.5"] == 1
    assert image.curves[0].name == "the left one" and "J&F" not in image.metrics
    clip = score(MadeSequence([truth] * 2), answered([{1: HALF}] * 2, prompts, of_prompt={1: "a"}), Kind.REFERRING)
    assert clip.metrics["J"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert clip.metrics["gIoU"] == pytest.approx((0.5 + 1 + 1) / 3) and clip.metrics["cIoU"] == 0.5
    assert "IDF1" not in clip.metrics and math.isnan(clip.metrics["J_davis"])


def test_a_phrase_has_one_iou_over_its_clip() -> None:
    truth = [{1: columns(0, 4)}, None, {}, {1: columns(0, 2)}]
    answers = answered([{1: columns(0, 2)}, {1: HALF}, {1: NOTHING}, {1: columns(0, 2)}], (prompt("a", "text"),))
    found = score(MadeSequence(truth), answers, Kind.REFERRING).metrics
    assert found["gIoU"] == pytest.approx((8 + 8) / (16 + 8)) and found["T-acc"] == 1 and math.isnan(found["N-acc"])
    late = (prompt("a", "text"), prompt("b", "text", frame_index=3, ids=(2,)))
    assert score(MadeSequence([*truth[:3], None]), answers, Kind.REFERRING).metrics["gIoU"] == 0.5
    answers = replace(answers, prompts=late)
    assert score(MadeSequence([*truth[:3], None]), answers, Kind.REFERRING).metrics["gIoU"] == 0.5  # b never counts


CLASSES = (Category(3, "Cup"), Category(8, "plate"), Category(9, "sky", is_stuff=True))
CUP, PLATE, SKY = TrueObject(1, 3), TrueObject(2, 8), TrueObject(3, 9)
CLASS_LIST = (prompt("classes", "classes", ids=(1, 2, 3), query="Cup, plate, sky"),)


def test_instances_are_found_by_class_in_any_case_and_strangers_are_noted() -> None:
    truth = [{1: columns(0, 2), 2: columns(4, 6)}] * 2
    answers = answered(
        [{1: columns(0, 2), 2: columns(4, 6), 3: HALF}] * 2, CLASS_LIST, {1: "cup", 2: "plate", 3: "spoon"}
    )
    result = score(MadeSequence(truth, (CUP, PLATE)), answers, Kind.INSTANCES, categories=CLASSES)
    assert result.metrics["AP"] == pytest.approx(1) and result.metrics["track_AP"] == pytest.approx(1)
    assert result.notes == ("2 masks of 'spoon' do not count: it is no category of made",)
    image = score(MadeSequence(truth[:1], (CUP, PLATE)), replace(answers, frames=answers.frames[:1]), Kind.INSTANCES)
    assert math.isnan(image.metrics["AP"]) and "track_AP" not in image.metrics  # without categories nothing has a class


@pytest.mark.parametrize("label", ["traffic-light-merged", "traffic light", "Traffic  Light"])
def test_a_class_is_known_by_its_name_and_as_it_is_said(label: str) -> None:
    answers = answered([{1: columns(0, 2)}], CLASS_LIST[:1], {1: label})
    classes = (Category(5, "plate"), Category(CUP.category_id, "traffic-light-merged"))
    result = score(MadeSequence([{1: columns(0, 2)}], (CUP,)), answers, Kind.INSTANCES, categories=classes)
    assert result.metrics["AP"] == pytest.approx(1) and result.notes == ()


def test_what_looks_like_a_region_has_the_class_of_the_prompt() -> None:
    answers = answered([{1: columns(0, 2)}, {1: NOTHING}], (prompt("regions", "box"),), {1: "region"})
    result = score(MadeSequence([{1: columns(0, 2)}] * 2, (CUP,)), answers, Kind.VISUAL, categories=CLASSES)
    assert result.metrics["AP50"] == pytest.approx(51 / 101)  # of recall 0, 0.01, .. 1, up to one half is reached
    assert result.metrics["track_AP50"] == pytest.approx(1)  # half of the tube overlaps
    assert result.metrics["track_AP75"] == 0 and result.worst == (1, 0)


def test_segments_have_panoptic_quality_and_the_surest_is_on_top() -> None:
    truth = [{1: columns(0, 2), 3: columns(2, 6)}] * 2
    answers = answered(
        [{0: columns(0, 2), 4: columns(0, 6), 5: columns(0, 1)}] * 2,
        CLASS_LIST,
        {0: "cup", 4: "sky", 5: "cup"},
        scores={0: 0.9, 4: 0.3, 5: 0.2},
    )
    result = score(MadeSequence(truth, (CUP, SKY)), answers, Kind.PANOPTIC, categories=CLASSES)
    for name in ("PQ", "PQ_things", "PQ_stuff", "VPQ", "VPQ_1", "VPQ_2", "STQ", "STQ_AQ", "STQ_SQ"):
        assert result.metrics[name] == pytest.approx(1), name
    image = score(
        MadeSequence(truth[:1], (CUP, SKY)),
        replace(answers, frames=answers.frames[:1]),
        Kind.PANOPTIC,
        categories=CLASSES,
    )
    assert image.metrics["PQ"] == 1 and "VPQ" not in image.metrics


def test_pixels_have_classes_and_unmarked_ones_do_not_count() -> None:
    truth = true_frame({1: columns(0, 2), 3: columns(2, 4)}, ignore=columns(4, 6))
    answers = answered([{1: columns(0, 1), 2: columns(1, 6)}] * 9, CLASS_LIST, {1: "cup", 2: "sky"})
    result = score(MadeSequence([truth] * 9, (CUP, SKY)), answers, Kind.SEMANTIC, categories=CLASSES)
    assert result.metrics["IoU/Cup"] == 0.5 and result.metrics["IoU/sky"] == pytest.approx(2 / 3)
    assert result.metrics["mIoU"] == pytest.approx((0.5 + 2 / 3) / 2) and result.metrics["pAcc"] == 0.75
    assert result.metrics["VC8"] == 1 and math.isnan(result.metrics["VC16"])
    twins = (Category(3, "sky"), Category(9, "sky"))
    named = score(MadeSequence([truth], (CUP, SKY)), answered([{}], CLASS_LIST), Kind.SEMANTIC, categories=twins)
    assert named.metrics["IoU/sky (3)"] == 0 and named.metrics["IoU/sky (9)"] == 0


def test_phrases_of_a_description_are_compared_with_those_of_the_truth() -> None:
    said = prompt("caption", "caption", response="a cup", phrases=(("a cup", (7, 8)), ("a hat", ())))
    sequence = MadeSequence(
        [{1: columns(0, 2)}] * 2, (CUP,), (Expression("0", "the cup", (1,)),), captions=("a cup on a plate",)
    )
    answers = answered([{7: columns(0, 1), 8: columns(1, 2)}] * 2, (said,))
    result = score(sequence, answers, Kind.CAPTIONS)
    assert result.metrics["GCG_mIoU"] == 1 and result.metrics["GCG_recall"] == 1 and "METEOR" not in result.metrics
    assert result.counts["words"]["state"] == {"clip": ["a cup", ["a cup on a plate"]]}


def test_a_description_notes_what_its_words_cannot_be_scored_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    sequence = MadeSequence([{1: HALF}], captions=("a cup",))
    result = score(sequence, answered([{}], (prompt("caption", "caption"),)), Kind.CAPTIONS)
    assert len(result.notes) == 1 and "no METEOR and CIDEr: there is no java" in result.notes[0]


def test_a_sequence_without_anything_to_score_says_so() -> None:
    empty = score(MadeSequence([None, None]), answered([{1: HALF}] * 2))
    assert "none of its 2 frames is annotated at all" in empty.error and not empty.metrics
    late = score(MadeSequence([{1: HALF}, None]), answered([{}] * 2, (prompt(frame_index=1),)))
    assert "from its first prompt on" in late.error and late.num_annotated == 1
    assert "no prompt was given" in score(MadeSequence([{1: HALF}]), answered([{}], ())).error


def test_predictions_of_other_frames_are_refused_with_the_first_case() -> None:
    sequence = MadeSequence([{1: HALF}] * 3)
    short, long = (answered([{1: HALF}] * number) for number in (2, 4))
    assert "clip has 3 frames, the predictions have 2: frame 2 is only in the sequence" in score(sequence, short).error
    assert "frame 3 is only in the predictions" in score(sequence, long).error
    gap = answered([{1: HALF}] * 3)
    gap = replace(gap, frames=(gap.frames[0], gap.frames[2]))
    assert "clip: frame 1 is missing from the predictions, which go on with frame 2" in score(sequence, gap).error


def test_an_image_that_cannot_be_read_is_missing_from_both() -> None:
    sequence = MadeSequence([{1: HALF}] * 2, sizes=[SIZE, None, SIZE])
    assert score(sequence, answered([{1: HALF}] * 2)).metrics["J"] == 1


def test_predictions_of_another_size_are_refused() -> None:
    answers = answered([{1: columns(0, 2, (8, 9))}] * 2, size=(8, 9))
    error = score(MadeSequence([None, {1: HALF}]), answers).error
    assert error.startswith("clip: the predictions of frame 1 are of 9x8 pixels, its ground truth has 6x4")


class Damaged(MadeSequence):
    def truth(self, frame) -> TrueFrame | None:
        raise TruthError(f"mask of {frame.size} is damaged")


def test_objects_that_cannot_be_looked_for_are_an_error_of_the_sequence() -> None:
    broken = FailedSequence("broken", TruthError("mask 3 is damaged"))
    assert score_sequence(broken, made_dataset(Kind.OBJECTS, broken), answered([{}])).error == "mask 3 is damaged"


def test_whose_fault_a_wrong_size_is() -> None:
    answers = answered([{1: columns(0, 2, (8, 9))}], size=(8, 9))
    assert "its image has 6x4" in score(Damaged([None]), answers).error
    assert score(Damaged([None]), answered([{}])).error == "mask of (4, 6) is damaged"


def test_a_clip_of_several_sizes_is_refused_where_tubes_are_compared() -> None:
    big = TrueFrame((1,), np.ones((1, 8, 9), np.bool_))
    answers = answered([{1: HALF}] * 2, CLASS_LIST)
    answers = replace(answers, frames=(answers.frames[0], replace(answers.frames[1], size=(8, 9), masks=())))
    sequence = MadeSequence([{1: HALF}, big], (CUP,))
    error = score(sequence, answers, Kind.INSTANCES, categories=CLASSES).error
    assert "frame 1 has 9x8 pixels, those before 6x4" in error
    assert score(sequence, answers).metrics["J"] == 0.5  # one frame at a time


@pytest.mark.parametrize("kind", [Kind.OBJECTS, Kind.PANOPTIC, Kind.SEMANTIC, Kind.INSTANCES, Kind.VISUAL])
def test_counts_that_went_through_a_file_add_up_to_those_of_all(kind: Kind) -> None:
    results = []
    for name, mask in (("a", columns(0, 2)), ("b", columns(0, 3)), ("c", columns(0, 4))):
        sequence = MadeSequence([{1: columns(0, 4)}] * 2, (CUP,), name=name)
        answers = answered([{1: mask}] * 2, CLASS_LIST, {1: "Cup"}, name=name)
        results.append(score(sequence, answers, kind, categories=CLASSES))
    read = [sequence_result_from_json(sequence_result_to_json(result), "x") for result in results]
    before = json.dumps([result.counts for result in read])
    total = combine(kind, [*read, SequenceResult("broken", error="why")])
    np.testing.assert_equal(combine(kind.value, results), total)
    assert json.dumps([result.counts for result in read]) == before
    assert list(total) == list(results[0].metrics)
    if kind is Kind.OBJECTS:
        assert total["J"] == pytest.approx((0.5 + 0.75 + 1) / 3)
    for result in results:
        np.testing.assert_equal(combine(kind, [result]), result.metrics)


def test_results_that_were_counted_differently_are_not_combined() -> None:
    sequence, answers = MadeSequence([{1: HALF}] * 2), answered([{1: HALF}] * 2)
    other = replace(sequence_result_from_json(sequence_result_to_json(score(sequence, answers)), "x"), sequence="other")
    with pytest.raises(ResultsError, match="objects have other settings"):
        combine(Kind.OBJECTS, [other, score(sequence, answers, official_quirks=True)])
    with pytest.raises(ResultsError, match="'what'"):
        combine(Kind.OBJECTS, [replace(other, counts={"what": {"settings": {}, "state": {}}})])
