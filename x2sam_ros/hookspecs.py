"""What a plugin can offer. Specifications only: nothing here is called once per frame.

A plugin is a module named by an entry point of the group ``x2sam_ros``. It implements any of these hooks
with ``@hookimpl`` and returns factories by name; importing it must be cheap, so heavy imports belong
inside the factories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable

    from x2sam_ros.engine.memory_policy import MemoryPolicyFactory
    from x2sam_ros.engine.task_head import TaskHeadFactory
    from x2sam_ros.model.config import SegmentorConfig
    from x2sam_ros.model.encoder import MaskEncoder

    MaskEncoderFactory = Callable[[SegmentorConfig], MaskEncoder]

PROJECT = "x2sam_ros"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def x2sam_mask_encoders() -> Mapping[str, MaskEncoderFactory]:
    """Offer mask encoders: name to ``factory(config)``, which builds the module that encodes each image."""
    raise NotImplementedError


@hookspec
def x2sam_memory_policies() -> Mapping[str, MemoryPolicyFactory]:
    """Offer memory policies: name to ``factory(config)``, which builds a MemoryPolicy."""
    raise NotImplementedError


@hookspec
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer task heads: a task's name to ``factory()``, which builds its TaskHead."""
    raise NotImplementedError
