"""Recordings of three kinds, and whose result belongs to which frame."""

from __future__ import annotations

import pytest

from tests.unit.engine.sessions import box, classes, same, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.clip import segment_clip
from x2sam_ros.engine.recording import RecordingMode, check_mode, segment_recording
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import ConfigError, PromptError
from x2sam_ros.types import Frame, GroundingStatus

CONFIG = EngineConfig(score_threshold=0.0)


@pytest.mark.parametrize("mode", ["clip", "stream"])
def test_clips_and_streams_are_those_of_segment_clip_with_their_frames(mode: RecordingMode) -> None:
    stream = frames(5)
    pairs = list(segment_recording(nano(), iter(stream), text(), mode, clip_length=3, config=CONFIG))
    assert [frame for frame, _ in pairs] == stream
    alone = segment_clip(nano(), stream, text(), "clip" if mode == "clip" else "stream", 3, CONFIG)
    assert all(same(result, other) for (_, result), other in zip(pairs, alone, strict=True))


def test_pictures_are_answered_one_by_one_and_may_have_different_sizes() -> None:
    stream = [*frames(2), *frames(1, size=(60, 40))]
    pairs = list(segment_recording(nano(), stream, text(), "image", config=CONFIG))
    assert [frame for frame, _ in pairs] == stream
    for frame, result in pairs:
        session = Session(nano(), CONFIG)
        session.submit(text())
        only = session.step(frame)
        assert (result.masks == only.masks).all() and (result.scores == only.scores).all()
        assert len(result.groundings) == 1
    ids = [i for _, result in pairs for i in result.target_ids.tolist()]
    assert len(ids) == len(set(ids)) == 3


def test_nothing_is_looked_for_on_the_next_picture() -> None:
    config = EngineConfig(score_threshold=1.0)
    ((_, result),) = segment_recording(nano(), frames(1), classes(), "image", config=config)
    (grounding,) = result.groundings
    assert grounding.status is GroundingStatus.NO_TARGET
    assert "next" not in grounding.message


def test_a_prompt_that_does_not_fit_names_the_image() -> None:
    small = Frame(frames(1, size=(40, 40))[0].image, 0, 7)
    run = segment_recording(nano(), [frames(1)[0], small], box(), "image", config=CONFIG)
    assert next(run)[1].target_ids.tolist() == [1]
    with pytest.raises(PromptError, match="image 7: box .* outside the image of 40x40"):
        next(run)


def test_unknown_mode() -> None:
    with pytest.raises(ConfigError, match="mode is 'video', expected one of: image, clip, stream"):
        check_mode("video")
