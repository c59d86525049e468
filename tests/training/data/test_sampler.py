"""In which order samples come: one source a batch, like lengths, the same for everyone who counts along."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from x2sam_ros.errors import ConfigError
from x2sam_ros.training.data.sampler import JointSampler, Share, balanced_weights

LENGTHS = np.random.default_rng(3).integers(10, 500, 37).tolist()
SHARES = (Share(LENGTHS, batch=4), Share([5, 3, 9, 3, 7], batch=1, parts=2), Share([8] * 6, batch=2, weight=2.5))


def numbers(sampler, epoch=0):
    return [(batch.source, [place.sample for place in batch.places]) for batch in sampler.epoch(epoch)]


def test_every_sample_comes_as_often_as_its_source_says():
    found = Counter((source, sample) for source, samples in numbers(JointSampler(SHARES)) for sample in samples)
    first = [found[0, sample] for sample in range(37)]
    assert min(first) == 1 and sum(first) == 40, "three are filled up"
    assert sorted(found[1, sample] for sample in range(5)) == [1, 1, 1, 1, 2]
    assert sum(found[2, sample] for sample in range(6)) == 16 and min(found[2, sample] for sample in range(6)) >= 2


def test_copies_of_a_sample_are_told_apart():
    places = [(batch.source, place) for batch in JointSampler(SHARES).epoch(0) for place in batch.places]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("share", [Share([8] * 2, batch=8, weight=2.5), Share([3, 5, 5], batch=8, weight=0.7)])
def test_what_fills_up_a_batch_is_never_an_exact_repeat(share):
    (batch,) = JointSampler((share,)).epoch(0)
    assert len(batch.places) == len({*batch.places}) == 8


def test_batches_of_a_step_follow_one_another_and_have_like_lengths():
    batches = numbers(JointSampler(SHARES))
    order = [source for source, _ in batches]
    seconds = [index for index, source in enumerate(order) if source == 1]
    assert seconds[1::2] == [index + 1 for index in seconds[::2]]
    spread = [np.ptp([LENGTHS[sample] for sample in samples]) for source, samples in batches if source == 0]
    assert np.mean(spread) < np.ptp(LENGTHS) / 5
    assert order != sorted(order), "sources are mixed"


def test_an_epoch_depends_on_seed_and_number_alone():
    one, other = JointSampler(SHARES, seed=4), JointSampler(SHARES, seed=4)
    other.epoch(7)
    assert numbers(one, 2) == numbers(other, 2)
    assert numbers(one, 2) != numbers(one, 3) and numbers(one, 2) != numbers(JointSampler(SHARES, seed=5), 2)
    halves = [
        {numbers(JointSampler((Share([1] * 8, weight=0.5),)), epoch)[k][1][0] for k in range(4)} for epoch in (0, 1, 2)
    ]
    assert all(len(half) == 4 for half in halves) and len(set().union(*halves)) > 4


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_samples_and_agree_on_the_source(world):
    samplers = [JointSampler(SHARES, seed=1, rank=rank, world=world) for rank in range(world)]
    plans = [numbers(sampler) for sampler in samplers]
    assert {len(plan) for plan in plans} == {samplers[0].batches_per_epoch()}
    for batches in zip(*plans):
        assert len({source for source, _ in batches}) == 1
        assert {len(samples) for _, samples in batches} == {SHARES[batches[0][0]].batch}
    seen = {(source, sample) for plan in plans for source, samples in plan for sample in samples}
    assert len(seen) == 37 + 5 + 6


def test_small_sources_come_more_often():
    assert balanced_weights([900, 100], 0.1) == [1.0, 1.0]
    weights = balanced_weights([975, 25], 0.1)
    assert weights[0] == 1.0 and weights[1] == pytest.approx(2.0)


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="needs samples"):
        Share([])
    with pytest.raises(ConfigError, match="a process below 2"):
        JointSampler(SHARES, rank=2, world=2)
