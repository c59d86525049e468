"""Find, check and look up plugins: mask encoders, memory policies and task heads, ours and others'.

A plugin is a module named by an entry point of the group ``x2sam_ros``; x2sam_ros/hookspecs.py says what it
can offer. Factories are looked up when a model or a session is built, never once per frame.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pluggy

from x2sam_ros import __version__, hookspecs
from x2sam_ros.errors import PluginError

if TYPE_CHECKING:
    from x2sam_ros.engine.memory_policy import MemoryPolicyFactory
    from x2sam_ros.engine.task_head import TaskHeadFactory
    from x2sam_ros.hookspecs import MaskEncoderFactory

GROUP = hookspecs.PROJECT
MASK_ENCODERS, MEMORY_POLICIES, TASK_HEADS = "x2sam_mask_encoders", "x2sam_memory_policies", "x2sam_task_heads"
KINDS = {MASK_ENCODERS: "mask encoder", MEMORY_POLICIES: "memory policy", TASK_HEADS: "task head"}

# Entry points like everybody's; written here so that a source tree that was never installed has them too.
BUILT_INS = tuple(
    metadata.EntryPoint(name=f"default_{name}", value=f"x2sam_ros.default_plugins.{name}", group=GROUP)
    for name in ("mask_encoders", "memory_policies", "task_heads")
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PluginInfo:
    """One plugin that was found, loaded or not.

    Args:
        name: the entry point's name.
        version: version of the distribution that brought it.
        distribution: the installed package that brought it.
        hooks: hooks it implements, sorted.
        provides: names it offers, in the order of the hooks.
        error: why it could not be loaded; empty when it was.
    """

    name: str
    version: str
    distribution: str
    hooks: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class _Offer:
    factory: Callable[..., Any]
    plugin: PluginInfo


class PluginManager:
    """The plugins of this installation. Loads them once, on construction.

    Args:
        entry_points: what to load, in this order.

    Raises:
        PluginError: a plugin implements a hook that does not exist, returns something else than factories by
            name, or offers a name that is taken. A plugin that cannot be imported is only logged: it fails
            whoever asks for it, not the others.
    """

    def __init__(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT)
        self._pluggy.add_hookspecs(hookspecs)
        self._offers: dict[str, dict[str, _Offer]] = {hook: {} for hook in KINDS}
        self._plugins: dict[str, PluginInfo] = {}
        for entry_point in entry_points:
            self._load(entry_point)

    @property
    def plugins(self) -> tuple[PluginInfo, ...]:
        """Every plugin found, the built-ins first."""
        return tuple(self._plugins.values())

    def names(self, hook: str) -> tuple[str, ...]:
        """Return the names on offer for one of the hooks in `KINDS`, sorted."""
        return tuple(sorted(self._offers[hook]))

    def mask_encoder(self, name: str) -> MaskEncoderFactory:
        """Return the mask encoder called ``name``; PluginError when there is none."""
        return self._find(MASK_ENCODERS, name)

    def memory_policy(self, name: str) -> MemoryPolicyFactory:
        """Return the memory policy called ``name``; PluginError when there is none."""
        return self._find(MEMORY_POLICIES, name)

    def task_head(self, name: str) -> TaskHeadFactory:
        """Return the head of the task called ``name``; PluginError when there is none."""
        return self._find(TASK_HEADS, name)

    def _find(self, hook: str, name: str) -> Callable[..., Any]:
        offer = self._offers[hook].get(name)
        if offer is not None:
            return offer.factory
        message = f"unknown {KINDS[hook]} '{name}'; available: {', '.join(self.names(hook)) or 'none'}"
        failed = [f"{plugin.name} ({plugin.distribution}): {plugin.error}" for plugin in self.plugins if plugin.error]
        if failed:
            message += f"; plugins that could not be loaded and may offer it: {'; '.join(failed)}"
        raise PluginError(message)

    def _load(self, entry_point: metadata.EntryPoint) -> None:
        distribution, version = _origin(entry_point)
        plugin = PluginInfo(entry_point.name, version, distribution)
        taken = self._plugins.get(plugin.name)
        if taken is not None:
            raise _taken("plugin", plugin.name, taken, plugin)
        try:
            module = entry_point.load()
        except Exception as error:  # a third party's import may raise anything; the others must still load
            self._fail(plugin, error)
            return
        hooks = self._register(plugin, module)
        try:
            offered = {hook: getattr(module, hook)() for hook in hooks}
        except Exception as error:  # the same holds for its hooks
            self._fail(plugin, error)
            return
        for hook, factories in offered.items():
            _check_factories(plugin, hook, factories)
        provides = tuple(name for factories in offered.values() for name in factories)
        plugin = PluginInfo(plugin.name, version, distribution, hooks, provides)
        for hook, factories in offered.items():
            self._offer(hook, factories, plugin)
        self._plugins[plugin.name] = plugin

    def _fail(self, plugin: PluginInfo, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        self._plugins[plugin.name] = PluginInfo(plugin.name, plugin.version, plugin.distribution, error=reason)
        _log.warning("plugin '%s' of %s could not be loaded: %s", plugin.name, plugin.distribution, reason)

    def _register(self, plugin: PluginInfo, module: object) -> tuple[str, ...]:
        try:
            self._pluggy.register(module, name=plugin.name)
            self._pluggy.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            raise PluginError(
                f"plugin '{plugin.name}' of {plugin.distribution} is not valid: {' '.join(str(error).split())}; "
                f"hooks that exist: {', '.join(KINDS)}; fix or uninstall {plugin.distribution}"
            ) from error
        callers = self._pluggy.get_hookcallers(module) or []
        return tuple(sorted(caller.name for caller in callers))

    def _offer(self, hook: str, factories: Mapping[str, Callable[..., Any]], plugin: PluginInfo) -> None:
        for name, factory in factories.items():
            taken = self._offers[hook].get(name)
            if taken is not None:
                raise _taken(KINDS[hook], name, taken.plugin, plugin)
            self._offers[hook][name] = _Offer(factory, plugin)


def _origin(entry_point: metadata.EntryPoint) -> tuple[str, str]:
    """Return name and version of the distribution; an entry point without one is ours."""
    if entry_point.dist is None:
        return GROUP, __version__
    return entry_point.dist.metadata["Name"], entry_point.dist.version


def _taken(kind: str, name: str, first: PluginInfo, second: PluginInfo) -> PluginError:
    return PluginError(
        f"two plugins offer the {kind} '{name}': {first.distribution} {first.version} and "
        f"{second.distribution} {second.version}; uninstall one of them"
    )


def _check_factories(plugin: PluginInfo, hook: str, factories: object) -> None:
    if isinstance(factories, Mapping) and all(isinstance(k, str) and callable(v) for k, v in factories.items()):
        return
    raise PluginError(
        f"hook {hook} of plugin '{plugin.name}' ({plugin.distribution}) returned {factories!r}, "
        "expected a mapping of names to factories; fix or uninstall it"
    )


def _entry_points() -> Iterator[metadata.EntryPoint]:
    """Yield the built-ins, then what installed distributions declare; an installation may repeat the built-ins."""
    yield from BUILT_INS
    known = {entry_point.value for entry_point in BUILT_INS}
    yield from sorted(
        (found for found in metadata.entry_points(group=GROUP) if found.value not in known),
        key=lambda found: (*_origin(found), found.name),
    )


def load_plugins() -> PluginManager:
    """Load the built-ins and every installed plugin; see `PluginManager` for the errors."""
    return PluginManager(_entry_points())


@lru_cache(maxsize=1)
def installed_plugins() -> PluginManager:
    """Return the plugins of this process, loaded on the first call."""
    return load_plugins()
