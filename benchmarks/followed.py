"""One prompt on one clip, followed by a session as the node's."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import Any

from pieces import network

from x2sam_ros.config import NodeConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.generated import FRAME_INTERVAL_NS
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.scenes import Clip
from x2sam_ros.types import BoolArray, Frame, Prompt

ENGINE = replace(NodeConfig().engine, language_lane="inline")
"""The node's engine, which here takes up a prompt before it answers the frame, not beside the frames."""


class Follower:
    """Follow what a prompt asks for from the next frame on.

    Args:
        model: the network.
        memory_policy: name of the memory policy.
        prompt: the only prompt.
    """

    def __init__(self, model: X2SAM, memory_policy: str, prompt: Prompt) -> None:
        self._session = Session(model, ENGINE, memory_policy)
        self._session.submit(prompt)

    def step(self, clip: Clip, index: int) -> BoolArray:
        """Return where it is on a frame of a clip, bool (H, W)."""
        result = self._session.step(Frame(clip.frames[index], index * FRAME_INTERVAL_NS, index))
        mask: BoolArray = result.masks.any(axis=0)
        return mask


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the masks depend on, for ``Notes``; of the options, those of the model and ``--memory-policy``."""
    engine = {f"engine.{name}": value for name, value in asdict(ENGINE).items()}
    return {**network(options), "memory_policy": options.memory_policy, **engine}
