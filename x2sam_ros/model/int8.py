"""Linear layers in eight bits, for a CPU: quicker where they are large, and a little off."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_ros.errors import ConfigError

EXACT, INT8 = "exact", "int8"
WEIGHTS = EXACT, INT8
"""How the weights of large linear layers are kept: as they are, or rounded to eight bits."""

LEAST_WEIGHTS = 2**16
"""Weights from which a layer gains on the rows it gets here; smaller ones lose more by rounding their input."""

LARGEST = 127
"""Of a rounded weight."""

_LEAST_SPAN, _LARGEST_SPAN = 1e-30, 1e30
"""Of an input's values; beyond them what is computed from it would leave float32."""

_BLOCK = 2**17
"""Values that are rounded at a time: few enough to stay in the processor's cache in between."""

_log = logging.getLogger(__name__)


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, a scale for each output, and an input rounded anew on each call.

    The input's range, with zero in it, is split into 254 steps (126 where the processor would overflow), the same for
    all rows of a call; so what a row comes to depends a little on the others.

    Args:
        linear: float32, on the CPU; it is left as it is.

    Attributes:
        weight: int8 (out, in).
        scale: float32 (out,), what a step of each row of weights is worth.
        bias: float32 (out,), or None.

    Raises:
        ConfigError: this torch has no int8 arithmetic for this processor.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018, section 2.1.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._steps = input_steps()
        weight = linear.weight.detach()
        scale = weight.abs().amax(1) / LARGEST
        # a row of zeros, or so small that it would divide by zero, stays zero
        scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
        self.register_buffer("weight", (weight / scale[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self._packed, self._zeros = _pack(self.weight), torch.zeros(self.out_features, dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to ``x`` (..., in), of any float type, which the answer (..., out) has too."""
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        wide = x.float()
        low, high = (value.item() for value in wide.aminmax())
        low, high = min(low, 0.0), max(high, 0.0)
        if not high - low < _LARGEST_SPAN:  # also where aminmax found NaN
            return F.linear(wide, self.weight * self.scale[:, None], self.bias).to(x.dtype)
        step = max(high - low, _LEAST_SPAN) / self._steps
        zero = round(-low / step)
        # truncation after half a step is rounding, and stays within uint8: there is a step more than are used
        half, parts = torch.tensor(zero + 0.5), wide.reshape(-1).split(_BLOCK)
        steps = torch.cat([torch.add(half, part, alpha=1 / step).to(torch.uint8) for part in parts]).view(x.shape)
        return _multiply(steps, step, zero, self._packed, self.scale, self._zeros, self.bias).to(x.dtype)

    def __getstate__(self) -> dict[str, object]:
        """Leave out what is in the processor's own order, which can be neither copied nor written."""
        return {**self.__dict__, "_packed": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Take over what another layer is, and order it anew."""
        super().__setstate__(state)
        self._packed = _pack(self.weight)

    def extra_repr(self) -> str:
        """Return the sizes, as ``nn.Linear`` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def quantise(module: nn.Module, least_weights: int = LEAST_WEIGHTS) -> int:
    """Replace the linear layers that are large enough to gain from int8, at any depth; return how many there were.

    Args:
        module: float32, on the CPU; changed in place.
        least_weights: inputs times outputs from which a layer is replaced.

    Raises:
        ConfigError: a layer is not float32 on the CPU, or this torch has no int8 arithmetic; nothing is replaced then.
    """
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent._modules.items()
        if type(child) is nn.Linear and child.in_features * child.out_features >= least_weights
    ]
    for _, _, linear in found:
        check_weights(INT8, linear.weight.device, linear.weight.dtype)
    fresh: dict[int, Int8Linear] = {}  # a layer that is used in several places stays one
    for parent, name, linear in found:
        if id(linear) not in fresh:
            fresh[id(linear)] = Int8Linear(linear)
        parent._modules[name] = fresh[id(linear)]
    if not found:
        _log.warning("int8 is asked for, but no layer is large enough to gain from it; the model runs exact")
    return len(fresh)


def int8_layers(module: nn.Module) -> Iterator[Int8Linear]:
    """Yield the layers of a module that ``quantise`` put there."""
    return (layer for layer in module.modules() if isinstance(layer, Int8Linear))


def weights_of(module: nn.Module) -> str:
    """Tell how a module's weights are kept, as in ``WEIGHTS``; exact where ``quantise`` found nothing to replace."""
    return INT8 if any(int8_layers(module)) else EXACT


def check_weights(weights: str, device: torch.device, dtype: torch.dtype) -> None:
    """Check that weights can be kept so on a device.

    Args:
        weights: one of ``WEIGHTS``.
        device, dtype: where the model is to run, and as what.

    Raises:
        ConfigError: there is no such way, or it is not for this device, type or torch.
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"weights is {str(weights)!r:.80}, expected one of {', '.join(WEIGHTS)}")
    if weights == EXACT:
        return
    if device.type != "cpu":
        raise ConfigError(f"weights int8 are for a CPU, but device is {device}; set weights to exact, or device to cpu")
    if dtype != torch.float32:
        kind = str(dtype).removeprefix("torch.")
        raise ConfigError(
            f"weights int8 are for float32, but dtype is {kind}; set weights to exact, or dtype to float32"
        )
    input_steps()


@cache
def input_steps() -> int:
    """Return how many steps an input may be rounded to here, found by a product that is too large for some processors.

    Without VNNI instructions two products are added up in 16 bits, and full range overflows them.

    Raises:
        ConfigError: this torch has no int8 arithmetic for this processor.
    """
    inputs = 64
    weight = torch.full((16, inputs), LARGEST, dtype=torch.int8)
    ones, zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int32)
    for largest in (255, 127):
        x = torch.full((16, inputs), largest, dtype=torch.uint8)
        try:
            found = _multiply(x, 1.0, 0, _pack(weight), ones, zeros, None)
        except (AttributeError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(
                f"torch {torch.__version__} has no int8 arithmetic for this processor ({reason:.120}); "
                "set weights to exact"
            ) from error
        if bool((found == largest * LARGEST * inputs).all()):
            return largest - 1
    raise ConfigError(f"torch {torch.__version__} multiplies int8 wrongly on this processor; set weights to exact")


def _pack(weight: Tensor) -> Tensor:
    """Return int8 weights (out, in) in the order that the processor reads them in."""
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight, None)
    return packed


def _multiply(
    x: Tensor, step: float, zero: int, packed: Tensor, scale: Tensor, zeros: Tensor, bias: Tensor | None
) -> Tensor:
    """Return the float32 product of uint8 inputs and packed weights."""
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        x, step, zero, packed, scale, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
    )
    return product
