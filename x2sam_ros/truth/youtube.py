"""YouTube-VOS, YouTube-VIS, and the expressions of Ref-YouTube-VOS, MeViS and ReVOS."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from x2sam_ros.bag.media import NOMINAL_FPS
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.dataset import Category, Dataset, Expression, Kind, Sequence, TrueFrame, TrueObject
from x2sam_ros.truth.files import Options, choose_name, choose_split, find_root, fingerprint, read_json
from x2sam_ros.truth.label_maps import frame_of_masks, read_labels
from x2sam_ros.truth.sequences import (
    FileSequence,
    MaskFiles,
    Segmentations,
    attempt,
    mask_folder,
    usable,
)

FPS = 6.0
"""YouTube's videos have 30 Hz, of which every fifth image is released and annotated."""

EXPRESSIONS_FILE, MASKS_FILE = "meta_expressions.json", "mask_dict.json"
_OF_REVOS = re.compile(r"meta_expressions_(\w+)_\.json")


def find_vos(path: Path, options: Options) -> Path | None:
    """Return the meta.json of YouTube-VOS."""
    if path.is_file():
        return path if path.name == "meta.json" else None
    return choose_split((path / "meta.json", *path.glob("*/meta.json")), options)


def open_vos(path: Path, options: Options) -> Dataset:
    """Open YouTube-VOS: meta.json beside JPEGImages and Annotations."""
    videos: Mapping[str, Any] = read_json(path)["videos"]
    names = sorted(
        {thing.get("category", "object") for video in videos.values() for thing in video["objects"].values()}
    )
    categories = tuple(Category(number, name) for number, name in enumerate(names, 1))

    def make(name: str) -> Sequence:
        objects = tuple(
            TrueObject(int(key), names.index(thing.get("category", "object")) + 1)
            for key, thing in sorted(videos[name]["objects"].items(), key=lambda item: int(item[0]))
        )
        values = {thing.object_id: thing.object_id for thing in objects}
        images, masks = path.parent / "JPEGImages" / name, path.parent / "Annotations" / name
        return mask_folder(name, options, images, masks, values, objects=objects, rate=FPS)

    sequences = usable((attempt(name, partial(make, name)) for name in videos), str(path))
    return Dataset(
        path.parent.name, Kind.OBJECTS, sequences, categories, fingerprint(path, masks=[path.parent / "Annotations"])
    )


def find_referring(path: Path, options: Options) -> Path | None:
    """Return the meta_expressions.json of Ref-YouTube-VOS."""
    found = _expressions_file(path, options)
    return None if found is None or (found.parent / MASKS_FILE).is_file() else found


def find_mevis(path: Path, options: Options) -> Path | None:
    """Return the meta_expressions.json of MeViS, beside which lies a mask_dict.json."""
    found = _expressions_file(path, options)
    return found if found is not None and (found.parent / MASKS_FILE).is_file() else None


def find_revos(path: Path, options: Options) -> Path | None:
    """Return a meta_expressions_SPLIT_.json of ReVOS, beside which lies a mask_dict.json; it is read as MeViS is."""
    files = [path] if path.is_file() else sorted(path.glob("meta_expressions_*_.json"))
    splits = {match[1]: file for file in files if (match := _OF_REVOS.fullmatch(file.name))}
    if not splits or not (files[0].parent / MASKS_FILE).is_file():
        return None
    return splits[choose_name(splits, options, path)]


def _expressions_file(path: Path, options: Options) -> Path | None:
    if path.is_file():
        return path if path.name == EXPRESSIONS_FILE else None
    patterns = (EXPRESSIONS_FILE, f"*/{EXPRESSIONS_FILE}", f"*/*/{EXPRESSIONS_FILE}")
    return choose_split((file for pattern in patterns for file in path.glob(pattern)), options)


def open_referring(path: Path, options: Options) -> Dataset:
    """Open Ref-YouTube-VOS, or what is laid out like it.

    An expression that has an ``obj_id`` means the objects of that value in Annotations/VIDEO/FRAME.png. Where one has
    none, as in the valid split, each is an object of its own, in Annotations/VIDEO/EXPRESSION/FRAME.png.
    """
    videos: Mapping[str, Any] = read_json(path)["videos"]
    probes = [f"JPEGImages/{name}/{frame}.jpg" for name, video in videos.items() for frame in video["frames"][:1]]
    bases = list(path.resolve().parents)[:3]
    root = find_root(bases, probes, prefer=(path.parent.name, ""))
    masks = root / "Annotations"
    if not masks.is_dir():
        raise TruthError(f"{masks} does not exist: the masks of this split are not published; take another split")

    def make(name: str) -> Sequence:
        said = videos[name]["expressions"]
        pairs = {
            root / "JPEGImages" / name / f"{frame}.jpg": masks / name / f"{frame}.png"
            for frame in videos[name]["frames"]
        }
        if not all("obj_id" in expression for expression in said.values()):
            return _SplitMasks(name, options, tuple(pairs), masks / name, _texts(said))
        ids = {key: _ids(expression["obj_id"]) for key, expression in said.items()}
        expressions = tuple(Expression(key, said[key]["exp"], ids[key]) for key in said)
        find: partial[dict[Path, Path]] = partial(dict, pairs)
        return MaskFiles(name, options, find, None, shares_folder=True, expressions=expressions, rate=FPS)

    sequences = usable((attempt(name, partial(make, name)) for name in videos), str(path))
    return Dataset(root.name, Kind.REFERRING, sequences, fingerprint=fingerprint(path, masks=[masks]))


def _ids(said: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in (said if isinstance(said, list) else [said]))


def _texts(said: Mapping[str, Any]) -> tuple[Expression, ...]:
    return tuple(Expression(key, said[key]["exp"], (number,)) for number, key in enumerate(said, 1))


class _SplitMasks(FileSequence):
    """A video with a folder of masks for each expression; what is not 0 is meant."""

    def __init__(
        self, name: str, options: Options, files: tuple[Path, ...], masks: Path, expressions: tuple[Expression, ...]
    ) -> None:
        objects = tuple(TrueObject(expression.object_ids[0]) for expression in expressions)
        super().__init__(name, options, files, objects, expressions, rate=FPS)
        self._masks = masks

    def read(self, image: Path, size: tuple[int, int]) -> TrueFrame | None:
        """Read a mask of each expression; None where not one has any."""
        masks = {}
        for expression in self.expressions:
            file = self._masks / expression.expression_id / f"{image.stem}.png"
            if file.is_file():
                masks[expression.object_ids[0]] = read_labels(file) > 0
        return frame_of_masks(masks, size) if masks else None


def open_mevis(path: Path, options: Options) -> Dataset:
    """Open MeViS: an expression means the annotations that it lists, or none; masks are in mask_dict.json."""
    videos: Mapping[str, Any] = read_json(path)["videos"]
    masks: Mapping[str, Any] = read_json(path.parent / MASKS_FILE)
    root = path.parent / "JPEGImages"

    def make(name: str) -> Sequence:
        said = videos[name]["expressions"]
        meant = {key: _ids(expression["anno_id"]) for key, expression in said.items()}
        numbers = {annotation: number for number, annotation in enumerate(sorted(set().union(*meant.values())), 1)}
        if lost := [annotation for annotation in numbers if str(annotation) not in masks]:
            raise TruthError(
                f"an expression means annotation {lost[0]}, which {path.parent / MASKS_FILE} does not hold"
            )
        return Segmentations(
            name,
            options,
            tuple(root / name / f"{frame}.jpg" for frame in videos[name]["frames"]),
            [(number, masks[str(annotation)]) for annotation, number in numbers.items()],
            objects=tuple(TrueObject(number) for number in numbers.values()),
            expressions=tuple(
                Expression(key, said[key]["exp"], tuple(numbers[annotation] for annotation in meant[key]))
                for key in said
            ),
            rate=NOMINAL_FPS,
        )

    sequences = usable((attempt(name, partial(make, name)) for name in videos), str(path))
    return Dataset(path.parent.name, Kind.REFERRING, sequences, fingerprint=fingerprint(path, path.parent / MASKS_FILE))


def find_vis(path: Path, options: Options) -> Path | None:
    """Return the JSON of YouTube-VIS: a file, or train.json, valid.json, instances.json of a folder or of a split's."""
    if path.is_file():
        return path if path.suffix == ".json" and _is_vis(path) else None
    names = ("train", "valid", "val", "test", "instances")
    found = [path / f"{name}.json" for name in names] + list(path.glob("*/instances.json"))
    chosen = choose_split(found, options)
    return chosen if chosen is not None and _is_vis(chosen) else None


def _is_vis(path: Path) -> bool:
    said = read_json(path)
    videos = said.get("videos") if isinstance(said, dict) else None
    return isinstance(videos, list) and all("file_names" in video for video in videos[:1])


def open_vis(path: Path, options: Options) -> Dataset:
    """Open YouTube-VIS of any year: a track for each annotation, whose masks are null where it is not seen."""
    said = read_json(path)
    if not said.get("annotations"):
        raise TruthError(f"{path} has no annotations: those of this split are not published; take another split")
    categories = categories_of(said["categories"])
    known = {category.category_id for category in categories}
    annotations = defaultdict(list)
    for annotation in said["annotations"]:
        annotations[annotation["video_id"]].append(annotation)
    probes = [file for video in said["videos"] for file in video["file_names"][:1]]
    root = find_root((path.parent, path.parent.parent), probes, ("JPEGImages", f"{path.stem}/JPEGImages"))

    def make(name: str, video: Mapping[str, Any]) -> Sequence:
        tracks = annotations[video["id"]]
        check_categories(tracks, known)
        return Segmentations(
            name,
            options,
            tuple(root / file for file in video["file_names"]),
            [(number, track["segmentations"]) for number, track in enumerate(tracks, 1)],
            (int(video["height"]), int(video["width"])),
            objects=annotated_objects(tracks),
            rate=FPS,
            number=int(video["id"]),
        )

    named = [(_video_name(video), video) for video in said["videos"]]
    sequences = usable((attempt(name, partial(make, name, video)) for name, video in named), str(path))
    return Dataset(path.stem, Kind.INSTANCES, sequences, categories, fingerprint(path))


def _video_name(video: Mapping[str, Any]) -> str:
    """Return the folder of a video, which is its name."""
    return str(Path(video["file_names"][0]).parent) if video["file_names"] else str(video["id"])


def categories_of(said: Any) -> tuple[Category, ...]:
    """Read COCO's categories."""
    return tuple(
        Category(int(category["id"]), str(category["name"]), is_stuff=not category.get("isthing", 1))
        for category in said
    )


def annotated_objects(annotations: Iterable[Any]) -> tuple[TrueObject, ...]:
    """Make an object of each of COCO's annotations, numbered from 1."""
    return tuple(
        TrueObject(number, int(said["category_id"]), bool(said.get("iscrowd", 0)))
        for number, said in enumerate(annotations, 1)
    )


def check_categories(annotations: Any, known: set[int]) -> None:
    """Check that the categories of annotations exist.

    Raises:
        TruthError: one does not; the first is named.
    """
    for annotation in annotations:
        if annotation["category_id"] not in known:
            raise TruthError(
                f"annotation {annotation.get('id')} has the category {annotation['category_id']}, which the file does "
                f"not list; it lists {len(known)}: {', '.join(map(str, sorted(known)[:20]))}"
            )
