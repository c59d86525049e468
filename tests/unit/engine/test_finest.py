"""The finest map from memory every n-th frame: whose turn it is, what is kept, and when it goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.engine.sessions import click, same, session, text
from tests.unit.model.networks import FRAME_PERIOD_NS, frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.finest import finest_maps
from x2sam_ros.engine.mask_memory import merge_memories
from x2sam_ros.engine.session import Session
from x2sam_ros.engine.stepper import Stepper
from x2sam_ros.engine.track import Group
from x2sam_ros.errors import ConfigError
from x2sam_ros.types import Frame

EVERYTHING = {"score_threshold": 0.0, "mask_score_threshold": 0.0, "lost_frames": 1000}


@contextmanager
def looks() -> Iterator[list[int]]:
    """Collect how many targets' finest maps are conditioned on a memory, pass by pass."""
    cells = nano().config.segmentor.image_size // 4
    counts: list[int] = []

    def hook(module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
        if output.shape[-1] == cells:
            counts.append(len(output))

    handle = nano().segmentor.memory_attention.register_forward_hook(hook)
    try:
        yield counts
    finally:
        handle.remove()


def groups_of(of: Session) -> list[Group]:
    return of._roster.groups


def test_the_default_is_bit_for_bit_the_exact_step() -> None:
    plain, spelt = (
        session(**EVERYTHING, **options)
        for options in ({}, {"finest_refresh": 1, "memory_window": 0, "memory_key_pool": 1, "input_side": 0})
    )
    whole = session(**EVERYTHING, memory_window=32, memory_pool=4, input_side=128)
    for of in (plain, spelt, whole):
        of.submit(text())
    for frame in frames(5):
        exact = plain.step(frame)
        assert same(exact, spelt.step(frame)) and same(exact, whole.step(frame))
    assert all(group.memory.finest is None for group in groups_of(plain))


@torch.inference_mode()
def test_turns_on_every_frame_give_what_the_memory_gives() -> None:
    of = session(**EVERYTHING, finest_refresh=3)
    for prompt in (text(), click()):
        of.submit(prompt)
    stream = frames(6)
    for frame in stream[:5]:
        of.step(frame)
    groups, segmentor = groups_of(of), nano().segmentor
    stepper = Stepper(segmentor, EngineConfig())
    seen = of._tracker.encode(stream[5])
    pixels = seen.pixels(first=False)
    memory = merge_memories([group.memory for group in groups], 5, 5 * FRAME_PERIOD_NS)
    exact = stepper.recall(pixels, memory)
    torch.testing.assert_close(finest_maps(stepper, pixels, memory, groups, 5, 1), exact, rtol=0, atol=1e-5)
    for group, row in zip(groups, exact):
        assert group.memory.finest is not None and group.memory.finest.frame_index == 5
        torch.testing.assert_close(group.memory.finest.added[0], row - pixels.multi_scale[2][0], rtol=0, atol=1e-5)
    kept = finest_maps(stepper, pixels, memory, groups, 6, 100)
    torch.testing.assert_close(kept, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("every", [2, 3, 5])
def test_a_target_looks_once_in_so_many_frames(every: int) -> None:
    of = session(**EVERYTHING, finest_refresh=every)
    of.submit(text())
    with looks() as counts:
        for frame in frames(1 + 4 * every):
            of.step(frame)
    assert 4 <= len(counts) <= 5  # one more where the first turn came early
    with looks() as counts:
        exact = session(**EVERYTHING)
        exact.submit(text())
        for frame in frames(5):
            exact.step(frame)
    assert counts == [1] * 4


def test_turns_of_several_targets_are_spread() -> None:
    of = session(**EVERYTHING, finest_refresh=2)
    for index in range(4):
        of.submit(click(f"click-{index}", x=15 + 8 * index))
    stream = frames(13)
    for frame in stream[:3]:
        of.step(frame)
    assert len(groups_of(of)) == 4
    with looks() as counts:
        for frame in stream[3:]:
            of.step(frame)
    assert counts == [2] * 10


def test_targets_come_and_go() -> None:
    of = session(**EVERYTHING, finest_refresh=3)
    of.submit(text("first"))
    stream = frames(14)
    for index, frame in enumerate(stream):
        if index in (3, 5):
            of.submit(click(f"click-{index}"))
        if index == 8:
            of.remove(of.target_ids[0])
        result = of.step(frame)
        assert len(result.target_ids) == {0: 1, 3: 2, 5: 3, 8: 2}.get(index, len(result.target_ids))
        for group in groups_of(of):
            finest = group.memory.finest
            assert finest is None or index - finest.frame_index < 3
    held = [group.memory.finest for group in groups_of(of)]
    assert len(held) == 2 and None not in held
    alone = sum(finest.nbytes for finest in held if finest is not None)
    assert alone == 2 * 4 * 64 * 32 * 32
    bare = session(**EVERYTHING)
    assert of.nbytes - alone > bare.nbytes == 0
    of.reset()
    assert of.nbytes == 0


def test_another_stream_begins_with_nothing_kept() -> None:
    of = session(**EVERYTHING, finest_refresh=50)
    of.submit(text())
    stream = frames(6)
    for frame in stream:
        of.step(frame)
    (before,) = [group.memory.finest for group in groups_of(of)]
    again = Frame(stream[0].image, stream[0].stamp_ns - 10**10, 6, "camera")
    assert before is not None
    of.step(again)
    (group,) = groups_of(of)
    assert group.memory.finest is None
    of.step(Frame(stream[1].image, again.stamp_ns + FRAME_PERIOD_NS, 7, "camera"))
    after = groups_of(of)[0].memory.finest
    assert after is not None and after.frame_index == 7


def test_approximations_go_together_and_move_the_masks_little() -> None:
    exact = session(**EVERYTHING)
    near = session(**EVERYTHING, finest_refresh=2, memory_window=8, memory_pool=4, memory_key_pool=2)
    for of in (exact, near):
        of.submit(text())
    for frame in frames(6):
        one, other = exact.step(frame), near.step(frame)
        assert one.target_ids.tolist() == other.target_ids.tolist() and one.masks.shape == other.masks.shape
        assert np.mean(one.masks == other.masks) > 0.9


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="memory_pool is 3, expected a divisor of memory_window, 8"):
        EngineConfig(memory_window=8, memory_pool=3)
    for name in ("finest_refresh", "memory_pool", "memory_key_pool"):
        with pytest.raises(ConfigError, match=f"{name} is 0, expected 1 to"):
            EngineConfig(**{name: 0})
    with pytest.raises(ConfigError, match="compiled is 'yes', expected one of: off, on"):
        EngineConfig(compiled="yes")
