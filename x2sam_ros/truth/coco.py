"""COCO instances, and expressions on photographs of COCO: RefCOCO, gRefCOCO, and a folder with images.json."""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from functools import partial
from pathlib import Path
from typing import Any

from x2sam_ros.errors import TruthError
from x2sam_ros.truth.dataset import Category, Dataset, Expression, Kind, Sequence, TrueObject
from x2sam_ros.truth.files import Options, choose_name, choose_split, find_root, fingerprint, read_json
from x2sam_ros.truth.sequences import MaskFiles, Segmentations, attempt, usable
from x2sam_ros.truth.youtube import annotated_objects, categories_of, check_categories

IMAGES_FILE = "images.json"


def find_instances(path: Path, options: Options) -> Path | None:
    """Return the JSON of COCO instances."""
    if path.is_file():
        return path if path.suffix == ".json" and _is_instances(read_json(path)) else None
    patterns = ("*instance*.json", "annotations/*instance*.json")
    return choose_split((file for pattern in patterns for file in path.glob(pattern)), options)


def _is_instances(said: Any) -> bool:
    if not isinstance(said, dict) or not isinstance(said.get("images"), list):
        return False
    return all("segmentation" in annotation and "bbox" in annotation for annotation in said.get("annotations", ())[:1])


def open_instances(path: Path, options: Options) -> Dataset:
    """Open COCO instances: one sequence for each image."""
    said = read_json(path)
    categories = categories_of(said["categories"])
    annotations = _by_image(said["annotations"])
    root = _image_root(path, said["images"])
    known = {category.category_id for category in categories}

    def make(image: Mapping[str, Any]) -> Sequence:
        check_categories(annotations[image["id"]], known)
        return _image_sequence(root, image, annotations[image["id"]], options)

    sequences = [attempt(Path(image["file_name"]).stem, partial(make, image)) for image in said["images"]]
    return Dataset(path.stem, Kind.INSTANCES, usable(sequences, str(path)), categories, fingerprint(path))


def find_refcoco(path: Path, options: Options) -> Path | None:
    """Return the refs(...).p of RefCOCO, or the grefs(...).json of gRefCOCO, beside which lies an instances.json."""
    folder = path.parent if path.is_file() else path
    if not (folder / "instances.json").is_file():
        return None
    found = [path] if path.is_file() else sorted([*path.glob("refs(*).p"), *path.glob("grefs(*).json")])
    return next((file for file in found if "refs(" in file.name), None)


def open_refcoco(path: Path, options: Options) -> Dataset:
    """Open the expressions of one split: a sequence for each image."""
    refs = read_json(path) if path.suffix == ".json" else _read_plain_pickle(path)
    split = choose_name((ref["split"] for ref in refs), options, path)
    instances = path.parent / "instances.json"
    said = read_json(instances)
    annotations, by_image = _by_image(said["annotations"]), defaultdict(list)
    for ref in refs:
        if ref["split"] == split:
            by_image[ref["image_id"]].append(ref)
    images = [image for image in said["images"] if image["id"] in by_image]
    root = _image_root(path.parent, images)

    def make(image: Mapping[str, Any]) -> Sequence:
        things = annotations[image["id"]]
        numbers = {thing["id"]: number for number, thing in enumerate(things, 1)}
        expressions = []
        for ref in by_image[image["id"]]:
            meant = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
            ids = tuple(numbers[key] for key in meant if key > 0)  # gRefCOCO writes -1 where nothing is meant
            expressions += [Expression(str(one["sent_id"]), one["sent"], ids) for one in ref["sentences"]]
        return _image_sequence(root, image, things, options, tuple(expressions))

    sequences = [attempt(Path(image["file_name"]).stem, partial(make, image)) for image in images]
    return Dataset(
        f"{path.parent.name}-{split}",
        Kind.REFERRING,
        usable(sequences, str(path)),
        categories_of(said["categories"]),
        fingerprint(path, instances, part=split),
    )


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles lists, dictionaries, texts and numbers, and runs no code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which is code")


def _read_plain_pickle(path: Path) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin-1").load()
    except Exception as error:  # damaged bytes make it raise anything
        raise TruthError(f"{path} cannot be read: {error}; copy it again") from error


def find_photographs(path: Path, options: Options) -> Path | None:
    """Return the images.json of a folder of photographs with instance masks and expressions."""
    file = path / IMAGES_FILE if path.is_dir() else path
    if file.name != IMAGES_FILE or not file.is_file():
        return None
    said = read_json(file)
    return file if isinstance(said, list) and all("instances" in image for image in said[:1]) else None


def open_photographs(path: Path, options: Options) -> Dataset:
    """Open a folder of photographs: instance masks as label images, expressions of some of the instances."""
    said = read_json(path)
    names = {int(thing["category_id"]): thing["category"] for image in said for thing in image["objects"]}
    categories = tuple(Category(key, name) for key, name in sorted(names.items()))

    def make(image: Mapping[str, Any]) -> Sequence:
        things = image["objects"]
        pairs = {path.parent / image["image"]: path.parent / image["instances"]}
        return MaskFiles(
            Path(image["image"]).stem,
            options,
            partial(dict, pairs),
            {int(thing["id"]): int(thing["id"]) for thing in things},
            shares_folder=True,
            objects=tuple(TrueObject(int(thing["id"]), int(thing["category_id"])) for thing in things),
            expressions=tuple(
                Expression(f"{thing['id']}-{number}", text, (int(thing["id"]),))
                for thing in things
                for number, text in enumerate(thing.get("expressions", ()))
            ),
        )

    sequences = usable([attempt(Path(image["image"]).stem, partial(make, image)) for image in said], str(path))
    masks = sorted({(path.parent / image["instances"]).parent for image in said})
    return Dataset(path.parent.name, Kind.REFERRING, sequences, categories, fingerprint(path, masks=masks))


def _by_image(annotations: Rows[Mapping[str, Any]]) -> dict[Any, list[Mapping[str, Any]]]:
    grouped: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        grouped[annotation["image_id"]].append(annotation)
    return grouped


def _image_root(path: Path, images: Rows[Mapping[str, Any]]) -> Path:
    """Find the images of ``instances_val2017.json``: in val2017 beside it or one folder up, or in any folder there."""
    split = path.stem.rpartition("_")[2]
    return find_root(
        (path.parent, path.parent.parent), (image["file_name"] for image in images), (split, f"images/{split}")
    )


def _image_sequence(
    root: Path,
    image: Mapping[str, Any],
    things: Rows[Mapping[str, Any]],
    options: Options,
    expressions: tuple[Expression, ...] = (),
) -> Segmentations:
    return Segmentations(
        Path(image["file_name"]).stem,
        options,
        (root / image["file_name"],),
        [(number, [thing["segmentation"]]) for number, thing in enumerate(things, 1)],
        (int(image["height"]), int(image["width"])),
        objects=annotated_objects(things),
        expressions=expressions,
        number=int(image["id"]),
    )
