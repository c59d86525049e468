"""Frames seen at a smaller side: the masks fit the image, and the language side sees what it was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.engine.sessions import box, click, session, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.preprocess import at_side
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import ConfigError, SavedSessionError
from x2sam_ros.model.config import SegmentorConfig

EVERYTHING = {"score_threshold": 0.0, "mask_score_threshold": 0.0}


@pytest.mark.parametrize("side", [32, 64, 96])
@pytest.mark.parametrize("size", [(96, 128), (75, 200)])
def test_masks_have_the_size_of_the_image(side: int, size: tuple[int, int]) -> None:
    of = session(**EVERYTHING, input_side=side)
    for prompt in (text(), click()):
        of.submit(prompt)
    for frame in frames(3, size):
        result = of.step(frame)
        assert result.masks.shape == (2, *size)
    for group in of._roster.groups:
        assert group.memory.entries[-1].embeds[0].shape[-2:] == (side // 16, side // 16)
        for target in group.targets.values():
            assert target.last_mask is None or target.last_mask.shape == (side // 4, side // 4)


def test_the_language_side_sees_the_same() -> None:
    whole, small = session(**EVERYTHING), session(**EVERYTHING, input_side=64)
    for of in (whole, small):
        for prompt in (text(), click(), box()):
            of.submit(prompt)
        of.step(frames(1)[0])
    pairs = list(zip(whole._roster.groups, small._roster.groups))
    assert len(pairs) == 3
    for one, other in pairs:
        for name in ("cond_embeds", "token_embeds", "seg_embeds"):
            assert torch.equal(getattr(one.condition, name), getattr(other.condition, name))


def test_frames_without_prompts_are_encoded_once_and_small() -> None:
    of = session(**EVERYTHING, input_side=64)
    of.submit(text())
    seen: list[int] = []
    encoder = nano().segmentor.encoder
    handle = encoder.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[-1]))
    for frame in frames(3):
        of.step(frame)
    handle.remove()
    assert sorted(seen) == [64, 64, 64, 128]


@pytest.mark.parametrize("side", [16, 100, 160, 1024])
def test_sides_that_cannot_be_are_refused(side: int) -> None:
    with pytest.raises(
        ConfigError, match=f"input_side is {side}, expected a multiple of 32 up to the model's own, 128"
    ):
        Session(nano(), EngineConfig(input_side=side))


def test_the_models_own_side_changes_nothing() -> None:
    config = nano().config.segmentor
    assert at_side(config, 0) is config and at_side(config, config.image_size) is config
    assert at_side(SegmentorConfig(), 512) == SegmentorConfig(image_size=512)


def test_a_saved_session_belongs_to_its_side(tmp_path: Path) -> None:
    of, stream, path = session(**EVERYTHING, input_side=64), frames(5), tmp_path / "session"
    of.submit(text())
    for frame in stream[:4]:
        of.step(frame)
    of.save(path)
    config = EngineConfig(**EVERYTHING, input_side=64)
    loaded = Session.load(path, nano(), config)
    assert loaded.target_ids == of.target_ids and not loaded.left_out
    assert (loaded.step(replace(stream[4], frame_index=0)).masks == of.step(stream[4]).masks).all()
    with pytest.raises(SavedSessionError, match="image_size 64, here 128"):
        Session.load(path, nano(), EngineConfig(**EVERYTHING))
