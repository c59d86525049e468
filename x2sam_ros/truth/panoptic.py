"""COCO panoptic and VIPSeg: colours are segment ids, and JSON says what each segment is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from x2sam_ros.bag.media import NOMINAL_FPS
from x2sam_ros.errors import TruthError
from x2sam_ros.truth.dataset import Dataset, Kind, Sequence, TrueObject
from x2sam_ros.truth.files import Options, choose_split, find_root, fingerprint, read_json
from x2sam_ros.truth.label_maps import read_colours
from x2sam_ros.truth.sequences import MaskFiles, attempt, usable
from x2sam_ros.truth.youtube import categories_of, check_categories


def find_coco_panoptic(path: Path, options: Options) -> Path | None:
    """Return the JSON of COCO panoptic: of a folder, one that has a folder of masks of the same name."""
    if path.is_file():
        return path if path.suffix == ".json" and _segments(path, "images") else None
    found = [*path.glob("*panoptic*.json"), *path.glob("annotations/*panoptic*.json")]
    return choose_split((file for file in found if _has_masks(file)), options)


def _has_masks(file: Path) -> bool:
    return any((folder / file.stem).is_dir() for folder in (file.parent, file.parent.parent))


def _segments(path: Path, of: str) -> bool:
    """Tell whether a JSON file describes segments of ``images`` or of ``videos``."""
    said = read_json(path)
    if not isinstance(said, dict) or not isinstance(said.get(of), list) or not said.get("annotations"):
        return False
    first = said["annotations"][0]
    return "segments_info" in (first.get("annotations") or [{}])[0] if of == "videos" else "segments_info" in first


def open_coco_panoptic(path: Path, options: Options) -> Dataset:
    """Open COCO panoptic: one sequence for each image; what no segment covers is void."""
    said = read_json(path)
    categories = categories_of(said["categories"])
    known = {category.category_id for category in categories}
    files = {image["id"]: image["file_name"] for image in said["images"]}
    bases = (path.parent, path.parent.parent)
    split = path.stem.rpartition("_")[2]
    images = find_root(bases, files.values(), (split, f"images/{split}", "input_images"))
    masks = find_root(bases, (annotation["file_name"] for annotation in said["annotations"]), (path.stem,))

    def make(annotation: Mapping[str, Any]) -> Sequence:
        check_categories(annotation["segments_info"], known)
        name = Path(files[annotation["image_id"]]).stem
        pairs = {images / files[annotation["image_id"]]: masks / annotation["file_name"]}
        return _sequence(
            name, pairs, annotation["segments_info"], options, shares_folder=True, number=annotation["image_id"]
        )

    sequences = [
        attempt(Path(annotation["file_name"]).stem, partial(make, annotation)) for annotation in said["annotations"]
    ]
    return Dataset(path.stem, Kind.PANOPTIC, usable(sequences, str(path)), categories, fingerprint(path, masks=[masks]))


def find_vipseg(path: Path, options: Options) -> Path | None:
    """Return the panoptic_gt_VIPSeg....json of VIPSeg."""
    if path.is_file():
        return path if path.suffix == ".json" and _segments(path, "videos") else None
    return choose_split(path.glob("panoptic_gt_*.json"), options)


def open_vipseg(path: Path, options: Options) -> Dataset:
    """Open VIPSeg: images/VIDEO, panomasksRGB/VIDEO; a segment keeps its id in all frames, 0 is void."""
    said = read_json(path)
    categories = categories_of(said["categories"])
    known = {category.category_id for category in categories}
    annotations = {annotation["video_id"]: annotation["annotations"] for annotation in said["annotations"]}
    probes = [f"{video['video_id']}/{image['file_name']}" for video in said["videos"] for image in video["images"][:1]]
    images = find_root((path.parent, path.parent.parent), probes, ("images",))
    masks = images.parent / "panomasksRGB"
    if not masks.is_dir():
        raise TruthError(f"{masks} does not exist; make the masks in colours with VIPSeg's change2_720p.py")

    def make(video: Mapping[str, Any]) -> Sequence:
        name = str(video["video_id"])
        frames = annotations[video["video_id"]]
        if len(frames) != len(video["images"]):
            raise TruthError(f"{name} has {len(frames)} annotated frames and {len(video['images'])} images")
        pairs = {
            images / name / image["file_name"]: masks / name / frame["file_name"]
            for image, frame in zip(video["images"], frames)
        }
        segments = [segment for frame in frames for segment in frame["segments_info"]]
        check_categories(segments, known)
        return _sequence(name, pairs, segments, options)

    sequences = [attempt(str(video["video_id"]), partial(make, video)) for video in said["videos"]]
    return Dataset(path.stem, Kind.PANOPTIC, usable(sequences, str(path)), categories, fingerprint(path, masks=[masks]))


def _sequence(
    name: str, pairs: Mapping[Path, Path], segments: Iterable[Mapping[str, Any]], options: Options, **rest: Any
) -> Sequence:
    """Make a sequence; its segments are numbered in the order they are named."""
    said: dict[int, tuple[int, bool]] = {}
    for segment in segments:
        meaning = int(segment["category_id"]), bool(segment.get("iscrowd", 0))
        if said.setdefault(int(segment["id"]), meaning) != meaning:
            raise TruthError(
                f"{name}: segment {segment['id']} is of category {meaning[0]} and {said[segment['id']][0]}"
            )
    values = {value: number for number, value in enumerate(said, 1)}
    return MaskFiles(
        name,
        options,
        partial(dict, pairs),
        values,
        ignored=(0,),
        nothing=(),
        to_labels=read_colours,
        objects=tuple(TrueObject(values[value], *meaning) for value, meaning in said.items()),
        rate=NOMINAL_FPS,
        **rest,
    )
