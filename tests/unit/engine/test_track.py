"""The life of a target: tentative, tracked, occluded, lost and back."""

from __future__ import annotations

from dataclasses import replace

import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.select import Choice
from x2sam_ros.engine.task_head import HISTORY
from x2sam_ros.engine.track import Target
from x2sam_ros.types import TargetState

CONFIG = EngineConfig(confirm_frames=2, lost_frames=3)
SEEN = Choice(0, 0, 0.9, torch.ones(4, 4))
UNSURE = Choice(0, 0, 0.4, torch.ones(4, 4))
EMPTY = Choice(0, 0, 0.9, -torch.ones(4, 4))


def states(*choices: Choice, config: EngineConfig = CONFIG) -> str:
    target, letters = Target(1, "cup"), ""
    for choice in choices:
        target.see(choice, config)
        letters += target.state.name[0]
    return letters


def test_states() -> None:
    assert states(SEEN, SEEN, SEEN) == "TTT"  # tentative, then tracked
    target = Target(1, "cup")
    assert target.state is TargetState.TENTATIVE
    target.see(SEEN, CONFIG)
    assert target.state is TargetState.TENTATIVE
    target.see(SEEN, CONFIG)
    assert target.state is TargetState.TRACKED
    assert states(SEEN, SEEN, UNSURE, EMPTY, UNSURE, UNSURE)[2:] == "OOLL"
    for choice in (UNSURE, EMPTY, UNSURE):
        target.see(choice, CONFIG)
    assert target.state is TargetState.LOST and target.missed_frames == 3
    target.see(SEEN, CONFIG)
    assert target.state is TargetState.TRACKED and target.missed_frames == 0


def test_a_gap_does_not_confirm() -> None:
    target, config = Target(1, "cup"), EngineConfig(confirm_frames=3)
    seen = []
    for choice in (SEEN, UNSURE, SEEN, UNSURE, SEEN):
        target.see(choice, config)
        seen.append(target.state)
    tentative, occluded = TargetState.TENTATIVE, TargetState.OCCLUDED
    assert seen == [tentative, occluded, tentative, occluded, TargetState.TRACKED]


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
    track = target.track((8, 2))
    assert track.mask.shape == (8, 2) and len(track.history) == HISTORY and bool(track.history[0][0].all())


def test_the_published_evaluation_is_never_unsure() -> None:
    config = replace(CONFIG, official_quirks=True)
    assert states(UNSURE, UNSURE, config=config) == "TT" and states(EMPTY, config=config) == "O"


def test_a_target_owns_its_mask() -> None:
    queries = torch.ones(2, 4, 4)
    target = Target(1, "cup")
    target.see(Choice(0, 0, 0.9, queries[0]), CONFIG)
    queries.zero_()
    assert target.logits is not None and bool((target.logits == 1).all())
