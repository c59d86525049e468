"""Losses by hand: what is averaged over what, and what teaches nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from x2sam_ros.training.loss_config import LossConfig
from x2sam_ros.training.losses import IGNORED_TOKEN, language_loss, segmentation_loss

WEIGHTS = LossConfig()
SAMPLED = LossConfig(points=400)


def total(terms: dict[str, Tensor]) -> Tensor:
    return sum(terms.values(), torch.zeros(()))


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
    assert float(terms["class"].detach()) == pytest.approx(4 * float(expected.detach()), rel=1e-5)
    assert float(terms["bce"].detach()) == float(terms["dice"].detach()) == 0
    total(terms).backward()
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


def test_points_see_the_terms_of_every_cell() -> None:
    """A disc that fades out, far from the border: drawn anywhere, points give the terms of all cells."""
    torch.manual_seed(0)
    axis = torch.linspace(-1, 1, 64)
    disc = (12 * (0.5 - torch.hypot(axis, axis[:, None]))).expand(1, 3, 64, 64)
    everywhere = replace(WEIGHTS, points=20_000, importance=0.0)
    args = torch.zeros(1, 3, 2), disc, torch.tensor([[0]]), (disc[:, :1] > 0).float()
    dense, sampled = segmentation_loss(*args, WEIGHTS), segmentation_loss(*args, everywhere)
    assert float(sampled["bce"]) == pytest.approx(float(dense["bce"]), rel=0.05)
    assert float(sampled["dice"]) == pytest.approx(float(dense["dice"]), rel=0.05)
    doubtful = segmentation_loss(*args, replace(everywhere, importance=0.75))
    assert float(doubtful["bce"]) > 2 * float(dense["bce"]), "points were not sought where the mask is in doubt"


@pytest.mark.parametrize("config", [WEIGHTS, SAMPLED], ids=["dense", "sampled"])
def test_masks_may_be_finer_than_what_is_predicted(config: LossConfig) -> None:
    torch.manual_seed(1)
    coarse = torch.randn(2, 4, 8, 8)
    masks = torch.nn.functional.interpolate((torch.rand(2, 2, 4, 4) > 0.5).float(), scale_factor=4)
    assert masks.shape[-1] == 16
    labels = torch.tensor([[0, 1], [1, -1]])
    terms = segmentation_loss(torch.zeros(2, 4, 3), coarse.requires_grad_(True), labels, masks, config)
    total(terms).backward()
    assert coarse.grad is not None and bool(coarse.grad.isfinite().all()) and bool(coarse.grad.any())
    again = segmentation_loss(torch.zeros(2, 4, 3), coarse.detach(), labels, masks > 0.5, WEIGHTS)
    expected = segmentation_loss(torch.zeros(2, 4, 3), coarse.detach(), labels, masks, WEIGHTS)
    assert all(torch.equal(again[name], expected[name]) for name in expected), "boolean masks are masks too"


@pytest.mark.parametrize("config", [WEIGHTS, SAMPLED], ids=["dense", "sampled"])
def test_ignored_places_teach_nothing(config: LossConfig) -> None:
    """Whatever is predicted or labelled there, losses and gradients elsewhere stay as they are."""
    torch.manual_seed(2)
    ignore = torch.zeros(1, 16, 16, dtype=torch.bool)
    ignore[:, :, 10:] = True
    logits, masks = torch.randn(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    masks[..., 2:8, 2:8] = 1
    logits[0, 1] += 6 * (masks[0, 0] - 0.5)

    def terms(there: float) -> tuple[dict[str, Tensor], Tensor]:
        inside = ignore.clone()
        inside[:, :, 10:11] = False  # a bilinear value at the border reads one cell of it
        changed = torch.where(inside, logits + there, logits).requires_grad_(True)
        truth = torch.where(inside[:, None], torch.full_like(masks, float(there > 0)), masks)
        torch.manual_seed(3)
        found = segmentation_loss(torch.zeros(1, 3, 2), changed, torch.tensor([[0]]), truth, config, ignore)
        (grad,) = torch.autograd.grad(found["bce"] + found["dice"], changed)
        return found, grad

    (first, slope), (second, _) = terms(0.0), terms(3.0)
    tolerance = 1e-6 if config.points == 0 else 0.15  # other points are drawn where other places are in doubt
    for name in ("bce", "dice"):
        torch.testing.assert_close(second[name], first[name], rtol=tolerance, atol=0)
    assert not bool(slope[..., 11:].any()) and bool(slope[..., :10].any())


def test_an_object_that_is_ignored_altogether_is_not_wanted() -> None:
    masks, ignore = torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[..., :2] = 1
    ignore[..., :2] = True
    args = torch.randn(1, 3, 2), torch.full((1, 3, 4, 4), -2.0)
    found = segmentation_loss(*args, torch.tensor([[0]]), masks, WEIGHTS, ignore)
    absent = segmentation_loss(*args, torch.tensor([[-1]]), masks, WEIGHTS, ignore)
    assert all(torch.equal(found[name], absent[name]) for name in absent)


def test_a_query_on_ignored_ground_is_not_held_to_be_background() -> None:
    ignore = torch.zeros(1, 4, 4, dtype=torch.bool)
    ignore[..., 2:] = True
    mask_logits = torch.full((1, 2, 4, 4), -3.0)
    mask_logits[0, 0, :, 1:] = 3.0  # two of its three columns are ignored
    mask_logits[0, 1, :, :3] = 3.0  # one of three
    class_logits = torch.zeros(1, 2, 2, requires_grad=True)
    none = torch.tensor([[-1]]), torch.zeros(1, 1, 4, 4)
    segmentation_loss(class_logits, mask_logits, *none, WEIGHTS, ignore)["class"].backward()
    assert class_logits.grad is not None
    assert not class_logits.grad[0, 0].any() and bool(class_logits.grad[0, 1].any())


def test_all_ignored_is_no_loss() -> None:
    args = torch.randn(1, 2, 2), torch.ones(1, 2, 4, 4), torch.tensor([[0]]), torch.ones(1, 1, 4, 4)
    terms = segmentation_loss(*args, WEIGHTS, torch.ones(1, 4, 4, dtype=torch.bool))
    assert {name: float(value) for name, value in terms.items()} == {"class": 0.0, "bce": 0.0, "dice": 0.0}


def test_a_padded_phrase_takes_no_part() -> None:
    """A prompt with fewer phrases than its neighbours has the loss it would have alone."""
    torch.manual_seed(4)
    class_logits, mask_logits = torch.randn(1, 4, 3), torch.randn(1, 4, 5, 5)
    labels, masks = torch.tensor([[1]]), (torch.rand(1, 1, 5, 5) > 0.5).float()
    padded = torch.cat([class_logits[..., :2], torch.full((1, 4, 3), -1e6), class_logits[..., 2:]], dim=2)
    alone = segmentation_loss(class_logits, mask_logits, labels, masks, WEIGHTS)
    beside = segmentation_loss(padded, mask_logits, labels, masks, WEIGHTS)
    for name in alone:
        torch.testing.assert_close(beside[name], alone[name])


@pytest.mark.parametrize("config", [WEIGHTS, SAMPLED], ids=["dense", "sampled"])
def test_what_is_not_a_number_is_seen_and_does_not_stop_the_search(config: LossConfig) -> None:
    mask_logits = torch.randn(1, 4, 4, 4)
    mask_logits[0, :, 1, 1] = torch.nan
    args = torch.randn(1, 4, 3), mask_logits, torch.tensor([[0, 1]]), torch.ones(1, 2, 4, 4)
    assert not bool(total(segmentation_loss(*args, config)).isfinite())


def test_each_answer_or_each_token_weighs_the_same() -> None:
    """Answers of one and of three tokens; the last token of the second is ignored."""
    sure = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0], [0.0, 0.0], [9.0, 0.0]])
    truth, rows = torch.tensor([0, 0, 1, IGNORED_TOKEN]), torch.tensor([0, 1, 1, 1])
    first, second = math.log(4 / 3), math.log(2)
    answers = float(language_loss(sure, truth, rows, 2, WEIGHTS))
    assert answers == pytest.approx((first + second) / 2, rel=1e-5)
    tokens = float(language_loss(sure, truth, rows, 2, LossConfig(text="token")))
    assert tokens == pytest.approx((first + 2 * second) / 3, rel=1e-5)


@pytest.mark.parametrize("text", ["answer", "token"])
def test_nothing_to_say_is_no_loss(text: str) -> None:
    nothing = torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    assert float(language_loss(*nothing, 0, LossConfig(text=text))) == 0
    hidden = torch.randn(2, 5), torch.full((2,), IGNORED_TOKEN), torch.tensor([0, 1])
    assert float(language_loss(*hidden, 2, LossConfig(text=text))) == 0


def one_of_two(rank: int, folder: str) -> None:
    """In a process of its own: two processes with one and three objects; keep the bce that this one finds."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    terms = segmentation_loss(*objects(1 + 2 * rank), WEIGHTS)
    torch.save(terms["bce"], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def objects(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    masks = torch.eye(4)[:count].view(1, count, 2, 2)
    return torch.zeros(1, 4, 2), torch.zeros(1, 4, 2, 2), torch.zeros(1, count, dtype=torch.int64), masks


def both() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the rows of the two processes as one batch."""
    (_, _, _, one), (classes, logits, _, three) = objects(1), objects(3)
    masks = torch.cat([torch.cat([one, torch.zeros(1, 2, 2, 2)], dim=1), three])
    labels = torch.tensor([[0, -1, -1], [0, 0, 0]])
    return classes.expand(2, -1, -1), logits.expand(2, -1, -1, -1), labels, masks


def test_objects_weigh_the_same_in_every_process(tmp_path: Path) -> None:
    """Gradients of processes are averaged, so terms are divided by the mean number of objects, here two."""
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    found = [float(torch.load(tmp_path / f"{rank}.pt", weights_only=True)) for rank in range(2)]
    alone = [float(segmentation_loss(*objects(count), WEIGHTS)["bce"]) for count in (1, 3)]
    assert found == pytest.approx([alone[0] * 1 / 2, alone[1] * 3 / 2])
    together = segmentation_loss(*both(), WEIGHTS)
    assert sum(found) / 2 == pytest.approx(float(together["bce"])), "as if all were one batch"
