"""The task heads of the published network: one file per task, found by itself.

Each file implements the hook as a third party's plugin would. To add a task, add a file.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module

from x2sam_ros.engine.task_head import TaskHeadFactory
from x2sam_ros.errors import PluginError
from x2sam_ros.hookspecs import hookimpl


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer what the files beside this one offer.

    Raises:
        PluginError: two of them offer one task.
    """
    heads: dict[str, TaskHeadFactory] = {}
    for file in pkgutil.iter_modules(__path__, f"{__name__}."):
        offered: Mapping[str, TaskHeadFactory] = import_module(file.name).x2sam_task_heads()
        twice = sorted(heads.keys() & offered.keys())
        if twice:
            raise PluginError(
                f"{file.name} offers the task '{twice[0]}', which another file offers; rename one of them"
            )
        heads.update(offered)
    return heads
