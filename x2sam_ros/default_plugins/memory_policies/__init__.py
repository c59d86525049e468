"""The built-in memory policies: one file per policy, found by itself.

Each file implements the hook as a third party's plugin would. To add a policy, add a file.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module

from x2sam_ros.engine.memory_policy import MemoryPolicyFactory
from x2sam_ros.errors import PluginError
from x2sam_ros.hookspecs import hookimpl


@hookimpl
def x2sam_memory_policies() -> Mapping[str, MemoryPolicyFactory]:
    """Offer what the files beside this one offer.

    Raises:
        PluginError: two of them offer one policy.
    """
    policies: dict[str, MemoryPolicyFactory] = {}
    for file in pkgutil.iter_modules(__path__, f"{__name__}."):
        offered: Mapping[str, MemoryPolicyFactory] = import_module(file.name).x2sam_memory_policies()
        twice = sorted(policies.keys() & offered.keys())
        if twice:
            raise PluginError(
                f"{file.name} offers the memory policy '{twice[0]}', which another file offers; rename one of them"
            )
        policies.update(offered)
    return policies
