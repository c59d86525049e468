"""Sequences played into a real node over real DDS: what comes back, what is lost, and what is said when nothing can."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from tests.ros.domains import enter_own_graph
from tests.ros.harness import HEIGHT, ROOT, THRESHOLD_NODE, WIDTH, running_node
from x2sam_ros.cli.eval_live import open_live
from x2sam_ros.errors import BagError, ConfigError, NodeError
from x2sam_ros.ros.live_player import LivePlayer, Played, open_live_player
from x2sam_ros.types import Frame, GroundingStatus, PointPrompt, TextPrompt

CHEAP_NODE = [str(ROOT / "benchmarks/cheap_node.py"), "--targets", "1"]
RED = (220, 30, 30)


@pytest.fixture(autouse=True)
def own_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    enter_own_graph(monkeypatch)
    monkeypatch.setattr("x2sam_ros.cli.eval_live.choose_graph", lambda: None)


def clip(count: int, hertz: float, start_ns: int = 5_000_000_000) -> list[Frame]:
    """A red square that moves to the right, in front of a blue one that does not."""
    frames = []
    for index in range(count):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[60:80, 90:110] = (30, 30, 220)
        image[10:40, 10 + 2 * index : 40 + 2 * index] = RED
        frames.append(Frame(image, start_ns + round(index * 1e9 / hertz), index, "camera", "clip"))
    return frames


def red_in(frame: Frame) -> np.ndarray:
    return (frame.image == RED).all(axis=2)


def masks_of(played: Played, prompt_id: str) -> list[np.ndarray]:
    """Union of the masks of a prompt, frame by frame."""
    found = []
    for frame in played.frames:
        result = frame.result()
        assert result is not None
        rows = [played.owners.get(target) == prompt_id for target in result.target_ids.tolist()]
        found.append(result.masks[rows].any(axis=0))
    return found


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePlayer]:
    with pytest.MonkeyPatch.context() as patch:
        enter_own_graph(patch)
        log = tmp_path_factory.mktemp("node") / "node.log"
        with running_node(THRESHOLD_NODE, log=log), open_live_player("/x2sam_node", start_timeout_s=60) as player:
            yield player


def test_frames_prompts_and_answers_keep_together(player: LivePlayer) -> None:
    frames, seen = clip(8, 5.0), []
    click = PointPrompt("blue", points_px=np.array([[100.0, 70.0]]))
    prompts = {2: [TextPrompt("red", text="the red one")], 3: [click, TextPrompt("none", text="a cat")]}
    played = player.play(frames, prompts, lambda: seen.append(1))
    assert len(seen) == 8
    assert [said for said in played.problems if "too slow" not in said] == [], "how fast this machine is is not asked"
    assert [(item.frame_index, item.stamp_ns, item.size, item.source) for item in played.frames] == [
        (frame.frame_index, frame.stamp_ns, frame.size, "clip") for frame in frames
    ]
    for index, (frame, mask) in enumerate(zip(frames, masks_of(played, "red"))):
        assert (mask == (red_in(frame) & (index >= 2))).all(), index
    assert [int(mask.sum()) for mask in masks_of(played, "blue")] == [0] * 3 + [400] * 5
    status = {item.prompt_id: (item.status, item.stamp_ns) for item in played.groundings}
    ok, nothing = GroundingStatus.OK, GroundingStatus.NO_TARGET
    late = frames[3].stamp_ns
    assert status == {"red": (ok, frames[2].stamp_ns), "blue": (ok, late), "none": (nothing, late)}
    for item in played.frames:
        assert item.latency_ms is not None and item.latency_ms >= 20  # what the model takes
        assert item.arrived_ns == item.stamp_ns + round(item.latency_ms * 1e6)


def test_the_next_sequence_knows_nothing_of_the_last(player: LivePlayer) -> None:
    player.play(clip(3, 5.0, 10**18), {0: [TextPrompt("red", text="red")]})
    frames = clip(4, 5.0, 0)  # stamps go back, prompt ids come again
    played = player.play(frames, {2: [TextPrompt("red", text="red")]})
    assert [int(mask.any()) for mask in masks_of(played, "red")] == [0, 0, 1, 1]
    assert all(len(item.result().target_ids) == (item.frame_index >= 2) for item in played.frames)
    assert [item.prompt_id for item in played.groundings] == ["red"]


def test_stamps_that_do_not_ascend_are_sent_in_order(player: LivePlayer) -> None:
    frames = [Frame(frame.image, 7, frame.frame_index) for frame in clip(3, 5.0)]
    played = player.play(frames, {1: [TextPrompt("red", text="red")]})
    assert [item.stamp_ns for item in played.frames] == [7, 7, 7]
    assert [(mask == red_in(frame)).all() for mask, frame in zip(masks_of(played, "red"), frames)][1:] == [True] * 2
    assert "2 images have no later stamp" in played.problems[0]
    assert player.play([], {}) == Played((), (), {}, ())


def test_what_reading_the_frames_raises_comes_through_and_ends_nothing(player: LivePlayer) -> None:
    def broken() -> Iterator[Frame]:
        yield from clip(2, 5.0)
        raise BagError("the disk is gone")

    with pytest.raises(BagError, match="the disk is gone"):
        player.play(broken(), {})
    assert len(player.play(clip(2, 5.0), {}).frames) == 2


def test_a_slow_model_loses_frames_and_they_are_counted(tmp_path: Path) -> None:
    frames = clip(40, 50.0)
    with (
        running_node([*CHEAP_NODE, "--step-ms", "150"], log=tmp_path / "log"),
        open_live_player("/x2sam_node", rate=2.0, start_timeout_s=60) as player,
    ):
        played = player.play(frames, {})
        with pytest.raises(ConfigError, match="rate"):
            LivePlayer("/x2sam_node", rate=0.0)
    lost = [item.message is None for item in played.frames]
    assert 20 < sum(lost) < 40 and not lost[0] and not lost[-1]
    (problem,) = (text for text in played.problems if "no answer" in text)
    assert problem.startswith(f"{sum(lost)} of 40 images got no answer; the node counts ")
    assert 10 < int(problem.split()[-3]) <= sum(lost)  # the others were lost on the way
    for item in played.frames:
        if item.message is None:
            assert item.latency_ms is None and item.result() is None and item.arrived_ns == item.stamp_ns
        else:
            assert item.latency_ms is not None and item.latency_ms >= 150
            # twice as fast, so that the robot's clock has gone on by twice that
            assert item.arrived_ns - item.stamp_ns == pytest.approx(2e6 * item.latency_ms, abs=2)


def test_a_camera_of_several_compressed_and_in_a_namespace(tmp_path: Path) -> None:
    topics = "image_topics:=[/front/image_raw, /rear/image_raw]"
    command = [*THRESHOLD_NODE, "--ros-args", "-r", "__ns:=/robot", "--"]
    with running_node(command, topics, "image_transport:=compressed", log=tmp_path / "log"):
        with (
            pytest.raises(NodeError, match="2 cameras; name one of its image topics: /front/image_raw, /rear"),
            open_live_player("/robot/x2sam_node", start_timeout_s=60),
        ):
            pass
        with open_live_player("robot/x2sam_node", "rear/image_raw") as player:
            frames = clip(3, 5.0)
            played = player.play(frames, {1: [TextPrompt("red", text="red")]})
    for frame, mask in zip(frames[1:], masks_of(played, "red")[1:]):
        assert (mask != red_in(frame)).sum() < 30  # a JPEG has soft edges


def test_quality_of_service_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("x2sam_ros.ros.node_link.FIND_TIMEOUT_S", 3.0)
    override = "qos_overrides./x2sam_node/masks.publisher.reliability:=best_effort"
    with (
        running_node(CHEAP_NODE, override, log=tmp_path / "log"),
        pytest.raises(NodeError, match="/x2sam_node on /x2sam_node/masks: .*[Bb]est effort"),
        open_live_player("/x2sam_node", start_timeout_s=60),
    ):
        pass


def test_no_node_is_an_error_in_time(tmp_path: Path) -> None:
    begun_s = time.monotonic()
    with (
        pytest.raises(NodeError, match=r"no node /nobody within 1 s in ROS domain \d+, whose nodes are: none"),
        open_live_player("/nobody", start_timeout_s=1.0),
    ):
        pass
    assert time.monotonic() - begun_s < 15
    for name, said in (("no name", "not the name of a node"), ("/nobody", "runs with its own parameters")):
        with pytest.raises(ConfigError, match=said), open_live(tmp_path, {} if " " in name else {"a": "b"}, node=name):
            pass


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_a_node_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    before = children()

    def kill() -> None:
        for pid in children() - before:
            os.kill(int(pid), signal.SIGKILL)

    with open_live(tmp_path, {}, command=CHEAP_NODE) as method:
        play = method._play
        assert len(play(clip(2, 5.0), {}, lambda: None).frames) == 2
        with pytest.raises(NodeError, match=r"(?s)/x2sam_node has ended; the end of .*node.log:.*ready"):
            play(clip(100, 5.0), {}, kill)
    assert children() == before


def test_a_node_that_cannot_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    before = children()
    parameters = {"image_transport": "telepathy", "checkpoint": ""}
    with (
        pytest.raises(NodeError, match=r"(?s)/x2sam_node has ended; .*image_transport is 'telepathy'"),
        open_live(tmp_path, parameters, command=CHEAP_NODE),
    ):
        pass
    assert children() == before


def test_a_node_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from x2sam_ros.cli.node_process import run_node
with run_node(Path(sys.argv[1]), {}, ["-c", "import time; time.sleep(600)"]) as node:
    print(node.process.pid, flush=True)
    time.sleep(600)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.terminate()
        assert parent.wait(20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
