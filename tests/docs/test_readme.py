"""What the documentation says is so: its commands run, its links lead somewhere, its tables are those of the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer

from tests.docs.tables import ROOT, TABLES, block
from tests.replay.recordings import IMAGE, START_NS, STEP_NS, TYPES, image_message
from tests.unit.evaluation.tiny_bags import write_bag
from tests.unit.truth.layouts import write_youtube_vis
from x2sam_ros.cli import main as program
from x2sam_ros.config import TrainConfig
from x2sam_ros.ros.interface import ACTIONS, SERVICES, TOPICS
from x2sam_ros.ros.params import parameter_specs
from x2sam_ros.testing import check_memory_policy
from x2sam_ros.training.plan import read_plan
from x2sam_ros.training.scenes import generate_clip

README = ROOT / "README.md"
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/how-to/*.md"), *ROOT.glob("plugins/*/README.md")]
)
WEIGHTS = ROOT / "x2sam_ros/checkpoint/nano"
TREE_FOLDERS = ("benchmarks", "config", "launch", "msg", "plugins", "scripts", "srv", "x2sam_ros")
TREE_SUFFIXES = (".py", ".msg", ".srv", ".yaml", ".toml", "")
PERFORMANCE = (
    *("bench", "streaming", "memory", "stages", "prompts-beside"),
    *("conversations", "memory-policies", "instances", "profiles", "node", "restart"),
)
MEASURED = [
    *[("README.md", name) for name in ("nano-scores", "parity")],
    *[("docs/performance.md", name) for name in PERFORMANCE],
    *[("docs/model_card.md", name) for name in ("nano-scores", "first-mask")],
    ("docs/training.md", "training-cost"),
    *[("docs/results.md", name) for name in ("generated", "real-video", "eval-overhead", "mask-scores")],
]
VIDEO_FPS, NUM_IMAGES, HEIGHT, WIDTH = 2, 5, 480, 640

needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"no nano weights in {WEIGHTS.relative_to(ROOT)}")


def code(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(start: str, pages: list[Path] = PAGES) -> list[str]:
    """Return the commands that begin with a word, each once."""
    lines = [line for page in pages for text in code(page, "bash") for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line.split(" ")[0] == start))


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run an ``x2sam`` command line in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", shlex.split(command, comments=True))
    try:
        program.main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the inputs that the README's examples name, small, and go to their folder."""
    clip = generate_clip(7, NUM_IMAGES, HEIGHT, WIDTH)
    (tmp_path / "pictures").mkdir()
    for index, frame in enumerate(clip.frames):
        cv2.imwrite(str(tmp_path / f"pictures/{index}.png"), frame[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "picture.png"), clip.frames[0][:, :, ::-1])
    cv2.imwrite(str(tmp_path / "mask.png"), 255 * (clip.labels[0] == 1).astype("uint8"))
    video = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), VIDEO_FPS, (WIDTH, HEIGHT))
    for frame in clip.frames:
        video.write(frame[:, :, ::-1])
    video.release()
    (tmp_path / "out/demo").mkdir(parents=True)
    with Writer(tmp_path / "out/demo/sample_bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/camera/image_raw", IMAGE, typestore=TYPES)
        for index, frame in enumerate(clip.frames):
            size = {"height": HEIGHT, "width": WIDTH, "step": 3 * WIDTH}
            message = image_message(index, **size, data=frame.reshape(-1))
            writer.write(connection, START_NS + index * STEP_NS, TYPES.serialize_cdr(message, IMAGE))
    write_bag(tmp_path / "bags/drive1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", [c for c in commands("x2sam") if c.endswith(("--help", "plugins"))])
def test_cheap_commands_run(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, monkeypatch) == 0
    assert capsys.readouterr().out


@needs_weights
@pytest.mark.parametrize("command", [c for c in commands("x2sam", [README]) if "--out" in c])
def test_replay_examples_run(command: str, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(command, monkeypatch) == 0
    written = re.findall(r"--(?:out|video) (\S+)", command)
    assert written and all((inputs / name).stat().st_size for name in written)


@needs_weights
@pytest.mark.slow
def test_evaluation_examples_run_in_order(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_youtube_vis(inputs / "youtube-vis")
    for name in ("old", "new"):
        (inputs / name).symlink_to(WEIGHTS)
    for command in commands("x2sam", [ROOT / "docs/evaluation.md"]):
        assert run(command, monkeypatch) == 0, command
        written = re.findall(r"--(?:out|bags) (\S+)", command)
        assert all((inputs / name).exists() for name in written)


@needs_weights
@pytest.mark.slow
def test_fine_tuning_examples_run_in_order(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in commands("x2sam", [ROOT / "docs/finetuning.md"]):
        quick = ""
        if command.startswith("x2sam finetune"):
            quick = " --steps 2 --rehearsal 0 --prompt box --workers 0 --cpu"
        assert run(command + quick, monkeypatch) == 0, command
        written = re.findall(r"--out (\S+)", command)
        assert all((inputs / name).exists() for name in written)


def test_the_plan_of_the_documentation_can_be_read(tmp_path: Path) -> None:
    (text,) = code(ROOT / "docs/joint_training.md", "yaml")
    (tmp_path / "plan.yaml").write_text(text)
    plan = read_plan(tmp_path / "plan.yaml")
    assert plan.recipe.steps == yaml.safe_load(text)["steps"] and len(plan.sources) > 3 and plan.held_out


@needs_weights
@pytest.mark.parametrize("command", [c for c in commands("x2sam", [README]) if c.startswith("x2sam chat")])
def test_chat_examples_run(
    command: str, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, monkeypatch) == 0
    assert len(capsys.readouterr().out.splitlines()) >= command.count("--ask")


@needs_weights
def test_python_example_runs(inputs: Path) -> None:
    (example,) = code(README, "python")
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["result"].masks.shape[1:] == (HEIGHT, WIDTH)


def test_plugin_example_keeps_the_contract() -> None:
    names: dict[str, Any] = {}
    exec(code(ROOT / "docs/plugins.md", "python")[0], names)
    (factory,) = names["x2sam_memory_policies"]().values()
    check_memory_policy(factory)


@pytest.mark.parametrize("command", commands("make"))
def test_make_commands_name_targets(command: str) -> None:
    arguments = shlex.split(command, comments=True)[1:]
    result = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def option_names(command: str) -> tuple[str, set[str]]:
    """Return the pattern of what a command accepts and the names it sets."""
    if "ros2 launch" in command:
        files = ["x2sam.launch.py", *re.findall(r"\w+\.launch\.py", command)]  # the others include the first
        known = "".join((ROOT / "launch" / name).read_text() for name in files)
        return known, {f'"{name}"' for name in re.findall(r" (\w+):=", command)}
    return " ".join(f"<{spec.name}>" for spec in parameter_specs()), {
        f"<{name}>" for name in re.findall(r"-p (\S+?):=", command)
    }


OVERRIDE = re.compile(
    r"<qos_overrides\./[\w/]+\.(publisher|subscription)\.(reliability|durability|history|depth|deadline"
    r"|liveliness_lease_duration)>"
)


@pytest.mark.parametrize("command", [c for c in commands("ros2") if ":=" in c])
def test_parameters_of_ros_commands_exist(command: str) -> None:
    known, wanted = option_names(command)
    assert wanted and not [name for name in wanted if name not in known and not OVERRIDE.fullmatch(name)]


@pytest.mark.parametrize("command", [c for c in commands("ros2") if "x2sam_ros/msg/" in c or "x2sam_ros/srv/" in c])
def test_prompts_of_ros_commands_have_the_message_s_fields(command: str) -> None:
    value = yaml.safe_load(shlex.split(command)[-1])
    definition = (ROOT / "msg/Prompt.msg").read_text()
    fields = re.findall(r"^[\w/]+(?:\[\])? ([a-z_]+)(?: -1)?$", definition, re.M)
    given = value.get("prompt", value)
    assert given and set(given) <= set(fields)


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield file and anchor of every link of a page that leads into the repository."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path if path else page), anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in links(page):
        assert path.exists(), f"{path} is linked but does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:tests|scripts|[a-z_0-9]+)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    ours = [name for name in named if name.split("/")[0] in (*TREE_FOLDERS, "docs", "tests")]
    files = [name for name in ours if not re.search(r"/[A-Z]\w+$", name)]  # else a message's type
    assert not [name for name in files if is_missing(name)]


def is_missing(path: str) -> bool:
    """Return whether a file is not there; the weights may be, as a working copy can be without."""
    return not (ROOT / path).exists() and ROOT / path != WEIGHTS


def tree() -> dict[str, str]:
    """Return path and phrase of every line of the README's tree; folders end in a slash."""
    text = README.read_text(encoding="utf-8").partition("## What is where")[2]
    found, parents = {}, [""]
    for line in re.findall(r"^```\n(.*?)^```", text, re.M | re.S)[0].splitlines():
        name, _, phrase = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        path = parents[depth] + name
        parents[depth + 1 :] = [path]
        found[path] = phrase.strip()
    return found


def test_tree_has_every_file_with_a_phrase() -> None:
    lines = tree()
    assert not [path for path, phrase in lines.items() if not phrase]
    assert not [path for path in lines if is_missing(path)]
    for folder in TREE_FOLDERS:
        for file in sorted((ROOT / folder).rglob("*")):
            path = file.relative_to(ROOT)
            hidden = any(part.startswith((".", "__pycache__")) or part.endswith(".egg-info") for part in path.parts)
            if hidden or not file.is_file() or file.suffix not in TREE_SUFFIXES or "build" in path.parts:
                continue
            wanted = f"{path.parent}/" if path.name == "__init__.py" else str(path)
            assert wanted in lines, f"{wanted} is missing in the README's tree"


@pytest.mark.parametrize(("page", "name"), TABLES)
def test_tables_are_those_of_the_code(page: str, name: str) -> None:
    assert block(page, name) == TABLES[page, name](), "run: python -m tests.docs.tables"


@pytest.mark.parametrize(("page", "name"), MEASURED)
def test_measured_tables_are_filled(page: str, name: str) -> None:
    assert re.search(r"\d", block(page, name)), f"{page}: nothing between the markers {name}"


def test_topics_of_the_readme_are_the_node_s() -> None:
    named = re.findall(r"^\| `(~/[\w/]+)` \|", README.read_text(encoding="utf-8"), re.M)
    assert len(named) > 5 and set(named) <= {item.name for item in (*TOPICS, *SERVICES, *ACTIONS)}


def test_recipe_has_the_settings_of_the_code() -> None:
    config, page = TrainConfig(), (ROOT / "docs/training.md").read_text(encoding="utf-8")
    for text in (
        f"betas {config.betas}",
        f"weight decay {config.weight_decay}",
        f"clipped to norm {config.clip_norm:g}",
        f"{config.warmup_steps} steps warm-up",
        f"exponential, {config.ema_decay}",
    ):
        assert text in page


def test_readme_says_where_the_model_comes_from() -> None:
    for page in (README, ROOT / "docs/model_card.md"):
        assert "trained on generated scenes only" in page.read_text(encoding="utf-8")
