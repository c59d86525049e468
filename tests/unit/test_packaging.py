"""Every place that names the version, a state or a file of the package says the same."""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import x2sam_ros
from x2sam_ros.types import GroundingStatus, TargetState

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = sorted(ROOT.glob("msg/*.msg")) + sorted(ROOT.glob("srv/*.srv"))


def constants(path: Path) -> dict[str, int]:
    """Return the integer constants of a message definition."""
    return {name: int(value) for name, value in re.findall(r"^u?int\d+ ([A-Z_]+)=(-?\d+)", path.read_text(), re.M)}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def entry_points() -> list[tuple[str, str, str]]:
    parser = configparser.ConfigParser()
    parser.optionxform = str
    parser.read(ROOT / "entry_points.txt")
    return [(group, name, value) for group in parser.sections() for name, value in parser[group].items()]


def test_the_version_is_the_same_everywhere() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert manifest.findtext("name") == setup_cfg()["metadata"]["name"] == "x2sam_ros"
    assert manifest.findtext("version") == x2sam_ros.__version__
    assert setup_cfg()["metadata"]["version"] == "attr: x2sam_ros.__version__"


def test_the_license_is_the_same_everywhere() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert manifest.findtext("license") == setup_cfg()["metadata"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize(("group", "name", "value"), entry_points())
def test_entry_points_name_modules_that_exist(group: str, name: str, value: str) -> None:
    module, _, attribute = value.partition(":")
    folder = ROOT / Path(*module.split("."))
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    assert path.is_file(), f"[{group}] {name} = {value}: {path} is missing"
    names = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert not attribute or attribute in names


def test_the_built_ins_are_the_entry_points() -> None:
    from x2sam_ros.plugins import BUILT_INS

    declared = {(name, value) for group, name, value in entry_points() if group == "x2sam_ros"}
    assert declared == {(point.name, point.value) for point in BUILT_INS}


def test_the_build_lists_every_message() -> None:
    listed = re.findall(r"(?:msg|srv)/\w+\.(?:msg|srv)", (ROOT / "CMakeLists.txt").read_text())
    assert sorted(listed) == sorted(path.relative_to(ROOT).as_posix() for path in MESSAGES)


def test_message_constants_are_those_of_the_types() -> None:
    assert constants(ROOT / "msg/TrackedMask.msg") == {state.name: state.value for state in TargetState}
    assert constants(ROOT / "msg/Grounding.msg") == {status.name: status.value for status in GroundingStatus}


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "x2sam_ros").rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]
    assert not (ROOT / "x2sam_ros/msg").exists() and not (ROOT / "x2sam_ros/msg.py").exists()


def test_the_nano_weights_are_package_data() -> None:
    assert setup_cfg()["options.package_data"]["x2sam_ros.checkpoint"] == "nano/*"
    assert setup_cfg()["options.package_data"]["x2sam_ros"] == "py.typed"
    assert (ROOT / "x2sam_ros/py.typed").is_file()


def test_pip_gets_modules_weights_and_message_definitions(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "build_py", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)

    def listing(folder: Path, pattern: str) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file()}

    built, source = tmp_path / "x2sam_ros", ROOT / "x2sam_ros"
    assert listing(built, "*.py") == listing(source, "*.py")
    for data in ("nano/*", "templates/*"):
        assert listing(built, data) == listing(source, data) != set()
    assert listing(built / "interfaces", "*") == listing(ROOT / "msg", "*.msg")


def test_pins_are_exact_and_fit_the_library() -> None:
    from packaging.requirements import Requirement

    pins: dict[str, list[str]] = {}
    for path in sorted(ROOT.glob("requirements/*.txt")):
        if path.name == "numpy-ros.txt":
            continue
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                requirement = Requirement(line)
                assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), f"{path.name}: {line}"
                name = requirement.name.lower().replace("_", "-")
                pins.setdefault(name, []).append(str(requirement.specifier)[2:])
    extras = setup_cfg()["options.extras_require"].values()
    for line in "\n".join([setup_cfg()["options"]["install_requires"], *extras]).split("\n"):
        if line.strip():
            requirement = Requirement(line)
            name = requirement.name.lower().replace("_", "-")
            assert pins.get(name), f"{name} is not pinned in requirements/"
            assert all(requirement.specifier.contains(version) for version in pins[name]), line


def test_with_env_without_a_command_says_how_to_use_it() -> None:
    result = subprocess.run([ROOT / "scripts/with-env"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (2, "usage: scripts/with-env COMMAND [ARGUMENT...]\n")


def test_setup_refuses_an_environment_that_is_not_there(tmp_path: Path) -> None:
    environment = {**os.environ, "X2SAM_VENV": str(tmp_path / "nowhere")}
    result = subprocess.run([ROOT / "scripts/setup-env"], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: X2SAM_VENV=") and result.stderr.count("\n") == 1


def test_importing_the_package_imports_neither_torch_nor_rclpy() -> None:
    code = "import sys, x2sam_ros; print([name for name in ('torch', 'rclpy', 'numpy') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_without_the_training_extra_all_but_its_commands_work() -> None:
    hide = "import sys; sys.modules.update(dict.fromkeys(('accelerate', 'peft', 'tensorboard'))); "
    plain = "import x2sam_ros.training.loop, x2sam_ros.evaluation.runner, x2sam_ros.engine.session; "
    start = "from x2sam_ros.cli.main import main; sys.argv = ['x2sam', 'joint', 'plan.yaml', '--out', 'run']; main()"
    command = [sys.executable, "-c", hide + plain + start]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and "pip install '.[training]'" in result.stderr


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.name)
def test_the_built_interfaces_are_those_of_the_definitions(path: Path) -> None:
    kind = path.suffix[1:]
    try:
        module = importlib.import_module(f"x2sam_ros.{kind}")
    except ImportError:
        pytest.skip("the ROS package is not built; run this through scripts/with-env")
    built = getattr(module, path.stem)
    if kind == "msg":
        assert {name: getattr(built, name) for name in constants(path)} == constants(path)


def test_the_overlay_has_metadata_and_executables() -> None:
    from_overlay = [
        found
        for found in importlib.metadata.distributions(name="x2sam_ros")
        if "install" in Path(str(found.locate_file(""))).parts
    ]
    if not from_overlay:
        pytest.skip("the ROS package is not built; run this through scripts/with-env")
    found = from_overlay[0]
    assert found.version == x2sam_ros.__version__
    assert sorted((point.group, point.name, point.value) for point in found.entry_points) == sorted(entry_points())
    for name in ("x2sam", "x2sam_node"):
        executable = ROOT / "install/x2sam_ros/lib/x2sam_ros" / name
        assert executable.read_text().startswith("#!/usr/bin/env python3\n")
        assert executable.stat().st_mode & 0o111
