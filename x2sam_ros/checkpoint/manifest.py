"""``manifest.json``: sizes and SHA-256 sums of a checkpoint folder's files, and where its weights came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from x2sam_ros.errors import CheckpointError

MANIFEST_FILE = "manifest.json"
_BLOCK = 1 << 20


def sha256(path: Path, advance: Callable[[int], None] = lambda size: None) -> str:
    """Return a file's SHA-256 in hexadecimal; ``advance`` is told the bytes read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def write_manifest(
    folder: Path, names: list[str], known: Mapping[str, str] | None = None, origin: Mapping[str, Any] | None = None
) -> None:
    """Write a folder's manifest.

    Args:
        folder: the checkpoint folder.
        names: its files.
        known: SHA-256 of files that need not be read again.
        origin: what else to note, JSON-ready.
    """
    sums = {**{name: sha256(folder / name) for name in names if name not in (known or {})}, **(known or {})}
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": sums[name]} for name in names}
    text = json.dumps({"files": files, **(origin or {})}, indent=1, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return a folder's manifest, or None where there is none.

    Raises:
        CheckpointError: it is no manifest.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for entry in manifest["files"].values():
            int(entry["bytes"]), str(entry["sha256"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; fetch or convert the checkpoint again") from error
    return dict(manifest)


def noted_sha256(folder: Path, name: str) -> str:
    """Return the SHA-256 that a folder's manifest has of a file, "" where it has none; the file is not read.

    Raises:
        CheckpointError: the manifest is none.
    """
    files = (read_manifest(folder) or {"files": {}})["files"]
    return str(files[name]["sha256"]) if name in files else ""


def check_manifest(folder: Path, sums: bool = False, advance: Callable[[int], None] = lambda size: None) -> int:
    """Compare a folder's files with its manifest; return how many were compared, 0 where there is no manifest.

    Args:
        folder: the checkpoint folder.
        sums: whether to read the files and compare their SHA-256 too; needs a manifest.
        advance: told the bytes read.

    Raises:
        CheckpointError: a file is missing, or another one than the manifest describes.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        if sums:
            raise CheckpointError(f"{folder} has no {MANIFEST_FILE} to compare it with; convert the checkpoint again")
        return 0
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{folder} lacks {name}, which its {MANIFEST_FILE} lists; fetch it again")
        if path.stat().st_size != entry["bytes"]:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes, {MANIFEST_FILE} says {entry['bytes']}; fetch the file again, "
                f"or remove {MANIFEST_FILE} if you changed it yourself"
            )
        if sums and sha256(path, advance) != entry["sha256"]:
            raise CheckpointError(
                f"{path} is corrupt: its SHA-256 is not the one in {MANIFEST_FILE}; fetch the file again"
            )
    return len(manifest["files"])
