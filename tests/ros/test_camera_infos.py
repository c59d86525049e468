"""The newest calibration of each camera is decoded when it changes, and what is wrong with one is said."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo

from x2sam_ros.errors import SpaceError
from x2sam_ros.ros.camera_infos import CameraInfos
from x2sam_ros.space.camera_model import CameraModel

FRONT, REAR = "/front/image_raw", "/rear/image_raw"


def info(stamp_s: int = 0, focal: float = 500.0, frame_id: str = "lens") -> bytes:
    message = CameraInfo(width=64, height=48, k=[focal, 0.0, 32.0, 0.0, focal, 24.0, 0.0, 0.0, 1.0])
    message.header.stamp.sec, message.header.frame_id = stamp_s, frame_id
    return bytes(serialize_message(message))


def infos(read: list[float] | None = None) -> CameraInfos:
    def model(message: CameraInfo, rectified: bool) -> CameraModel:
        if read is not None:
            read.append(message.k[0])
        return CameraModel(message.width, message.height, np.array(message.k), np.array(message.d), "")

    return CameraInfos({FRONT: "/front/camera_info", REAR: "/rear/camera_info"}, model)


def test_it_is_read_only_when_more_than_its_stamp_changed() -> None:
    read: list[float] = []
    made = infos(read)
    for stamp_s in range(5):
        made.offer(FRONT, info(stamp_s))
        assert made.view(FRONT).frame_id == "lens" and made.view(FRONT).model.k[0, 0] == 500
    made.offer(FRONT, info(9, focal=400.0, frame_id="/other"))
    assert made.view(FRONT).frame_id == "other" and made.view(FRONT).model.k[0, 0] == 400
    assert read == [500, 400]
    with pytest.raises(SpaceError, match="no camera_info has come on /rear/camera_info; check camera_info_topics"):
        made.view(REAR)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "camera_info on /front/camera_info: message of 0 bytes"),
        (info()[:40], "camera_info on /front/camera_info: "),
        (info().replace(b"lens", b"\xff\xfe\xff\xfe"), None),
        (info(frame_id=""), "camera_info on /front/camera_info: it has no frame_id"),
        (info(focal=0.0), "camera_info on /front/camera_info: camera is not calibrated"),
    ],
)
def test_a_bad_one_is_refused_and_the_next_good_one_serves(data: bytes, reason: str | None) -> None:
    made = infos()
    made.offer(FRONT, data)
    if reason is not None:
        for _ in range(2):
            with pytest.raises(SpaceError, match=reason):
                made.view(FRONT)
    else:  # whether text that is not UTF-8 is refused depends on the distribution
        try:
            assert made.view(FRONT).model.width == 64
        except SpaceError as error:
            assert "camera_info on /front/camera_info" in str(error)
    made.offer(FRONT, info())
    assert made.view(FRONT).model.width == 64
