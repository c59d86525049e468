"""Folders whose clips are described by a list: sequences.json with objects, clips.json with classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from x2sam_ros.bag.media import NOMINAL_FPS
from x2sam_ros.truth.dataset import Category, Dataset, Expression, Kind, Sequence, TrueObject
from x2sam_ros.truth.files import Options, fingerprint, read_json
from x2sam_ros.truth.sequences import MaskFiles, attempt, usable

SEQUENCES_FILE, CLIPS_FILE = "sequences.json", "clips.json"


def find_sequences(path: Path, options: Options) -> Path | None:
    """Return the folder, or the list, where there is one in it or in one of the two folders above."""
    return path if _list_of(path, SEQUENCES_FILE) else None


def open_sequences(path: Path, options: Options) -> Dataset:
    """Open the clips of a ``sequences.json`` that lie below ``path``: objects, with expressions."""
    return _open(path, SEQUENCES_FILE, Kind.OBJECTS, options)


def find_clips(path: Path) -> Path | None:
    """Return the folder, or the list, where there is a ``clips.json`` in it or in one of the two folders above."""
    return path if _list_of(path, CLIPS_FILE) else None


def open_clips(path: Path, options: Options) -> Dataset:
    """Open the clips of a ``clips.json`` that lie below ``path``: a class for each pixel."""
    return _open(path, CLIPS_FILE, Kind.SEMANTIC, options)


def _list_of(path: Path, name: str) -> Path | None:
    if path.is_file():
        return path if path.name == name else None
    if (path / name).is_file():
        return path / name
    above = [folder / name for folder in path.resolve().parents[:2] if (folder / name).is_file()]
    return next((file for file in above if _clips_below(file, path)), None)


def _root_of(file: Path) -> Path:
    """Return the folder that a list's folders are relative to: its own, or the one above."""
    folders = [str(clip["dir"]) for clip in read_json(file)]
    roots = (file.parent, file.parent.parent)
    return next((root for root in roots if any((root / folder).is_dir() for folder in folders)), roots[0])


def _clips_below(file: Path, path: Path) -> list[Mapping[str, Any]]:
    folder, root = (file.parent if path.is_file() else path).resolve(), _root_of(file)
    return [clip for clip in read_json(file) if (root / clip["dir"]).resolve().is_relative_to(folder)]


def _open(path: Path, name: str, kind: Kind, options: Options) -> Dataset:
    file = _list_of(path, name)
    assert file is not None  # found before
    root, clips = _root_of(file), _clips_below(file, path)
    if kind is Kind.SEMANTIC:
        classes = {int(v): text for clip in clips for v, text in clip["mask_values"].items() if int(v) != _void(clip)}
        categories = tuple(Category(value, text, is_stuff=True) for value, text in sorted(classes.items()))
    else:
        names = dict.fromkeys(thing["class_name"] for clip in clips for thing in clip.get("objects", ()))
        categories = tuple(Category(number, text) for number, text in enumerate(names, 1))
    make = _semantic_clip if kind is Kind.SEMANTIC else _object_clip
    sequences = [
        attempt(str(clip["name"]), partial(make, root / clip["dir"], clip, categories, options)) for clip in clips
    ]
    masks = sorted({(root / clip["dir"] / clip["masks"]).parent for clip in clips})
    return Dataset(
        (file.parent if path.is_file() else path.resolve()).name,
        kind,
        usable(sequences, f"{file} below {path}"),
        categories,
        fingerprint(file, masks=masks),
    )


def _object_clip(folder: Path, clip: Mapping[str, Any], categories: tuple[Category, ...], options: Options) -> Sequence:
    numbers = {category.name: category.category_id for category in categories}
    expressions = [
        Expression(f"{thing['id']}-{number}", text, (int(thing["id"]),))
        for thing in clip["objects"]
        for number, text in enumerate(thing.get("expressions", ()))
    ]
    expressions += [
        Expression(f"none-{number}", text, ()) for number, text in enumerate(clip.get("negative_expressions") or ())
    ]
    return MaskFiles(
        str(clip["name"]),
        options,
        partial(dict, _pairs(folder, clip)),
        {int(thing.get("mask_value", thing["id"])): int(thing["id"]) for thing in clip["objects"]},
        objects=tuple(TrueObject(int(thing["id"]), numbers[thing["class_name"]]) for thing in clip["objects"]),
        expressions=tuple(expressions),
        rate=float(clip.get("nominal_fps", NOMINAL_FPS)),
    )


def _semantic_clip(
    folder: Path, clip: Mapping[str, Any], categories: tuple[Category, ...], options: Options
) -> Sequence:
    return MaskFiles(
        str(clip["name"]),
        options,
        partial(dict, _pairs(folder, clip)),
        object_of_value(categories),
        ignored=(_void(clip),),
        nothing=(),
        objects=objects_of(categories),
        rate=float(clip.get("fps", NOMINAL_FPS)),
    )


def _void(clip: Mapping[str, Any]) -> int:
    return int(clip.get("ignore_value", 255))


def _pairs(folder: Path, clip: Mapping[str, Any]) -> Mapping[Path, Path]:
    frames, masks = str(clip["frames"]), str(clip["masks"])
    return {folder / (frames % number): folder / (masks % number) for number in range(int(clip["n_frames"]))}


def objects_of(categories: tuple[Category, ...]) -> tuple[TrueObject, ...]:
    """Make one object of each class: object i + 1 is category i."""
    return tuple(TrueObject(number, category.category_id) for number, category in enumerate(categories, 1))


def object_of_value(categories: tuple[Category, ...]) -> dict[int, int]:
    """Return the object id of each category number."""
    return {category.category_id: number for number, category in enumerate(categories, 1)}
