"""Checkpoint folders of this project: ``config.json``, ``model.safetensors``, ``tokenizer.json``."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from x2sam_ros.checkpoint.convert import check_state, read_tensors
from x2sam_ros.errors import CheckpointError, ConfigError, X2SamError
from x2sam_ros.model.config import PRESETS, X2SAMConfig, from_dict, to_dict
from x2sam_ros.model.tokenizer import Tokenizer, load_tokenizer
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins

CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE = "config.json", "model.safetensors", "tokenizer.json"
CHECKSUM = "crc32"
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
    target = _read_device(device)
    folder = _find(preset_or_folder)
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    tensors = read_weights(folder / WEIGHTS_FILE)
    check_state(_expected_state(config, tokenizer, folder), tensors, str(folder / WEIGHTS_FILE))
    model = build_model(config, tokenizer)
    model.load_state_dict(tensors)
    cast_weights(model, _DTYPES[dtype])
    return model.to(target).eval().requires_grad_(False)


def cast_weights(model: X2SAM, dtype: torch.dtype) -> None:
    """Cast the weights, not the buffers: rotary frequencies lose their meaning in half precision."""
    for module in model.modules():
        if not isinstance(module, torch.nn.BatchNorm2d):  # its weights must have the type of its buffers
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def _read_device(device: str) -> torch.device:
    """Read a device's name; ConfigError where there is no such device here."""
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}; use cpu, cuda or cuda:N") from error
    if target.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not supported; use cpu, cuda or cuda:N")
    found = torch.cuda.device_count()
    if target.type == "cuda" and (target.index or 0) >= found:
        raise ConfigError(f"device {device!r} asks for CUDA, but this torch finds {found or 'no'} GPU; use cpu")
    return target


def build_model(config: X2SAMConfig, tokenizer: Tokenizer) -> X2SAM:
    """Build a network with random weights; its mask encoder comes from the plugin that offers it.

    Raises:
        PluginError: no plugin offers a mask encoder of the configured name.
    """
    encoder = installed_plugins().mask_encoder(config.segmentor.mask_encoder)(config.segmentor)
    return X2SAM(config, tokenizer, encoder)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint folder and compare them with the checksum they were saved with.

    Raises:
        CheckpointError: the file is missing or corrupt.
    """
    tensors = read_tensors(path)
    with safe_open(path, framework="pt") as file:
        saved = (file.metadata() or {}).get(CHECKSUM)
    if saved not in (None, _checksum(tensors)):
        raise CheckpointError(f"{path} is corrupt: its values do not match their checksum; fetch the file again")
    return tensors


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    checksum = 0
    for name in sorted(tensors):
        values = tensors[name].reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(values.data, zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"


def _expected_state(config: X2SAMConfig, tokenizer: Tokenizer, folder: Path) -> dict[str, Tensor]:
    """Return names and sizes of a configuration's tensors, without the memory that they would take."""
    try:
        with torch.device("meta"):
            return build_model(config, tokenizer).state_dict()
    except X2SamError:
        raise
    except Exception as error:  # sizes that contradict each other fail wherever a module first meets them
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"{folder / CONFIG_FILE} describes no network that can be built: {reason}; fetch the file again"
        ) from error


def save_model(model: X2SAM, folder: Path) -> None:
    """Write a model and its tokenizer as a checkpoint folder, which is made where it does not exist."""
    save_checkpoint(model.config, model.state_dict(), model.tokenizer, folder)


def save_checkpoint(config: X2SAMConfig, state: dict[str, Tensor], tokenizer: Tokenizer, folder: Path) -> None:
    """Write configuration, tensors and tokenizer as a checkpoint folder, which is made where it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={CHECKSUM: _checksum(tensors)})
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
