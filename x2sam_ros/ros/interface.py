"""Every topic, service and action of the node in one table, from which the node, the policies and the docs are made.

No ROS: types are named as ``ros2 interface`` names them. Parameters are in config.py.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

Qos = Literal["sensor", "reliable", "prompt", "latched", "heartbeat", "diagnostics"]
"""Names of the profiles in ros/qos.py."""


@dataclass(frozen=True)
class Topic:
    """One topic.

    Args:
        name: ``~/`` begins a private one, a relative one belongs to the namespace. ``{image}`` stands for an image
            topic of the node.
        type: for example ``std_msgs/msg/String``.
        direction: whether the node publishes it or subscribes to it.
        qos: its profile, before overrides.
        about: one line.
        each_camera: there is one for each camera: with several cameras ``~/masks`` is ``~/<camera>/masks``.
        when: what must hold for it to be there; '' for always.
    """

    name: str
    type: str
    direction: Literal["in", "out"]
    qos: Qos
    about: str
    each_camera: bool = False
    when: str = ""


@dataclass(frozen=True)
class Endpoint:
    """One service or action; fields as those of a topic."""

    name: str
    type: str
    about: str


DEPTH = "depth_topics is set"
VISION = "vision_msgs is installed"

TOPICS = (
    Topic("{image}", "sensor_msgs/msg/Image", "in", "sensor", "camera", True, "image_transport is raw"),
    Topic(
        "{image}/compressed",
        "sensor_msgs/msg/CompressedImage",
        "in",
        "sensor",
        "camera, JPEG or PNG",
        True,
        "image_transport is compressed",
    ),
    Topic("{camera_info}", "sensor_msgs/msg/CameraInfo", "in", "sensor", "calibration of the camera", True),
    Topic("{depth}", "sensor_msgs/msg/Image", "in", "sensor", "depth registered to the camera", True, DEPTH),
    Topic("~/prompt", "x2sam_ros/msg/Prompt", "in", "prompt", "add, refine or remove a target, or reset"),
    Topic("~/text", "std_msgs/msg/String", "in", "prompt", "a phrase or a question", True),
    Topic("~/click", "geometry_msgs/msg/PointStamped", "in", "prompt", "a click in pixels", True),
    Topic("{image}_mouse_left", "geometry_msgs/msg/Point", "in", "prompt", "a click in rqt_image_view", True),
    Topic(
        "{clicked_point}",
        "geometry_msgs/msg/PointStamped",
        "in",
        "prompt",
        "a point in space, as RViz publishes it",
        when="clicked_point_topic is set",
    ),
    Topic("~/masks", "x2sam_ros/msg/TrackedMaskArray", "out", "reliable", "mask, id and state of every target", True),
    Topic("~/label_image", "sensor_msgs/msg/Image", "out", "reliable", "target ids as pixels", True),
    Topic("~/label_info", "x2sam_ros/msg/LabelInfo", "out", "latched", "what the pixels mean", True),
    Topic("~/overlay", "sensor_msgs/msg/Image", "out", "reliable", "the targets drawn on the image", True),
    Topic("~/overlay/compressed", "sensor_msgs/msg/CompressedImage", "out", "reliable", "the same as JPEG", True),
    Topic("~/targets", "x2sam_ros/msg/TargetArray", "out", "latched", "list of all targets", True),
    Topic("~/timings", "x2sam_ros/msg/Timings", "out", "reliable", "what each image cost, and the drops", True),
    Topic("~/boxes_3d", "x2sam_ros/msg/TargetBox3DArray", "out", "reliable", "targets in space", True, DEPTH),
    Topic("~/cloud", "sensor_msgs/msg/PointCloud2", "out", "reliable", "coloured points of the masks", True, DEPTH),
    Topic("~/markers", "visualization_msgs/msg/MarkerArray", "out", "reliable", "the boxes for RViz", True, DEPTH),
    Topic("~/detections", "vision_msgs/msg/Detection2DArray", "out", "reliable", "boxes in the image", True, VISION),
    Topic(
        "~/detections_3d",
        "vision_msgs/msg/Detection3DArray",
        "out",
        "reliable",
        "boxes in space",
        True,
        f"{DEPTH} and {VISION}",
    ),
    Topic("~/groundings", "x2sam_ros/msg/Grounding", "out", "prompt", "what became of each prompt"),
    Topic("~/ready", "std_msgs/msg/Bool", "out", "latched", "whether the node is active"),
    Topic("~/heartbeat", "std_msgs/msg/Header", "out", "heartbeat", "once a second, frame_id is the lifecycle state"),
    Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "out", "diagnostics", "once a second"),
)
"""All topics but those that every ROS node has."""

SERVICES = (
    Endpoint("~/set_prompt", "x2sam_ros/srv/SetPrompt", "add, refine, remove or reset; answers when it is carried out"),
    Endpoint("~/list_targets", "x2sam_ros/srv/ListTargets", "all targets"),
    Endpoint("~/reset", "std_srvs/srv/Trigger", "forget every target of every camera"),
    Endpoint("~/enable", "std_srvs/srv/SetBool", "stop answering images, and go on, targets kept"),
    Endpoint("~/save_session", "x2sam_ros/srv/SessionFile", "write all targets with their memories to a file"),
    Endpoint("~/load_session", "x2sam_ros/srv/SessionFile", "go on with the targets of a file"),
)
"""All services but those that every managed ROS node has."""

ACTIONS = (
    Endpoint("~/follow", "x2sam_ros/action/Follow", "carry out a prompt, with progress, until the first mask"),
    Endpoint("~/chat", "x2sam_ros/action/Chat", "ask a question about an image"),
)


def message_type(name: str) -> type[Any]:
    """Return the class of a type such as ``std_msgs/msg/String``.

    Raises:
        ImportError: its package is not installed.
    """
    package, kind, short = name.split("/")
    found: type[Any] = getattr(importlib.import_module(f"{package}.{kind}"), short)
    return found
