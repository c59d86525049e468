"""What the cameras of a node are called. No ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from x2sam_ros.errors import ConfigError


@dataclass(frozen=True)
class Camera:
    """One camera of the node.

    Args:
        topic: its image topic, fully resolved; prompts name it so.
        name: what its results are called by; '' for the only one.
    """

    topic: str
    name: str

    def own(self, topic: str) -> str:
        """Make one of the node's topics this camera's: ``~/masks`` becomes ``~/<name>/masks``."""
        return topic.replace("~/", f"~/{self.name}/", 1) if self.name else topic


def name_cameras(topics: Sequence[str], namespace: str) -> tuple[Camera, ...]:
    """Name cameras by their image topics: ``/front/image_raw`` is ``front``.

    A name is the topic without the node's namespace and without its last part. Where two cameras would share one, or
    one would have none, each has its last part too: ``stereo/left``.

    Args:
        topics: fully resolved image topics.
        namespace: the node's, which begins with ``/``.

    Raises:
        ConfigError: a topic is there twice.
    """
    if len(topics) == 1:
        return (Camera(topics[0], ""),)
    for index, topic in enumerate(topics):
        if topic in topics[:index]:
            raise ConfigError(f"image_topics has {topic} twice; name each camera once")
    inside = namespace.rstrip("/") + "/"
    parts = [topic.removeprefix(inside).strip("/") for topic in topics]
    names = [part.rpartition("/")[0] for part in parts]
    if not all(names) or len(set(names)) < len(names):
        names = parts if len(set(parts)) == len(parts) else [topic.strip("/") for topic in topics]
    return tuple(Camera(topic, name) for topic, name in zip(topics, names))


def topics_beside(topics: Sequence[str], image_topics: Sequence[str]) -> tuple[str, ...]:
    """Return one topic for each image topic: those given, or '' for each where none is."""
    return tuple(topics) if any(topics) else ("",) * len(image_topics)


def camera_info_topic(image_topic: str) -> str:
    """Name the calibration beside an image topic, as image_transport does: ``/front/camera_info``."""
    return image_topic.rpartition("/")[0] + "/camera_info" if "/" in image_topic else "camera_info"
