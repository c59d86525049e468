"""The managed node on a GPU: what configure takes there, cleanup gives back."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("rclpy", reason="rclpy is not installed; run through scripts/with-env")
if not torch.cuda.is_available():
    pytest.skip("this torch finds no CUDA device", allow_module_level=True)

import rclpy
from rclpy.lifecycle import TransitionCallbackReturn

from x2sam_ros.ros.node import X2SamNode


def test_cleanup_gives_gpu_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init(args=["--ros-args", "-p", "autostart:=false", "-p", "device:=cuda"])
    node = X2SamNode()
    try:
        taken = []
        for _ in range(3):
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert torch.cuda.memory_allocated() > 10 * 2**20
            assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
            taken.append(torch.cuda.memory_allocated())
        assert max(taken) < 2**20 and torch.cuda.memory_reserved() < 32 * 2**20
    finally:
        node.close(10.0)
        node.destroy_node()
        rclpy.shutdown()
