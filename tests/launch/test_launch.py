"""The launch files: read as text everywhere, and run where launch is installed."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rcl_interfaces.srv import GetParameters

from tests.ros.harness import Client, own_graph
from x2sam_ros.ros.params import parameter_specs

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "launch").glob("*.py"))
BASE = "x2sam.launch.py"
NAV2 = {"namespace", "params_file", "use_sim_time", "autostart", "log_level", "respawn"}
PARAMETERS = {spec.name for spec in parameter_specs()} | {"use_sim_time"}


class LaunchFile(NamedTuple):
    """What the source of a launch file says."""

    documented: set[str]  # names under "Arguments:" of its docstring
    declared: dict[str, dict[str, ast.expr]]  # name to keywords of DeclareLaunchArgument
    used: set[str]  # names of LaunchConfiguration
    keys: set[str]  # of dictionaries, all of which are parameters of nodes
    texts: set[str]  # all other constants
    examples: list[str]  # commands of its docstring


def read(path: Path) -> LaunchFile:
    tree = ast.parse(path.read_text("utf-8"))
    docstring = ast.get_docstring(tree) or ""
    assignments = [node for node in tree.body if isinstance(node, ast.Assign)]
    constants = {ast.unparse(node.targets[0]): node.value for node in assignments}
    declared: dict[str, dict[str, ast.expr]] = {}
    used, keys, texts = set(), set(), set()
    for node in ast.walk(tree):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and called == "DeclareLaunchArgument":
            values = {str(item.arg): constants.get(ast.unparse(item.value), item.value) for item in node.keywords}
            declared[ast.literal_eval(node.args[0])] = values
        elif isinstance(node, ast.Call) and called == "LaunchConfiguration":
            used.add(ast.literal_eval(node.args[0]))
        elif isinstance(node, ast.Dict):
            keys |= {ast.literal_eval(key) for key in node.keys if key is not None}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
    arguments = docstring.partition("Arguments:\n")[2].partition("\n\n")[0]
    documented = set(re.findall(r"^ {4}(\w+): \S", arguments, re.M))
    examples = re.findall(r"^ {4}(ros2 launch x2sam_ros .*)", docstring, re.M)
    return LaunchFile(documented, declared, used, keys, texts, examples)


def includes(file: LaunchFile) -> LaunchFile | None:
    return read(ROOT / "launch" / BASE) if BASE in file.texts else None


def all_arguments(file: LaunchFile) -> set[str]:
    base = includes(file)
    return set(file.declared) | (set(base.declared) if base else set())


def test_the_files_are_those_of_the_issue() -> None:
    names = {"x2sam", "rgbd", "multi_camera", "replay"}
    assert {path.name for path in FILES} == {f"{name}.launch.py" for name in names}
    assert all(includes(read(path)) for path in FILES if path.name != BASE)
    assert "install(DIRECTORY config launch " in (ROOT / "CMakeLists.txt").read_text("utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_arguments_are_declared_documented_and_used(path: Path) -> None:
    file = read(path)
    base = includes(file)
    assert file.documented == set(file.declared)
    assert file.used <= set(file.declared)
    assert set(file.declared) <= file.used | (base.used if base else set())
    assert all_arguments(file) >= NAV2 | {"image_topics", "depth_topics", "rviz"}
    for name, values in file.declared.items():
        assert ast.literal_eval(values["description"]), f"{name} has no description"
        if "choices" in values:
            assert ast.literal_eval(values["default_value"]) in ast.literal_eval(values["choices"]), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_parameters_and_files_exist(path: Path) -> None:
    file = read(path)
    assert not file.keys - PARAMETERS
    assert path.name != BASE or file.keys >= {"use_sim_time", "autostart", "image_topics", "depth_topics"}
    for name in file.texts:
        if re.fullmatch(r"[\w.]+\.(yaml|rviz|launch\.py)", name):
            folder = "launch" if name.endswith(".py") else "config"
            assert (ROOT / folder / name).is_file(), f"{path.name} names {name}, which is not in {folder}/"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_examples_set_arguments_that_exist(path: Path) -> None:
    file = read(path)
    assert file.examples
    for example in file.examples:
        assert example.split()[3] == path.name
        assert set(re.findall(r" (\w+):=", example)) <= all_arguments(file)


RUN = """
import sys
from launch import LaunchContext, LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
source, arguments = PythonLaunchDescriptionSource(sys.argv[1]), [word.split(":=") for word in sys.argv[2:]]
print([argument.name for argument in source.get_launch_description(LaunchContext()).get_launch_arguments()], flush=True)
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""


needs_launch = pytest.mark.skipif(importlib.util.find_spec("launch_ros") is None, reason="launch_ros is not installed")


@needs_launch
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_node_starts_as_the_arguments_say(path: Path, monkeypatch: Any, tmp_path: Path) -> None:
    arguments = ["namespace:=robot1", "autostart:=false", "use_sim_time:=true", "image_topics:=[left, right]"]
    arguments += ["depth_topics:=[depth, '']"]
    arguments += ["bag:=/nowhere"] if path.name == "replay.launch.py" else []
    with own_graph(monkeypatch) as client, launched(path, arguments, tmp_path / "log"):
        values = get_parameters(client, "/robot1/x2sam_node", ["autostart", "use_sim_time", "image_topics"])
    assert (values[0].bool_value, values[1].bool_value) == (False, True)
    assert list(values[2].string_array_value) == ["left", "right"]
    first = (tmp_path / "log").read_text().splitlines()[0]
    assert set(ast.literal_eval(first)) == all_arguments(read(path))


@needs_launch
def test_the_bag_plays_once_the_node_is_active(monkeypatch: Any, tmp_path: Path) -> None:
    played = tmp_path / "played"
    (tmp_path / "ros2").write_text(f'#!/bin/sh\necho "$@" >> {played}\n')  # in place of rosbag2's player
    (tmp_path / "ros2").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    arguments = ["bag:=/data/drive", "rate:=0.5", "loop:=true"]
    with own_graph(monkeypatch) as client, launched(ROOT / "launch/replay.launch.py", arguments, tmp_path / "log"):
        client.wait(lambda: client.ready and client.ready[-1].data, timeout_s=60.0)
        client.wait(played.exists)
    assert played.read_text().splitlines() == [
        "bag play /data/drive --clock 100 --disable-keyboard-controls --rate 0.5 --loop"
    ]


@contextmanager
def launched(path: Path, arguments: list[str], log: Path) -> Iterator[None]:
    """Launch a file as a process group, which must end on Ctrl-C: SIGINT for all of it."""
    command = [sys.executable, "-c", RUN, str(path), *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True)
        try:
            yield
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(timeout=10) == 0, log.read_text()
            assert "escalating" not in log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def get_parameters(client: Client, node: str, names: list[str]) -> Any:
    caller = client.create_client(GetParameters, f"{node}/get_parameters")
    client.wait(caller.service_is_ready)
    future = caller.call_async(GetParameters.Request(names=names))
    client.wait(future.done)
    return future.result().values
