"""Checkpoint folders of this project: ``config.json``, ``model.safetensors``, ``tokenizer.json``, ``manifest.json``."""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from x2sam_ros.checkpoint.hub import find_path, is_hub_id
from x2sam_ros.checkpoint.manifest import MANIFEST_FILE, check_manifest, noted_sha256, sha256, write_manifest
from x2sam_ros.checkpoint.settings import CONFIG_FILE
from x2sam_ros.checkpoint.source import TensorInfo, TensorSource, holds_tensors, shorten
from x2sam_ros.checkpoint.writer import pieces, write_safetensors
from x2sam_ros.config import NodeConfig
from x2sam_ros.errors import CheckpointError, ConfigError, X2SamError
from x2sam_ros.model.config import PRESETS, X2SAMConfig, from_dict, to_dict
from x2sam_ros.model.int8 import EXACT, INT8, check_weights, quantise, weights_of
from x2sam_ros.model.tokenizer import Tokenizer, load_tokenizer
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import installed_plugins

WEIGHTS_FILE, TOKENIZER_FILE = "model.safetensors", "tokenizer.json"
FOLDER_FILES = (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE)
"""What a checkpoint folder must hold; the manifest is welcome."""

CHECKSUM = "crc32"
_BUILT_IN = Path(__file__).parent
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    preset_or_folder: str | Path = NodeConfig.preset,
    device: str = NodeConfig.device,
    dtype: str | torch.dtype = NodeConfig.dtype,
    weights: str = NodeConfig.weights,
    verify: bool = False,
) -> X2SAM:
    """Load a checkpoint, ready for inference.

    The weights are mapped from the file: those that keep their type and stay on the host take no memory of their own.

    Args:
        preset_or_folder: name of a preset whose weights ship with the package, a checkpoint folder, or the hub id
            ``owner/name`` of one.
        device: where to put it, for example ``cpu`` or ``cuda:0``.
        dtype: type of the weights: ``float32``, ``bfloat16`` or ``float16``.
        weights: ``exact``, or ``int8`` for the large layers of the segmentor: see ``model.int8.quantise``.
        verify: whether to compare the files' SHA-256 with the manifest; their sizes always are.

    Raises:
        ConfigError: preset, device, dtype or weights is unknown, or int8 is not for them.
        CheckpointError: files are missing, corrupt, or of another size.
    """
    wanted, target = read_dtype(dtype), read_device(device)
    check_weights(weights, target, wanted)
    folder = _find(preset_or_folder)
    check_manifest(folder, sums=verify)
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    source = TensorSource([folder / WEIGHTS_FILE])
    _check_values(folder / WEIGHTS_FILE, source)
    model = build_skeleton(config, tokenizer, str(folder / CONFIG_FILE))
    types = weight_infos(model, wanted)
    _check_state(types, source.infos, str(folder / WEIGHTS_FILE))
    kept = {name for name, info in types.items() if target.type == "cpu" and source.infos[name] == info}
    state = {name: source.read(name, name in kept).to(target, info.dtype) for name, info in types.items()}
    model.load_state_dict(state, assign=True)
    model.to(target).language.choose_attention()
    order_weights(model)
    if weights == INT8:
        quantise(model.segmentor)
    model.identity = noted_sha256(folder, WEIGHTS_FILE)
    return model.eval().requires_grad_(False)


def config_of(preset_or_folder: str | Path) -> X2SAMConfig:
    """Return the configuration of a checkpoint whose weights need not be read.

    Raises:
        ConfigError, CheckpointError: as ``load_model``.
    """
    return read_config(_find(preset_or_folder))


def weights_sha256(preset_or_folder: str | Path) -> str:
    """Return the SHA-256 of a checkpoint's weights: as its manifest notes it, else of the file, which is then read.

    Raises:
        ConfigError: the preset is unknown.
        CheckpointError: there is no such folder, or no weights in it.
    """
    folder = _find(preset_or_folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}; expected {', '.join(FOLDER_FILES)}")
    return noted_sha256(folder, WEIGHTS_FILE) or sha256(folder / WEIGHTS_FILE)


def order_weights(model: nn.Module) -> None:
    """Store convolutions channels last where a module asks for it with ``channels_last = True``.

    They would be brought into that order on every call; the memory encoder's take longer to copy than to apply.
    """
    for module in model.modules():
        if getattr(module, "channels_last", False):
            for weight in module.parameters():
                if weight.ndim == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def read_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Return the type of a name, or the type itself; ConfigError where weights cannot have it."""
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in _DTYPES.values():
        raise ConfigError(f"unknown dtype {str(dtype)!r}; there are: {', '.join(_DTYPES)}")
    return found


def ships_with_weights(name: str) -> bool:
    """Tell whether the package has the weights of a preset."""
    return name in PRESETS and (_BUILT_IN / name).is_dir()


def _castable(module: nn.Module) -> bool:
    """Tell whether a module's parameters may be cast; those of a batch norm must have the type of its buffers."""
    return not isinstance(module, nn.BatchNorm2d)


def cast_weights(model: X2SAM, dtype: torch.dtype) -> None:
    """Cast the weights, not the buffers: rotary frequencies lose their meaning in half precision."""
    for module in filter(_castable, model.modules()):
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)


def weight_infos(model: X2SAM, dtype: torch.dtype) -> dict[str, TensorInfo]:
    """Return sizes and types of a model's state once its weights are cast as by ``cast_weights``."""
    cast = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if _castable(module)
        for name, _ in module.named_parameters(recurse=False)
    }
    infos = {}
    for name, tensor in model.state_dict().items():
        kept = torch.float32 if tensor.is_floating_point() else tensor.dtype
        infos[name] = TensorInfo(tuple(tensor.shape), dtype if name in cast else kept)
    return infos


def read_device(device: str) -> torch.device:
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


def build_skeleton(config: X2SAMConfig, tokenizer: Tokenizer, where: str) -> X2SAM:
    """Build a network whose weights have a size but no values, and take no memory; its buffers are real.

    Args:
        config: the network.
        tokenizer: its tokenizer.
        where: what the configuration was read from, for the error.

    Raises:
        CheckpointError: the configuration describes no network.
    """
    try:
        with _weightless():
            return build_model(config, tokenizer)
    except X2SamError:
        raise
    except Exception as error:  # sizes that contradict each other fail wherever a module first meets them
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"{where} describes no network that can be built: {reason}; fetch the file again"
        ) from error


@contextmanager
def _weightless() -> Iterator[None]:
    """Let the modules this thread builds drop the values of their parameters."""
    builder = threading.get_ident()

    def drop(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter | None:
        if threading.get_ident() != builder:
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    # torch's annotation forgets that a hook may give another parameter
    handle = register_module_parameter_registration_hook(drop)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def _check_state(expected: Mapping[str, TensorInfo], found: Mapping[str, TensorInfo], what: str) -> None:
    problems = [f"unknown {name}" for name in found if name not in expected]
    for name, info in expected.items():
        if name not in found:
            problems.append(f"missing {name}")
        elif found[name].shape != info.shape:
            problems.append(f"{name} is {found[name].shape}, expected {info.shape}")
    if problems:
        raise CheckpointError(f"{what} does not fit the network of its {CONFIG_FILE}: {shorten(problems)}")


def _check_values(path: Path, source: TensorSource) -> None:
    """Compare the values with the checksum that small checkpoints carry."""
    with safe_open(path, framework="pt") as file:
        saved = (file.metadata() or {}).get(CHECKSUM)
    if saved is not None and saved != _checksum(source.infos, source.read):
        raise CheckpointError(f"{path} is corrupt: its values do not match their checksum; fetch the file again")


def _checksum(names: Iterable[str], read: Callable[[str], Tensor]) -> str:
    checksum = 0
    for name in sorted(names):
        values = read(name).reshape(-1).view(torch.uint8).numpy()
        checksum = zlib.crc32(values.data, zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"


def save_model(model: X2SAM, folder: Path) -> None:
    """Write a model and its tokenizer as a checkpoint folder, which is made where it does not exist.

    Raises:
        ConfigError: its weights are rounded to int8.
    """
    if weights_of(model) != EXACT:
        raise ConfigError("a model with int8 weights is not saved; load it with weights exact, and save that")
    save_checkpoint(model.config, model.state_dict(), model.tokenizer, folder)


def save_checkpoint(config: X2SAMConfig, state: dict[str, Tensor], tokenizer: Tokenizer, folder: Path) -> None:
    """Write configuration, tensors and tokenizer as a checkpoint folder, which is made where it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    infos = {name: TensorInfo.of(tensor) for name, tensor in tensors.items()}
    # beside the old file and then in its place: a model that is loaded has the old one mapped
    fresh = folder / f"{WEIGHTS_FILE}.new"
    try:
        digest = write_safetensors(
            fresh, infos, lambda name: pieces(tensors[name]), {CHECKSUM: _checksum(tensors, tensors.__getitem__)}
        )
        os.replace(fresh, folder / WEIGHTS_FILE)
    finally:
        fresh.unlink(missing_ok=True)  # there where the disk is full
    write_settings(config, tokenizer, folder)
    write_manifest(folder, list(FOLDER_FILES), {WEIGHTS_FILE: digest})


def write_settings(config: X2SAMConfig, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files of a checkpoint folder that hold no tensors."""
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


def _find(given: str | Path) -> Path:
    """Return the checkpoint folder that a preset's name, a path or a hub id means."""
    path = Path(given).expanduser()
    if path.is_file() or (path.is_dir() and not (path / WEIGHTS_FILE).is_file() and holds_tensors(path)):
        raise CheckpointError(f"{path} is no checkpoint folder; run 'x2sam convert {path} FOLDER' and pass FOLDER")
    if path.is_dir():
        return path
    if str(given) in PRESETS:
        built_in = _BUILT_IN / str(given)
        if built_in.is_dir():
            return built_in
        raise CheckpointError(
            f"preset {str(given)!r} ships without weights; convert or train a checkpoint and pass that folder"
        )
    if is_hub_id(given):
        return find_path(given, "checkpoint folder", [WEIGHTS_FILE], [CONFIG_FILE, TOKENIZER_FILE, MANIFEST_FILE])
    message = f"expected {', '.join(FOLDER_FILES)}"
    if path.is_absolute() or len(path.parts) > 1:
        raise CheckpointError(f"no checkpoint folder at {path}; {message}")
    raise ConfigError(
        f"no checkpoint {str(given)!r}: there is no preset of that name ({', '.join(PRESETS)}) and no folder "
        f"{path.absolute()}; pass one of these, or a hub id like owner/name"
    )
