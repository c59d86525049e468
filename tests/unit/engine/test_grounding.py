"""The slow lane: what of a prompt reaches the network, and which earlier clicks still hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.engine.sessions import box, classes, click, drawn, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.grounding import Grounder, Picture, View, pixel_values
from x2sam_ros.engine.preprocess import clip_patches
from x2sam_ros.engine.session import encode_frame
from x2sam_ros.engine.track import Group
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import PointPrompt, Prompt

SIZE = (96, 128)


@torch.inference_mode()
def ground(prompt: Prompt, **refined: Any) -> Group:
    model, image = nano(), frames(1)[0].image
    grounder = Grounder(model, installed_plugins().memory_policy("fifo")(EngineConfig()), EngineConfig())
    features = model.segmentor.encode_image(pixel_values(model, image))
    picture = Picture(model, image)
    group = grounder.ground(grounder.ask(prompt, View(SIZE, features, picture), **refined), picture)
    assert isinstance(group, Group)
    return group


@pytest.mark.parametrize("prompt", [text(), classes(), click(), box(), drawn()], ids=lambda p: p.prompt_id)
def test_a_group_starts_empty_with_one_finite_condition(prompt: Prompt) -> None:
    group = ground(prompt)
    regions = sum(region.mask.nbytes for region in group.regions)
    assert not group.targets and len(group.memory) == 0 and group.nbytes == group.condition.nbytes + regions > 0
    assert group.condition.num_phrases == len(group.labels)
    assert all(bool(torch.isfinite(x.float()).all()) for x in vars(group.condition).values())
    again = ground(prompt)
    assert all(torch.equal(a, b) for a, b in zip(vars(group.condition).values(), vars(again.condition).values()))


def test_words_and_regions_reach_the_condition() -> None:
    a, b = ground(text(words="the red circle")), ground(text(words="the blue star"))
    assert (a.condition.cond_embeds[0, 0] - b.condition.cond_embeds[0, 0]).abs().max() > 1e-3
    here, there = ground(click(x=20, y=30)), ground(click(x=90, y=60))
    assert (here.condition.cond_embeds[0, 0] - there.condition.cond_embeds[0, 0]).abs().max() > 1e-4


@torch.inference_mode()
def test_a_picture_carries_the_features_it_is_given_or_makes_the_same() -> None:
    model, image = nano(), frames(1)[0].image
    own, given = Picture(model, image), Picture(model, image, features=encode_frame(model, image, EngineConfig()))
    assert torch.equal(own.vision.embeds, given.vision.embeds)
    other = Picture(model, image, features=encode_frame(model, image[:, ::-1].copy(), EngineConfig()))
    assert (own.vision.embeds - other.vision.embeds).abs().max() > 1e-3


@torch.inference_mode()
def test_a_clip_carries_the_features_of_the_first_frame_of_each_pair() -> None:
    model, shown = nano(), np.stack([frame.image for frame in frames(5, seed=3)])
    picture = Picture(model, shown)
    assert picture.media.steps == 3
    patches, grid = clip_patches(shown, model.config.language)
    stages = model.segmentor.encode_image(pixel_values(model, shown[[0, 2, 4]])).stages
    assert torch.equal(picture.vision.embeds, model.encode_picture(patches, grid, stages).embeds)


def kept(before: PointPrompt, after: PointPrompt, current: np.ndarray | None) -> list[list[float]]:
    clicks = ground(after, clicks=before, current=current).clicks
    assert clicks is not None and clicks.point_labels is not None
    return [[*point, label] for point, label in zip(clicks.points_px.tolist(), clicks.point_labels.tolist())]


def test_earlier_clicks_hold_while_the_mask_agrees() -> None:
    current = np.zeros(SIZE, bool)
    current[20:60, 10:60] = True
    new = click("new", 40, 40, target_id=1)
    fits, gone = click(x=20, y=30), click(x=100, y=80)
    assert kept(fits, new, current) == [[20, 30, 1], [40, 40, 1]]
    assert kept(gone, new, current) == [[40, 40, 1]], "the object has moved away from this click"
    assert kept(fits, new, None) == [[40, 40, 1]], "the object is not seen now"
    beside = click(x=100, y=80, label=0, target_id=1)
    assert kept(beside, new, current) == [[100, 80, 0], [40, 40, 1]]
    assert kept(click(x=400, y=30), new, current) == [[40, 40, 1]], "a click on an earlier, larger image"
    assert kept(fits, click("less", 15, 25, 0, target_id=1), current) == [[20, 30, 1], [15, 25, 0]]
