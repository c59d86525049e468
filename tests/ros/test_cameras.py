"""What cameras are called, so that the results of two never meet on one topic."""

from __future__ import annotations

import pytest

from x2sam_ros.config import NodeConfig
from x2sam_ros.errors import ConfigError
from x2sam_ros.ros.cameras import camera_info_topic, name_cameras, topics_beside


def names(*topics: str, namespace: str = "/") -> list[str]:
    return [camera.name for camera in name_cameras(topics, namespace)]


def test_the_only_camera_has_the_topics_of_the_node() -> None:
    (camera,) = name_cameras(["/camera/color/image_raw"], "/")
    assert (camera.topic, camera.own("~/masks")) == ("/camera/color/image_raw", "~/masks")


def test_several_cameras_are_named_by_their_topics() -> None:
    front, rear = name_cameras(["/front/image_raw", "/rear/color/image_raw"], "/")
    assert (front.own("~/masks"), rear.own("~/label_image")) == ("~/front/masks", "~/rear/color/label_image")


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        (("/stereo/left", "/stereo/right"), ["stereo/left", "stereo/right"]),
        (("/image_raw", "/rear/image_raw"), ["image_raw", "rear/image_raw"]),
        (("/a_b/image", "/a/b/image"), ["a_b", "a/b"]),
    ],
)
def test_names_are_unique(topics: tuple[str, ...], expected: list[str]) -> None:
    assert names(*topics) == expected


def test_the_nodes_namespace_is_not_repeated() -> None:
    assert names("/robot1/front/image_raw", "/robot1/rear/image_raw", namespace="/robot1") == ["front", "rear"]
    assert names("/robot10/front/image_raw", "/rear/image_raw", namespace="/robot1") == ["robot10/front", "rear"]
    both = names("/robot1/camera/image_raw", "/camera/image_raw", namespace="/robot1")
    assert both == ["robot1/camera/image_raw", "camera/image_raw"]


def test_a_camera_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="image_topics has /a/image twice"):
        name_cameras(["/a/image", "/b/image", "/a/image"], "/")


def test_calibration_lies_beside_the_image_topic_as_image_transport_has_it() -> None:
    topics = ("/front/color/image_raw", "/image", "image", "front/image")
    infos = ["/front/color/camera_info", "/camera_info", "camera_info", "front/camera_info"]
    assert [camera_info_topic(topic) for topic in topics] == infos


def test_each_camera_may_have_a_depth_topic_of_its_own() -> None:
    images = ("/front/image", "/rear/image")
    for none in ((), ("",), ("", "")):
        assert topics_beside(NodeConfig(image_topics=images, depth_topics=none).depth_topics, images) == ("", "")
    given = NodeConfig(image_topics=images, depth_topics=("/front/depth", "")).depth_topics
    assert topics_beside(given, images) == ("/front/depth", "")
    for name in ("depth_topics", "camera_info_topics"):
        with pytest.raises(ConfigError, match=f"{name} has 1 topics and image_topics 2; give one for each image topic"):
            NodeConfig(image_topics=images, **{name: ("/front/depth",)})
