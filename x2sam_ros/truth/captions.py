"""Grounded conversations: descriptions whose phrases have masks, as JSON of GranD-f."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from collections.abc import Sequence as Rows
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from x2sam_ros.errors import TruthError
from x2sam_ros.truth.dataset import Dataset, Expression, Kind, Sequence, TrueObject
from x2sam_ros.truth.files import Options, choose_split, find_root, fingerprint, read_json
from x2sam_ros.truth.sequences import Segmentations, attempt, usable

_MASKS, _CAPTIONS = "mask_gt", "caption_gt"
"""How the two files of the val and test splits are told apart."""


class _Described(NamedTuple):
    """An image: its file, size (height, width) where it is known, descriptions, and (phrase, segmentations)."""

    file: str
    size: tuple[int, int] | None
    captions: tuple[str, ...]
    phrases: Rows[tuple[str, Rows[Any]]]


def find_captions(path: Path, options: Options) -> Path | None:
    """Return the JSON of grounded descriptions; of val and test the file with the masks."""
    if path.is_file():
        return path if path.suffix == ".json" and _caption_file(path) and _is_described(read_json(path), path) else None
    patterns = (
        "*GCG*.json",
        "*gcg*.json",
        "annotations/*gcg*.json",
        "annotations/*/*gcg*.json",
        "annotations/*/*GCG*.json",
    )
    found = {file for pattern in patterns for file in path.glob(pattern) if _CAPTIONS not in file.name}
    if options.split is None or not any(_MASKS in file.name for file in found):
        return choose_split(found, options)
    return next((file for file in sorted(found) if file.name.startswith(f"{options.split}_")), None)


def _caption_file(path: Path) -> Path:
    return path.with_name(path.name.replace(_MASKS, _CAPTIONS))


def _is_described(said: Any, path: Path) -> bool:
    if isinstance(said, dict):
        if _MASKS in path.name:
            return _caption_file(path).is_file()
        return any("caption" in image for image in said.get("images", ())[:1])
    first = said[0] if isinstance(said, list) and said and isinstance(said[0], dict) else {}
    return "groundings" in first or any(isinstance(one, dict) and "refs" in one for one in first.values())


def open_captions(path: Path, options: Options) -> Dataset:
    """Open grounded descriptions, each image a sequence: expressions are the phrases, each with its objects.

    Four structures are known: a list of images with ``groundings``; a list of ``{id: image with refs}``; COCO's with a
    ``caption`` in each image, where a phrase is ``tokens_positive`` of it; and the pair of files of val and test,
    ``..._mask_gt.json`` beside ``..._caption_gt.json``, whose n-th label is the n-th mask's.
    """
    said = read_json(path)
    if isinstance(said, dict):
        images = list(_of_pair(said, read_json(_caption_file(path))) if _MASKS in path.name else _of_coco(said))
    else:
        images = [_of_groundings(one) if "groundings" in one else _of_refs(next(iter(one.values()))) for one in said]
    if not images:
        raise TruthError(f"{path} describes no image")
    root = find_root(list(path.parents)[:4], (image.file for image in images), ("images",))
    sequences = usable(
        (attempt(Path(image.file).stem, partial(_make, root, image, options)) for image in images), str(path)
    )
    return Dataset(path.stem, Kind.CAPTIONS, sequences, fingerprint=fingerprint(path, *{_caption_file(path)} - {path}))


def _make(root: Path, image: _Described, options: Options) -> Sequence:
    tracks: list[tuple[int, list[Any]]] = []
    expressions = []
    for number, (phrase, segmentations) in enumerate(image.phrases):
        ids = range(len(tracks) + 1, len(tracks) + 1 + len(segmentations))
        tracks += [(object_id, [segmentation]) for object_id, segmentation in zip(ids, segmentations)]
        expressions.append(Expression(str(number), phrase, tuple(ids)))
    return Segmentations(
        Path(image.file).stem,
        options,
        (root / image.file,),
        tracks,
        image.size,
        objects=tuple(TrueObject(object_id) for object_id, _ in tracks),
        expressions=tuple(expressions),
        captions=image.captions,
    )


def _clean(text: str) -> str:
    return text.strip('"').strip()


def _size(said: Any) -> tuple[int, int] | None:
    return (int(said["height"]), int(said["width"])) if said.get("height") else None


def _of_groundings(said: Any) -> _Described:
    items = sorted(said["groundings"].items(), key=lambda item: item[1]["token_positives"][0])
    phrases = [(_clean(phrase), _listed(item["rle_masks"])) for phrase, item in items]
    return _Described(said["file_name"], _size(said), (_clean(said["caption"]),), phrases)


def _of_refs(said: Any) -> _Described:
    caption = _clean(said["caption"])
    refs = sorted(said["refs"], key=lambda ref: caption.lower().find(_clean(ref["sentence"]).lower()))
    phrases = [(_clean(ref["sentence"]), _listed(ref["segmentation"])) for ref in refs]
    return _Described(said["img_file_name"], _size(said), (caption,), phrases)


def _listed(masks: Any) -> Rows[Any]:
    """Return segmentations: run lengths each, or polygons, which together are one."""
    is_many = isinstance(masks, list) and all(isinstance(mask, dict) for mask in masks)
    return masks if is_many else [masks]


def _of_coco(said: Any) -> Iterator[_Described]:
    annotations = defaultdict(list)
    for annotation in said["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    for image in said["images"]:
        found = sorted(annotations[image["id"]], key=lambda annotation: annotation["tokens_positive"][0][0])
        spans = [(annotation["tokens_positive"][0], annotation) for annotation in found]
        phrases = [(image["caption"][start:end], _listed(annotation["sam_mask"])) for (start, end), annotation in spans]
        yield _Described(image["file_name"], _size(image), (_clean(image["caption"]),), phrases)


def _of_pair(masks: Any, captions: Any) -> Iterator[_Described]:
    found, texts = defaultdict(list), defaultdict(list)
    labels: dict[Any, Rows[str]] = {}
    for annotation in masks["annotations"]:
        found[annotation["image_id"]].append(annotation["segmentation"])
    for annotation in captions["annotations"]:
        texts[annotation["image_id"]].append(_clean(annotation["caption"]))
        labels.setdefault(annotation["image_id"], annotation.get("labels", ()))
    for image in masks["images"]:
        key = image["id"]
        named = [*labels.get(key, ()), *[""] * len(found[key])]
        phrases = [(label, _listed(mask)) for label, mask in zip(named, found[key])]
        yield _Described(image.get("file_name", f"{key}.jpg"), _size(image), tuple(texts[key]), phrases)
