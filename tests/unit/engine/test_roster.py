"""Who is followed, under which id, and who is given up at a cap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.unit.engine.sessions import ScriptedHead, classes, text
from tests.unit.model.networks import condition, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.caps import Footprint
from x2sam_ros.engine.fleet import TargetIds
from x2sam_ros.engine.mask_memory import MaskMemory
from x2sam_ros.engine.masks import Placement
from x2sam_ros.engine.memory_policy import MemoryRecord, open_policy
from x2sam_ros.engine.roster import Roster
from x2sam_ros.engine.select import Choice
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.errors import PromptError
from x2sam_ros.model.memory import MemoryEntry
from x2sam_ros.types import Prompt

MIB = 1 << 20
CELLS = 16
FOOTPRINT = Footprint(entry=MIB // 4, capacity=4, target=0)
"""A prompt takes 1 MiB, and its condition."""

SEEN = Choice(0, 0, 0.9, torch.ones(CELLS, CELLS))


def roster(footprint: Footprint = FOOTPRINT, **config: Any) -> Roster:
    return Roster(EngineConfig(**config), TargetIds(), footprint)


def group(prompt: Prompt | None = None, labels: tuple[str, ...] = ("cup", "kettle")) -> Group:
    memory = MaskMemory(open_policy("fifo", EngineConfig()))
    return Group(prompt or text(), ScriptedHead([]), condition(len(labels), 3), memory, labels)


def target(of: Group, target_id: int, missed: int = 0, seen: int = 5) -> Target:
    """Let a group follow a target that was seen on so many frames and has not been seen since."""
    config = EngineConfig(lost_frames=10)
    made = Target(target_id, f"object {target_id}")
    for _ in range(seen):
        made.see(SEEN, config)
    for _ in range(missed):
        made.miss(config)
    of.targets[target_id] = made
    return made


def following(of: Roster, *missed: int) -> list[Group]:
    """Let a roster follow a prompt for each number of frames on which its target was missed."""
    of.groups = [group(text(f"p{index}")) for index in range(len(missed))]
    for each, frames in zip(of.groups, missed):
        target_id = of.ids.take()
        assert target_id is not None
        target(each, target_id, frames)
    return of.groups


def test_targets_have_ids_and_groups() -> None:
    some = roster()
    first, second = following(some, 0, 3)
    opening = group()
    target(opening, 9)
    some.opening = [opening]
    assert some.target_ids == (1, 2, 9) and [t.target_id for t in some.targets] == [1, 2]
    assert some.group_of(2) is second
    second.stuff = (0,)
    assert [t.target_id for t in some.things] == [1]
    with pytest.raises(PromptError, match="there is no target 7; targets: 1, 2, 9"):
        some.group_of(7)
    assert some.remove(1) is first and some.groups == [second]
    with pytest.raises(PromptError, match="there is no target 1"):
        some.remove(1)
    some.clear()
    assert some.target_ids == () and some.groups == some.opening == some.understood == []


def test_a_prompt_is_removed_with_its_targets() -> None:
    some = roster()
    following(some, 0, 0)
    assert some.remove_prompt("p0") == (1,) and some.target_ids == (2,)
    assert some.remove_prompt("p0") is None
    looking = group(classes("list"))
    looking.vain_frames = 1
    some.groups.append(looking)
    assert some.remove_prompt("list") == () and len(some.groups) == 1


def test_groups_without_targets_are_dropped_unless_they_look_for_some() -> None:
    some = roster(lost_frames=5)
    empty, looking = group(), group(classes())
    looking.vain_frames = 2
    some.groups = [empty, looking]
    some.drop_empty()
    assert some.groups == [looking]
    looking.vain_frames = 5
    some.drop_empty()
    assert some.groups == []


def test_a_new_prompt_is_rejected_at_the_cap_on_targets_with_the_numbers() -> None:
    some = roster(max_targets=3)
    following(some, 0, 99)
    assert some.full() == ""
    some.reserved = 1
    assert "3 targets are followed, at most 3 may be" in some.full()
    assert some.full(group(), leaving=1) == "", "a target that moves needs no second place"
    assert some.admit(group(), prompted=True) is None, "its own place is not among those reserved"
    some.reserved = 0
    some.understood = [group()]
    assert some.full(), "what waits for its first target counts as one"


def test_a_new_prompt_is_rejected_at_the_cap_on_bytes_with_the_numbers() -> None:
    some = roster(max_memory_mb=3)
    following(some, 0, 0)
    assert "its memory will take 1.0 MiB beside 2.0 MiB for 2 targets, at most 3.0 MiB" in some.full(group())
    assert "its memory will take 1.0 MiB" in some.full(), "without a condition, which is not known yet"
    assert some.full(group(), leaving=2) == "" and some.admit(group()) is None
    some.reserved = 1
    assert "max_memory_mb" in some.full()
    some.reserved = 0
    some.remove(1)
    assert some.full(group()) == "" and some.admit(group()) == 3


def test_full_memories_are_counted_from_the_start_and_stored_ones_as_they_are() -> None:
    made = group()
    assert FOOTPRINT.typical == MIB and FOOTPRINT.full(made) == MIB + made.condition.nbytes
    entry = MemoryEntry((torch.zeros(1, 1, 64, 64),))
    made.memory.store(MemoryRecord(0, 0, 0.9, 0.1), entry)
    assert FOOTPRINT.full(made) == 4 * entry.nbytes + made.condition.nbytes
    seen = target(made, 1)
    masks = Footprint(entry.nbytes, 4, target=100)
    cells = seen.last_mask.numel() * 10 if seen.last_mask is not None else 0
    assert masks.full(made) == 4 * entry.nbytes + made.condition.nbytes + cells
    assert masks.full(made, more=2) - masks.full(made) == 200
    assert masks.full(made) >= made.nbytes


def test_the_footprint_of_a_network_bounds_what_its_targets_take() -> None:
    segmentor = nano().config.segmentor
    footprint = Footprint.of(segmentor, open_policy("fifo", EngineConfig(num_maskmem=3)))
    assert footprint.capacity == 3 and footprint.target == (segmentor.image_size // 4) ** 2 * 10
    assert footprint.typical == 3 * footprint.entry + footprint.target


def test_a_list_takes_the_place_of_its_own_longest_lost_target_only() -> None:
    some = roster(max_targets=3, at_cap="evict")
    mine = group(classes())
    for target_id, missed in ((1, 0), (2, 12), (3, 40)):
        target(mine, target_id, missed)
    some.groups = [mine]
    some.ids.next = 4
    assert some.admit(mine) == 4 and set(mine.targets) == {1, 2}
    target(mine, 4)
    assert some.admit(mine) == 5 and set(mine.targets) == {1, 4}
    target(mine, 5)
    assert some.admit(mine) is None, "none of them is lost"


def test_the_least_recently_seen_is_given_up_for_a_new_prompt() -> None:
    some = roster(max_targets=3, at_cap="evict")
    following(some, 2, 30, 0)
    new = group(text("new"))
    assert some.full() == some.full(new) == ""
    some.opening = [new]
    assert some.admit(new, prompted=True) == 4
    target(new, 4)
    some.groups, some.opening = [*some.groups, new], []
    (one,) = some.make_room([new])
    assert some.target_ids == (1, 3, 4) and [t.target_id for t in one.targets] == [2]
    assert one.reason == "as 4 targets are followed, at most 3 may be; raise max_targets"
    assert some.make_room([new]) == [] == some.make_room([])


def test_new_prompts_are_never_given_up_for_one_another() -> None:
    some = roster(max_targets=2, at_cap="evict")
    following(some, 0, 0)
    some.opening = [group(text("a")), group(text("b"))]
    assert "2 targets are followed, at most 2" in some.full()
    new = some.opening
    for each, number in zip(new, (3, 4)):
        assert some.admit(each, prompted=True) == number
        target(each, number, missed=5)
    assert some.admit(new[0], prompted=True) is None
    some.groups, some.opening = [*some.groups, *new], []
    assert [t.target_id for one in some.make_room(new) for t in one.targets] == [1, 2]
    assert some.groups == new


def test_at_the_cap_on_bytes_a_whole_prompt_is_given_up() -> None:
    """Its targets share one memory, so that giving up one of them would free next to nothing."""
    some = roster(max_memory_mb=3, at_cap="evict")
    seen, unseen = following(some, 0, 5)
    target(unseen, 7, missed=9)
    target(seen, 8, missed=99)  # the other one of this prompt is seen
    new = group(text("new"))
    some.groups.append(new)
    target(new, 9)
    (one,) = some.make_room([new])
    assert one.group is unseen and sorted(t.target_id for t in one.targets) == [2, 7]
    assert "memories will take 3.0 MiB, at most 3.0 MiB may be held; raise max_memory_mb" in one.reason
    assert some.excess() == ""
    small = roster(Footprint(entry=MIB, capacity=4), max_memory_mb=3, at_cap="evict")
    assert "may be held" in small.full(), "giving up everybody would not make room"


def test_whoever_looks_for_a_first_target_may_be_given_up_too() -> None:
    some = roster(max_targets=1, at_cap="evict")
    looking, new = group(classes("list")), group(text("new"))
    looking.vain_frames = 3
    target(new, 1)
    some.groups = [looking, new]
    (one,) = some.make_room([new])
    assert one.group is looking and one.targets == () and some.groups == [new]


def test_rejecting_gives_up_nobody() -> None:
    some = roster(max_targets=1)
    following(some, 0, 0)
    assert some.excess() and some.make_room([]) == [] and some.target_ids == (1, 2)


def test_without_memory_the_least_recently_seen_target_is_given_up() -> None:
    some = roster()
    assert some.give_up("as it is") is None
    following(some, 0, 3, 3)
    some.groups[2].targets[3].seen_frames = 1
    one = some.give_up("as it is")
    assert one is not None and [t.target_id for t in one.targets] == [3], "of two, the one seen less often"


def test_what_the_lane_found_is_followed_under_ids_of_the_session() -> None:
    some = roster(max_targets=2)
    following(some, 0)
    new = group(classes())
    for target_id in (-1, -2):
        target(new, target_id).class_index = -target_id - 1
    found = some.adopt(new, [replace(each) for each in new.targets.values()])
    assert [t.target_id for t in found] == [2] and list(new.targets) == [2], "the cap holds for them, too"
    assert new.targets[2].label == "cup" and some.groups[1] is new


def test_masks_are_those_of_the_image() -> None:
    some = roster(mask_threshold=0.8)
    following(some, 0, 0, 1)
    sure = torch.full((CELLS, CELLS), -5.0)
    sure[:8] = 5.0
    some.targets[0].logits = sure
    some.targets[1].logits = torch.ones(CELLS, CELLS)  # 0.73 everywhere
    masks = some.masks(Placement((64, 64), 64, (64, 64)))
    assert masks.shape == (3, 64, 64) and masks[0, :30].all() and not masks[0, 34:].any()
    assert not masks[1:].any() and some.targets[1].logits is None, "a mask without a pixel is none"
