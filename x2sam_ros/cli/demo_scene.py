"""The sample bag of `x2sam demo`: a generated camera stream, its ground truth, and a person who types and clicks."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from x2sam_ros.training.scenes import Clip

SEED = 910_010
NUM_FRAMES = 80
FPS = 10
WIDTH, HEIGHT = 640, 480
START_NS = 1_700_000_000_000_000_000
TEXT_FRAME, CLICK_FRAME = 3, 8

CAMERA = "/camera/image_raw"
IMAGE_TOPIC = f"{CAMERA}/compressed"
TEXT_TOPIC = "/x2sam_node/text"
CLICK_TOPIC = "/x2sam_node/click"
LABEL_TOPIC = "/ground_truth/labels"
PLAYED_TOPICS = (IMAGE_TOPIC, TEXT_TOPIC, CLICK_TOPIC)

_PROMPT_DELAY_NS = 1_000_000
"""A prompt is recorded this long after the image it refers to."""


@dataclass(frozen=True)
class DemoScene:
    """What the bag holds, and what the prompts in it mean.

    Args:
        bag: rosbag2 folder.
        clip: frames, ground truth and objects.
        text: the typed phrase.
        text_object: index of the object it names.
        click_px: x, y of the click.
        click_object: index of the object it hits.
    """

    bag: Path
    clip: Clip
    text: str
    text_object: int
    click_px: tuple[int, int]
    click_object: int

    def stamp_ns(self, index: int) -> int:
        """Stamp of a frame of the bag."""
        return START_NS + index * 1_000_000_000 // FPS

    def truth(self, index: int, object_index: int) -> npt.NDArray[np.bool_]:
        """Ground truth of an object in a frame: bool (H, W), its visible part."""
        return self.clip.labels[index] == object_index + 1


def write_demo_scene(bag: Path) -> DemoScene:
    """Generate the scene and write it as a rosbag2 folder with MCAP storage; an older one is replaced.

    The typed object and the clicked one are the two that are seen best throughout.
    """
    from x2sam_ros.training.scenes import distinct, generate_clip
    from x2sam_ros.truth.shown_regions import deepest_point

    clip = generate_clip(SEED, NUM_FRAMES, HEIGHT, WIDTH)
    known = [k for k in range(len(clip.objects)) if distinct(clip, k)]
    text_object, click_object = sorted(known, key=lambda k: -clip.visible[:, k].min())[:2]
    named = clip.objects[text_object]
    click_px = deepest_point(clip.labels[CLICK_FRAME] == click_object + 1)
    scene = DemoScene(bag, clip, f"the {named.colour} {named.shape}", text_object, click_px, click_object)
    if (bag / "metadata.yaml").is_file():
        shutil.rmtree(bag)
    bag.parent.mkdir(parents=True, exist_ok=True)
    _write_bag(scene)
    return scene


def _write_bag(scene: DemoScene) -> None:
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    types = get_typestore(Stores.ROS2_HUMBLE)
    bag = Writer(scene.bag, version=9, storage_plugin=StoragePlugin.MCAP)
    # Label images are large and simple: 28 MB become 4.
    bag.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with bag as writer:
        connections: dict[str, Any] = {}

        def write(topic: str, type_name: str, stamp_ns: int, **fields: Any) -> None:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, type_name, typestore=types)
            message = types.types[type_name](**fields)
            writer.write(connections[topic], stamp_ns, types.serialize_cdr(message, type_name))

        def header(index: int) -> Any:
            sec, nanosec = divmod(scene.stamp_ns(index), 1_000_000_000)
            time = types.types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
            return types.types["std_msgs/msg/Header"](stamp=time, frame_id="camera")

        for index in range(NUM_FRAMES):
            _write_frame(scene, index, header(index), write)
        text_ns = scene.stamp_ns(TEXT_FRAME) + _PROMPT_DELAY_NS
        write(TEXT_TOPIC, "std_msgs/msg/String", text_ns, data=scene.text)
        x, y = scene.click_px
        point = types.types["geometry_msgs/msg/Point"](x=float(x), y=float(y), z=0.0)
        click_ns = scene.stamp_ns(CLICK_FRAME) + _PROMPT_DELAY_NS
        write(CLICK_TOPIC, "geometry_msgs/msg/PointStamped", click_ns, header=header(CLICK_FRAME), point=point)


def _write_frame(scene: DemoScene, index: int, header: Any, write: Any) -> None:
    """Write the JPEG image of a frame and its label image: 0 is background, k + 1 is object k."""
    import cv2
    import numpy as np

    _, jpeg = cv2.imencode(".jpg", scene.clip.frames[index][:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    stamp_ns = scene.stamp_ns(index)
    packed = np.frombuffer(jpeg.tobytes(), np.uint8)
    write(IMAGE_TOPIC, "sensor_msgs/msg/CompressedImage", stamp_ns, header=header, format="jpeg", data=packed)
    size = {"height": HEIGHT, "width": WIDTH, "step": WIDTH, "encoding": "mono8", "is_bigendian": 0}
    labels = scene.clip.labels[index].reshape(-1)
    write(LABEL_TOPIC, "sensor_msgs/msg/Image", stamp_ns, header=header, data=labels, **size)
