"""Published masks as images to be corrected."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import Writer

from tests.replay.recordings import START_NS, STEP_NS, picture
from tests.training.labels import FRAMES, expected, write_recording
from x2sam_ros.bag.mcap_file import McapFile
from x2sam_ros.bag.media import read_image
from x2sam_ros.bag.messages import MASK_ARRAY_TYPE, tracked_mask_array_fields
from x2sam_ros.bag.source import Problems, open_source
from x2sam_ros.errors import TruthError
from x2sam_ros.rle import decode_rle
from x2sam_ros.training.label_export import export_images, read_published
from x2sam_ros.training.labelling import IMAGES_FOLDER, MarkedImage
from x2sam_ros.types import FrameResult, TargetState


def damage(path: Path, out: Path, *numbers: int) -> Path:
    """Copy the masks of a bag, of some messages the first half."""
    with path.open("rb") as stream, out.open("wb") as copy:
        writer = Writer(copy)
        writer.start(profile="ros2")
        for number, (schema, channel, message) in enumerate(make_reader(stream).iter_messages(["/x2sam/masks"])):
            if number == 0:
                known = writer.register_schema(schema.name, schema.encoding, schema.data)
                topic = writer.register_channel(channel.topic, channel.message_encoding, known, channel.metadata)
            data = message.data[: len(message.data) // 2] if number in numbers else message.data
            writer.add_message(topic, message.log_time, data, message.publish_time)
        writer.finish()
    return out


def test_damaged_messages_are_left_out_and_counted(tmp_path, recording, published):
    problems = Problems()
    found = read_published(damage(published, tmp_path / "one.mcap", 1), problems)
    images = export_images(open_source(recording), found, tmp_path)
    assert [image.stamp_ns for image in images] == [START_NS + index * STEP_NS for index in (0, 2, 3, 4)]
    assert problems.count == 1
    assert "one.mcap: message 1 of /x2sam/masks left out: it is damaged (" in problems.messages[0]
    with pytest.raises(TruthError, match="no masks on /x2sam/masks: .*message 0 of .* damaged .*; give another"):
        read_published(damage(published, tmp_path / "all.mcap", *range(FRAMES)), Problems())


def say(path: Path, *said: tuple[int, int, int, str], camera: str = "camera") -> Path:
    """Write messages: the number of the stamp, that of the picture whose red square is masked, object and label."""
    with McapFile(path, {"/x2sam/masks": MASK_ARRAY_TYPE}) as bag:
        for number, (when, index, object_id, label) in enumerate(said):
            stamp, mask = START_NS + when * STEP_NS, expected(index)[1]
            frame_id = camera if number == len(said) - 1 else "camera"
            result = FrameResult(
                stamp_ns=stamp,
                frame_index=number,
                frame_id=frame_id,
                image_size=mask.shape,
                masks=mask[None],
                scores=np.ones(1, np.float32),
                labels=(label,),
                target_ids=np.array([object_id]),
                states=(TargetState.TRACKED,),
            )
            bag.add("/x2sam/masks", stamp, tracked_mask_array_fields(result))
    return path


def shown(images: Iterable[MarkedImage]) -> list[tuple[int, int, str]]:
    """Return number of the stamp, object and label of each mark."""
    return [
        ((image.stamp_ns - START_NS) // STEP_NS, mark.object_id, mark.label) for image in images for mark in image.marks
    ]


def test_of_messages_with_one_stamp_the_last_one_counts(tmp_path, recording):
    problems = Problems()
    twice = say(tmp_path / "twice.mcap", (0, 0, 1, "cup"), (1, 4, 1, "cup"), (1, 1, 1, "mug"), (2, 2, 1, "mug"))
    images = export_images(open_source(recording), read_published(twice, problems), tmp_path)
    assert shown(images) == [(0, 1, "mug"), (1, 1, "mug"), (2, 1, "mug")]
    for image, index in zip(images, range(3)):
        np.testing.assert_array_equal(decode_rle(image.marks[0].runs, *image.size), expected(index)[1])
    assert problems.messages == [
        f"{twice}: message 2 of /x2sam/masks has the stamp of the one before it, {START_NS + STEP_NS} ns, which is "
        "left out"
    ]


@pytest.mark.parametrize(("first", "wins"), [(3, 1), (2, 2)])
def test_of_several_passes_over_a_recording_one_counts(tmp_path, recording, first, wins):
    """Object 1 of one pass is another one than object 1 of the other, and must not get its name."""
    problems = Problems()
    cups = [(index, index, 1, "cup") for index in range(first)]
    looped = say(tmp_path / "looped.mcap", *cups, (0, 0, 1, "mug"), (1, 1, 1, "mug"), (4, 4, 1, "mug"))
    images = export_images(open_source(recording), read_published(looped, problems), tmp_path)
    won = {1: [(0, 1, "cup"), (1, 1, "cup"), (2, 1, "cup")], 2: [(0, 1, "mug"), (1, 1, "mug"), (4, 1, "mug")]}
    assert shown(images) == won[wins]
    assert len(problems.messages) == 1 and "begin anew 1 times, as when a recording is looped" in problems.messages[0]
    assert f"of 2 passes number {wins}, which has most images with masks, is taken" in problems.messages[0]


def test_masks_of_two_cameras_on_one_topic_are_refused(tmp_path):
    path = say(tmp_path / "both.mcap", (0, 0, 1, "cup"), (0, 1, 1, "cup"), camera="other")
    message = "message 1 of /x2sam/masks is of 'other' and has the stamp of an earlier one of 'camera', .* a topic of"
    with pytest.raises(TruthError, match=message):
        read_published(path, Problems())


def test_pictures_with_one_stamp_are_left_out_unless_they_are_the_same(tmp_path, published):
    """Nobody can tell which of two pictures the masks are of."""
    source = open_source(
        write_recording(tmp_path / "twice.mcap", shown=[(0, 0), (1, 1), (1, 3), (2, 2), (2, 2), (0, 0)])
    )
    images = export_images(source, read_published(published, Problems()), tmp_path)
    assert {when for when, _, _ in shown(images)} == {0, 2}
    files = sorted((tmp_path / IMAGES_FOLDER).iterdir())
    assert [file.name for file in files] == [image.name for image in images]
    for file, index in zip(files, (0, 2)):
        assert np.abs(read_image(file).astype(int) - picture(index)).mean() < 8
    assert source.problems.messages == [
        f"image 2 and an earlier one left out: both have the stamp {START_NS + STEP_NS} ns",
        f"image 4 left out: it is an earlier one again, of {START_NS + 2 * STEP_NS} ns",
        f"image 5 left out: it is an earlier one again, of {START_NS} ns",
    ]


def test_a_recording_without_stamps_is_refused(tmp_path, published):
    source = open_source(write_recording(tmp_path / "still.mcap", shown=[(0, index) for index in range(4)]))
    with pytest.raises(TruthError, match="each image with masks has the stamp of another one, .*stamps of their own"):
        export_images(source, read_published(published, Problems()), tmp_path)
