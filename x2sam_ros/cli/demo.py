"""``x2sam demo``: a generated camera, a real node in its own process, a real DDS between them, and a score."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from x2sam_ros.cli import options
from x2sam_ros.cli.node_process import NodeProcess, choose_graph, run_node
from x2sam_ros.config import NodeConfig
from x2sam_ros.errors import NodeError

if TYPE_CHECKING:
    from x2sam_ros.cli.demo_report import DemoRun
    from x2sam_ros.cli.demo_scene import DemoScene

READY_TIMEOUT_S = 120.0
QUIET_S = 1.0


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
        choose_graph()
        parameters = {
            "image_transport": "compressed",
            "preset": preset or NodeConfig.preset,
            "checkpoint": str(checkpoint or ""),
            "device": device,
        }
        with run_node(out, parameters) as node:
            say("starting the node; meanwhile generating a scene")
            scene = write_demo_scene(out / "sample_bag")
            run = _play(scene, node, out, say)
    except NodeError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    say("scoring, drawing, writing")
    files = write_files(run, out)
    print_report(run, score_targets(run))
    for path in (scene.bag, *files):
        typer.echo(str(path))
    say("done")


def _play(scene: DemoScene, node: NodeProcess, folder: Path, say: Callable[[str], None]) -> DemoRun:
    """Wait for the node, play the bag into it from another process, and collect what it says."""
    from x2sam_ros.cli.demo_report import DemoRun
    from x2sam_ros.cli.demo_scene import FPS, NUM_FRAMES, PLAYED_TOPICS
    from x2sam_ros.ros.recorder import open_recorder

    stamps = folder / "stamps.json"
    topics = [option for topic in PLAYED_TOPICS for option in ("--topic", topic)]
    command = [sys.executable, "-m", "x2sam_ros.ros.player", str(scene.bag), "--stamps", str(stamps), *topics]
    with open_recorder() as recorder:
        recorder.spin_while(lambda: not recorder.is_ready and node.is_alive, READY_TIMEOUT_S)
        if not recorder.is_ready:
            raise NodeError(f"the node was not ready within {READY_TIMEOUT_S:.0f} s{node.log_tail()}")
        say(f'node ready; playing {NUM_FRAMES} frames at {FPS}/s, typing "{scene.text}", clicking at {scene.click_px}')
        player = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        ended = recorder.spin_while(lambda: player.poll() is None, 3 * NUM_FRAMES / FPS + READY_TIMEOUT_S)
        if not ended:
            player.kill()
        said, _ = player.communicate()
        if player.returncode != 0:
            raise NodeError(f"the player failed: {' '.join(said.split())}{node.log_tail()}")
        recorder.spin_until_quiet(QUIET_S, READY_TIMEOUT_S)
        answers, groundings = recorder.answers(), recorder.groundings()
    if not answers:
        raise NodeError(f"the node answered no frame{node.log_tail()}")
    published = [pair[1] for pair in json.loads(stamps.read_text())]
    return DemoRun(scene, published, answers, groundings)
