"""The life of a target: tentative, tracked, occluded, lost and back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.select import Choice
from x2sam_ros.engine.task_head import HISTORY
from x2sam_ros.engine.track import Target
from x2sam_ros.errors import ConfigError
from x2sam_ros.types import TargetState

CONFIG = EngineConfig(
    confirm_frames=2,
    lost_frames=3,
    score_threshold=0.5,
    keep_threshold=0.3,
    mask_score_threshold=0.7,
    mask_keep_threshold=0.7,
)
SEEN = Choice(0, 0, 0.9, torch.ones(4, 4))
WEAK = Choice(0, 0, 0.3, torch.ones(4, 4))
UNSURE = Choice(0, 0, 0.29, torch.ones(4, 4))
EMPTY = Choice(0, 0, 0.9, -torch.ones(4, 4))
FAINT = Choice(0, 0, 0.9, torch.full((4, 4), 0.5))
TENTATIVE, TRACKED, OCCLUDED, LOST = TargetState


def states(*choices: Choice, config: EngineConfig = CONFIG) -> list[TargetState]:
    """Return the states that a new target goes through."""
    target = Target(1, "cup")
    assert target.state is TENTATIVE
    return [(target.see(choice, config), target.state)[1] for choice in choices]


def test_states() -> None:
    assert states(SEEN, SEEN, SEEN) == [TENTATIVE, TRACKED, TRACKED]
    assert states(SEEN, SEEN, UNSURE, EMPTY, UNSURE, UNSURE)[2:] == [OCCLUDED, OCCLUDED, LOST, LOST]
    assert states(SEEN, SEEN, UNSURE, SEEN)[2:] == [OCCLUDED, TRACKED]


def test_less_is_enough_to_stay_than_to_begin_or_to_come_back() -> None:
    assert states(SEEN, SEEN, WEAK, WEAK)[2:] == [TRACKED, TRACKED]
    assert states(WEAK) == [OCCLUDED] and states(SEEN, WEAK)[1] is OCCLUDED, "not tracked yet"
    assert states(SEEN, SEEN, UNSURE, WEAK, SEEN, WEAK)[2:] == [OCCLUDED, OCCLUDED, TRACKED, TRACKED]
    assert states(SEEN, SEEN, UNSURE, UNSURE, UNSURE, WEAK)[5] is LOST
    plain = replace(CONFIG, keep_threshold=0.5)
    assert states(SEEN, SEEN, WEAK, config=plain)[2] is OCCLUDED, "without hysteresis"


def test_a_lost_target_is_confirmed_anew_or_lost_again() -> None:
    lost = (SEEN, SEEN, UNSURE, UNSURE, UNSURE)
    assert states(*lost, SEEN, SEEN)[4:] == [LOST, TENTATIVE, TRACKED]
    assert states(*lost, SEEN, UNSURE, SEEN, SEEN)[5:] == [TENTATIVE, LOST, TENTATIVE, TRACKED]
    assert states(*lost, SEEN, SEEN, UNSURE)[7] is OCCLUDED, "confirmed, it has lost_frames again"
    target = Target(1, "cup")
    for choice in (*lost, SEEN):
        target.see(choice, CONFIG)
    assert target.missed_frames == 3 and target.track((4, 4), CONFIG).missed == 0, "it is not certain, but it is seen"
    target.see(SEEN, CONFIG)
    assert target.missed_frames == 0


def test_a_mask_that_evaporates_is_a_miss() -> None:
    assert 0.62 < FAINT.mask_score < 0.63 and EMPTY.mask_score == 0.0
    assert states(SEEN, SEEN, FAINT)[2] is OCCLUDED and states(SEEN, FAINT)[1] is OCCLUDED
    assert (
        states(SEEN, SEEN, FAINT, config=replace(CONFIG, mask_score_threshold=0.6, mask_keep_threshold=0.6))[2]
        is TRACKED
    )
    target = Target(1, "cup")
    target.see(FAINT, CONFIG, prompted=True)
    assert target.logits is not None, "whoever asks for it sees what there is"
    anything = replace(CONFIG, score_threshold=0.0, keep_threshold=0.0)
    assert states(FAINT, replace(FAINT, score=0.0), config=anything) == [TENTATIVE, TRACKED]
    assert states(EMPTY, config=anything) == [OCCLUDED]


def test_what_a_head_is_told_it_may_continue() -> None:
    target = Target(1, "cup")
    target.see(SEEN, CONFIG)
    assert target.track((4, 4), CONFIG).threshold == 0.5
    target.see(SEEN, CONFIG)
    assert target.track((4, 4), CONFIG).threshold == 0.3
    assert target.track((4, 4), replace(CONFIG, score_threshold=0.2, keep_threshold=0.1)).threshold == 0.1


def test_the_thresholds_must_fit_each_other() -> None:
    with pytest.raises(ConfigError, match="keep_threshold is 0.6, expected at most score_threshold, 0.5"):
        EngineConfig(score_threshold=0.5, keep_threshold=0.6)
    assert EngineConfig(score_threshold=0.1).confidence_kept == 0.1, "a default gives way"
    with pytest.raises(ConfigError, match="mask_score_threshold is 1.5"):
        EngineConfig(mask_score_threshold=1.5)


def test_a_gap_does_not_confirm() -> None:
    target, config = Target(1, "cup"), EngineConfig(confirm_frames=3)
    seen = []
    for choice in (SEEN, UNSURE, SEEN, UNSURE, SEEN):
        target.see(choice, config)
        seen.append(target.state)
    assert seen == [TENTATIVE, OCCLUDED, TENTATIVE, OCCLUDED, TRACKED]


def test_a_missed_target_keeps_where_it_was_and_shows_nothing() -> None:
    target = Target(1, "cup")
    target.see(SEEN, CONFIG)
    assert target.nbytes == 16 * 4 + 16
    target.see(UNSURE, CONFIG)
    assert target.logits is None and target.last_mask is not None and target.nbytes == 16
    assert target.score == UNSURE.score
    target.miss(CONFIG)
    assert target.score == 0


def test_the_history_holds_the_newest_sure_masks() -> None:
    target, config = Target(1, "cup"), EngineConfig(score_threshold=0.5)
    for number in range(HISTORY + 3):
        target.see(replace(SEEN, score=0.5 + number / 100), config)
    assert [round(score, 2) for _, score in target.history] == [0.53, 0.54, 0.55, 0.56]
    target.see(replace(SEEN, score=0.5), config)
    assert target.history[-1][1] == 0.56, "just at the threshold is seen, but not sure"
    assert target.history[-1][0] is not target.last_mask and target.nbytes == 16 * 4 + 16 * (HISTORY + 1)
    target.miss(config)
    track = target.track((8, 2), config)
    assert track.mask.shape == (8, 2) and len(track.history) == HISTORY and bool(track.history[0][0].all())


def test_the_published_evaluation_is_never_unsure() -> None:
    config = replace(CONFIG, official_quirks=True)
    assert states(UNSURE, FAINT, config=config) == [TENTATIVE, TRACKED] and states(EMPTY, config=config) == [OCCLUDED]


def test_a_target_owns_its_mask() -> None:
    queries = torch.ones(2, 4, 4)
    target = Target(1, "cup")
    target.see(Choice(0, 0, 0.9, queries[0]), CONFIG)
    queries.zero_()
    assert target.logits is not None and bool((target.logits == 1).all())


def test_a_mask_that_wavers_around_its_bar_does_not_flap() -> None:
    config = replace(CONFIG, mask_score_threshold=0.65, mask_keep_threshold=0.6)
    assert states(SEEN, SEEN, FAINT, SEEN, FAINT, config=config)[2:] == [TRACKED, TRACKED, TRACKED]
    assert states(SEEN, SEEN, EMPTY, FAINT, config=config)[3] is OCCLUDED, "to come back takes more"


def test_a_mask_that_vanishes_at_the_images_size_is_a_miss_among_others() -> None:
    target = Target(1, "cup")
    for _ in range(CONFIG.lost_frames + 1):
        target.see(SEEN, CONFIG)
        target.vanish(CONFIG)
    assert target.state is LOST
