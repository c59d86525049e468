"""The published configuration against the published criterion, and against the ones of transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import Mask2FormerConfig
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from tests.training import published_losses as published
from x2sam_ros.training.loss_config import LossConfig
from x2sam_ros.training.losses import IGNORED_TOKEN, language_loss, segmentation_loss
from x2sam_ros.training.matching import match

PUBLISHED = LossConfig.published()
CONFIGS = {"sampled": replace(PUBLISHED, points=published.POINTS), "dense": replace(PUBLISHED, points=0)}
NAMES = ("class", "bce", "dice")


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_term_of_every_layer_is_the_published_one(kind: str) -> None:
    layers, labels, masks = published.tiny()
    for index, (class_logits, mask_logits) in enumerate(layers):
        torch.manual_seed(index)
        terms = segmentation_loss(class_logits, mask_logits, labels, masks, CONFIGS[kind])
        found = [float(terms[name]) for name in NAMES]
        assert found == pytest.approx(published.TERMS[kind][index], abs=2e-5)


def test_layers_are_added() -> None:
    layers, labels, masks = published.tiny()
    terms = [segmentation_loss(c, m, labels, masks, CONFIGS["dense"]) for c, m in layers]
    total = sum(float(value) for layer in terms for value in layer.values())
    assert total == pytest.approx(published.ALL_LAYERS, abs=1e-4)


def test_more_objects_than_queries() -> None:
    layers, labels, masks = published.tiny()
    few = [x[:, : published.FEW] for x in layers[0]]
    terms = segmentation_loss(few[0], few[1], labels, masks, CONFIGS["dense"])
    assert [float(terms[name]) for name in NAMES] == pytest.approx(published.FEW_QUERIES, abs=2e-5)


def test_no_classes() -> None:
    """The class-agnostic case: masks are matched and compared by themselves."""
    layers, labels, masks = published.tiny()
    terms = segmentation_loss(None, layers[0][1], labels, masks, CONFIGS["dense"])
    assert set(terms) == {"bce", "dice"}
    assert [float(terms[name]) for name in NAMES[1:]] == pytest.approx(published.NO_CLASSES, abs=2e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_no_object(kind: str) -> None:
    layers, labels, masks = published.tiny()
    terms = segmentation_loss(*layers[0], torch.full_like(labels, -1), masks, CONFIGS[kind])
    assert [float(terms[name]) for name in NAMES] == pytest.approx(published.NO_OBJECT, abs=2e-5)


def criterion(classes: int, points: int) -> Mask2FormerLoss:
    config = Mask2FormerConfig(
        num_labels=classes, class_weight=2.0, mask_weight=5.0, dice_weight=5.0, no_object_weight=0.1
    )
    config.train_num_points = points
    return Mask2FormerLoss(config, {})


def in_query_order(labels: Tensor, masks: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Sort each row's objects by their queries, as the criterion of transformers draws points for them."""
    order = chosen.masked_fill(chosen < 0, 10_000).argsort(1)
    return labels.gather(1, order), torch.stack([row[index] for row, index in zip(masks, order)])


@pytest.mark.parametrize("seed", range(8))
def test_sampled_terms_equal_those_of_transformers(seed: int) -> None:
    """Random sizes, numbers of objects and queries; the same points, since the same generator draws them."""
    torch.manual_seed(seed)
    rows, queries, classes, objects, side = (int(torch.randint(low, low + 4, ())) for low in (1, 6, 2, 1, 6))
    labels = torch.randint(-1, classes, (rows, objects))
    labels[0, 0] = 0
    masks = (torch.rand(rows, objects, 2 * side, 2 * side) > 0.6).float()
    class_logits, mask_logits = torch.randn(rows, queries, classes + 1), 3 * torch.randn(rows, queries, side, side)
    config = replace(PUBLISHED, points=64)
    torch.manual_seed(seed + 100)
    labels, masks = in_query_order(labels, masks, match(class_logits, mask_logits, labels, masks, config))

    torch.manual_seed(seed + 100)
    terms = segmentation_loss(class_logits, mask_logits, labels, masks, config)
    torch.manual_seed(seed + 100)
    wanted = [row >= 0 for row in labels]
    expected = criterion(classes, 64)(
        mask_logits,
        class_logits,
        [mask[there] for mask, there in zip(masks, wanted)],
        [label[there] for label, there in zip(labels, wanted)],
    )
    weights = (("class", "loss_cross_entropy", 2.0), ("bce", "loss_mask", 5.0), ("dice", "loss_dice", 5.0))
    for name, theirs, weight in weights:
        torch.testing.assert_close(terms[name], weight * expected[theirs], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_tokens_weigh_as_in_the_published_language_loss(seed: int) -> None:
    """Answers of several rows with ignored tokens between; transformers shifts by itself, here states come shifted."""
    torch.manual_seed(seed)
    logits, tokens = torch.randn(3, 7, 11), torch.randint(0, 11, (3, 7))
    taught = torch.rand(3, 7) > 0.5
    taught[:, 0] = False
    labels = tokens.masked_fill(~taught, IGNORED_TOKEN)
    rows, columns = (torch.rand(3, 7) > 0.3).logical_or(taught)[:, 1:].nonzero(as_tuple=True)
    found = language_loss(logits[rows, columns], labels[rows, columns + 1], rows, 3, PUBLISHED)
    torch.testing.assert_close(found, ForCausalLMLoss(logits, labels, 11))
