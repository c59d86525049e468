"""Tiny bags with a camera and label images, written as other tools write them."""

from __future__ import annotations

from pathlib import Path

from rosbags.rosbag2 import StoragePlugin, Writer

from tests.replay.recordings import IMAGE, START_NS, STEP_NS, TYPES, header
from x2sam_ros.training.scenes import generate_clip

HEIGHT, WIDTH = 96, 128


def write_bag(bag: Path, num_frames: int = 4, seed: int = 7, label_scale: int = 1) -> Path:
    """Write a generated clip and its labels as a rosbag2 folder; labels may be smaller than the images."""
    clip = generate_clip(seed, num_frames, HEIGHT, WIDTH)
    bag.parent.mkdir(parents=True, exist_ok=True)
    with Writer(bag, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        topics = {
            "/camera/image_raw": ("rgb8", 3, clip.frames),
            "/ground_truth/labels": ("mono8", 1, clip.labels[:, ::label_scale, ::label_scale]),
        }
        for topic, (encoding, channels, images) in topics.items():
            connection = writer.add_connection(topic, IMAGE, typestore=TYPES)
            for index, image in enumerate(images):
                height, width = image.shape[:2]
                message = TYPES.types[IMAGE](
                    header(index), height, width, encoding, 0, width * channels, image.copy().reshape(-1)
                )
                writer.write(connection, START_NS + index * STEP_NS, TYPES.serialize_cdr(message, IMAGE))
    return bag
