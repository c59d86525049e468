"""What readers of files share: JSON, lists of images, splits, where images lie, fingerprints, what holds what."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from x2sam_ros.bag.media import IMAGE_SUFFIXES
from x2sam_ros.bag.storage import natural_key
from x2sam_ros.errors import TruthError

_TO_SCORE = ("val", "valid", "validation", "valid_u", "val2017", "test")
_TO_LEARN = ("train", "training", "train2017")
"""Which split is read where there are several and none is asked for: the first of these."""

USUAL_SPLITS = (*_TO_SCORE, *_TO_LEARN)

_PROBED_IMAGES = 20


@dataclass(frozen=True)
class Options:
    """How a dataset is opened; see ``open_dataset``."""

    split: str | None = None
    topic: str | None = None
    label_topic: str | None = None
    stride: int = 1
    fps: float | None = None
    training: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of splits; the first one that is there is meant."""
        if self.split is not None:
            return (self.split,)
        return _TO_LEARN if self.training else _TO_SCORE


def read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, or in Latin-1 as some of ADE20K is.

    Raises:
        TruthError: no such file, or damaged.
    """
    try:
        state = path.stat()
        return _parsed(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise TruthError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise TruthError(f"{path} is not whole JSON ({error}); copy it again") from error


@lru_cache(maxsize=1)
def _parsed(path: Path, modified_ns: int, size: int) -> Any:
    """Parse a file; kept for the readers that look at it one after another to find out whose it is."""
    data = path.read_bytes()
    try:
        return json.loads(data)
    except UnicodeDecodeError:
        return json.loads(data.decode("latin-1"))


def forget_json() -> None:
    """Free the file that was read last."""
    _parsed.cache_clear()


def images_in(folder: Path) -> list[Path]:
    """List the images of a folder in natural order; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted((file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)


def choose_split(found: Iterable[Path], options: Options) -> Path | None:
    """Choose among the same file or folder of several splits.

    A split is the name of a folder on the way (``valid/meta.json``), or how a name ends (``panoptic_val2017.json``).
    Without one, the only file is taken, else that of the first of ``options.splits``.

    Returns:
        None where there is nothing at all.

    Raises:
        TruthError: there is no such split, or none of the usual ones.
    """
    paths = sorted({path for path in found if path.exists()})
    if not paths or (options.split is None and len(paths) == 1):
        return paths[0] if paths else None
    depth = len(Path(os.path.commonpath(paths)).parts) if len(paths) > 1 else -3
    for split in options.splits:
        chosen = [path for path in paths if _is_of_split(path, split, depth)]
        if len(chosen) == 1:
            return chosen[0]
    listed, wanted = ", ".join(map(str, paths[:10])), " or ".join(map(repr, options.splits))
    raise TruthError(f"which split? {wanted} does not name one of {listed}; give one as split, or the file itself")


def choose_name(found: Iterable[str], options: Options, where: Path, within: tuple[str, ...] = ("",)) -> str:
    """Choose among the names of the splits that lie in one place, as ``choose_split`` does.

    Args:
        found: the names.
        options: which split is meant.
        where: the place, for messages.
        within: what may come before a split in its name, the first that is there is taken.

    Raises:
        TruthError: there is no such split, or none of the usual ones.
    """
    names = sorted(set(found))
    if options.split is None and len(names) == 1:
        return names[0]
    for name in (f"{before}{split}" for split in options.splits for before in within):
        if name in names:
            return name
    wanted, listed = " or ".join(map(repr, options.splits)), ", ".join(names) or "none"
    raise TruthError(f"{where} has no split {wanted}; it has {listed}; give one of these")


def _is_of_split(path: Path, split: str, depth: int) -> bool:
    """Tell whether a path is of a split, by the folders from ``depth`` on: those above mean nothing."""
    stem = path.name.split(".")[0]
    return split in path.parts[depth:] or stem == split or stem.endswith(f"_{split}")


def find_root(bases: Iterable[Path], names: Iterable[str], prefer: Iterable[str] = ()) -> Path:
    """Find the folder that names in an annotation file are relative to.

    Args:
        bases: folders to look in: they themselves, and two levels of folders below.
        names: relative file names of the annotation; the first few are looked for.
        prefer: folders of a base to try first.

    Raises:
        TruthError: none of the files is in any of them.
    """
    bases, probes = list(bases), list(itertools.islice(names, _PROBED_IMAGES))
    preferred = [base / name for base in bases for name in prefer]
    for folder in itertools.chain(preferred, _folders(bases)):
        if any((folder / name).is_file() for name in probes):
            return folder
    looked = " or ".join(map(str, bases))
    raise TruthError(
        f"{probes[0] if probes else 'no file'} is not below {looked}; put the images beside the annotation"
    )


def _folders(bases: list[Path]) -> Iterator[Path]:
    yield from bases
    for pattern in ("*/", "*/*/"):
        for base in bases:
            yield from sorted(folder for folder in base.glob(pattern) if folder.is_dir())


def fingerprint(*annotations: Path, masks: Iterable[Path] = (), part: str = "") -> str:
    """Hash annotation files by their bytes, masks (files, or folders of them) by names and sizes of the files.

    ``part`` says which part of the files is meant, where it is not all.
    """
    digest = hashlib.sha256(part.encode())
    for path in annotations:
        digest.update(path.read_bytes())
    for path in masks:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.relative_to(path.parent)}\0{file.stat().st_size}\0".encode())
    return digest.hexdigest()


def overlap(paths: Iterable[Path], others: Iterable[Path]) -> tuple[Path, Path] | None:
    """Return the first path and other path of which one is, or lies in, the other; None where there are none."""
    listed = [(path.resolve(), path) for path in others]
    for path, (there, other) in itertools.product(paths, listed):
        here = path.resolve()
        if here == there or here in there.parents or there in here.parents:
            return path, other
    return None
