"""``x2sam demo``: a generated camera, a real node in its own process, a real DDS between them, and a score."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from x2sam_ros.cli import options
from x2sam_ros.config import NodeConfig
from x2sam_ros.errors import X2SamError

if TYPE_CHECKING:
    from x2sam_ros.cli.demo_report import DemoRun
    from x2sam_ros.cli.demo_scene import DemoScene

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 5.0
QUIET_S = 1.0
LOG_TAIL_LINES = 15
FIRST_DOMAIN, NUM_DOMAINS = 30, 70
"""ROS domains to choose from: above what people set by hand, below where ports meet those of the system."""


class DemoError(X2SamError):
    """A process of the demo failed."""


class _NodeProcess(NamedTuple):
    """The running node and the file it logs to."""

    process: subprocess.Popen[bytes]
    log: Path

    def log_tail(self) -> str:
        """Return the end of the log, below a heading."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"; the end of {self.log}:", *lines])


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the sample bag, the recording, the video and the sheet.")
    ] = Path("out/demo"),
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    device: options.Device = NodeConfig.device,
) -> None:
    """Play a generated camera into the ROS node, prompt it by text and by click, and score what comes back."""
    from x2sam_ros.cli.demo_report import print_report, score_targets, write_files
    from x2sam_ros.cli.demo_scene import write_demo_scene

    started_s = time.monotonic()

    def say(what: str) -> None:
        typer.echo(f"[demo {time.monotonic() - started_s:4.1f} s] {what}")

    out.mkdir(parents=True, exist_ok=True)
    try:
        options.model_name(preset, checkpoint)  # refuses two
        _choose_graph()
        model = {"preset": preset or NodeConfig.preset, "checkpoint": str(checkpoint or ""), "device": device}
        with _node(out, model) as node:
            say("starting the node; meanwhile generating a scene")
            scene = write_demo_scene(out / "sample_bag")
            run = _play(scene, node, out, say)
    except DemoError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    say("scoring, drawing, writing")
    files = write_files(run, out)
    print_report(run, score_targets(run))
    for path in (scene.bag, *files):
        typer.echo(str(path))
    say("done")


def _choose_graph() -> None:
    """Set the environment, of this process and of those it starts, to a ROS graph of its own on this machine."""
    if importlib.util.find_spec("rclpy") is None:
        raise DemoError("rclpy is not installed here; run `make demo`, or source a ROS 2 distribution first")
    os.environ["ROS_DOMAIN_ID"] = str(FIRST_DOMAIN + os.getpid() % NUM_DOMAINS)
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    else:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


@contextlib.contextmanager
def _node(folder: Path, parameters: dict[str, str]) -> Iterator[_NodeProcess]:
    """Start the node, its output in node.log of the folder; end it as Ctrl-C would."""
    command = [sys.executable, "-m", "x2sam_ros.ros.node", "--ros-args", "-p", "image_transport:=compressed"]
    for name, value in parameters.items():
        # An empty text has no spelling on the command line; it is the default anyway.
        command += ["-p", f"{name}:={value}"] if value else []
    log = folder / "node.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield _NodeProcess(process, log)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _play(scene: DemoScene, node: _NodeProcess, folder: Path, say: Callable[[str], None]) -> DemoRun:
    """Wait for the node, play the bag into it from another process, and collect what it says."""
    from x2sam_ros.cli.demo_report import DemoRun
    from x2sam_ros.cli.demo_scene import FPS, NUM_FRAMES, PLAYED_TOPICS
    from x2sam_ros.ros.recorder import open_recorder

    stamps = folder / "stamps.json"
    topics = [option for topic in PLAYED_TOPICS for option in ("--topic", topic)]
    command = [sys.executable, "-m", "x2sam_ros.ros.player", str(scene.bag), "--stamps", str(stamps), *topics]
    with open_recorder() as recorder:
        recorder.spin_while(lambda: not recorder.is_ready and node.process.poll() is None, READY_TIMEOUT_S)
        if not recorder.is_ready:
            raise DemoError(f"the node was not ready within {READY_TIMEOUT_S:.0f} s{node.log_tail()}")
        say(f'node ready; playing {NUM_FRAMES} frames at {FPS}/s, typing "{scene.text}", clicking at {scene.click_px}')
        player = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        ended = recorder.spin_while(lambda: player.poll() is None, 3 * NUM_FRAMES / FPS + READY_TIMEOUT_S)
        if not ended:
            player.kill()
        said, _ = player.communicate()
        if player.returncode != 0:
            raise DemoError(f"the player failed: {' '.join(said.split())}{node.log_tail()}")
        recorder.spin_until_quiet(QUIET_S, READY_TIMEOUT_S)
        answers, groundings = recorder.answers(), recorder.groundings()
    if not answers:
        raise DemoError(f"the node answered no frame{node.log_tail()}")
    published = [pair[1] for pair in json.loads(stamps.read_text())]
    return DemoRun(scene, published, answers, groundings)
