"""A class for each pixel: CamVid, ADE20K with all its annotations, and its 150 classes of SceneParse."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from x2sam_ros.errors import TruthError
from x2sam_ros.truth.clip_lists import find_clips, object_of_value, objects_of, open_clips
from x2sam_ros.truth.dataset import Category, Dataset, Kind
from x2sam_ros.truth.files import USUAL_SPLITS, Options, choose_name, choose_split, fingerprint, images_in, read_json
from x2sam_ros.truth.label_maps import Labels, read_colours, read_picture
from x2sam_ros.truth.sequences import MaskFiles, usable

CAMVID_CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip
"""The classes of CamVid's usual 11, in the order of their values; 11 is unlabelled."""

CAMVID_FPS = 1.0
"""CamVid was labelled at 1 Hz, but for one clip at 15 Hz."""

_COLOURS_FILE, _NAMES_FILE = "label_colors.txt", "objectInfo150.txt"
_CAMVID_VOID = "Void"


def find_camvid(path: Path, options: Options) -> Path | None:
    """Return what makes a CamVid: clips.json, a split beside its SPLITannot, or label_colors.txt."""
    if (found := find_clips(path)) is not None:
        return found
    if not path.is_dir():
        return None
    if (path / _COLOURS_FILE).is_file():
        return path / _COLOURS_FILE
    annotated = (folder for folder in path.glob("*annot") if folder.is_dir() and _camvid_images(folder).is_dir())
    chosen = choose_split(map(_camvid_images, annotated), options)
    return chosen if chosen is None else chosen.with_name(f"{chosen.name}annot")


def _camvid_images(annotations: Path) -> Path:
    return annotations.with_name(annotations.name.removesuffix("annot"))


def open_camvid(path: Path, options: Options) -> Dataset:
    """Open CamVid in one of three layouts; images whose names begin alike are one clip.

    ``clips.json``; 11 classes as grey values, in ``val`` and ``valannot``; 32 classes as the colours of
    ``label_colors.txt``, where masks are named ``IMAGE_L.png``.
    """
    if path.name == _COLOURS_FILE:
        return _open_coloured(path, options)
    if not path.name.endswith("annot"):
        return open_clips(path, options)
    categories = tuple(Category(value, name, is_stuff=True) for value, name in enumerate(CAMVID_CLASSES))
    pairs = {image: path / f"{image.stem}.png" for image in images_in(_camvid_images(path))}
    void = len(CAMVID_CLASSES)
    sequences = _clips(pairs, categories, options, ignored=(void,))
    name = f"camvid-{_camvid_images(path).name}"
    return Dataset(name, Kind.SEMANTIC, usable(sequences, str(path)), categories, fingerprint(masks=[path]))


def _open_coloured(path: Path, options: Options) -> Dataset:
    colours: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            red, green, blue, name = line.split(maxsplit=3)
            colours[int(red) + 256 * int(green) + 65536 * int(blue)] = name.strip()
    void = tuple(value for value, name in colours.items() if name == _CAMVID_VOID)
    names = [name for value, name in colours.items() if value not in void]
    categories = tuple(Category(number, name, is_stuff=True) for number, name in enumerate(names))
    values = {value: names.index(name) + 1 for value, name in colours.items() if value not in void}
    masks = {file.stem.removesuffix("_L"): file for file in path.parent.rglob("*_L.png")}
    images = [image for folder in sorted(path.parent.glob("*/")) for image in images_in(folder)]
    pairs = {image: masks[image.stem] for image in images if image.stem in masks}
    sequences = _clips(pairs, categories, options, values, ignored=void, to_labels=read_colours)
    folders = sorted({mask.parent for mask in masks.values()})
    return Dataset(
        "camvid", Kind.SEMANTIC, usable(sequences, str(path.parent)), categories, fingerprint(path, masks=folders)
    )


def _clips(
    pairs: dict[Path, Path],
    categories: tuple[Category, ...],
    options: Options,
    values: dict[int, int] | None = None,
    **rest: Any,
) -> list[MaskFiles]:
    """Make a sequence of the images whose names share what comes before the last underscore."""
    clips: dict[str, dict[Path, Path]] = defaultdict(dict)
    for image, mask in pairs.items():
        clips[image.stem.rpartition("_")[0] or image.stem][image] = mask
    return [_sequence(name, clip, categories, options, values, rate=CAMVID_FPS, **rest) for name, clip in clips.items()]


def _sequence(
    name: str,
    pairs: dict[Path, Path],
    categories: tuple[Category, ...],
    options: Options,
    values: dict[int, int] | None = None,
    **rest: Any,
) -> MaskFiles:
    return MaskFiles(
        name,
        options,
        partial(dict, pairs),
        object_of_value(categories) if values is None else values,
        nothing=(),
        objects=objects_of(categories),
        shares_folder=True,
        **rest,
    )


def find_sceneparse(path: Path, options: Options) -> Path | None:
    """Return the folder of a split's annotations, beside images and objectInfo150.txt."""
    if not (path / _NAMES_FILE).is_file():
        return None
    found = [folder for folder in path.glob("annotations/*/") if folder.is_dir()]
    return choose_split(found, options)


def open_sceneparse(path: Path, options: Options) -> Dataset:
    """Open ADE20K's 150 classes: annotations/SPLIT, images/SPLIT; 0 is everything else and ignored."""
    root = path.parent.parent
    rows = (root / _NAMES_FILE).read_text(encoding="utf-8").splitlines()[1:]
    fields = [row.split("\t") for row in rows if row.strip()]
    categories = _classes({int(row[0]): row[-1].strip() for row in fields})
    pairs = {image: path / f"{image.stem}.png" for image in images_in(root / "images" / path.name)}
    sequences = [
        _sequence(image.stem, {image: mask}, categories, options, ignored=(0,)) for image, mask in pairs.items()
    ]
    name = f"sceneparse150-{path.name}"
    return Dataset(
        name, Kind.SEMANTIC, usable(sequences, str(path)), categories, fingerprint(root / _NAMES_FILE, masks=[path])
    )


def find_ade20k(path: Path, options: Options) -> Path | None:
    """Return the folder that holds, or below which lie, the files of ADE20K: NAME.jpg, NAME.json and NAME_seg.png."""
    return path if path.is_dir() and next(path.rglob("*_seg.png"), None) else None


def open_ade20k(path: Path, options: Options) -> Dataset:
    """Open ADE20K with all its annotations: the class of whole objects; parts are left out, 0 is ignored.

    A split is the name of a folder on the way, as validation; where no folder is called so all that is found is taken.
    """
    every = sorted(path.rglob("*_seg.png"))
    there = {part for file in every for part in file.relative_to(path).parts if part in USUAL_SPLITS}
    split = choose_name(there, options, path) if options.split is None and there else options.split
    found = [file for file in every if split is None or split in file.parts]
    pairs = {mask.with_name(f"{mask.stem.removesuffix('_seg')}.jpg"): mask for mask in found}
    names: dict[int, str] = {}
    for image in pairs:
        for thing in read_json(image.with_suffix(".json"))["annotation"]["object"]:
            if int(thing["parts"]["part_level"]) == 0:
                names[int(thing["name_ndx"])] = thing["name"]
    categories = _classes(names)
    sequences = [
        _sequence(image.stem, {image: mask}, categories, options, ignored=(0,), to_labels=_read_classes)
        for image, mask in pairs.items()
    ]
    files = [image.with_suffix(".json") for image in pairs]
    return Dataset(path.name, Kind.SEMANTIC, usable(sequences, str(path)), categories, fingerprint(*files, masks=found))


def _classes(names: Mapping[int, str]) -> tuple[Category, ...]:
    """Name each class by the first of its names, by all of them where another class begins with the same."""
    firsts = {number: name.split(",")[0].strip() for number, name in sorted(names.items())}
    count = Counter(firsts.values())
    return tuple(
        Category(number, first if count[first] == 1 else names[number], is_stuff=True)
        for number, first in firsts.items()
    )


def _read_classes(path: Path) -> Labels:
    """Read the class of each pixel: its number is 256 times the tens of red, plus green."""
    pixels = read_picture(path)
    if pixels.ndim != 3:
        raise TruthError(f"{path} is not in colour; expected ADE20K's {path.name} as it was released")
    return pixels[:, :, 0].astype(np.int32) // 10 * 256 + pixels[:, :, 1]
