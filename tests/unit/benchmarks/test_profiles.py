"""The comparison of profiles: the exact one agrees with itself, real clips are read as they are, or are missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.model.int8 import weights_of
from x2sam_ros.types import MaskPrompt

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from profiles import EXACT, PROFILES, Case, Tally, config_of, follow, int8_profile, real_cases, step_ms


def square(count: int) -> np.ndarray:
    """Return masks of the square that moves through the test's frames."""
    masks = np.zeros((count, 96, 128), bool)
    for index in range(count):
        masks[index, 20 + index : 50 + index, 10 + 2 * index : 40 + 2 * index] = True
    return masks


def test_every_profile_is_valid_and_differs() -> None:
    for side in (128, 1024):
        configs = {name: config_of(profile, side) for name, profile in PROFILES.items()}
        assert configs[EXACT] == EngineConfig() and len(set(configs.values())) == len(configs)
        assert all(config.input_side % 32 == 0 and config.input_side < side for config in configs.values())


@torch.inference_mode()
def test_the_exact_profile_agrees_with_itself() -> None:
    pictures, truth = np.stack([frame.image for frame in frames(4)]), square(4)
    case = Case(pictures, (MaskPrompt("mask", mask=truth[0]),), truth)
    configs = {EXACT: EngineConfig(), "again": EngineConfig(), "small": EngineConfig(input_side=64)}
    tallies = {name: Tally() for name in configs}
    follow(nano(), configs, case, tallies)
    assert set(tallies["again"].agreement) <= {1.0} and tallies["again"].j == tallies[EXACT].j
    assert all(len(tally.j) == 3 for tally in tallies.values())


@torch.inference_mode()
def test_every_profile_is_timed() -> None:
    configs = {EXACT: EngineConfig(), "refresh": EngineConfig(finest_refresh=2)}
    times = step_ms(nano(), configs, 1, 2)
    assert times.keys() == configs.keys() and min(times.values()) > 0


@torch.inference_mode()
def test_int8_weights_are_a_profile_with_a_network_of_its_own() -> None:
    assert int8_profile("nano", "cuda") == {}
    others = int8_profile("nano", "cpu")
    (name,) = others
    assert name == "int8 weights, forced on small layers" and weights_of(others[name]) == "int8"
    configs = {EXACT: EngineConfig(), name: EngineConfig()}
    assert step_ms(nano(), configs, 1, 1, others).keys() == configs.keys()


def test_real_clips_are_read_in_colour_order(tmp_path: Path) -> None:
    assert not list(real_cases(tmp_path, 8))
    clip = {
        "name": "clip", "dir": "clip", "frames": "%05d.png", "masks": "mask%05d.png", "n_frames": 3, "real": True,
        "objects": [{"mask_value": 255}],
    }  # fmt: skip
    made = {**clip, "dir": "nowhere", "real": False}
    (tmp_path / "sequences.json").write_text(json.dumps([made, clip]))
    (tmp_path / "clip").mkdir()
    pictures, masks = [frame.image for frame in frames(3)], square(3)
    for index, (picture, mask) in enumerate(zip(pictures, masks)):
        cv2.imwrite(str(tmp_path / "clip" / f"{index:05d}.png"), np.ascontiguousarray(picture[..., ::-1]))
        cv2.imwrite(str(tmp_path / "clip" / f"mask{index:05d}.png"), mask.astype(np.uint8) * 255)
    (case,) = real_cases(tmp_path, 2)
    assert np.array_equal(case.frames, np.stack(pictures[:2])) and np.array_equal(case.truth, masks[:2])
    assert isinstance(case.prompts[0], MaskPrompt) and np.array_equal(case.prompts[0].mask, masks[0])
