"""A recorded clip from end to end: as the published evaluation cuts it up, or as a camera would deliver it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal

import numpy as np

from x2sam_ros.config import CLIP_LENGTH, EngineConfig, NodeConfig
from x2sam_ros.engine.session import MAX_CLIP_FRAMES, Session
from x2sam_ros.errors import ConfigError, FrameError
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import Frame, FrameResult, Prompt, Uint8Array

Mode = Literal["clip", "stream"]
"""Forget everything after each clip and ask again, or ask once and go on."""


def segment_clip(
    model: X2SAM,
    frames: Iterable[Frame],
    prompt: Prompt,
    mode: Mode = "clip",
    clip_length: int = CLIP_LENGTH,
    config: EngineConfig | None = None,
    memory_policy: str = NodeConfig.memory_policy,
) -> Iterator[FrameResult]:
    """Segment recorded frames for one prompt, which the language model reads beside a clip of them.

    Both modes show the language model the first ``clip_length`` frames, so their first ``clip_length`` results are
    equal. Mode "clip" then starts anew with every ``clip_length`` frames: memory and targets are forgotten, the prompt
    is given again with the new clip, and what it finds are new targets with new ids. Mode "stream" goes on with the
    targets it has. A clip may be shorter, down to one frame.

    The regions of a prompt lie on the first frame of every clip: in mode "clip" they suit longer recordings only where
    nothing moves. Gaps in the memory are counted in ``frame_index``; the published evaluation numbers the frames it
    samples 0, 1, 2, ...

    Args:
        model: the network.
        frames: the recording, read ``clip_length`` frames at a time.
        prompt: what is asked.
        mode: "clip" or "stream".
        clip_length: frames of a clip.
        config: thresholds and caps.
        memory_policy: name of the memory policy plugin.

    Yields:
        One result per frame; the first of each clip has the prompt's grounding.

    Raises:
        ConfigError: the mode is unknown, or a clip cannot have that many frames.
        PluginError: there is no policy of that name.
        FrameError: the frames of a clip have different sizes, or cannot be used.
    """
    if mode not in ("clip", "stream"):
        raise ConfigError(f"mode is {mode!r}, expected 'clip' (start anew with every clip) or 'stream' (go on)")
    if not 1 <= clip_length <= MAX_CLIP_FRAMES:
        raise ConfigError(f"clip_length is {clip_length}, expected 1 to {MAX_CLIP_FRAMES}")
    inline = replace(EngineConfig() if config is None else config, language_lane="inline")
    return _results(Session(model, inline, memory_policy, in_order=True), iter(frames), prompt, mode, clip_length)


def _results(
    session: Session, frames: Iterator[Frame], prompt: Prompt, mode: Mode, clip_length: int
) -> Iterator[FrameResult]:
    is_first = True
    while clip := list(islice(frames, clip_length)):
        if is_first or mode == "clip":
            session.reset(restart_ids=False)
            session.submit(prompt, stack_frames(clip))
        is_first = False
        for frame in clip:
            yield session.step(frame)


def stack_frames(clip: Sequence[Frame]) -> Uint8Array:
    """Return the images of a clip as one array, uint8 (T, H, W, 3), as ``Session.submit`` takes it.

    Raises:
        FrameError: they have different sizes.
    """
    sizes = sorted({frame.size for frame in clip})
    if len(sizes) > 1:
        raise FrameError(
            f"frames of one clip have different sizes {sizes} (height, width); resize them to one size, "
            "or segment each by itself (mode 'image')"
        )
    return np.stack([frame.image for frame in clip])
