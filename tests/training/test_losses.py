"""Matching against brute force, losses by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from x2sam_ros.training.losses import LossWeights, match, segmentation_loss

WEIGHTS = LossWeights()


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


def test_losses_by_hand() -> None:
    """One prompt, two queries, one object that covers the left of two cells; the second query is right."""
    class_logits = torch.tensor([[[0.0, 0.0], [math.log(3.0), 0.0]]])
    mask_logits = torch.tensor([[[[-5.0, 5.0]], [[math.log(4.0), 0.0]]]])
    terms = segmentation_loss(class_logits, mask_logits, torch.tensor([[0]]), torch.tensor([[[[1.0, 0.0]]]]), WEIGHTS)
    # query 0 is background (weight 0.1, probability 1/2), query 1 the object (weight 1, probability 3/4)
    classes = (0.1 * math.log(2) + math.log(4 / 3)) / 1.1
    assert float(terms["class"]) == pytest.approx(4 * classes, rel=1e-5)
    assert float(terms["bce"]) == pytest.approx(5 * (math.log(5 / 4) + math.log(2)) / 2, rel=1e-5)
    assert float(terms["dice"]) == pytest.approx(5 * (1 - (2 * 0.8 + 1) / (0.8 + 0.5 + 1 + 1)), rel=1e-5)


def test_an_absent_prompt_makes_every_query_background() -> None:
    class_logits = torch.randn(1, 4, 3, requires_grad=True)
    mask_logits = torch.randn(1, 4, 2, 2, requires_grad=True)
    terms = segmentation_loss(class_logits, mask_logits, torch.tensor([[-1]]), torch.zeros(1, 1, 2, 2), WEIGHTS)
    expected = -class_logits.log_softmax(-1)[..., -1].mean()
    assert float(terms["class"].detach()) == pytest.approx(4 * float(expected), rel=1e-5)
    assert float(terms["bce"]) == float(terms["dice"]) == 0
    sum(terms.values(), torch.zeros(())).backward()
    assert class_logits.grad is not None and (class_logits.grad[..., -1] < 0).all()
    assert mask_logits.grad is None or not mask_logits.grad.any()


def test_an_object_hidden_in_this_frame_is_not_wanted() -> None:
    class_logits, mask_logits = torch.randn(1, 3, 2), torch.randn(1, 3, 2, 2)
    hidden = segmentation_loss(class_logits, mask_logits, torch.tensor([[0]]), torch.zeros(1, 1, 2, 2), WEIGHTS)
    absent = segmentation_loss(class_logits, mask_logits, torch.tensor([[-1]]), torch.zeros(1, 1, 2, 2), WEIGHTS)
    assert all(torch.equal(hidden[name], absent[name]) for name in hidden)


def test_padding_slots_and_order_of_prompts_do_not_matter() -> None:
    torch.manual_seed(3)
    class_logits, mask_logits = torch.randn(2, 4, 3), torch.randn(2, 4, 3, 3)
    labels, masks = torch.tensor([[0, 1], [1, -1]]), (torch.rand(2, 2, 3, 3) > 0.4).float()
    masks[1, 1] = 0
    terms = segmentation_loss(class_logits, mask_logits, labels, masks, WEIGHTS)
    padded = segmentation_loss(
        class_logits.flip(0),
        mask_logits.flip(0),
        torch.cat([labels, torch.full((2, 1), -1)], 1).flip(0),
        torch.cat([masks, torch.zeros(2, 1, 3, 3)], 1).flip(0),
        WEIGHTS,
    )
    for name, value in terms.items():
        torch.testing.assert_close(padded[name], value)
