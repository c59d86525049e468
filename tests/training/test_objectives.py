"""The first stage: what counts as an object, and which sources have some."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.training.joint_runs import scenes
from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.errors import ConfigError
from x2sam_ros.training.feed import SourceBatch
from x2sam_ros.training.objectives import AgnosticLoss
from x2sam_ros.training.recipe import Recipe


def first_stage() -> tuple[AgnosticLoss, SourceBatch]:
    """Return the loss with every cell compared, so that nothing is drawn, and a picture with two prompts."""
    model = load_model("nano")
    torch.manual_seed(0)
    loss = AgnosticLoss(model, Recipe.segmentor(1))
    loss.loss = replace(loss.loss, points=0)
    return loss, next(item for item in scenes(model) if item.source == "image")


def test_an_object_that_two_prompts_ask_for_is_one() -> None:
    loss, item = first_stage()
    batch = item.batch
    masks, labels = batch.masks.clone(), torch.full_like(batch.labels, -1)
    masks[:] = 0
    masks[0, 0, 0, 2:8, 2:8] = 1
    masks[0, 1, 0, 10:14, 4:9] = 1
    labels[:2, 0] = 0
    apart = replace(item, batch=replace(batch, masks=masks, labels=labels))
    alone = replace(apart, batch=replace(apart.batch, labels=labels.index_fill(0, torch.tensor([1]), -1)))
    masks = masks.clone()
    masks[0, 1] = masks[0, 0]
    twice = replace(item, batch=replace(batch, masks=masks, labels=labels))
    with torch.no_grad():
        one, two, repeated = (loss(item) for item in (alone, apart, twice))
    assert not torch.equal(one["class"], two["class"])
    for name, term in one.items():
        torch.testing.assert_close(repeated[name], term)


def test_chats_are_refused_by_name() -> None:
    loss, item = first_stage()
    with pytest.raises(ConfigError, match="chats have none: take talk, more talk out of the plan"):
        loss.check(["talk", "more talk"])
    loss.check([])
    with pytest.raises(ConfigError, match="take talk out of the plan"):
        loss(replace(item, source="talk", batch=replace(item.batch, conversations=[])))
