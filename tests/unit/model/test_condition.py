"""Conditions of several prompts in one batch."""

from __future__ import annotations

import torch

from tests.unit.model.networks import condition
from x2sam_ros.model.condition import PromptCondition


def test_merging_pads_in_front_of_the_background() -> None:
    short, long = condition(1, 3, seed=1), condition(4, 9, seed=2)
    both = PromptCondition.merge([short, long])
    assert both.num_phrases == 4
    assert both.embed_mask.tolist() == [[True, False, False, False, True], [True] * 5]
    assert both.token_mask.sum(1).tolist() == [3, 9]
    assert torch.equal(both.cond_embeds[0, 0], short.cond_embeds[0, 0])
    assert torch.equal(both.cond_embeds[0, -1], short.cond_embeds[0, -1])
    assert not both.cond_embeds[0, 1:-1].any() and not both.token_embeds[0, 3:].any()
    assert torch.equal(both.cond_embeds[1], long.cond_embeds[0])
    assert torch.equal(both.token_embeds[1], long.token_embeds[0])
    assert torch.equal(both.seg_embeds, torch.cat([short.seg_embeds, long.seg_embeds]))


def test_merging_one_changes_nothing() -> None:
    one = condition(2, 5)
    same = PromptCondition.merge([one])
    assert all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(same).values()))


def test_rows_undo_a_merge_of_equal_lengths() -> None:
    parts = [condition(2, 5, seed) for seed in range(3)]
    both = PromptCondition.merge(parts)
    for index, part in enumerate(parts):
        row = both.rows(slice(index, index + 1))
        assert all(torch.equal(a, b) for a, b in zip(vars(part).values(), vars(row).values()))
    twice = both.rows(torch.tensor([2, 2]))
    assert torch.equal(twice.seg_embeds[0], twice.seg_embeds[1])


def test_nbytes_counts_the_five_tensors() -> None:
    one = condition(2, 5)
    width = one.seg_embeds.shape[-1]
    assert one.nbytes == 4 * width * (3 + 5 + 1) + 3 + 5
