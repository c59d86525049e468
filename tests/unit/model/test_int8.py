"""Linear layers in int8: as close to the float ones as rounding allows, replaced where they are large, or refused."""

from __future__ import annotations

import copy
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tests.unit.model.networks import condition, nano, new_nano
from x2sam_ros.errors import ConfigError
from x2sam_ros.model import int8
from x2sam_ros.model.int8 import (
    EXACT,
    INT8,
    LEAST_WEIGHTS,
    Int8Linear,
    check_weights,
    input_steps,
    int8_layers,
    quantise,
    weights_of,
)

CPU = torch.device("cpu")


def bound(linear: nn.Linear, x: Tensor) -> Tensor:
    """Return how far rounding may take each answer: half a step for each weight and each input, and float32's own."""
    weight, wide = linear.weight.double(), x.double()
    weight_step = weight.abs().amax(1) / 127
    input_step = (wide.max().clamp_min(0) - wide.min().clamp_max(0)) / input_steps()
    of_weights = wide.abs().sum(-1, keepdim=True) * weight_step / 2
    of_inputs = weight.abs().sum(1) * input_step / 2
    of_both = linear.in_features * weight_step * input_step / 4
    exact = wide.abs() @ weight.abs().T
    return of_weights + of_inputs + of_both + 1e-5 * exact + 1e-6


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [
        ((7,), 3),
        ((1, 1), 1),
        ((5, 64), 64),
        ((2, 3, 33), 17),
        ((2, 50, 7, 256), 96),
        ((3000, 100), 40),
        ((1, 700), 513),
    ],
)
def test_answers_are_within_rounding(shape: tuple[int, ...], outputs: int, has_bias: bool) -> None:
    torch.manual_seed(sum(shape))
    linear = nn.Linear(shape[-1], outputs, bias=has_bias)
    rounded = Int8Linear(linear)
    for x in (torch.randn(shape), torch.rand(shape) + 5, -torch.rand(shape), torch.randn(shape).exp2() ** 5):
        found, exact = rounded(x), linear(x)
        assert found.shape == exact.shape and found.dtype == torch.float32
        assert bool(((found - exact).abs() <= bound(linear, x)).all())


def test_random_input_loses_about_a_hundredth() -> None:
    torch.manual_seed(1)
    linear, x = nn.Linear(576, 2304), torch.randn(300, 576)
    exact = linear(x)
    assert (Int8Linear(linear)(x) - exact).std() < 0.03 * exact.std()


@pytest.mark.parametrize("value", [0.0, 1e-42, -1e-42, 1e-25, -3.0, 1e20, 1e35, -1e35])
def test_the_same_value_everywhere(value: float) -> None:
    linear = nn.Linear(40, 24)
    x = torch.full((3, 40), value)
    found = Int8Linear(linear)(x)
    assert bool(found.isfinite().all()) and bool(((found - linear(x)).abs() <= bound(linear, x)).all())


def test_rows_of_zeros_and_of_extremes() -> None:
    linear = nn.Linear(32, 5)
    with torch.no_grad():
        linear.weight[0], linear.weight[1], linear.weight[2], linear.weight[3] = 0.0, 1e-42, 1e30, -1e-20
        linear.weight[4, 1:] = 0.0
    x = torch.randn(9, 32)
    x[4] = 0.0
    rounded = Int8Linear(linear)
    found = rounded(x)
    assert torch.equal(found[:, 0], linear.bias[0].expand(9)) and torch.equal(rounded.weight[0], torch.zeros(32).char())
    assert torch.allclose(found[4], linear.bias) and bool(found.isfinite().all())
    assert bool(((found - linear(x)).abs() <= bound(linear, x))[:, [0, 1, 3, 4]].all())
    assert rounded.weight.abs().max() <= 127


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_what_has_no_steps_is_computed_in_float(bad: float) -> None:
    linear, x = nn.Linear(16, 4), torch.randn(3, 16)
    x[1, 5] = bad
    found, exact = Int8Linear(linear)(x), linear(x)
    assert torch.equal(found.isfinite(), exact.isfinite())
    assert torch.allclose(found[[0, 2]], exact[[0, 2]], atol=0.05)


def test_other_types_strides_and_no_rows() -> None:
    linear = nn.Linear(20, 8)
    rounded = Int8Linear(linear)
    assert rounded(torch.empty(0, 20)).shape == (0, 8) and rounded(torch.empty(2, 0, 3, 20)).shape == (2, 0, 3, 8)
    x = torch.randn(20, 6, 3)
    assert torch.equal(rounded(x.permute(2, 1, 0)), rounded(x.permute(2, 1, 0).contiguous()))
    for dtype in (torch.bfloat16, torch.float16):
        found = rounded(x[..., 0].T.contiguous().to(dtype))
        assert found.dtype == dtype and torch.allclose(found.float(), linear(x[..., 0].T), atol=0.1)
    with pytest.raises(RuntimeError):
        rounded(torch.randn(3, 19))


def test_threads_share_a_layer() -> None:
    rounded = Int8Linear(nn.Linear(96, 64))
    inputs = [torch.randn(5 + index, 96) for index in range(40)]
    alone = [rounded(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(a, b) for a, b in zip(alone, pool.map(rounded, inputs)))


def test_its_state_is_all_of_it_and_a_copy_is_equal() -> None:
    linear = nn.Linear(12, 6)
    rounded = Int8Linear(linear)
    state = rounded.state_dict()
    assert {name: value.dtype for name, value in state.items()} == {
        "weight": torch.int8, "scale": torch.float32, "bias": torch.float32
    }  # fmt: skip
    assert torch.allclose(state["weight"] * state["scale"][:, None], linear.weight, atol=float(state["scale"].max()))
    x = torch.randn(4, 12)
    assert torch.equal(copy.deepcopy(rounded)(x), rounded(x)) and torch.equal(
        pickle.loads(pickle.dumps(rounded))(x), rounded(x)
    )
    assert "in_features=12" in repr(rounded)
    assert linear.weight.dtype == torch.float32 and rounded.bias.data_ptr() != linear.bias.data_ptr()


def test_large_layers_are_replaced_at_any_depth() -> None:
    class Own(nn.Linear):
        """A layer that computes something of its own must stay."""

    shared = nn.Linear(256, 256)
    network = nn.ModuleDict(
        {
            "large": nn.Linear(64, LEAST_WEIGHTS // 64),
            "small": nn.Linear(64, LEAST_WEIGHTS // 64 - 1),
            "deep": nn.Sequential(nn.ReLU(), nn.Sequential(shared), shared),
            "own": Own(512, 512),
            "convolution": nn.Conv2d(256, 256, 3),
        }
    )
    assert weights_of(network) == EXACT
    assert quantise(network) == 2 and weights_of(network) == INT8 and len(list(int8_layers(network))) == 2
    assert isinstance(network["large"], Int8Linear) and type(network["small"]) is nn.Linear
    assert network["deep"][2] is network["deep"][1][0] and type(network["own"]) is Own
    assert quantise(network) == 0


def test_nano_has_nothing_to_gain(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert quantise(copy.deepcopy(nano().segmentor)) == 0
    assert "no layer is large enough" in caplog.text


@torch.inference_mode()
def test_a_segmentor_stays_close() -> None:
    exact, rounded = nano().segmentor, new_nano().segmentor
    assert quantise(rounded, 1) > 50
    pixels = torch.randn(1, 3, exact.config.image_size, exact.config.image_size)
    outputs = []
    for network in (exact, rounded):
        seen = network.decode_pixels(network.encode_image(pixels), first=True)
        output = network.step(seen, condition(2, 4))
        assert all(x.isfinite().all() for x in network.write_memory(seen, output).embeds)
        outputs.append(output.mask_logits)
    assert not torch.equal(*outputs)
    assert torch.corrcoef(torch.stack([x.flatten() for x in outputs]))[0, 1] > 0.95


@pytest.mark.parametrize(
    ("weights", "device", "dtype", "message"),
    [
        ("int4", CPU, torch.float32, "weights is 'int4', expected one of exact, int8"),
        ("", CPU, torch.float32, "weights is ''"),
        (INT8, torch.device("cuda:0"), torch.float32, "are for a CPU, but device is cuda:0"),
        (INT8, CPU, torch.bfloat16, "are for float32, but dtype is bfloat16"),
    ],
)
def test_what_int8_is_not_for(weights: str, device: torch.device, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_weights(weights, device, dtype)
    check_weights(EXACT, device, dtype)


def test_other_types_and_devices_are_refused_whole() -> None:
    network = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300, dtype=torch.bfloat16))
    with pytest.raises(ConfigError, match="bfloat16"):
        quantise(network)
    assert weights_of(network) == EXACT
    with pytest.raises(ConfigError, match="device is meta"):
        quantise(nn.Sequential(nn.Linear(300, 300, device="meta")))


def test_a_torch_without_int8_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert input_steps() in (254, 126)
    without = SimpleNamespace(ops=SimpleNamespace(onednn=SimpleNamespace()))
    for name in ("full", "ones", "zeros", "int8", "uint8", "int32", "__version__"):
        setattr(without, name, getattr(torch, name))
    monkeypatch.setattr(int8, "torch", without)
    input_steps.cache_clear()
    with pytest.raises(ConfigError, match="has no int8 arithmetic for this processor .*set weights to exact"):
        input_steps()


@pytest.mark.parametrize(("limit", "steps"), [(16 * 255 * 127 * 127, 254), (64 * 127 * 127, 126)])
def test_a_processor_that_overflows_gets_fewer_steps(monkeypatch: pytest.MonkeyPatch, limit: int, steps: int) -> None:
    multiply = int8._multiply
    monkeypatch.setattr(int8, "_multiply", lambda *given: multiply(*given).clamp_max(limit))
    input_steps.cache_clear()
    assert input_steps() == steps
    linear, x = nn.Linear(30, 10), torch.randn(8, 30)
    assert bool(((Int8Linear(linear)(x) - linear(x)).abs() <= bound(linear, x)).all())


def test_a_wrong_product_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = int8._multiply
    monkeypatch.setattr(int8, "_multiply", lambda *given: multiply(*given) + 1)
    input_steps.cache_clear()
    with pytest.raises(ConfigError, match="multiplies int8 wrongly"):
        Int8Linear(nn.Linear(3, 3))


@pytest.fixture(autouse=True)
def probed_anew() -> object:
    yield
    input_steps.cache_clear()
