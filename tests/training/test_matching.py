"""Matching against brute force; points where the mask is in doubt; phrases shared by a batch."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.training.loss_config import LossConfig
from x2sam_ros.training.matching import match, share_phrases, uncertain_points, values_at

WEIGHTS = LossConfig()


def pair_cost(class_logits: Tensor, mask_logits: Tensor, label: int, mask: Tensor) -> float:
    """Return the cost of giving one object to one query, written as in the paper."""
    probs, truth = mask_logits.sigmoid(), mask
    bce = -(truth * probs.log() + (1 - truth) * (1 - probs).log()).mean()
    dice = 1 - (2 * (probs * truth).sum() + 1) / (probs.sum() + truth.sum() + 1)
    likely = class_logits.softmax(-1)[label]
    return float(WEIGHTS.bce * bce + WEIGHTS.dice * dice - WEIGHTS.classes * likely)


@pytest.mark.parametrize("seed", range(6))
def test_matching_equals_brute_force(seed: int) -> None:
    torch.manual_seed(seed)
    queries, objects = 5, 3
    class_logits, mask_logits = torch.randn(2, queries, 4), torch.randn(2, queries, 3, 3)
    labels = torch.tensor([[2, -1, 0], [1, 1, 2]])
    masks = (torch.rand(2, objects, 3, 3) > 0.5).float()
    chosen = match(class_logits, mask_logits, labels, masks, WEIGHTS)
    for row in range(2):
        slots = [slot for slot in range(objects) if labels[row, slot] >= 0]
        table = [
            [pair_cost(class_logits[row, q], mask_logits[row, q], int(labels[row, s]), masks[row, s]) for s in slots]
            for q in range(queries)
        ]
        best = min(
            itertools.permutations(range(queries), len(slots)),
            key=lambda order: sum(table[q][k] for k, q in enumerate(order)),
        )
        assert chosen[row, slots].tolist() == list(best)
        found, columns = linear_sum_assignment(torch.tensor(table).numpy())
        assert dict(zip(columns.tolist(), found.tolist())) == dict(enumerate(best))


def test_a_single_object_takes_its_cheapest_query() -> None:
    masks = torch.zeros(1, 2, 2, 2)
    masks[0, 1, 0] = 1
    mask_logits = torch.full((1, 3, 2, 2), -4.0)
    mask_logits[0, 2, 0] = 4.0
    labels = torch.tensor([[-1, 0]])
    assert int(match(torch.zeros(1, 3, 2), mask_logits, labels, masks, WEIGHTS)[0, 1]) == 2


def test_more_objects_than_queries_leaves_the_dearest_out() -> None:
    masks = torch.eye(3).view(1, 3, 1, 3)
    mask_logits = (20 * masks[:, [2, 0]] - 10).repeat(1, 1, 1, 1)
    chosen = match(torch.zeros(1, 2, 2), mask_logits, torch.zeros(1, 3, dtype=torch.int64), masks, WEIGHTS)
    assert chosen.tolist() == [[1, -1, 0]]


def test_without_classes_masks_alone_decide() -> None:
    masks = torch.eye(2).view(1, 2, 1, 2)
    misled = torch.tensor([[[99.0, 0.0], [-99.0, 0.0]]])
    labels = torch.tensor([[0, -1]])
    mask_logits = masks.flip(1) - 0.5
    assert match(misled, mask_logits, labels, masks, WEIGHTS)[0, 0] == 0
    assert match(None, mask_logits, labels, masks, WEIGHTS)[0, 0] == 1


def test_points_find_the_same_queries_as_every_cell() -> None:
    torch.manual_seed(1)
    masks = torch.zeros(1, 3, 16, 16)
    for index in range(3):
        masks[0, index, :, 5 * index : 5 * index + 5] = 1
    mask_logits = 4 * masks[:, [1, 2, 0]] - 2 + torch.randn(1, 3, 16, 16)
    labels = torch.zeros(1, 3, dtype=torch.int64)
    sampled = match(None, mask_logits, labels, masks, replace(WEIGHTS, points=256))
    assert sampled.tolist() == match(None, mask_logits, labels, masks, WEIGHTS).tolist() == [[2, 0, 1]]


def test_what_is_ignored_does_not_decide() -> None:
    """The first query is right but for an ignored half, the second wrong where it counts."""
    masks = torch.zeros(1, 1, 4, 8)
    masks[..., :2] = 1
    mask_logits = torch.stack([masks[0, 0], 1 - masks[0, 0]])[None] * 20 - 10
    mask_logits[..., 4:] = torch.tensor([10.0, -10.0]).view(1, 2, 1, 1)
    counted = torch.ones(1, 4, 8)
    counted[..., 4:] = 0
    labels = torch.tensor([[0]])
    for config in (WEIGHTS, replace(WEIGHTS, points=64)):
        torch.manual_seed(0)
        assert match(None, mask_logits, labels, masks, config, counted).item() == 0


def test_values_lie_where_images_have_them() -> None:
    """The middle of a cell has the cell's value, the middle of two their mean."""
    row = torch.tensor([1.0, 3.0, 7.0, 5.0]).view(1, 1, 1, 4)
    points = torch.tensor([[[1 / 8, 0.5], [3 / 8, 0.5], [0.5, 0.5]]])
    torch.testing.assert_close(values_at(row, points), torch.tensor([[[1.0, 3.0, 5.0]]]))


def test_most_points_lie_where_the_mask_is_in_doubt() -> None:
    torch.manual_seed(5)
    logits = (torch.linspace(-9, 9, 64).expand(2, 64, 64) + 0.01).contiguous()
    config = LossConfig(points=1000, importance=0.75)
    points = uncertain_points(logits, config)
    assert points.shape == (2, 1000, 2) and float(points.min()) >= 0 and float(points.max()) <= 1
    doubt = values_at(logits[:, None], points)[:, 0].abs()
    # the 750 least certain of 3,000 are a quarter of the width; so are a quarter of the 250 drawn anywhere
    assert 0.75 < float((doubt < 9 / 4).float().mean()) < 0.88
    counted = torch.ones(2, 64, 64)
    counted[..., 24:40] = 0
    sought = values_at(counted[:, None], uncertain_points(logits, config, counted)[:, :750])
    assert float(sought.min()) > 0.5


def test_shared_phrases_keep_their_meaning() -> None:
    """Two prompts with two phrases and one; padding goes, labels follow their phrase."""
    torch.manual_seed(0)
    cond, tokens = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    condition = PromptCondition(
        cond_embeds=cond,
        embed_mask=torch.tensor([[True, True, True], [True, False, True]]),
        token_embeds=tokens,
        token_mask=torch.tensor([[True] * 5, [True, True, False, False, False]]),
        seg_embeds=torch.randn(2, 1, 4),
    )
    labels = torch.tensor([[1, 0, -1], [0, -1, -1]])
    shared, moved = share_phrases(condition, labels, torch.rand(1, 2, 3, 4, 4), pictures=1)
    assert shared.cond_embeds.shape == (2, 4, 4) and bool(shared.embed_mask.all())
    assert moved.tolist() == [[1, 0, -1], [2, -1, -1]]
    for row in range(2):
        for old, new in zip(labels[row].tolist(), moved[row].tolist()):
            assert old < 0 or torch.equal(shared.cond_embeds[row, new], cond[row, old])
        assert torch.equal(shared.cond_embeds[row, -1], cond[row, -1]), "the background is last"
        assert torch.equal(shared.token_embeds[row], torch.cat([tokens[0], tokens[1, :2]]))
    assert torch.equal(shared.seg_embeds, condition.seg_embeds)


def shared_choices(masks: Tensor, pictures: int) -> list[list[bool]]:
    """Return which phrases are choices of which of N prompts of one phrase each, of masks (T, N, h, w)."""
    count = masks.shape[1]
    condition = PromptCondition(
        cond_embeds=torch.randn(count, 2, 4),
        embed_mask=torch.ones(count, 2, dtype=torch.bool),
        token_embeds=torch.randn(count, 3, 4),
        token_mask=torch.ones(count, 3, dtype=torch.bool),
        seg_embeds=torch.randn(count, 1, 4),
    )
    labels = torch.where(masks.flatten(2).any(2).any(0), 0, -1)[:, None]
    shared, moved = share_phrases(condition, labels, masks[:, :, None].float(), pictures)
    assert all(moved[row, 0] in (-1, row) for row in range(count)) and bool(shared.embed_mask[:, -1].all())
    return shared.embed_mask[:, :-1].tolist()


def test_other_words_for_the_same_masks_are_no_choice() -> None:
    """Of two pictures with three prompts each: two of the first mean the same, and two of the second nothing."""
    masks = torch.zeros(2, 6, 4, 4, dtype=torch.bool)
    masks[0, :3, 1] = masks[:, 2, 2] = masks[0, 3, 1] = True
    chosen = shared_choices(masks, pictures=2)
    assert chosen[0] == [True, False, True, True, True, True], "another picture's mask may be the same by chance"
    assert chosen[1] == [False, True, True, True, True, True]
    assert all(chosen[2]) and all(chosen[3]), "a mask that is the same in one frame alone is another"
    assert all(chosen[4]) and all(chosen[5]), "what is not there is no name of anything"


def test_of_several_phrases_the_same_ones_are_no_choice() -> None:
    """Two prompts with two phrases each, objects in any order; the second of one means the first of the other."""
    condition = PromptCondition(
        cond_embeds=torch.randn(2, 3, 4),
        embed_mask=torch.ones(2, 3, dtype=torch.bool),
        token_embeds=torch.randn(2, 4, 4),
        token_mask=torch.ones(2, 4, dtype=torch.bool),
        seg_embeds=torch.randn(2, 1, 4),
    )
    masks = torch.zeros(1, 2, 3, 2, 4)
    masks[0, 0, 0, 0], masks[0, 0, 1, 1, :2], masks[0, 0, 2, 1, 2:] = 1, 1, 1
    masks[0, 1, 0, 1], masks[0, 1, 1, 0, 0] = 1, 1
    labels = torch.tensor([[0, 1, 1], [0, 1, -1]])
    shared, _ = share_phrases(condition, labels, masks, pictures=1)
    assert shared.embed_mask[:, :-1].tolist() == [[True, True, False, True], [True, False, True, True]]


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made._base is None:
            self.numbers = max(self.numbers, made.numel())
        return made


def test_long_lists_of_absent_phrases_take_no_more_memory_than_the_masks() -> None:
    """Two prompts with a thousand phrases each, of which three are there."""
    count = 1000
    condition = PromptCondition(
        cond_embeds=torch.randn(2, count + 1, 1),
        embed_mask=torch.ones(2, count + 1, dtype=torch.bool),
        token_embeds=torch.randn(2, 3, 1),
        token_mask=torch.ones(2, 3, dtype=torch.bool),
        seg_embeds=torch.randn(2, 1, 1),
    )
    masks = torch.zeros(1, 2, 4, 16, 16)
    masks[0, 0, 0, 0] = masks[0, 1, 0, 0] = masks[0, 1, 1, 5] = 1
    labels = torch.tensor([[7, -1, -1, -1], [900, 3, -1, -1]])
    with Largest() as largest:
        shared, _ = share_phrases(condition, labels, masks, pictures=1)
    assert (~shared.embed_mask).nonzero().tolist() == [[0, count + 900], [1, 7]]
    assert largest.numbers <= 2 * (2 * count + 1), "a row of phrases for each prompt"
    nothing, _ = share_phrases(condition, torch.full_like(labels, -1), masks, pictures=1)
    assert bool(nothing.embed_mask.all())
