"""Open any ground truth: the layout is found by what lies where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from x2sam_ros.errors import ConfigError, TruthError, told
from x2sam_ros.truth import (
    bags,
    captions,
    clip_lists,
    coco,
    davis,
    panoptic,
    reasoning,
    segment_anything,
    semantic,
    visual,
    youtube,
)
from x2sam_ros.truth.dataset import Dataset
from x2sam_ros.truth.files import Options, forget_json
from x2sam_ros.truth.sequences import MALFORMED

_Found = TypeVar("_Found")


class _Layout(NamedTuple):
    """How a layout is found and read, what it needs, and which options it has besides the stride."""

    find: Callable[[Path, Options], Path | None]
    read: Callable[[Path, Options], Dataset]
    needs: str
    takes: tuple[str, ...] = ("split", "fps")


_LAYOUTS = {
    "bag": _Layout(
        bags.find_bags, bags.open_bags, "a bag, or a folder of bags, with label images", ("topic", "label_topic")
    ),
    "davis": _Layout(davis.find_davis, davis.open_davis, "JPEGImages/, Annotations/ and ImageSets/"),
    "sequences": _Layout(
        clip_lists.find_sequences, clip_lists.open_sequences, "sequences.json in it or above it", ("fps",)
    ),
    "youtube-vos": _Layout(youtube.find_vos, youtube.open_vos, "meta.json, JPEGImages/ and Annotations/ (of a split)"),
    "mevis": _Layout(youtube.find_mevis, youtube.open_mevis, "meta_expressions.json, mask_dict.json and JPEGImages/"),
    "revos": _Layout(
        youtube.find_revos, youtube.open_mevis, "meta_expressions_SPLIT_.json, mask_dict.json and JPEGImages/"
    ),
    "ref-youtube-vos": _Layout(
        youtube.find_referring, youtube.open_referring, "meta_expressions.json, JPEGImages/ and Annotations/"
    ),
    "vipseg": _Layout(panoptic.find_vipseg, panoptic.open_vipseg, "panoptic_gt_*.json, images/ and panomasksRGB/"),
    "camvid": _Layout(
        semantic.find_camvid, semantic.open_camvid, "clips.json, or SPLIT/ and SPLITannot/, or label_colors.txt"
    ),
    "sceneparse150": _Layout(
        semantic.find_sceneparse, semantic.open_sceneparse, "objectInfo150.txt, images/SPLIT/ and annotations/SPLIT/"
    ),
    "coco-images": _Layout(
        coco.find_photographs, coco.open_photographs, "images.json, and the instances it names", ("fps",)
    ),
    "refcoco": _Layout(coco.find_refcoco, coco.open_refcoco, "refs(...).p or grefs(...).json, and instances.json"),
    "gcg": _Layout(captions.find_captions, captions.open_captions, "JSON of grounded descriptions (GranD-f)"),
    "vgd": _Layout(visual.find_visual, visual.open_visual, "JSON that x2sam vgd wrote", ()),
    "coco-panoptic": _Layout(
        panoptic.find_coco_panoptic, panoptic.open_coco_panoptic, "*panoptic*.json with a folder of PNG of its name"
    ),
    "youtube-vis": _Layout(youtube.find_vis, youtube.open_vis, "JSON with videos and segmentations, and JPEGImages/"),
    "coco-instances": _Layout(coco.find_instances, coco.open_instances, "*instance*.json, and the images"),
    "sa-1b": _Layout(
        segment_anything.find_segment_anything,
        segment_anything.open_segment_anything,
        "pairs of sa_1.jpg and sa_1.json with annotations, in it or in its folders sa_*/",
        ("fps",),
    ),
    "reasonseg": _Layout(
        reasoning.find_reasoning, reasoning.open_reasoning, "pairs of NAME.jpg and NAME.json with shapes"
    ),
    "ade20k": _Layout(
        semantic.find_ade20k, semantic.open_ade20k, "NAME.jpg, NAME.json and NAME_seg.png, in it or anywhere below"
    ),
}

LAYOUTS: Mapping[str, str] = MappingProxyType({name: layout.needs for name, layout in _LAYOUTS.items()})
"""What each layout needs, by its name, in the order in which they are tried."""


def open_dataset(
    path: str | Path,
    layout: str | None = None,
    *,
    split: str | None = None,
    topic: str | None = None,
    label_topic: str | None = None,
    stride: int = 1,
    fps: float | None = None,
    training: bool = False,
) -> Dataset:
    """Open a dataset. Structure is checked, pixels are read when they are asked for.

    A sequence whose annotation is wrong stays in the dataset and raises what is wrong when it is used, so that the
    others can be evaluated.

    Args:
        path: a bag, a folder, or an annotation file.
        layout: one of ``LAYOUTS``; None finds it out.
        split: name of a split, as val; None takes the only one, or that of validation (``training``: of training).
        topic, label_topic: of a bag: the camera's images, and the label images; None finds them by their names.
        stride: keep every n-th image.
        fps: rate that gives image files their stamps; None is that of the dataset.
        training: without a split, take that of training instead of validation, where there are several.

    Raises:
        TruthError: nothing there, of no known layout, or not one sequence can be used.
        ConfigError: no such layout, or an option that it has no use for.
    """
    path = Path(path)
    if not path.exists():
        raise TruthError(f"{path} does not exist; give a bag, a folder or an annotation file")
    if layout is not None and layout not in _LAYOUTS:
        raise ConfigError(f"no layout is called {layout!r}; there are {', '.join(_LAYOUTS)}")
    if stride < 1:
        raise ConfigError(f"stride is {stride}, expected 1 (every image) or more")
    try:
        return _open(path, layout, Options(split, topic, label_topic, stride, fps, training))
    finally:
        forget_json()


def _open(path: Path, layout: str | None, options: Options) -> Dataset:
    tried = _LAYOUTS if layout is None else {layout: _LAYOUTS[layout]}
    for name, candidate in tried.items():
        found = _guarded(name, candidate.find, path, options)
        if found is None:
            continue
        for option in ("split", "topic", "label_topic", "fps"):
            value = getattr(options, option)
            if value is not None and option not in candidate.takes:
                raise ConfigError(f"{path} is of layout {name}, which has no {option}; leave {option} {value!r} away")
        return _guarded(name, candidate.read, found, options)
    needs = "; ".join(f"{name}: {candidate.needs}" for name, candidate in tried.items())
    raise TruthError(f"{path} is of no known layout. Looked for: {needs}")


def _guarded(name: str, step: Callable[[Path, Options], _Found], path: Path, options: Options) -> _Found:
    """Run a step of a reader, which JSON of another structure may make raise anything."""
    try:
        return step(path, options)
    except MALFORMED as error:
        raise TruthError(
            f"{path} has not the structure of {name} ({told(error)}); it needs {_LAYOUTS[name].needs}"
        ) from error
    except OSError as error:
        raise TruthError(f"{path} cannot be read: {error}; check its permissions") from error
