"""The node as users meet it: its own process, real DDS. A colour threshold stands in for the model, see test_demo."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")

from geometry_msgs.msg import Point, PointStamped
from sensor_msgs.msg import Image
from std_msgs.msg import String

from tests.ros.harness import (
    CAMERA,
    HEIGHT,
    REAL_NODE,
    ROOT,
    THRESHOLD_NODE,
    WIDTH,
    Client,
    own_graph,
    running_node,
)
from tests.unit.engine.sessions import click
from tests.unit.model.networks import frames, nano
from x2sam_ros.bag.messages import read_tracked_mask_array
from x2sam_ros.checkpoint import load
from x2sam_ros.cli.demo_scene import write_demo_scene
from x2sam_ros.config import NodeConfig
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.msg import Grounding, Prompt, TrackedMaskArray
from x2sam_ros.ros.node import open_sessions
from x2sam_ros.srv import SetPrompt


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Client]:
    with own_graph(monkeypatch) as made, running_node(THRESHOLD_NODE, log=tmp_path / "node.log"):
        made.wait(lambda: made.ready and made.camera.get_subscription_count())
        made.rest(0.5)
        yield made


def test_prompts_of_every_way_in_become_masks_with_the_images_stamps(client: Client) -> None:
    text = client.publisher(String, "/x2sam_node/text")
    mouse = client.publisher(Point, f"{CAMERA}_mouse_left")
    click = client.publisher(PointStamped, "/x2sam_node/click")
    prompt = client.publisher(Prompt, "/x2sam_node/prompt")
    text.publish(String(data="the red square"))
    assert client.outcome("text-1").status == Grounding.OK
    mouse.publish(Point(x=100.0, y=70.0))
    assert client.outcome("click-2").status == Grounding.OK
    click.publish(PointStamped(point=Point(x=20.0, y=20.0)))
    assert client.outcome("click-3").status == Grounding.OK
    prompt.publish(Prompt(text="the blue square", prompt_id="mine"))
    assert client.outcome("mine").header.frame_id == "camera_optical_frame"
    message = client.answer()
    result = read_tracked_mask_array(message)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (client.sent, 7)
    assert result.target_ids.tolist() == [1, 2, 3, 4]
    assert [int(mask.sum()) for mask in result.masks] == [900, 1600, 900, 1600]
    assert 0 < message.latency_ms < 5_000
    prompt.publish(Prompt(action=Prompt.ACTION_REMOVE, target_id=2, prompt_id="away"))
    assert client.outcome("away").status == Grounding.REMOVED
    prompt.publish(Prompt(action=Prompt.ACTION_RESET, prompt_id="all"))
    assert client.outcome("all").status == Grounding.REMOVED
    assert len(client.answer().masks) == 0


def test_bad_input_is_rejected_or_counted_and_the_node_lives_on(client: Client) -> None:
    text = client.publisher(String, "/x2sam_node/text")
    mouse = client.publisher(Point, f"{CAMERA}_mouse_left")
    prompt = client.publisher(Prompt, "/x2sam_node/prompt")
    for words in ("", "x" * 10_000):
        text.publish(String(data=words))
    mouse.publish(Point(x=float("nan"), y=1.0))
    mouse.publish(Point(x=5_000.0, y=1.0))
    for _ in range(2):
        prompt.publish(Prompt(text="the red square", prompt_id="same"))
    not_text = b"\x00\x01\x00\x00" + (4).to_bytes(4, "little") + b"\xff\xfe\xfd\x00"
    text.publish(not_text)
    client.rest(0.5)
    for changes in ({"encoding": "rgb9"}, {"step": 5}, {"height": 0}, {"width": 0, "step": 0}):
        client.send_image(**changes)
        client.rest(0.2)
    message = client.answer()
    assert message.frames_dropped == 4 and [mask.area_px for mask in message.masks] == [900]
    client.rest(0.3)
    same = [item.status for item in client.groundings if item.prompt_id == "same"]
    assert sorted(same) == [Grounding.OK, Grounding.REJECTED]
    said = " | ".join(item.message for item in client.groundings if item.status == Grounding.REJECTED)
    for words in ("prompt text is empty", "10000 characters", "not a number", "outside the 128x96 image", "'same'"):
        assert words in said
    text.publish(String(data="the blue square"))
    client.rest(0.2)
    assert len(client.answer().masks) == 2


def test_label_image_and_overlay_are_published_when_somebody_listens(client: Client) -> None:
    labels: list[Image] = []
    overlays: list[Image] = []
    client.create_subscription(Image, "/x2sam_node/label_image", labels.append, 10)
    client.create_subscription(Image, "/x2sam_node/overlay", overlays.append, 10)
    client.publisher(String, "/x2sam_node/text").publish(String(data="the red square"))
    client.rest(0.5)
    client.answer()
    client.wait(lambda: labels and overlays)
    assert labels[0].encoding == "mono8" and labels[0].header.stamp.sec == client.sent
    assert (np.asarray(labels[0].data).reshape(HEIGHT, WIDTH) == 1).sum() == 900
    assert overlays[0].encoding == "rgb8" and overlays[0].header.frame_id == "camera_optical_frame"


def test_the_service_answers_when_the_prompt_is_carried_out(client: Client) -> None:
    service = client.create_client(SetPrompt, "/x2sam_node/set_prompt")
    assert service.wait_for_service(10.0)
    found = service.call_async(SetPrompt.Request(prompt=Prompt(text="the red square")))
    client.rest(0.3)
    assert not found.done()
    client.send_image()
    client.wait(found.done)
    assert found.result().success and list(found.result().target_ids) == [1]
    wrong = service.call_async(SetPrompt.Request(prompt=Prompt(action=Prompt.ACTION_REMOVE, target_id=77)))
    client.wait(wrong.done)
    assert not wrong.result().success and "77" in wrong.result().message
    absent = service.call_async(SetPrompt.Request(prompt=Prompt(text="the pink square")))
    client.rest(0.3)
    client.send_image()
    client.wait(absent.done)
    assert not absent.result().success and absent.result().message


def test_frames_faster_than_the_model_are_dropped_and_counted(client: Client) -> None:
    for _ in range(60):
        client.send_image()
        time.sleep(0.005)
    client.wait(lambda: client.masks and client.masks[-1].header.stamp.sec == 60)
    answered, dropped = len(client.masks), client.masks[-1].frames_dropped
    assert answered < 60 and 0 < dropped <= 60 - answered
    stamps = [message.header.stamp.sec for message in client.masks]
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize(
    ("command", "number", "limit_s"),
    [(THRESHOLD_NODE, signal.SIGINT, 2.0), (THRESHOLD_NODE, signal.SIGTERM, 2.0), (REAL_NODE, signal.SIGINT, 1.5)],
    ids=["int", "term", "torch"],  # the end of an idle node must leave time for a frame
)
def test_a_signal_ends_the_node_within_two_seconds(
    command: list[str], number: signal.Signals, limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_graph(monkeypatch) as client:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE)
        client.wait(lambda: client.ready)
        client.send_image()
        started_s = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=5)
        assert process.returncode == 0 and b"Traceback" not in said
        assert time.monotonic() - started_s < limit_s


def test_a_signal_ends_the_node_also_while_a_prompt_is_understood(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with own_graph(monkeypatch) as client:
        process = subprocess.Popen([sys.executable, *THRESHOLD_NODE], cwd=ROOT, stderr=subprocess.PIPE)
        client.wait(lambda: client.ready and client.camera.get_subscription_count())
        client.rest(0.5)
        service = client.create_client(SetPrompt, "/x2sam_node/set_prompt")
        assert service.wait_for_service(10.0)
        answer = service.call_async(SetPrompt.Request(prompt=Prompt(text="the slow square")))
        client.rest(0.3)
        client.send_image()
        client.rest(0.3)
        started_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        client.wait(answer.done, timeout_s=5.0)
        _, said = process.communicate(timeout=5)
        assert process.returncode == 0 and b"Traceback" not in said
        assert time.monotonic() - started_s < 2.0
        assert not answer.result().success and "shut down" in answer.result().message, "nobody waits in vain"


def test_overrides_name_topics_as_remapping_leaves_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = [*THRESHOLD_NODE, "--ros-args", "-r", "image:=/cams/a/image"]
    override = "qos_overrides./cams/a/image_mouse_left.subscription.depth:=7"
    log = tmp_path / "node.log"
    with own_graph(monkeypatch) as client, running_node(command, "image_topics:=image", override, log=log):
        client.wait(lambda: client.count_subscribers("/cams/a/image_mouse_left"))


def test_two_nodes_in_one_domain_do_not_hear_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with own_graph(monkeypatch) as client, ExitStack() as nodes:
        masks: dict[str, list[TrackedMaskArray]] = {"left": [], "right": []}
        for robot, kept in masks.items():
            client.create_subscription(TrackedMaskArray, f"/{robot}/x2sam_node/masks", kept.append, 10)
            options = ("image_topics:=camera/image_raw", f"log_period_s:={1.0 + len(robot)}")
            command = [*THRESHOLD_NODE, "--ros-args", "-r", f"__ns:=/{robot}"]
            nodes.enter_context(running_node(command, *options, log=tmp_path / f"{robot}.log"))
        images = {robot: client.publisher(Image, f"/{robot}/camera/image_raw") for robot in masks}
        client.publisher(String, "/left/x2sam_node/text").publish(String(data="the red square"))
        client.rest(0.5)
        for robot in masks:
            client.camera = images[robot]
            client.send_image()
        client.wait(lambda: all(masks.values()))
        assert [mask.area_px for mask in masks["left"][-1].masks] == [900]
        assert not masks["right"][-1].masks and not client.masks


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ("image_transport:=theora", "expected one of: raw, compressed"),
        ("engine.score_threshold:=2.0", "score_threshold is 2.0, expected 0.0 to 1.0"),
        ("engine.max_targets:=many", "expected a value of type int"),
        ("image_topics:='not a topic'", "image_topics has 'not a topic', which is not a topic name"),
        (
            "session_file:=/nowhere/session",
            "session_file is '/nowhere/session', expected a file in a folder that exists",
        ),
        ("image_topics:=[]", "a parameter has no value; give it one, or leave it out"),
        ("image_topics:=[/front/image, /front/image]", "image_topics has /front/image twice"),
        ("depth_topics:=['/a b']", "depth_topics has '/a b', which is not a topic name"),
        ("presett:=nano", "parameter presett does not exist, the nearest that does is preset"),
        ("qos_overrides./camera/image_raw.subscription.reliable:=true", "image_raw.subscription.reliability?"),
    ],
)
def test_a_parameter_that_cannot_be_ends_the_node_with_code_2(
    parameter: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    run = subprocess.run(
        [sys.executable, *THRESHOLD_NODE, "--ros-args", "-p", parameter], cwd=ROOT, capture_output=True, timeout=30
    )
    assert run.returncode == 2, run.stderr.decode()
    assert said in run.stderr.decode() and b"Traceback" not in run.stderr


def test_two_cameras_share_a_node_and_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    topics, log = {"front": "/front/image_raw", "rear": "/rear/image_raw"}, tmp_path / "node.log"
    parameter = f"image_topics:=[{', '.join(topics.values())}]"
    with own_graph(monkeypatch) as client, running_node(THRESHOLD_NODE, parameter, log=log):
        client.wait(lambda: client.ready)
        masks: dict[str, list[TrackedMaskArray]] = {name: [] for name in topics}
        for name in topics:
            client.create_subscription(TrackedMaskArray, f"/x2sam_node/{name}/masks", masks[name].append, 10)
        images = {name: client.publisher(Image, topic) for name, topic in topics.items()}
        prompt = client.publisher(Prompt, "/x2sam_node/prompt")
        mouse = client.publisher(Point, f"{topics['rear']}_mouse_left")
        own_text = client.publisher(String, "/x2sam_node/front/text")
        text = client.publisher(String, "/x2sam_node/text")

        def answer(name: str, **changes: object) -> TrackedMaskArray:
            client.camera = images[name]
            client.send_image(**changes)
            client.wait(lambda: masks[name] and masks[name][-1].header.stamp.sec == client.sent)
            return masks[name][-1]

        def outcome(prompt_id: str) -> Grounding:
            client.wait(lambda: any(item.prompt_id == prompt_id for item in client.groundings))
            return next(item for item in client.groundings if item.prompt_id == prompt_id)

        prompt.publish(Prompt(text="the red square", prompt_id="left open"))
        prompt.publish(Prompt(text="the red square", prompt_id="unknown", camera="/other"))
        text.publish(String(data="the red square"))
        for prompt_id in ("left open", "unknown", "text-1"):
            rejected = outcome(prompt_id)
            assert rejected.status == Grounding.REJECTED and "/front/image_raw, /rear/image_raw" in rejected.message
        own_text.publish(String(data="the red square"))
        client.rest(0.3)
        assert [mask.target_id for mask in answer("front").masks] == [1]
        prompt.publish(Prompt(text="the blue square", prompt_id="blue", camera=topics["rear"]))
        client.rest(0.5)  # topics do not come in the order in which they are sent
        mouse.publish(Point(x=20.0, y=20.0))
        client.rest(0.3)
        assert [(mask.target_id, mask.area_px) for mask in answer("rear").masks] == [(2, 1600), (3, 900)]
        client.send_image(encoding="rgb9")
        client.rest(0.3)
        assert (answer("rear").frames_dropped, answer("front").frames_dropped) == (1, 0)
        prompt.publish(Prompt(action=Prompt.ACTION_REMOVE, target_id=2, prompt_id="away"))
        assert outcome("away").status == Grounding.REMOVED
        assert [mask.target_id for mask in answer("rear").masks] == [3]
        assert [mask.target_id for mask in answer("front").masks] == [1]
        assert not client.masks, "~/masks is the topic of an only camera"
    assert "frame of /rear/image_raw dropped" in log.read_text()


def test_two_cameras_go_on_after_a_restart_each_from_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parameters = ("image_topics:=[/front/image_raw, /rear/image_raw]", f"session_file:={tmp_path / 'robot.x2'}")
    with own_graph(monkeypatch) as client:
        masks: list[TrackedMaskArray] = []
        client.create_subscription(TrackedMaskArray, "/x2sam_node/rear/masks", masks.append, 10)
        client.camera = client.create_publisher(Image, "/rear/image_raw", 10)
        with running_node(THRESHOLD_NODE, *parameters, log=tmp_path / "first.log"):
            client.wait(lambda: client.ready)
            client.publisher(String, "/x2sam_node/rear/text").publish(String(data="the red square"))
            assert client.outcome("text-1").target_ids.tolist() == [1]
        assert sorted(path.name for path in tmp_path.glob("robot*")) == ["robot.front.x2", "robot.rear.x2"]
        (tmp_path / "robot.front.x2").write_text("no session")
        client.ready.clear()
        masks.clear()
        with running_node(THRESHOLD_NODE, *parameters, log=tmp_path / "second.log"):
            client.wait(lambda: client.ready and client.camera.get_subscription_count())
            client.rest(0.5)
            client.send_image()
            client.wait(lambda: masks)
            assert [mask.target_id for mask in masks[0].masks] == [1]
            client.publisher(String, "/x2sam_node/rear/text").publish(String(data="the blue square"))
            assert client.outcome("text-2").target_ids.tolist() == [2], "the node chooses no id of before"
    assert "saved session of /front/image_raw dropped" in (tmp_path / "second.log").read_text()
    assert (tmp_path / "robot.front.x2.refused").read_text() == "no session"


@pytest.mark.slow
def test_the_real_node_follows_the_same_target_after_a_restart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scene = write_demo_scene(tmp_path / "bag")
    pictures = [image[::2, ::2].copy() for image in scene.clip.frames]
    file, log = tmp_path / "session.safetensors", tmp_path / "node.log"
    with own_graph(monkeypatch) as client:

        @contextmanager
        def node() -> Iterator[None]:
            client.ready.clear()
            with running_node(REAL_NODE, f"session_file:={file}", log=log):
                client.wait(lambda: client.ready and client.camera.get_subscription_count(), timeout_s=60)
                client.rest(0.5)
                yield
            assert file.exists() and "dropped" not in log.read_text()

        with node():
            client.publisher(String, "/x2sam_node/text").publish(String(data=scene.text))
            for _ in range(40):
                client.answer(image=pictures[0])
                if client.groundings:
                    break
                client.rest(0.2)
            before = read_tracked_mask_array(client.answer(image=pictures[1]))
        with node():
            after = read_tracked_mask_array(client.answer(image=pictures[2]))
    assert [outcome.status for outcome in client.groundings] == [Grounding.OK], "no prompt was given a second time"
    assert before.target_ids.tolist() == after.target_ids.tolist() == [1]
    for index, result in ((1, before), (2, after)):
        truth = scene.truth(index, scene.text_object)[::2, ::2]
        assert region_similarity(result.masks[0], truth) > 0.6


def test_the_model_is_loaded_once_for_all_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(load, "load_model", lambda name, *_: loaded.append(name) or nano())
    sessions = open_sessions(NodeConfig(), ["/front", "/rear"])
    assert loaded == ["nano"] and list(sessions) == ["/front", "/rear"]
    for index, frame in enumerate(frames(3)):
        for camera, session in sessions.items():
            session.submit(click(f"{camera} {index}"))
            session.step(frame)
            assert session.wait(60.0)
    for session in sessions.values():
        session.step(frames(4)[3])
        session.close()
    found = [target_id for session in sessions.values() for target_id in session.target_ids]
    assert sorted(found) == list(range(1, 7))
