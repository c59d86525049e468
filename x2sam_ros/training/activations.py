"""How activations are kept: those of large parts are computed again in the backward pass; attention that suits a CPU.

Source: Chen et al., Training deep nets with sublinear memory cost, 2016; torch.utils.checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from x2sam_ros.model.encoder import HieraEncoder
from x2sam_ros.model.x2sam import X2SAM


def checkpoint_activations(model: X2SAM) -> None:
    """Have the large parts of ``model`` keep their inputs alone, in place; gradients stay the same.

    A mask encoder with batch norms is left as it is: run twice, it would count each batch twice.
    """
    for part in _parts(model):
        # an attribute of the instance, so that names in the state and in patterns of rates stay as they are
        part.forward = partial(checkpoint, part.forward, use_reentrant=False)


def _parts(model: X2SAM) -> Iterator[nn.Module]:
    yield from model.language.text.layers
    segmentor = model.segmentor
    yield from (segmentor.pixel_decoder, segmentor.memory_attention, segmentor.memory_encoder, segmentor.decoder)
    encoder = segmentor.encoder
    if isinstance(encoder, HieraEncoder):
        yield from encoder.backbone.blocks
    elif not any(isinstance(module, _BatchNorm) for module in encoder.modules()):
        yield encoder


def attention_for(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which attention is worked out as suits training on ``device``.

    On a CPU the gradient of torch's fused attention takes eight times as long as the attention, of the plain one twice.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
