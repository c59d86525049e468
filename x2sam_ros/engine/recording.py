"""A recording from end to end for one prompt, as separate pictures, as clips or as a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

from x2sam_ros.config import CLIP_LENGTH, EngineConfig
from x2sam_ros.engine.clip import segment_clip
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import ConfigError, PromptError
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import Frame, FrameResult, GroundingStatus, Prompt

RecordingMode = Literal["image", "clip", "stream"]
"""Every frame by itself; or one of the modes of ``segment_clip``."""

_MODES: tuple[RecordingMode, ...] = ("image", "clip", "stream")


def check_mode(name: str) -> RecordingMode:
    """Return the mode of a name; ConfigError where there is none."""
    for mode in _MODES:
        if name == mode:
            return mode
    raise ConfigError(f"mode is {name!r}, expected one of: {', '.join(_MODES)}")


def segment_recording(
    model: X2SAM,
    frames: Iterable[Frame],
    prompt: Prompt,
    mode: RecordingMode = "stream",
    clip_length: int = CLIP_LENGTH,
    config: EngineConfig | None = None,
) -> Iterator[tuple[Frame, FrameResult]]:
    """Segment frames for one prompt.

    Args:
        model: the network.
        frames: one picture, several, or a recording; read ``clip_length`` frames at a time.
        prompt: what is asked.
        mode: "image" gives the prompt anew on each frame, which the language model sees as a picture, and remembers
            nothing but which target ids are taken. "clip" and "stream" are those of ``segment_clip``.
        clip_length: frames of a clip.
        config: thresholds and caps.

    Yields:
        Each frame with its result; the result of a frame on which the prompt was given has its grounding.

    Raises:
        ConfigError: the mode is unknown, or a clip cannot have that many frames.
        PromptError: the prompt cannot be carried out on a frame.
        FrameError: the frames of a clip have different sizes, or cannot be used.
    """
    check_mode(mode)
    waiting: deque[Frame] = deque()  # at most clip_length frames

    def read() -> Iterator[Frame]:
        for frame in frames:
            waiting.append(frame)
            yield frame

    if mode == "image":
        # nothing is looked for on later pictures
        alone = replace(EngineConfig() if config is None else config, lost_frames=1, language_lane="inline")
        results = _separately(Session(model, alone, in_order=True), read(), prompt)
    else:
        results = segment_clip(model, read(), prompt, mode, clip_length, config)
    return ((waiting.popleft(), _accepted(result)) for result in results)


def _separately(session: Session, frames: Iterator[Frame], prompt: Prompt) -> Iterator[FrameResult]:
    for frame in frames:
        session.reset(restart_ids=False)
        session.submit(prompt)
        yield session.step(frame)


def _accepted(result: FrameResult) -> FrameResult:
    """Return the result; PromptError where the prompt was rejected."""
    for grounding in result.groundings:
        if grounding.status is GroundingStatus.REJECTED:
            raise PromptError(f"the prompt cannot be carried out on image {result.frame_index}: {grounding.message}")
    return result
