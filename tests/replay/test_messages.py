"""Results to messages and back, and the MCAP file as others read it."""

from __future__ import annotations

import array
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader

from tests.replay.recordings import HEIGHT, START_NS, STEP_NS, WIDTH, picture
from x2sam_ros.bag.interfaces import interface_definitions, message_types
from x2sam_ros.bag.messages import (
    GROUNDING_TYPE,
    MASK_ARRAY_TYPE,
    build_message,
    grounding_fields,
    label_image,
    pack_array,
    read_grounding,
    read_tracked_mask_array,
    tracked_mask_array_fields,
)
from x2sam_ros.bag.source import open_source
from x2sam_ros.bag.writer import (
    GROUNDINGS_TOPIC,
    LABEL_IMAGE_TOPIC,
    MASKS_TOPIC,
    OVERLAY_TOPIC,
    ResultWriter,
)
from x2sam_ros.errors import BagError, ConfigError, FrameError
from x2sam_ros.types import Frame, FrameResult, Grounding, GroundingStatus, Phrase, TargetState


def _grounding(index: int = 0) -> Grounding:
    phrases = (
        Phrase("der grüne Schlüssel", 0, 19, (1, 7), 0.5),
        Phrase("nichts", 24, 30, (), 0.25),
        Phrase("鍵", 31, 32, (7,), 0.75),
    )
    stamp_ns = START_NS + index * STEP_NS
    return Grounding("p1", GroundingStatus.OK, "query", "response", phrases, (1, 7), "", stamp_ns)


def _result(index: int = 0, groundings: tuple[Grounding, ...] = ()) -> FrameResult:
    masks = np.zeros((3, HEIGHT, WIDTH), bool)
    masks[0, 10:20, 4 + index : 30] = True
    masks[1, 5:15, 20:40] = True
    return FrameResult(
        START_NS + index * STEP_NS,
        index,
        "camera",
        (HEIGHT, WIDTH),
        masks,
        np.array([0.5, 0.75, 0.0], np.float32),
        ("red", "", "größer"),
        np.array([1, 7, 9], np.int64),
        (TargetState.TRACKED, TargetState.TENTATIVE, TargetState.LOST),
        groundings,
    )


def _assert_same(first: FrameResult, second: FrameResult) -> None:
    for name in ("stamp_ns", "frame_index", "frame_id", "image_size", "labels", "states", "groundings"):
        assert getattr(first, name) == getattr(second, name), name
    for name in ("masks", "scores", "target_ids"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_definitions_are_found_and_known() -> None:
    assert {"x2sam_ros/msg/TrackedMaskArray", "x2sam_ros/msg/Grounding"} <= set(interface_definitions())
    assert set(interface_definitions()) <= set(message_types().fielddefs)


def test_result_survives_the_wire() -> None:
    types = message_types()
    message = build_message(MASK_ARRAY_TYPE, tracked_mask_array_fields(_result(), 12.5, 3), types.types.__getitem__)
    back = types.deserialize_cdr(types.serialize_cdr(message, MASK_ARRAY_TYPE), MASK_ARRAY_TYPE)
    assert (back.latency_ms, back.frames_dropped) == (12.5, 3)
    first = back.masks[0]
    assert (first.box_x, first.box_y, first.box_width, first.box_height, first.area_px) == (4, 10, 26, 10, 260)
    _assert_same(read_tracked_mask_array(back), _result())


def test_grounding_survives_the_wire() -> None:
    types = message_types()
    fields = grounding_fields(_grounding(), START_NS, "camera")
    message = build_message(GROUNDING_TYPE, fields, types.types.__getitem__)
    back = types.deserialize_cdr(types.serialize_cdr(message, GROUNDING_TYPE), GROUNDING_TYPE)
    assert read_grounding(back) == _grounding()
    plain = Grounding("p2", GroundingStatus.REJECTED, message="outside", stamp_ns=START_NS)
    message = build_message(GROUNDING_TYPE, grounding_fields(plain, START_NS, ""), types.types.__getitem__)
    assert read_grounding(message) == plain


def test_fields_are_all_of_the_definition_and_masks_are_ordered_by_id() -> None:
    result = _result()
    shuffled = FrameResult(
        result.stamp_ns, 0, "camera", result.image_size, result.masks[[2, 0, 1]], result.scores[[2, 0, 1]],
        ("größer", "red", ""), result.target_ids[[2, 0, 1]], tuple(result.states[i] for i in (2, 0, 1)),
    )  # fmt: skip
    fields = tracked_mask_array_fields(shuffled)
    _, definition = message_types().fielddefs[MASK_ARRAY_TYPE]
    assert list(fields) == [name for name, _ in definition]
    assert [mask["target_id"] for mask in fields["masks"]] == [1, 7, 9]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64, np.float32])
def test_packed_arrays_keep_type_and_values(dtype: type) -> None:
    values = np.array([0, 1, 200], dtype)
    packed = pack_array(values)
    assert isinstance(packed, array.array)
    assert packed.itemsize == values.itemsize
    assert packed.tolist() == values.tolist()
    np.testing.assert_array_equal(np.asarray(packed), values)


def test_damaged_mask_message_is_refused() -> None:
    fields = tracked_mask_array_fields(_result())
    fields["masks"][0]["rle"] = np.array([0, 5], np.uint32)
    message = build_message(MASK_ARRAY_TYPE, fields, message_types().types.__getitem__)
    with pytest.raises(FrameError, match="add up to 5"):
        read_tracked_mask_array(message)


def test_label_image_names_targets_the_better_on_top() -> None:
    encoding, image = label_image(_result())
    assert (encoding, image.dtype) == ("mono8", np.uint8)
    assert (image[12, 5], image[12, 25], image[6, 25], image[0, 0]) == (1, 7, 7, 0)
    many = FrameResult(
        0, 0, "", (1, 2), np.array([[[True, False]]]), np.ones(1, np.float32), ("",), np.array([300]),
        (TargetState.TRACKED,),
    )  # fmt: skip
    encoding, image = label_image(many)
    assert (encoding, image.tolist()) == ("16UC1", [[300, 0]])


def _write(path: Path, overlay: bool = True, num: int = 5) -> None:
    with ResultWriter(path, overlay) as writer:
        for index in range(num):
            result = _result(index, (_grounding(index),) if index == 0 else ())
            writer.write(Frame(picture(index), result.stamp_ns, index, "camera"), result, 1.5, 0)


def test_written_file_reads_with_rosbags(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    _write(path)
    with AnyReader([path]) as reader:
        topics = {c.topic: (c.msgtype, c.msgcount) for c in reader.connections}
        assert topics[MASKS_TOPIC] == (MASK_ARRAY_TYPE, 5)
        assert topics[GROUNDINGS_TOPIC] == (GROUNDING_TYPE, 1)
        # AnyReader has only the definitions that the file carries.
        for index, (connection, time, data) in enumerate(
            reader.messages([c for c in reader.connections if c.topic == MASKS_TOPIC])
        ):
            result = read_tracked_mask_array(reader.deserialize(data, connection.msgtype))
            _assert_same(result, _result(index))
            assert time == result.stamp_ns
        (grounding,) = [
            reader.deserialize(data, connection.msgtype)
            for connection, _, data in reader.messages([c for c in reader.connections if c.topic == GROUNDINGS_TOPIC])
        ]
        assert read_grounding(grounding) == _grounding()


def test_written_file_reads_with_mcap(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    _write(path)
    with path.open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()], validate_crcs=True)
        assert reader.get_header().profile == "ros2"
        decoded = list(reader.iter_decoded_messages())
    masks = [item.decoded_message for item in decoded if item.channel.topic == MASKS_TOPIC]
    for index, message in enumerate(masks):
        _assert_same(read_tracked_mask_array(message), _result(index))
    labels = [item.decoded_message for item in decoded if item.channel.topic == LABEL_IMAGE_TOPIC]
    assert len(masks) == len(labels) == 5
    image = np.frombuffer(labels[2].data, np.uint8).reshape(labels[2].height, labels[2].step)
    np.testing.assert_array_equal(image, label_image(_result(2))[1])
    overlays = [item.decoded_message for item in decoded if item.channel.topic == OVERLAY_TOPIC]
    assert cv2.imdecode(np.frombuffer(overlays[0].data, np.uint8), cv2.IMREAD_COLOR).shape == (HEIGHT, WIDTH, 3)


def test_own_files_can_be_replayed_too(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    _write(path)
    frames = list(open_source(path, OVERLAY_TOPIC))
    assert [frame.stamp_ns for frame in frames] == [START_NS + i * STEP_NS for i in range(5)]


def test_file_replaces_an_older_one_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.mcap"
    path.write_bytes(b"older")
    with pytest.raises(FrameError), ResultWriter(path):
        assert path.read_bytes() == b"older"
        raise FrameError("half way")
    assert path.read_bytes() == b"older"
    with pytest.raises(KeyboardInterrupt), ResultWriter(path) as writer:
        writer.write(Frame(picture(0), START_NS), _result(), 0.0, 0)
        raise KeyboardInterrupt
    with AnyReader([path]) as reader:
        assert reader.message_count == 2
    assert [file.name for file in tmp_path.iterdir()] == ["out.mcap"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.mcap").mkdir()
    with pytest.raises(ConfigError, match=r"ends in \.mcap"):
        ResultWriter(tmp_path / "out.bag")
    with pytest.raises(BagError, match="there is no folder"):
        ResultWriter(tmp_path / "nowhere" / "out.mcap")
    with pytest.raises(BagError, match="it is a folder"):
        ResultWriter(tmp_path / "folder.mcap")
