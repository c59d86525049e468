"""The life of a target: tentative, tracked, occluded, lost and back."""

from __future__ import annotations

import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.select import Choice
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


def test_a_target_owns_its_mask() -> None:
    queries = torch.ones(2, 4, 4)
    target = Target(1, "cup")
    target.see(Choice(0, 0, 0.9, queries[0]), CONFIG)
    queries.zero_()
    assert target.logits is not None and bool((target.logits == 1).all())
