"""Reading: every kind of input, choice of the topic, damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode

from tests.replay.recordings import (
    HEIGHT,
    START_NS,
    STEP_NS,
    TYPES,
    WIDTH,
    compressed_message,
    image_message,
    picture,
)
from x2sam_ros.bag.media import NOMINAL_FPS
from x2sam_ros.bag.source import MAX_KEPT_PROBLEMS, FrameSource, Problems, open_source, read_sample
from x2sam_ros.errors import BagError, ConfigError, FrameError

WriteBag = Callable[..., Path]
RAW, PACKED = "/camera/image_raw", "/camera/image_raw/compressed"
NUM = 8


def _check_frames(source: FrameSource, indices: range = range(NUM)) -> None:
    for _ in range(2):
        frames = list(source)
        assert [frame.stamp_ns for frame in frames] == [START_NS + i * STEP_NS for i in indices]
        assert [frame.frame_index for frame in frames] == list(range(len(indices)))
        assert {(frame.frame_id, frame.source) for frame in frames} == {("camera", source.topic)}
        for frame, index in zip(frames, indices, strict=True):
            np.testing.assert_array_equal(frame.image, picture(index))
    assert source.problems.count == 0


@pytest.mark.parametrize("make", [image_message, compressed_message], ids=["raw", "compressed"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("what", ["folder", "file", "folder without metadata"])
def test_bags(write_bag: WriteBag, make: Callable[[int], object], storage: str, what: str) -> None:
    bag = write_bag({"/camera": [make(i) for i in range(NUM)]}, storage=storage)
    if what == "file":
        (bag,) = [file for file in bag.iterdir() if file.suffix in (".mcap", ".db3")]
    elif what == "folder without metadata":
        (bag / "metadata.yaml").unlink()
    source = open_source(bag)
    assert (source.topic, source.num_images) == ("/camera", NUM)
    _check_frames(source)


@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bags_that_rosbag2_compressed(write_bag: WriteBag, storage: str, mode: CompressionMode) -> None:
    messages = {"/camera": [image_message(i) for i in range(NUM)]}
    bag = write_bag(messages, storage=storage, set_compression=(mode, CompressionFormat.ZSTD))
    _check_frames(open_source(bag))


def test_split_mcap_is_read_in_order(write_bag: WriteBag, tmp_path: Path) -> None:
    split = tmp_path / "split"
    split.mkdir()
    for part, index in (("rec_2.mcap", 0), ("rec_10.mcap", 1)):
        bag = write_bag({"/camera": [image_message(index)]}, name=f"part{index}")
        (bag / f"part{index}.mcap").rename(split / part)
    source = open_source(split)
    assert source.num_images == 2
    _check_frames(source, range(2))


def test_stride(write_bag: WriteBag) -> None:
    source = open_source(write_bag({"/camera": [image_message(i) for i in range(NUM)]}), stride=3)
    assert source.num_frames == 3
    _check_frames(source, range(0, NUM, 3))
    with pytest.raises(ConfigError, match="stride is 0"):
        open_source(source.name, stride=0)


@pytest.mark.parametrize(
    ("topics", "taken"),
    [
        ([RAW], RAW),
        ([RAW, PACKED], RAW),
        ([PACKED, "/ground_truth/label_image"], PACKED),
        ([RAW, "/camera/depth/image_raw", "/x2sam/overlay"], RAW),
        (["/ground_truth/label_image"], "/ground_truth/label_image"),
    ],
)
def test_topic_taken_without_being_asked(write_bag: WriteBag, topics: list[str], taken: str) -> None:
    bag = write_bag({topic: [image_message(0)] for topic in topics})
    assert open_source(bag).topic == taken


def test_topic_by_name_and_bad_topics(write_bag: WriteBag) -> None:
    string = TYPES.types["std_msgs/msg/String"]("hello")
    bag = write_bag({"/left/image": [image_message(0)], "/right/image": [image_message(0)], "/chatter": [string]})
    assert open_source(bag, "/right/image").topic == open_source(bag, "right/image").topic == "/right/image"
    with pytest.raises(BagError, match=r"no image topic '/chatter'; image topics found: /left/image, /right/image"):
        open_source(bag, "/chatter")
    with pytest.raises(BagError, match=r"Choose one with --topic: /left/image, /right/image"):
        open_source(bag)
    with pytest.raises(BagError, match="no image topic in it; found /chatter"):
        open_source(write_bag({"/chatter": [string]}, name="talk"))


def test_picked_frames_are_the_only_ones_that_are_decoded(write_bag: WriteBag) -> None:
    messages = [image_message(i) for i in range(NUM)]
    messages[2] = image_message(2, encoding="rgb77")
    source = open_source(write_bag({"/camera": messages}), stride=2)
    (found,) = source.pick({2})
    assert (found.frame_index, found.stamp_ns, found.frame_id) == (2, START_NS + 4 * STEP_NS, "camera")
    np.testing.assert_array_equal(found.image, picture(4))
    with pytest.raises(FrameError, match="rgb77"):
        list(source.pick({0, 1}))
    problems = Problems()
    assert [frame.frame_index for frame in source.pick({0, 1, 2}, problems)] == [0, 2]
    assert problems.count == 1 and "image 2 left out: image encoding 'rgb77'" in problems.messages[0]
    assert not list(source.pick(())) and not list(source.pick((99,)))


def test_unusable_images_are_counted_and_left_out(write_bag: WriteBag) -> None:
    messages = [image_message(i) for i in range(NUM)]
    messages[1] = image_message(1, encoding="rgb77")
    messages[3] = image_message(3, step=4)
    messages[4] = bytes(TYPES.serialize_cdr(messages[4], "sensor_msgs/msg/Image"))[:90]
    messages[5] = image_message(5, height=0, data=np.zeros(0, np.uint8))
    source = open_source(write_bag({"/camera": messages}))
    frames = list(source)
    assert [(frame.stamp_ns - START_NS) // STEP_NS for frame in frames] == [0, 2, 6, 7]
    assert [frame.frame_index for frame in frames] == [0, 1, 2, 3]
    assert source.problems.count == 4
    assert "image 1 left out: image encoding 'rgb77'" in source.problems.messages[0]


def test_no_usable_image_is_an_error_that_says_why(write_bag: WriteBag) -> None:
    bag = write_bag({"/camera": [image_message(i, encoding="rgb77") for i in range(MAX_KEPT_PROBLEMS + 5)]})
    source = open_source(bag)
    with pytest.raises(BagError, match="no usable image on /camera: image 0 left out: image encoding 'rgb77'"):
        list(source)
    assert source.problems.count == MAX_KEPT_PROBLEMS + 5
    assert len(source.problems.messages) == MAX_KEPT_PROBLEMS
    with pytest.raises(BagError, match="no usable image on /camera: it holds none"):
        list(open_source(write_bag({"/camera": []}, name="empty")))


def _noisy_bag(write_bag: WriteBag) -> Path:
    """A bag of several chunks: noise does not compress."""
    rng = np.random.default_rng(0)
    size = {"height": 240, "width": 320, "step": 960}
    messages = [image_message(i, **size, data=rng.integers(0, 256, 240 * 960, dtype=np.uint8)) for i in range(20)]
    return write_bag({"/camera": messages}) / "bag.mcap"


def test_truncated_mcap_gives_what_is_readable(write_bag: WriteBag) -> None:
    bag = _noisy_bag(write_bag)
    whole = bag.read_bytes()
    counts = []
    for share in (0.4, 0.8, 0.9999):
        bag.write_bytes(whole[: int(len(whole) * share)])
        source = open_source(bag)
        frames = list(source)
        assert [frame.stamp_ns for frame in frames] == [START_NS + i * STEP_NS for i in range(len(frames))]
        assert source.problems.count >= 1
        assert any("ends early or is damaged" in message for message in source.problems.messages)
        counts.append(len(frames))
    assert 0 < counts[0] < counts[1] <= counts[2] == 20


def _add_checksums(bag: Path) -> None:
    """Write an MCAP file again, as rosbag2 itself would: with a checksum for every chunk."""
    with bag.open("rb") as stream:
        messages = list(make_reader(stream).iter_messages())
    writer = McapWriter(str(bag))
    writer.start("ros2")
    schema, channel = messages[0][:2]
    schema_id = writer.register_schema(schema.name, schema.encoding, schema.data)
    channel_id = writer.register_channel(channel.topic, "cdr", schema_id)
    for _, _, message in messages:
        writer.add_message(channel_id, message.log_time, message.data, message.publish_time)
    writer.finish()


def test_damaged_chunk_costs_only_itself(write_bag: WriteBag) -> None:
    bag = _noisy_bag(write_bag)
    _add_checksums(bag)
    data = bytearray(bag.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    bag.write_bytes(data)
    source = open_source(bag)
    frames = list(source)
    assert 10 <= len(frames) < 20
    assert frames[-1].stamp_ns == START_NS + 19 * STEP_NS
    assert source.problems.count == 1
    assert "damaged chunk" in source.problems.messages[0]


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3"])
@pytest.mark.parametrize("content", [b"", b"\x89MCAP0\r\n", b"SQLite format 3\0", bytes(5000)])
def test_bags_with_nothing_in_them(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BagError, match=name):
        list(open_source(path))


def test_folder_with_broken_metadata(write_bag: WriteBag) -> None:
    bag = write_bag({"/camera": [image_message(0)]}, storage="sqlite3")
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: [")
    with pytest.raises(BagError, match="cannot be read as a bag"):
        open_source(bag)


def test_folder_of_images(tmp_path: Path) -> None:
    for index in range(11):
        cv2.imwrite(str(tmp_path / f"shot{index}.png"), picture(index % 8)[..., ::-1])
    (tmp_path / "shot3.png").write_bytes(b"broken")
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_source(tmp_path, fps=4)
    frames = list(source)
    assert source.num_frames == 11
    assert [frame.stamp_ns for frame in frames] == [i * 250_000_000 for i in range(11) if i != 3]
    np.testing.assert_array_equal(frames[-1].image, picture(10 % 8))
    assert source.problems.count == 1
    with pytest.raises(ConfigError, match="frame rate is 0"):
        open_source(tmp_path, fps=0)


def test_one_image(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    cv2.imwrite(str(path), picture(0)[..., ::-1])
    (frame,) = open_source(path)
    np.testing.assert_array_equal(frame.image, picture(0))
    assert (frame.stamp_ns, frame.source) == (0, str(path))


def _write_video(path: Path, fps: float) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (WIDTH, HEIGHT))
    for index in range(NUM):
        writer.write(picture(index)[..., ::-1].copy())
    writer.release()


def test_video_has_its_own_stamps(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    _write_video(path, 25)
    source = open_source(path)
    frames = list(source)
    assert source.num_images == len(frames) == NUM
    assert [frame.stamp_ns for frame in frames] == [i * 40_000_000 for i in range(NUM)]
    assert np.abs(frames[5].image.astype(int) - picture(5)).mean() < 12
    every_third = list(open_source(path, stride=3))
    assert [frame.stamp_ns for frame in every_third] == [0, 120_000_000, 240_000_000]
    np.testing.assert_array_equal(every_third[1].image, frames[3].image)


def test_inputs_that_are_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(bytes(1000))
    empty = tmp_path / "empty"
    empty.mkdir()
    image = tmp_path / "one.png"
    cv2.imwrite(str(image), picture(0))
    for path, message in (
        (tmp_path / "nowhere", "does not exist"),
        (text, "not a kind of file"),
        (broken, "cannot be opened as a video"),
        (empty, "holds neither a bag"),
    ):
        with pytest.raises(BagError, match=message):
            open_source(path)
    with pytest.raises(ConfigError, match="has no topic '/camera'"):
        open_source(image, topic="/camera")
    assert NOMINAL_FPS > 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("count", "wanted"), [(1, [0]), (3, [0, 3, 6]), (8, list(range(8))), (20, list(range(8)))])
@pytest.mark.parametrize("is_counted", [True, False])
def test_sample_is_spread_over_the_recording(
    write_bag: WriteBag, monkeypatch: pytest.MonkeyPatch, count: int, wanted: list[int], is_counted: bool
) -> None:
    bag = write_bag({"/camera": [image_message(i) for i in range(NUM)]})
    if not is_counted:
        monkeypatch.setattr(FrameSource, "num_frames", None)
        wanted = {1: [0], 3: [0, 4], 8: wanted, 20: wanted}[count]
    frames = read_sample(bag, count)
    assert [(frame.stamp_ns - START_NS) // STEP_NS for frame in frames] == wanted
    assert [frame.frame_index for frame in frames] == list(range(len(frames)))
    with pytest.raises(ConfigError, match="number of frames is 0"):
        read_sample(bag, 0)


def test_pictures_are_known_by_their_files(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg"):
        cv2.imwrite(str(tmp_path / name), picture(0))
    assert [frame.source for frame in open_source(tmp_path)] == [str(tmp_path / "a.jpg"), str(tmp_path / "b.png")]
