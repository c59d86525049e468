"""Scoring of sessions, with answers known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.evaluation.results import certain_result
from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.generated import Case, Truth, evaluate, evaluate_case, same_words
from x2sam_ros.evaluation.metrics.panoptic import Segments
from x2sam_ros.types import ClassListPrompt, Frame, FrameResult, Prompt, TextPrompt

SIZE = (8, 10)


class Scripted:
    """A session that answers with given (label, mask) pairs once it was prompted, and says its words then."""

    def __init__(self, answers: list[tuple[str, np.ndarray]], words: str = "") -> None:
        self.answers, self.prompts, self.stepped = answers, list[Prompt](), list[int]()
        self.words, self.unsaid, self.clips = words, "", list[np.ndarray | None]()

    def submit(self, prompt: Prompt, clip: np.ndarray | None = None) -> None:
        self.prompts.append(prompt)
        self.clips.append(clip)
        self.unsaid = self.words

    def step(self, frame: Frame) -> FrameResult:
        self.stepped.append(frame.frame_index)
        answers = self.answers if self.prompts else []
        words, self.unsaid = self.unsaid, ""
        return certain_result(frame, answers, words)


def columns(start: int, stop: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[:, start:stop] = True
    return mask


def clip(num_frames: int) -> np.ndarray:
    return np.zeros((num_frames, *SIZE, 3), np.uint8)


def still(mask: np.ndarray, num_frames: int) -> np.ndarray:
    return np.repeat(mask[None], num_frames, axis=0)


def test_frames_before_the_prompt_are_stepped_but_not_scored() -> None:
    session = Scripted([("", columns(0, 5))])
    case = Case("text", clip(4), TextPrompt(text="it"), (Truth("", still(columns(0, 5), 4)),), prompt_frame=2)
    score = evaluate_case(session, case)
    assert session.stepped == [0, 1, 2, 3] and session.prompts == [case.prompt]
    assert score.j.tolist() == [1.0] and score.quiet.size == 0


def test_empty_label_takes_all_targets_together() -> None:
    session = Scripted([("a", columns(0, 2)), ("b", columns(2, 5))])
    score = evaluate_case(session, Case("text", clip(1), TextPrompt(text="it"), (Truth("", still(columns(0, 10), 1)),)))
    assert score.j.tolist() == [0.5]


def test_class_list_scores_what_is_there_and_counts_what_is_not() -> None:
    session = Scripted([("cup", columns(0, 2)), ("cup", columns(2, 4)), ("pan", columns(9, 10))])
    truths = (
        Truth("cup", still(columns(0, 8), 1)),
        Truth("jar", still(columns(0, 0), 1)),
        Truth("pan", still(columns(0, 0), 1)),
    )
    prompt = ClassListPrompt(classes=("cup", "jar", "pan"))
    score = evaluate_case(session, Case("class list", clip(1), prompt, truths))
    assert score.j.tolist() == [0.5]
    assert score.quiet.tolist() == [True, False]


def test_kinds_are_summed_up_apart() -> None:
    prompt = TextPrompt(text="it")
    truth = Truth("", still(columns(0, 10), 1))
    nothing = Truth("", still(columns(0, 0), 1))
    answers = iter([columns(0, 10), columns(0, 5), columns(0, 1)])
    cases = [Case("a", clip(1), prompt, (truth,)), Case("a", clip(1), prompt, (truth,))]
    cases.append(Case("absent", clip(1), prompt, (nothing,)))
    scores = evaluate(lambda: Scripted([("", next(answers))]), cases)
    assert [(score.kind, score.num_cases) for score in scores] == [("a", 2), ("absent", 1)]
    assert scores[0].j_mean == 0.75
    assert scores[0].j_error == pytest.approx(0.25)  # standard deviation 0.5 / sqrt(2), over sqrt(2)
    assert np.isnan(scores[0].quiet_share) and np.isnan(scores[1].j_mean)
    assert scores[1].quiet_share == 0.0


def test_occluded_frames_count_as_right_when_nothing_is_marked() -> None:
    masks = still(columns(0, 5), 2)
    masks[1] = False
    score = evaluate_case(
        Scripted([("", columns(0, 5))]), Case("clip", clip(2), TextPrompt(text="it"), (Truth("", masks),))
    )
    assert score.j.tolist() == [0.5]


def question(answer: str, kind: str = "chat") -> Case:
    return Case(kind, clip(1), TextPrompt(text="what?"), answer=answer, chance=0.5)


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert same_words(" A red circle,  above a BLUE square.", "a red circle above a blue square")
    assert not same_words("two", "2") and not same_words("a red circle", "a red circle above a square")
    score = evaluate_case(Scripted([], "Yes."), question("yes"))
    assert score.exact and score.j.size == 0 and score.quiet.size == 0
    assert not evaluate_case(Scripted([], "no"), question("yes")).exact


def test_answers_are_counted_beside_what_guessing_gets() -> None:
    said = iter(["red", "red", "blue", "red"])
    (score,) = evaluate(lambda: Scripted([], next(said)), [question(a) for a in ("red", "blue", "blue", "Blue.")])
    assert score.exact_share == 0.5 and score.majority_share == 0.75 and score.chance == 0.5
    assert score.exact_error == pytest.approx(np.sqrt(1 / 3) / 2)
    assert np.isnan(score.j_mean) and score.panoptic is None


def test_the_words_of_the_prompted_frame_count() -> None:
    truth = (Truth("", still(columns(0, 5), 3)),)
    case = Case("both", clip(3), TextPrompt(text="it"), truth, prompt_frame=1, answer="there")
    session = Scripted([("", columns(0, 5))], "there")
    score = evaluate_case(session, case)
    assert score.exact and score.j.tolist() == [1.0]


def test_the_clip_to_show_goes_with_the_prompt() -> None:
    shown = clip(4)
    session = Scripted([], "yes")
    evaluate_case(session, Case("chat", clip(1), TextPrompt(text="it"), clip=shown, answer="yes"))
    assert session.clips[0] is shown


def panoptic_case() -> Case:
    parts = [("cup", columns(0, 2)), ("cup", columns(2, 4)), ("sky", columns(4, 10))]
    guess = [("sky", columns(0, 4)), ("cup", columns(4, 10))]
    truths = (Truth("cup", still(columns(0, 4), 1)), Truth("sky", still(columns(4, 10), 1)))
    prompt = ClassListPrompt(classes=("cup", "sky"), stuff=("sky",))
    segments, guessed = (Segments.of_masks(each, SIZE) for each in (parts, guess))
    return Case("panoptic", clip(1), prompt, truths, chance=0.25, segments=segments, guess=guessed)


def test_segments_are_scored_by_panoptic_quality() -> None:
    sessions = iter(
        [
            Scripted([("cup", columns(0, 2)), ("cup", columns(2, 4)), ("sky", columns(4, 10))]),
            Scripted([("cup", columns(0, 4)), ("cup", columns(0, 0)), ("sky", columns(4, 10))]),
        ]
    )
    (score,) = evaluate(lambda: next(sessions), [panoptic_case(), panoptic_case()])
    assert score.j_mean == 1.0 and score.chance == 0.25
    assert score.panoptic is not None and score.panoptic_chance is not None
    assert score.panoptic.stuff.pq == 1.0
    assert score.panoptic.things.pq == pytest.approx(2 / (2 + 0.5 * 2 + 0.5 * 1))  # the second joins two cups in one
    assert score.panoptic_chance.overall.pq == 0.0


def test_masks_of_other_names_count_where_asked_for() -> None:
    # The best pair goes first: "b" is nearest to the wide truth, so the narrow one is left with what "a" shows of it.
    found = Scripted([("a", columns(0, 4)), ("b", columns(0, 8)), ("c", columns(9, 10))])
    truths = (Truth("narrow", still(columns(0, 5), 1)), Truth("wide", still(columns(0, 8), 1)))
    case = Case("caption", clip(1), TextPrompt(text="it"), truths, by_mask=True)
    assert evaluate_case(found, case).j.tolist() == [0.8, 1.0]
    one = Scripted([("a", columns(0, 5))])
    assert evaluate_case(one, case).j.tolist() == [1.0, 0.0]  # no mask serves two truths
    named = Case("caption", clip(1), TextPrompt(text="it"), truths)
    assert evaluate_case(Scripted([("a", columns(0, 5))]), named).j.tolist() == [0.0, 0.0]


def test_targets_that_overlap_are_no_segments() -> None:
    with pytest.raises(FrameError, match="overlaps"):
        evaluate_case(Scripted([("cup", columns(0, 4)), ("sky", columns(3, 10))]), panoptic_case())


def test_a_case_without_truth_and_answer_is_an_error() -> None:
    with pytest.raises(FrameError, match="neither a truth nor an answer"):
        Case("text", clip(1), TextPrompt(text="it"))
    with pytest.raises(FrameError, match="needs both"):
        Case("text", clip(1), TextPrompt(text="it"), answer="yes", segments=Segments(np.zeros(SIZE, int), {}))


def test_truth_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(FrameError, match=r"\(2, 8, 10\)"):
        Case("text", clip(2), TextPrompt(text="it"), (Truth("", still(columns(0, 1), 1)),))
