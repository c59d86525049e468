"""Plugins: registration, lookup, and what goes wrong with other people's."""

from __future__ import annotations

import configparser
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from x2sam_ros import __version__
from x2sam_ros.cli.plugins import plugins as list_plugins
from x2sam_ros.config import EngineConfig
from x2sam_ros.errors import PluginError
from x2sam_ros.plugins import BUILT_INS, GROUP, KINDS, MEMORY_POLICIES, installed_plugins, load_plugins

ROOT = Path(__file__).resolve().parents[2]

MakeDistribution = Callable[..., Path]

LAST_ONE = """
    from x2sam_ros.hookspecs import hookimpl

    class LastOne:
        name = "last_one"
        capacity = 1

        def keep(self, stored, new):
            return (len(stored),)

    @hookimpl
    def x2sam_memory_policies():
        return {"last_one": lambda config: LastOne()}
"""


def test_built_ins_are_entry_points_of_the_group() -> None:
    manager = load_plugins()
    assert all(isinstance(entry, metadata.EntryPoint) and entry.group == GROUP for entry in BUILT_INS)
    ours = manager.plugins[: len(BUILT_INS)]
    assert [plugin.name for plugin in ours] == [entry.name for entry in BUILT_INS]
    assert {(plugin.distribution, plugin.version) for plugin in ours} == {("x2sam_ros", __version__)}
    assert {hook for plugin in ours for hook in plugin.hooks} == set(KINDS)
    assert manager.memory_policy("fifo")(EngineConfig(num_maskmem=3)).capacity == 3


def test_third_party_is_registered_the_same_way(make_distribution: MakeDistribution) -> None:
    make_distribution("acme_memory", LAST_ONE, version="2.3")
    manager = load_plugins()
    info = next(plugin for plugin in manager.plugins if plugin.name == "acme_memory")
    assert (info.distribution, info.version) == ("acme_memory", "2.3")
    assert (info.hooks, info.provides) == ((MEMORY_POLICIES,), ("last_one",))
    assert manager.names(MEMORY_POLICIES) == tuple(sorted({*manager.names(MEMORY_POLICIES), "fifo", "last_one"}))
    assert manager.memory_policy("last_one")(EngineConfig()).name == "last_one"


def test_built_ins_repeated_by_an_installation_load_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "x2sam_ros-9.9.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: x2sam_ros\nVersion: 9.9\n")
    lines = "\n".join(f"{entry.name} = {entry.value}" for entry in BUILT_INS)
    (folder / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = [plugin.name for plugin in load_plugins().plugins]
    assert len(names) == len(set(names))


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(PluginError, match="unknown memory policy 'lifo'; available: .*fifo"):
        load_plugins().memory_policy("lifo")
    with pytest.raises(PluginError, match="unknown mask encoder 'vit'; available: .*hiera"):
        load_plugins().mask_encoder("vit")
    with pytest.raises(PluginError, match="unknown task head 'dance'; available: .*genseg"):
        load_plugins().task_head("dance")


def test_misspelt_hook_is_detected(make_distribution: MakeDistribution) -> None:
    make_distribution("acme_typo", LAST_ONE.replace("x2sam_memory_policies", "x2sam_memory_polices"))
    with pytest.raises(PluginError, match="'acme_typo' of acme_typo.*x2sam_memory_polices.*x2sam_memory_policies"):
        load_plugins()


def test_hook_with_an_argument_nobody_passes_is_detected(make_distribution: MakeDistribution) -> None:
    make_distribution("acme_argument", LAST_ONE.replace("x2sam_memory_policies()", "x2sam_memory_policies(speed)"))
    with pytest.raises(PluginError, match="acme_argument"):
        load_plugins()


def test_same_factory_name_names_both_distributions(make_distribution: MakeDistribution) -> None:
    make_distribution("acme_one", LAST_ONE, version="1.1")
    make_distribution("acme_two", LAST_ONE, version="2.2")
    with pytest.raises(PluginError, match="memory policy 'last_one': acme_one 1.1 and acme_two 2.2"):
        load_plugins()


def test_built_in_name_cannot_be_taken(make_distribution: MakeDistribution) -> None:
    make_distribution("acme_fifo", LAST_ONE.replace('"last_one": lambda', '"fifo": lambda'))
    with pytest.raises(PluginError, match=f"memory policy 'fifo': x2sam_ros {__version__} and acme_fifo 1.0"):
        load_plugins()


def test_same_plugin_name_names_both_distributions(make_distribution: MakeDistribution) -> None:
    make_distribution("acme_one", LAST_ONE, plugin="memory")
    make_distribution("acme_two", LAST_ONE, plugin="memory")
    with pytest.raises(PluginError, match="plugin 'memory': acme_one 1.0 and acme_two 1.0"):
        load_plugins()


@pytest.mark.parametrize(
    "source",
    [
        "import a_package_that_nobody_has",
        LAST_ONE.replace('return {"last_one"', 'raise ImportError("a_package_that_nobody_has"); return {"last_one"'),
    ],
    ids=["import", "hook"],
)
def test_broken_plugin_harms_nobody_but_those_who_ask(
    source: str, make_distribution: MakeDistribution, caplog: pytest.LogCaptureFixture
) -> None:
    make_distribution("acme_broken", source)
    make_distribution("acme_fine", LAST_ONE)
    with caplog.at_level(logging.WARNING):
        manager = load_plugins()
    assert "plugin 'acme_broken' of acme_broken could not be loaded" in caplog.text
    assert {"fifo", "last_one"} <= set(manager.names(MEMORY_POLICIES))
    with pytest.raises(PluginError, match="acme_broken.*a_package_that_nobody_has"):
        manager.memory_policy("what_acme_broken_offers")


@pytest.mark.parametrize("value", ["None", "['last_one']", "{'last_one': 1}", "{1: print}"])
def test_hook_that_returns_no_factories_is_an_error(value: str, make_distribution: MakeDistribution) -> None:
    make_distribution(
        "acme_value",
        f"""
        from x2sam_ros.hookspecs import hookimpl

        @hookimpl
        def x2sam_memory_policies():
            return {value}
        """,
    )
    with pytest.raises(PluginError, match="hook x2sam_memory_policies of plugin 'acme_value'.*expected a mapping"):
        load_plugins()


def test_listing_shows_every_column(make_distribution: MakeDistribution, capsys: pytest.CaptureFixture[str]) -> None:
    make_distribution("acme_memory", LAST_ONE, version="2.3")
    make_distribution("acme_broken", "import a_package_that_nobody_has")
    list_plugins()
    lines = capsys.readouterr().out.splitlines()
    acme = next(line for line in lines if "acme_memory" in line)
    assert "2.3" in acme and MEMORY_POLICIES in acme and "last_one" in acme
    assert any("acme_broken" in line and "not loaded: ModuleNotFoundError" in line for line in lines)
    assert any("default_task_heads" in line and "x2sam_ros" in line and __version__ in line for line in lines)


def test_loading_is_done_once_per_process() -> None:
    assert installed_plugins() is installed_plugins()


def test_command_lists_the_built_ins_without_torch() -> None:
    code = """
import sys
from x2sam_ros.cli.main import main
sys.argv = ["x2sam", "plugins"]
try:
    main()
except SystemExit as stop:
    assert not stop.code
assert "torch" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert "default_memory_policies" in run.stdout and "fifo" in run.stdout


def test_installed_metadata_names_the_same_built_ins() -> None:
    declared = configparser.ConfigParser(delimiters="=")
    declared.read(ROOT / "entry_points.txt")
    assert dict(declared[GROUP]) == {entry.name: entry.value for entry in BUILT_INS}
