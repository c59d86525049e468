"""Start a network from the weights of a smaller one: more words, more layers, same behaviour at first."""

from __future__ import annotations

import torch
from torch import Tensor

from x2sam_ros.checkpoint.names import EMBEDDING
from x2sam_ros.errors import ConfigError
from x2sam_ros.model.tokenizer import Tokenizer
from x2sam_ros.model.x2sam import X2SAM

_ADDED_TO_STREAM = (
    "self_attn.o_proj.weight",
    "mlp.down_proj.weight",
    "attn.proj.weight",
    "attn.proj.bias",
    "mlp.linear_fc2.weight",
    "mlp.linear_fc2.bias",
    "picture_projector.model.2.weight",
    "picture_projector.model.2.bias",
)
"""What a new part adds to a stream of states with; zero, it changes nothing until it has learnt something."""


@torch.no_grad()
def grow(model: X2SAM, older: X2SAM) -> None:
    """Copy the weights of ``older`` into ``model``, which may have further layers and another vocabulary.

    A new token starts as the mean of the old tokens it was spelt with.

    Raises:
        ConfigError: a tensor that both have differs in size.
    """
    known = older.state_dict()
    for name, tensor in model.state_dict().items():
        if name == EMBEDDING:
            tensor.copy_(_respelt(known[name], older.tokenizer, model.tokenizer, tensor))
        elif name in known:
            if known[name].shape != tensor.shape:
                raise ConfigError(
                    f"{name} is {tuple(known[name].shape)} in the weights to start from, {tuple(tensor.shape)} in the "
                    "network; only layers and words can be added"
                )
            tensor.copy_(known[name])
        elif name.endswith(_ADDED_TO_STREAM):
            tensor.zero_()


def _respelt(table: Tensor, old: Tokenizer, new: Tokenizer, drawn: Tensor) -> Tensor:
    """Return the embeddings of the new vocabulary; rows that spell nothing keep the drawn values."""
    rows = drawn.clone()
    for token in range(len(new)):
        spelt = old.encode_template(new.decode([token]))
        if spelt:
            rows[token] = table[list(spelt)].mean(0)
    return rows
