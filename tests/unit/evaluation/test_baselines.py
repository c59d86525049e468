"""The trivial baselines: a copied mask stays, a flowing one goes with the picture, both begin where truth begins."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.unit.evaluation.made_sequences import NOTHING, SIZE, MadeSequence, columns
from x2sam_ros.evaluation.baselines import copy_first, flowed, optical_flow
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.evaluation.predictions import GivenPrompt
from x2sam_ros.evaluation.prompting import PlannedPrompt
from x2sam_ros.truth.dataset import Category, TrueObject
from x2sam_ros.types import CaptionPrompt


def planned(prompt_id: str, ids: tuple[int, ...], frame_index: int = 0, query: str = "") -> PlannedPrompt:
    return PlannedPrompt(GivenPrompt(prompt_id, "any", frame_index, ids, query), CaptionPrompt(prompt_id))


def test_each_object_begins_with_its_first_true_mask_and_stays() -> None:
    truths = [{1: columns(0, 2)}, None, {1: columns(1, 3), 2: columns(4, 6)}, {1: NOTHING, 2: columns(3, 5)}]
    objects = (TrueObject(1, 7), TrueObject(2), TrueObject(3))
    prompts = (planned("classes", (1, 2), query="cat, dog"), planned("late", (2,), 3), planned("none", (3,)))
    found = copy_first((Category(7, "cat"),)).run(MadeSequence(truths, objects), prompts)
    assert [len(frame.masks) for frame in found.frames] == [1, 1, 2, 3]
    last = {(m.prompt_id, m.label): found.frames[3].mask(m) for m in found.frames[3].masks}
    assert np.array_equal(last["classes", "cat"], columns(0, 2))
    assert np.array_equal(last["classes", "cat, dog"], columns(4, 6))
    assert np.array_equal(last["late", ""], columns(3, 5))
    assert len({m.target_id for m in found.frames[3].masks}) == 3
    assert [given.status for given in found.prompts] == ["ok", "ok", "no_target"]


@pytest.mark.parametrize("baseline", (copy_first(), optical_flow()), ids=lambda item: item.name)
def test_masks_follow_another_image_size_and_tiny_images(baseline) -> None:
    sizes = [SIZE, (8, 12), (40, 60)]
    found = baseline.run(MadeSequence([{1: columns(0, 3)}, None, None], sizes=sizes), (planned("a", (1,)),))
    for frame, size in zip(found.frames, sizes):
        assert frame.size == size and frame.mask(frame.masks[0]).mean() == 0.5


def test_flow_moves_masks_with_the_picture_and_keeps_them_apart() -> None:
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(rng.integers(0, 255, (120, 160, 3), dtype=np.uint8), (0, 0), 2)
    moved = np.roll(texture, (3, 5), (0, 1))
    masks = [np.zeros((120, 160), bool) for _ in range(2)]
    masks[0][40:80, 40:70], masks[1][40:80, 70:110] = True, True
    after = flowed(texture, moved, masks)
    for mask, before in zip(after, masks):
        assert region_similarity(mask, np.roll(before, (3, 5), (0, 1))) > 0.93
    assert not (after[0] & after[1]).any()
