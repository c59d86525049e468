"""Folders by path or by hub id: looked up here, then in the local cache, then downloaded where that is allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from x2sam_ros.checkpoint.source import holds_tensors, weight_files
from x2sam_ros.errors import CheckpointError

WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
SETTING_PATTERNS = (
    "*config.json",
    "*.index.json",
    "*tokenizer.json",
    "*added_tokens.json",
    "*vocab.json",
    "*merges.txt",
)
"""Files that are fetched besides weights: data only, no code."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)+")


def is_hub_id(given: str | Path) -> bool:
    """Tell whether a text could be ``owner/name`` or ``owner/name/folder``."""
    return isinstance(given, str) and _HUB_ID.fullmatch(given) is not None


def find_path(
    given: str | Path, what: str, one_of: Sequence[str], others: Sequence[str] = (), download: bool = True
) -> Path:
    """Return the file or folder that a path or a hub id means.

    Args:
        given: a path, ``owner/name`` of a repository on the Hugging Face hub, or a folder of one, ``owner/name/sub``.
        what: name of the thing, for the error.
        one_of: patterns of hub files, of which one at least must be there.
        others: patterns of hub files that are fetched too.
        download: whether files that are not in the local cache may be fetched.

    Raises:
        CheckpointError: it is in none of these places; the message says which were looked at.
    """
    path = Path(given).expanduser()
    if path.exists():
        return path
    if not is_hub_id(given):
        raise CheckpointError(f"no {what} at {path.absolute()}; expected a file, a folder, or a hub id like owner/name")
    owner, name, *inside = str(given).split("/")
    prefix = "/".join([*inside, ""])
    return _snapshot(f"{owner}/{name}", prefix, what, one_of, others, download) / prefix


def _whole(folder: Path) -> bool:
    """Tell whether no shard of a folder's weights is missing; one without weights was fetched for something else."""
    try:
        weights = holds_tensors(folder) or any(folder.glob("*.index.json"))
        return not weights or bool(weight_files(folder))
    except CheckpointError:
        return False


def _snapshot(
    repository: str, prefix: str, what: str, one_of: Sequence[str], others: Sequence[str], download: bool
) -> Path:
    from huggingface_hub import constants, snapshot_download

    cache = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    patterns, reason = [prefix + pattern for pattern in (*one_of, *others)], ""
    for offline in (True, False) if download else (True,):
        try:
            folder = Path(snapshot_download(repository, allow_patterns=patterns, local_files_only=offline))
        except Exception as error:  # its errors differ between versions of the library, and mean the same to the user
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            continue
        if not any(next((folder / prefix).glob(f"**/{pattern}"), None) for pattern in one_of):
            reason = f"it has no {prefix}{' or '.join(one_of)}"
        elif not (offline and download) or _whole(folder / prefix):
            return folder  # a download that was interrupted leaves a part of the shards in the cache
    raise CheckpointError(
        f"no {what} {repository}: looked in {Path(repository).absolute()} and in the cache {cache}; "
        f"{f'downloading failed: {reason}' if download else 'downloading was not allowed'}; get it with "
        f"'hf download {repository}' where there is a network, or pass the folder that has it"
    )
