"""Published checkpoints into folders of ours: find the files, plan, stream the tensors, note what was done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from x2sam_ros import __version__
from x2sam_ros.checkpoint.hub import SETTING_PATTERNS, WEIGHT_PATTERNS, find_path
from x2sam_ros.checkpoint.load import (
    FOLDER_FILES,
    WEIGHTS_FILE,
    build_skeleton,
    read_dtype,
    weight_infos,
    write_settings,
)
from x2sam_ros.checkpoint.manifest import MANIFEST_FILE, sha256, write_manifest
from x2sam_ros.checkpoint.merge import PlannedValues
from x2sam_ros.checkpoint.names import is_language, our_name
from x2sam_ros.checkpoint.plan import Origin, Plan, check_is_export, needs_base, plan_conversion
from x2sam_ros.checkpoint.settings import Settings, has_tokenizer, read_settings
from x2sam_ros.checkpoint.source import TensorSource, holds_tensors, open_source, shorten
from x2sam_ros.checkpoint.writer import write_safetensors
from x2sam_ros.config import BASE_MODEL, NodeConfig
from x2sam_ros.errors import CheckpointError

_TOKENIZER_PATTERNS = ("tokenizer.json", "vocab.json")

Progress = Callable[[int, int], None]
"""Told the bytes that are done and those of the whole conversion."""


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Args:
        folder: the checkpoint folder.
        plan: what became of each published tensor.
        settings: what the network was built from.
        dtype: type of the weights.
        files: size and SHA-256 of the files that were read, by origin and name.
    """

    folder: Path
    plan: Plan
    settings: Settings
    dtype: torch.dtype
    files: dict[Origin, dict[str, dict[str, Any]]]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that were written."""
        return sum(entry.info.nbytes for entry in self.plan.entries.values())

    def dropped(self) -> dict[str, list[str]]:
        """Return the published tensors that went nowhere, by reason."""
        reasons: dict[str, list[str]] = {}
        for part, reason in self.plan.dropped.items():
            reasons.setdefault(reason, []).append(f"{part.name} ({part.origin})")
        return reasons

    def to_dict(self) -> dict[str, Any]:
        """Return the report for the manifest, JSON-ready and without a path of this machine."""
        return {
            "converted_by": f"x2sam_ros {__version__}",
            "dtype": str(self.dtype).removeprefix("torch."),
            "lora_scale": self.settings.lora_scale,
            "configuration": self.settings.origin,
            "sources": self.files,
            "tensors": {"copied": self.plan.copied, "merged": self.plan.merged},
            "published_tensors": {origin: dict(self.plan.used(origin)) for origin in self.files},
            "dropped": self.dropped(),
        }


def convert_checkpoint(
    source: str | Path,
    target: Path,
    base: str | Path = BASE_MODEL,
    dtype: str | torch.dtype = NodeConfig.dtype,
    force: bool = False,
    download: bool = True,
    progress: Progress = lambda done, total: None,
) -> Report:
    """Turn a published checkpoint into a folder that ``load_model`` reads.

    Tensors pass through one after another: besides them, memory holds less than 2 GB for the release.

    Args:
        source: a file, a folder or a hub id of an X2SAM export.
        target: the folder to make; a failed conversion leaves none.
        base: file, folder or hub id of the base vision-language model. It is used for what the export lacks: the
            weights that X2SAM left unchanged, and the tokenizer.
        dtype: type of the weights; float32 loses nothing of any published type.
        force: whether to replace a checkpoint folder that is there already.
        download: whether what is in no local folder or cache may be fetched from the hub.
        progress: told how far it is.

    Raises:
        CheckpointError: files are missing, damaged, refused, or describe another network; or the target exists.
        ConfigError: a configuration or the dtype is not supported.
    """
    wanted = read_dtype(dtype)
    _check_target(target, force)
    export_path = _find_export(source, download)
    export = open_source(export_path)
    check_is_export(export.infos, str(export_path))
    base_path = _find_base(export_path, export, base, download)

    settings = read_settings(_folder_of(export_path), base_path and _folder_of(base_path))
    skeleton = build_skeleton(settings.config, settings.tokenizer, settings.origin)
    expected = weight_infos(skeleton, wanted)
    below = open_source(base_path) if base_path and needs_base(export.infos) else None
    network = f"the network of {settings.origin}"
    plan = plan_conversion(expected, export.infos, below.infos if below else None, network)

    sources: dict[Origin, TensorSource] = {"export": export, **({"base": below} if below else {})}
    values = PlannedValues(plan, sources, settings.lora_scale)
    values.check_head()
    with _staged(target) as stage:
        total = sum(info.nbytes for info in expected.values())
        _check_space(stage, total)
        advance = _counter(progress, total + sum(f.stat().st_size for s in sources.values() for f in s.files))
        files = {origin: _describe(source.files, advance) for origin, source in sources.items()}
        digest = write_safetensors(stage / WEIGHTS_FILE, expected, _counted(values, advance))
        values.check()
        write_settings(settings.config, settings.tokenizer, stage)
        report = Report(target, plan, settings, wanted, files)
        write_manifest(stage, list(FOLDER_FILES), {WEIGHTS_FILE: digest}, report.to_dict())
    return report


def _find_export(source: str | Path, download: bool) -> Path:
    """Return the file or folder of the export; of several folders it is the one with a language side."""
    path = find_path(source, "checkpoint", WEIGHT_PATTERNS, SETTING_PATTERNS, download)
    if path.is_file() or holds_tensors(path):
        return path
    folders = sorted(folder for folder in path.glob("*/") if holds_tensors(folder))
    if len(folders) > 1:
        complete = [folder for folder in folders if any(map(_is_of_language, open_source(folder).infos))]
        if len(complete) != 1:
            names = shorten(str(Path(source) / folder.name) for folder in folders)
            raise CheckpointError(f"{source} holds several checkpoints; pass one of {names}")
        folders = complete
    return folders[0] if folders else path


def _is_of_language(official: str) -> bool:
    return is_language(our_name(official) or "")


def _find_base(export_path: Path, export: TensorSource, base: str | Path, download: bool) -> Path | None:
    """Return where the base model is, or None where nothing is missing from the export."""
    wants_weights = needs_base(export.infos)
    if not wants_weights and has_tokenizer(_folder_of(export_path)):
        return None
    patterns = WEIGHT_PATTERNS if wants_weights else _TOKENIZER_PATTERNS
    return find_path(base, "base model", patterns, SETTING_PATTERNS, download)


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _check_target(target: Path, force: bool) -> None:
    """Refuse to replace what is there, unless told to and it is nothing but a checkpoint folder."""
    if not target.exists():
        return
    if not target.is_dir():
        raise CheckpointError(f"{target} is a file; give the folder to make")
    found = sorted(path.name for path in target.iterdir())
    foreign = [name for name in found if name not in (*FOLDER_FILES, MANIFEST_FILE)]
    if foreign:
        raise CheckpointError(
            f"{target} holds other files than a checkpoint's: {shorten(foreign)}; give another folder"
        )
    if found and not force:
        raise CheckpointError(f"{target} exists; give another folder, or --force to replace it")


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """Give a folder beside the target that takes its place once all went well, and is removed otherwise."""
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    stage, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    stage.mkdir()
    try:
        yield stage
        if target.exists():
            os.replace(target, old)
        os.replace(stage, target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(stage, ignore_errors=True)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"the checkpoint takes {needed / 1e9:.1f} GB, {folder.parent} has {free / 1e9:.1f} GB left; make room"
        )


def _describe(files: tuple[Path, ...], advance: Callable[[int], None]) -> dict[str, dict[str, Any]]:
    return {file.name: {"bytes": file.stat().st_size, "sha256": sha256(file, advance)} for file in files}


def _counter(progress: Progress, total: int) -> Callable[[int], None]:
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        progress(done, total)

    return advance


def _counted(values: PlannedValues, advance: Callable[[int], None]) -> Callable[[str], Iterator[Tensor]]:
    def counted(name: str) -> Iterator[Tensor]:
        for piece in values(name):
            yield piece
            advance(piece.nbytes)

    return counted
