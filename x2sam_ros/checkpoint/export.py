"""Our models in the published layout, for the published code and for the converter."""

from __future__ import annotations

from pathlib import Path

from x2sam_ros.checkpoint.load import WEIGHTS_FILE, write_settings
from x2sam_ros.checkpoint.names import official_name
from x2sam_ros.checkpoint.source import TensorInfo
from x2sam_ros.checkpoint.writer import pieces, write_safetensors
from x2sam_ros.model.x2sam import X2SAM


def export_official(model: X2SAM, folder: Path) -> None:
    """Write a model in the published layout, a full file without LoRA adapters, with its configuration and tokenizer.

    The published code loads it where no adapters are asked for and the network has its parts alone: ``hiera``, and no
    ``picture_features``. What ``DROPPED`` lists is left out. Converting the folder again gives the same model, bit by
    bit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {official_name(name): tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    infos = {name: TensorInfo.of(tensor) for name, tensor in tensors.items()}
    write_safetensors(folder / WEIGHTS_FILE, infos, lambda name: pieces(tensors[name]), {"format": "pt"})
    write_settings(model.config, model.tokenizer, folder)
