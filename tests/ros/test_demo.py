"""`x2sam demo` and the node with the model that ships: the first thing anyone sees."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from std_msgs.msg import String

from tests.ros.harness import REAL_NODE, ROOT, own_graph, running_node
from x2sam_ros.bag.messages import read_tracked_mask_array
from x2sam_ros.cli.demo_scene import NUM_FRAMES, write_demo_scene
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.msg import Grounding


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "x2sam_ros.cli.main", "demo", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)


def row(table: str, name: str) -> str:
    found = re.search(rf"{name}[^│\n]*│\s*([^│\n]*?)\s*│", table)
    assert found, f"no row '{name}' in:\n{table}"
    return found[1]


def test_the_sample_bag_is_the_same_every_time_and_reads_without_ros(tmp_path: Path) -> None:
    from x2sam_ros.bag.source import open_source

    first, second = (write_demo_scene(tmp_path / name / "bag") for name in ("one", "two"))
    assert (first.text, first.click_px) == (second.text, second.click_px)
    assert (first.bag / "bag.mcap").read_bytes() == (second.bag / "bag.mcap").read_bytes()
    frames = list(open_source(first.bag))
    assert [frame.stamp_ns for frame in frames] == [first.stamp_ns(index) for index in range(NUM_FRAMES)]
    x, y = first.click_px
    assert first.truth(8, first.click_object)[y, x]


@pytest.mark.slow
def test_demo_from_camera_to_score(tmp_path: Path) -> None:
    run = demo("--out", str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(row(run.stdout, "frames sent")) == NUM_FRAMES
    # how many are answered is a matter of the machine's load; what became of each frame is not
    received, lost = int(row(run.stdout, "masks received")), int(row(run.stdout, "lost on the way"))
    dropped = int(row(run.stdout, "dropped by the node"))
    assert received > 0 and received + dropped + lost == NUM_FRAMES
    scores = [float(value) for value in re.findall(r"J&F (\d\.\d+)", run.stdout)]
    assert len(scores) == 2 and min(scores) > 0.6, run.stdout
    for name in ("sample_bag/metadata.yaml", "masks.mcap", "contact_sheet.png"):
        assert (tmp_path / name).stat().st_size > 500, name
        assert str((tmp_path / name).parent if "bag" in name else tmp_path / name) in run.stdout
    video = cv2.VideoCapture(str(tmp_path / "overlay.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == received


@pytest.mark.slow
def test_the_real_node_segments_a_generated_object(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scene = write_demo_scene(tmp_path / "bag")
    small = scene.clip.frames[0][::2, ::2].copy()
    with (
        own_graph(monkeypatch) as client,
        running_node(REAL_NODE, log=tmp_path / "node.log"),
    ):
        client.wait(lambda: client.ready, timeout_s=60)
        client.publisher(String, "/x2sam_node/text").publish(String(data=scene.text))
        client.rest(0.3)
        for _ in range(10):
            client.send_image(small)
            client.rest(0.3)
            if client.groundings:
                break
        client.wait(lambda: client.groundings and client.masks)
        assert client.groundings[0].status == Grounding.OK
        result = read_tracked_mask_array(client.masks[-1])
    assert region_similarity(result.masks[0], scene.truth(0, scene.text_object)[::2, ::2]) > 0.6


def test_a_node_that_cannot_start_ends_the_demo_with_its_own_words(tmp_path: Path) -> None:
    run = demo("--out", str(tmp_path), "--preset", "no_such_preset")
    assert run.returncode == 1
    assert "the node was not ready" in run.stderr and "no_such_preset" in run.stderr
    assert "Traceback" not in run.stderr
