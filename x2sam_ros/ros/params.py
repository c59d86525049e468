"""ROS parameters and config/x2sam.yaml, both derived from NodeConfig: no name, default or range is written twice.

A nested configuration becomes a dotted name: ``engine.max_targets``. Those that config.py marks as live may change
while the node runs; a model, subscriptions and buffers are made from the others when it is configured.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from x2sam_ros.config import NodeConfig
from x2sam_ros.engine.memory_policy import open_policy
from x2sam_ros.errors import ConfigError, X2SamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
    from rclpy.node import Node
    from rclpy.parameter import Parameter

FRAMEWORK_PARAMETERS = ("use_sim_time", "start_type_description_service", "qos_overrides")
"""Names that rclpy declares itself, or the first parts of such names."""


class ParameterSpec(NamedTuple):
    """One parameter: dotted name, default, one-line description, inclusive range of a number, choices of a text.

    ``live`` tells whether it may change while the node is configured.
    """

    name: str
    default: bool | int | float | str | tuple[str, ...]
    description: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    live: bool


def parameter_specs(config_type: type = NodeConfig, prefix: str = "") -> Iterator[ParameterSpec]:
    """List the parameters of a configuration in the order of its fields, nested ones in their place."""
    for item in dataclasses.fields(config_type):
        if "description" in item.metadata:
            limits = {key: item.metadata[key] for key in ("description", "low", "high", "choices", "live")}
            default: Any = item.default
            yield ParameterSpec(prefix + item.name, default, **limits)
        elif isinstance(item.default_factory, type) and dataclasses.is_dataclass(item.default_factory):
            yield from parameter_specs(item.default_factory, f"{prefix}{item.name}.")


def build_config(values: Mapping[str, Any], config_type: type = NodeConfig, prefix: str = "") -> Any:
    """Build a configuration from dotted names; what ``values`` leaves out keeps its default.

    Raises:
        ConfigError: a value has another type, is out of range or is not among the choices; begins with its name.
    """
    chosen: dict[str, Any] = {}
    for item in dataclasses.fields(config_type):
        if isinstance(item.default_factory, type) and dataclasses.is_dataclass(item.default_factory):
            chosen[item.name] = build_config(values, item.default_factory, f"{prefix}{item.name}.")
        elif prefix + item.name in values:
            chosen[item.name] = _typed(values[prefix + item.name], item.default)
    try:
        return config_type(**chosen)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from error


def yaml_text() -> str:
    """Write the parameter file: every parameter at its default, each under its description."""
    lines = [
        "# Parameters of x2sam_node at their defaults. Generated from x2sam_ros/config.py:",
        "#   python -m x2sam_ros.ros.params > config/x2sam.yaml",
        "# What is live may change while the node runs, as with: ros2 param set /x2sam_node engine.score_threshold 0.6",
        "# The rest is read when the node is configured.",
        "/**:",
        "  ros__parameters:",
    ]
    group = ""
    for spec in parameter_specs():
        parent, _, name = spec.name.rpartition(".")
        if parent and parent != group:
            lines.append(f"    {parent}:")
        group = parent
        indent = "      " if parent else "    "
        lines += [f"{indent}# {spec.description}{_limits(spec)}", f"{indent}{name}: {json.dumps(spec.default)}"]
    return "\n".join(lines) + "\n"


class Parameters:
    """A node's parameters: declared once, and checked all together whenever some of them are to change.

    ``ros2 param set`` and the service ``set_parameters`` change one after the other, each of which must go with the
    present values of the rest; ``set_parameters_atomically`` changes several as one. While the node is configured only
    live parameters may change. Of the executor's thread.

    Args:
        node: made with ``automatically_declare_parameters_from_overrides=True``.
        is_configured: tells whether a model and subscriptions were made from the parameters.
        on_change: called with the new configuration before it is in force; an X2SamError that it raises refuses it.

    Attributes:
        config: the values at present.
        others: names that were declared before, by rclpy or since the user set them: of ``FRAMEWORK_PARAMETERS``.

    Raises:
        ConfigError: a parameter does not exist, or its value is of another type, out of range or none of the choices.
    """

    def __init__(self, node: Node, is_configured: Callable[[], bool], on_change: Callable[[NodeConfig], None]) -> None:
        self._is_configured, self._on_change = is_configured, on_change
        self._specs = {spec.name: spec for spec in parameter_specs()}
        declared: dict[str, Any] = dict(node.get_parameters_by_prefix(""))
        given = {name: parameter.value for name, parameter in declared.items()}
        self.others = tuple(sorted(set(given) - set(self._specs)))
        for name in self.others:
            _check_framework_name(name, self._specs)
        self._values = {name: _typed(given.get(name, spec.default), spec.default) for name, spec in self._specs.items()}
        self.config: NodeConfig = build_config(self._values)
        for name, spec in self._specs.items():
            if name in given:
                node.undeclare_parameter(name)
            node.declare_parameter(name, self._values[name], _descriptor(spec), ignore_override=True)
        node.add_on_set_parameters_callback(self._on_set)

    def _on_set(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        from rcl_interfaces.msg import SetParametersResult

        try:  # rclpy's own are not checked here, nor those that a publisher declares for its QoS
            self._change({item.name: item.value for item in parameters if item.name in self._specs})
        except X2SamError as error:
            return SetParametersResult(successful=False, reason=" ".join(str(error).split()))
        return SetParametersResult(successful=True)

    def _change(self, asked: Mapping[str, Any]) -> None:
        """Take over values that were asked for.

        Raises:
            X2SamError: they do not go together, may not change now, or are refused by ``on_change``.
        """
        values = {**self._values, **{name: _typed(value, self._specs[name].default) for name, value in asked.items()}}
        config = build_config(values)
        changed = [name for name in asked if values[name] != self._values[name]]
        if not changed:
            return
        if self._is_configured():
            for name in changed:
                if not self._specs[name].live:
                    raise ConfigError(
                        f"{name} is {self._values[name]!r} and is read when the node is configured: deactivate and "
                        "clean up first, or restart the node with the new value"
                    )
            open_policy(config.memory_policy, config.engine)  # its plugin decides whether there is such a policy
        self._on_change(config)
        self._values, self.config = values, config


def _check_framework_name(name: str, known: Iterable[str]) -> None:
    """Raise ConfigError where a parameter is neither the node's nor rclpy's.

    rclpy does not tell where a value came from, so that a name under ``/**`` is held to the same rule.
    """
    if name.partition(".")[0] in FRAMEWORK_PARAMETERS:
        return
    nearest = difflib.get_close_matches(name, [*known, *FRAMEWORK_PARAMETERS], 1, 0.0)[0]
    raise ConfigError(
        f"parameter {name} does not exist, the nearest that does is {nearest}; correct or remove it, and in a file "
        "for several nodes put what is for others under their names, not under /**"
    )


def _typed(value: Any, default: Any) -> Any:
    """Read a value as it is meant: 1 for a real number is 1.0, and one text for a list is a list of one."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, tuple) and isinstance(value, (str, list)):
        return (value,) if isinstance(value, str) else tuple(value)
    return value


def _descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    # read_only would let rclpy refuse a change without saying what to do
    descriptor = ParameterDescriptor(description=spec.description, read_only=False)
    when = "may change at run time" if spec.live else "read when the node is configured"
    descriptor.additional_constraints = f"one of: {', '.join(spec.choices)}; {when}" if spec.choices else when
    if spec.low is not None and isinstance(spec.default, float):
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(spec.low), to_value=float(spec.high or 0))
        ]
    elif spec.low is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high or 0), step=1)]
    return descriptor


def _limits(spec: ParameterSpec) -> str:
    accepted = "" if spec.low is None else f"{spec.low} to {spec.high}"
    remarks = filter(None, (accepted or ", ".join(spec.choices), "live" if spec.live else ""))
    text = "; ".join(remarks)
    return text and f" ({text})"


if __name__ == "__main__":
    print(yaml_text(), end="")
