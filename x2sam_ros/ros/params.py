"""ROS parameters and config/x2sam.yaml, both derived from NodeConfig: no name, default or range is written twice.

A nested configuration becomes a dotted name: ``engine.max_targets``. All parameters are read-only, since the model
and the subscriptions are made from them once.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from x2sam_ros.config import NodeConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rcl_interfaces.msg import ParameterDescriptor
    from rclpy.node import Node

FRAMEWORK_PARAMETERS = ("use_sim_time", "start_type_description_service", "qos_overrides.")
"""Beginnings of the names that rclpy declares itself."""


class ParameterSpec(NamedTuple):
    """One parameter: dotted name, default, one-line description, inclusive range of a number, choices of a text."""

    name: str
    default: bool | int | float | str | tuple[str, ...]
    description: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]


def parameter_specs(config_type: type = NodeConfig, prefix: str = "") -> Iterator[ParameterSpec]:
    """List the parameters of a configuration in the order of its fields, nested ones in their place."""
    for item in dataclasses.fields(config_type):
        if "description" in item.metadata:
            limits = {key: item.metadata[key] for key in ("description", "low", "high", "choices")}
            default: Any = item.default
            yield ParameterSpec(prefix + item.name, default, **limits)
        elif isinstance(item.default_factory, type) and dataclasses.is_dataclass(item.default_factory):
            yield from parameter_specs(item.default_factory, f"{prefix}{item.name}.")


def build_config(values: Mapping[str, Any], config_type: type = NodeConfig, prefix: str = "") -> Any:
    """Build a configuration from dotted names; what ``values`` leaves out keeps its default.

    Raises:
        ConfigError: a value has another type, is out of range or is not among the choices.
    """
    chosen: dict[str, Any] = {}
    for item in dataclasses.fields(config_type):
        if isinstance(item.default_factory, type) and dataclasses.is_dataclass(item.default_factory):
            chosen[item.name] = build_config(values, item.default_factory, f"{prefix}{item.name}.")
        elif prefix + item.name in values:
            chosen[item.name] = _typed(values[prefix + item.name], item.default)
    return config_type(**chosen)


def yaml_text() -> str:
    """Write the parameter file: every parameter at its default, each under its description."""
    lines = [
        "# Parameters of x2sam_node at their defaults. Generated from x2sam_ros/config.py:",
        "#   python -m x2sam_ros.ros.params > config/x2sam.yaml",
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


def declare_parameters(node: Node) -> NodeConfig:
    """Declare every parameter with its descriptor and read what the user set.

    A parameter that does not exist is reported in the log, not refused: files for ``/**`` are shared by many nodes.

    Args:
        node: made with ``automatically_declare_parameters_from_overrides=True``.

    Raises:
        ConfigError: a value has another type, is out of range or is not among the choices.
    """
    specs = list(parameter_specs())
    known = {spec.name for spec in specs}
    declared: dict[str, Any] = dict(node.get_parameters_by_prefix(""))
    values = {name: parameter.value for name, parameter in declared.items()}
    config: NodeConfig = build_config({name: value for name, value in values.items() if name in known})
    for spec in specs:
        if spec.name in values:
            node.undeclare_parameter(spec.name)
        value = _typed(values.get(spec.name, spec.default), spec.default)
        node.declare_parameter(spec.name, value, _descriptor(spec), ignore_override=True)
    unknown = [name for name in values if name not in known and not name.startswith(FRAMEWORK_PARAMETERS)]
    for name in sorted(unknown):
        node.get_logger().warning(
            f"parameter {name} does not exist and is ignored; there are: {', '.join(sorted(known))}"
        )
    return config


def _typed(value: Any, default: Any) -> Any:
    """Read a value as it is meant: 1 for a real number is 1.0, and one text for a list is a list of one."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, tuple) and isinstance(value, (str, list)):
        return (value,) if isinstance(value, str) else tuple(value)
    return value


def _descriptor(spec: ParameterSpec) -> ParameterDescriptor:
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    descriptor = ParameterDescriptor(description=spec.description, read_only=True)
    descriptor.additional_constraints = f"one of: {', '.join(spec.choices)}" if spec.choices else ""
    if spec.low is not None and isinstance(spec.default, float):
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(spec.low), to_value=float(spec.high or 0))
        ]
    elif spec.low is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high or 0), step=1)]
    return descriptor


def _limits(spec: ParameterSpec) -> str:
    if spec.choices:
        return f" ({', '.join(spec.choices)})"
    return "" if spec.low is None else f" ({spec.low} to {spec.high})"


if __name__ == "__main__":
    print(yaml_text(), end="")
