from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import pytest
import torch

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.training.feed import SourceBatch
from x2sam_ros.training.finetune import FinetuneConfig, finetune_recipe
from x2sam_ros.training.joint import prepare
from x2sam_ros.training.rehearsal import (
    AS_BEFORE,
    REHEARSED,
    Interleaved,
    KeepingLoss,
    Stream,
    earlier_self,
    generated_scenes,
)


@dataclass
class Counting:
    """Sources that count; an item is its number."""

    name: str
    stop: int = 1000
    position: int = 0

    def __iter__(self) -> Iterator[SourceBatch]:
        while self.position < self.stop:
            self.position += 1
            yield SourceBatch(self.name, None, (str(self.position),))  # type: ignore[arg-type]

    def parts_of(self, source: str) -> int:
        return 1

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.position = state["position"]

    def describe(self) -> dict[str, Any]:
        return {"stop": self.stop}


def three(**changes: int) -> Interleaved:
    shares = (("new", 0.5, ""), ("scenes", 0.3, REHEARSED), ("photos", 0.2, AS_BEFORE))
    return Interleaved([Stream(Counting(name, **changes), share, mark) for name, share, mark in shares])


def test_streams_come_by_their_shares_and_evenly():
    drawn = [(item.source, int(item.names[0])) for item in islice(three(), 100)]
    assert Counter(source for source, _ in drawn) == {"new": 50, "rehearsed: scenes": 30, "as before: photos": 20}
    for start in range(0, 100, 10):
        assert Counter(source for source, _ in drawn[start : start + 10])["new"] == 5
    for source in ("new", "rehearsed: scenes", "as before: photos"):
        numbers = [number for name, number in drawn if name == source]
        assert numbers == list(range(1, len(numbers) + 1))
    assert sum(1 for _ in three(stop=10)) == 20  # over where the first of them ends


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_streams_go_on_where_they_were_left(stop):
    def names(items: Iterator[SourceBatch]) -> list[tuple[str, tuple[str, ...]]]:
        return [(item.source, item.names) for item in items]

    whole, first, second = names(islice(three(), 20)), three(), three()
    begun = names(islice(first, stop))
    second.restore(first.state())
    assert begun + names(islice(second, 20 - stop)) == whole
    assert second.describe() == first.describe()


def test_each_process_is_given_scenes_of_its_own():
    model = load_model("nano")
    names = [next(iter(generated_scenes(model, 0, 2, 0, rank, world=2))).names for rank in (0, 1)]
    assert not {*names[0]} & {*names[1]}


def test_the_earlier_self_shares_what_rests_and_stays_what_it_was():
    model = load_model("nano")
    recipe = finetune_recipe(model, FinetuneConfig())
    before = earlier_self(model, recipe)
    ours, theirs = dict(model.named_parameters()), dict(before.named_parameters())
    assert list(ours) == list(theirs)
    shared = {name for name in ours if ours[name] is theirs[name]}
    assert shared == {name for name in ours if recipe.factor(name) == 0} and 0 < len(shared) < len(ours)
    kept = {name: parameter.clone() for name, parameter in theirs.items()}
    loss = KeepingLoss(model, recipe)
    prepare(loss, recipe)
    with torch.no_grad():
        for parameter in loss.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    assert all(torch.equal(kept[name], parameter) for name, parameter in before.named_parameters())
    assert not any("lora" in name for name in theirs)


def test_a_network_that_answers_as_before_has_nothing_to_learn_from_what_it_is_to_keep():
    model = load_model("nano")
    recipe = replace(finetune_recipe(model, FinetuneConfig(lora=False)), bf16=False)
    loss = KeepingLoss(model, recipe)
    prepare(loss, recipe)
    learnt = next(iter(generated_scenes(model, 0, 2, 0)))
    torch.manual_seed(0)
    same = loss.eval()(replace(learnt, source=f"{AS_BEFORE}image"))
    assert float(same["condition"]) < 1e-6 and float(same["features"]) < 1e-6
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("segmentor.decoder") or "_proj" in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    other = loss(replace(learnt, source=f"{AS_BEFORE}image"))
    assert float(other["condition"]) > 1e-3 and float(other["segmentation"]) > float(same["segmentation"])
    assert {"text", "segmentation"} <= set(loss(learnt)) and "condition" not in loss(learnt)
