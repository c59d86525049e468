"""Checkpoint folders of this project: ``config.json``, ``model.safetensors``, ``tokenizer.json``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from x2sam_ros.checkpoint.convert import check_state, read_tensors
from x2sam_ros.errors import CheckpointError, ConfigError
from x2sam_ros.model.config import PRESETS, X2SAMConfig, from_dict, to_dict
from x2sam_ros.model.tokenizer import Tokenizer, load_tokenizer
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"
_BUILT_IN = Path(__file__).parent
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(preset_or_folder: str | Path = "nano", device: str = "cpu", dtype: str = "float32") -> X2SAM:
    """Load a checkpoint, ready for inference.

    Args:
        preset_or_folder: name of a preset whose weights ship with the package, or a checkpoint folder.
        device: where to put it, for example ``cpu`` or ``cuda:0``.
        dtype: type of the weights: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        ConfigError: preset, device or dtype is unknown.
        CheckpointError: files are missing, corrupt, or of another size.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; there are: {', '.join(_DTYPES)}")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}; use cpu, cuda or cuda:N") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} asks for CUDA, but this torch finds no GPU; use cpu")
    folder = _find(preset_or_folder)
    tokenizer = load_tokenizer(folder)
    model = build_model(read_config(folder), tokenizer)
    load_weights(model, read_tensors(folder / WEIGHTS_FILE), str(folder / WEIGHTS_FILE))
    for parameter in model.parameters():
        # Buffers stay float32: rotary frequencies lose their meaning in half precision.
        parameter.data = parameter.data.to(_DTYPES[dtype])
    return model.to(target).eval().requires_grad_(False)


def build_model(config: X2SAMConfig, tokenizer: Tokenizer) -> X2SAM:
    """Build a network with random weights; its mask encoder comes from the plugin that offers it.

    Raises:
        PluginError: no plugin offers a mask encoder of the configured name.
    """
    encoder = installed_plugins().mask_encoder(config.segmentor.mask_encoder)(config.segmentor)
    return X2SAM(config, tokenizer, encoder)


def load_weights(model: X2SAM, tensors: dict[str, Tensor], what: str) -> None:
    """Copy tensors into a model, in the model's type.

    Raises:
        CheckpointError: names or sizes differ; the first ten are named.
    """
    check_state(model.state_dict(), tensors, what)
    model.load_state_dict(tensors)


def save_model(model: X2SAM, folder: Path) -> None:
    """Write a model and its tokenizer as a checkpoint folder, which is made where it does not exist."""
    save_checkpoint(model.config, model.state_dict(), model.tokenizer, folder)


def save_checkpoint(config: X2SAMConfig, state: dict[str, Tensor], tokenizer: Tokenizer, folder: Path) -> None:
    """Write configuration, tensors and tokenizer as a checkpoint folder, which is made where it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")
    tokenizer.save(folder / TOKENIZER_FILE)


def read_config(folder: Path) -> X2SAMConfig:
    """Read a checkpoint folder's configuration.

    Raises:
        CheckpointError: the file is missing, no JSON, or describes no network.
    """
    path = folder / CONFIG_FILE
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; fetch or convert the checkpoint again") from error


def _find(preset_or_folder: str | Path) -> Path:
    """Return the checkpoint folder that a preset's name or a path means."""
    given = Path(preset_or_folder)
    if given.is_dir():
        return given
    if str(preset_or_folder) in PRESETS:
        built_in = _BUILT_IN / str(preset_or_folder)
        if built_in.is_dir():
            return built_in
        raise CheckpointError(
            f"preset {preset_or_folder!r} ships without weights; convert its checkpoint and pass that folder instead"
        )
    if given.is_absolute() or len(given.parts) > 1:
        raise CheckpointError(
            f"no checkpoint folder at {given}; expected {CONFIG_FILE}, {WEIGHTS_FILE}, {TOKENIZER_FILE}"
        )
    raise ConfigError(
        f"unknown preset {str(preset_or_folder)!r}; there are: {', '.join(PRESETS)}, or a checkpoint folder"
    )
