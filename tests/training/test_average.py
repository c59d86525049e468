"""The average of the weights that learn: torch's own, taken back and forth, and kept to the bit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from x2sam_ros.training.average import WeightAverage


def drifted(layer: nn.Module, average: WeightAverage, steps: int) -> None:
    """Let the weights walk, and count each place."""
    for _ in range(steps):
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update()


def test_the_decay_rises_to_its_value() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = WeightAverage(layer.parameters(), 0.5)
    expected = layer.weight.item()
    for step in range(20):
        drifted(layer, average, 1)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * layer.weight.item()
    with average.in_place():
        torch.testing.assert_close(layer.weight.item(), expected)


def test_weights_come_back_to_the_bit_and_what_rests_is_left_alone() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    average = WeightAverage(layer.parameters(), 0.9)
    drifted(layer, average, 3)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    with average.in_place():
        assert not torch.equal(layer.weight, weight) and torch.equal(layer.bias, bias)
    assert torch.equal(layer.weight, weight)


def test_what_is_loaded_goes_on_to_the_bit(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    average = WeightAverage(layer.parameters(), 0.9)
    drifted(layer, average, 3)
    average.save(tmp_path / "average.pt")
    other = WeightAverage(layer.parameters(), 0.9)
    other.load(tmp_path / "average.pt")
    for one in (average, other):
        torch.manual_seed(0)
        one.update()
    with average.in_place():
        expected = layer.weight.detach().clone()
    with other.in_place():
        assert torch.equal(layer.weight, expected)


def test_none_costs_nothing(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    average = WeightAverage(layer.parameters(), 0.0)
    drifted(layer, average, 2)
    weight = layer.weight.detach().clone()
    with average.in_place():
        assert torch.equal(layer.weight, weight)
    average.save(tmp_path / "average.pt")
    average.load(tmp_path / "average.pt")
    assert not list(tmp_path.iterdir())
