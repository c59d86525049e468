"""Pixels of annotations to masks: label images, panoptic colours, run lengths and polygons."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as coco_mask

from x2sam_ros.errors import TruthError
from x2sam_ros.rle import decode_rle, from_coco
from x2sam_ros.truth.dataset import TrueFrame
from x2sam_ros.types import BoolArray

Labels = npt.NDArray[Any]

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises on a file that is none of its pictures, or half of one."""

_REACH = 4
"""How many pictures' lengths away a polygon's corner may lie: pycocotools takes memory for every pixel until there."""


def read_picture(path: Path) -> Labels:
    """Read a mask file as it is: a palette's indices, not its colours, (H, W); or colours, (H, W, channels).

    Raises:
        TruthError: the file is missing, damaged, or no picture.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as checked:
            checked.verify()  # the checksums, which decoding does not look at
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture)
    except _DAMAGE as error:
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # which tells where in memory the file was
            said = "it is no picture"
        raise TruthError(f"{path} cannot be read as a mask: {said}; copy it again") from error


def read_labels(path: Path) -> Labels:
    """Read a label image: integers (H, W), of a grey picture or of a palette.

    A picture in colour is taken where its channels are all the same, as some masks of DAVIS are.

    Raises:
        TruthError: as ``read_picture``, or in colour.
    """
    pixels = read_picture(path)
    if pixels.ndim == 3:
        colours = pixels[:, :, : 3 if pixels.shape[2] > 2 else 1]
        if (colours != colours[:, :, :1]).any():
            raise TruthError(f"{path} is in colour; ids are expected as grey or as a palette's indices")
        pixels = colours[:, :, 0]
    return pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels


def read_colours(path: Path) -> Labels:
    """Read a picture whose colours are numbers: int32 (H, W), R + 256 G + 65536 B.

    Raises:
        TruthError: as ``read_picture``, or not in colour.
    """
    pixels = read_picture(path)
    if pixels.ndim != 3 or pixels.shape[2] < 3:
        raise TruthError(
            f"{path} is not in colour, got {pixels.shape}; segment ids are expected as R + 256 G + 65536 B"
        )
    wide = pixels.astype(np.int32)
    return wide[:, :, 0] | wide[:, :, 1] << 8 | wide[:, :, 2] << 16


def values_in(labels: Labels) -> list[int]:
    """Return the values of a label image, ascending."""
    pixels = labels.ravel()
    changes = pixels[1:][pixels[1:] != pixels[:-1]]  # far fewer than pixels
    found: list[int] = np.unique(np.append(pixels[:1], changes)).tolist()
    return found


def frame_of_labels(
    labels: Labels,
    objects: Mapping[int, int],
    where: str,
    nothing: Collection[int] = (0,),
    ignored: Collection[int] = (),
) -> TrueFrame:
    """Take a label image apart.

    Args:
        labels: integers (H, W).
        objects: object id of each pixel value; several values may be one object.
        where: file, for messages.
        nothing: values of pixels that belong to no object.
        ignored: values of pixels that nobody annotated.

    Raises:
        TruthError: a value that is none of these.
    """
    found = values_in(labels)
    for value in found:
        if value not in objects and value not in nothing and value not in ignored:
            known = ", ".join(map(str, sorted(objects)[:20]))
            raise TruthError(
                f"{where}: {np.count_nonzero(labels == value)} pixels have the value {value}, which is none of those "
                f"listed ({known}); correct the mask or the list"
            )
    ids = sorted({objects[value] for value in found if value in objects})
    masks = np.zeros((len(ids), *labels.shape), np.bool_)
    for value in found:
        if value in objects:
            masks[ids.index(objects[value])] |= labels == value
    unmarked = [value for value in found if value in ignored and value not in objects]
    return TrueFrame(tuple(ids), masks, np.isin(labels, unmarked) if unmarked else None)


def mask_of_segmentation(segmentation: Any, size: tuple[int, int]) -> BoolArray:
    """Decode COCO's ``segmentation``: polygons, or run lengths as numbers or compressed.

    Args:
        segmentation: as in the JSON.
        size: (height, width) of the picture that polygons are drawn on.

    Returns:
        bool (H, W), of ``size`` for polygons, of its own size for run lengths.

    Raises:
        TruthError: none of these, or damaged.
    """
    try:
        if isinstance(segmentation, list):
            polygons = [polygon for polygon in segmentation if polygon]
            if not polygons:
                return np.zeros(size, np.bool_)
            if any(not (np.abs(polygon) <= _REACH * max(size)).all() for polygon in polygons):  # NaN is not, either
                raise ValueError(f"a polygon leads far out of its picture of {size[1]}x{size[0]}")
            packed = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))
            return np.ascontiguousarray(coco_mask.decode(packed).astype(np.bool_))
        height, width = map(int, segmentation["size"])
        counts = segmentation["counts"]
        return decode_rle(counts if isinstance(counts, list) else from_coco(segmentation), height, width)
    except Exception as error:  # pycocotools raises whatever its C code or the types make of it
        raise TruthError(f"a segmentation is damaged ({error}); export the annotations again") from error


def frame_of_segmentations(segmentations: Sequence[tuple[int, Any]], size: tuple[int, int]) -> TrueFrame:
    """Decode the segmentations of an image, (object id, ``segmentation`` or None) each; empty ones are absent.

    Raises:
        TruthError: as ``mask_of_segmentation``, or they have different sizes.
    """
    masks = {
        object_id: mask_of_segmentation(segmentation, size)
        for object_id, segmentation in segmentations
        if segmentation is not None
    }
    return frame_of_masks(masks, size)


def frame_of_masks(masks: Mapping[int, BoolArray], size: tuple[int, int]) -> TrueFrame:
    """Stack masks, bool (H, W) by object id; empty ones are absent. Without any, the image's size (H, W) is taken.

    Raises:
        TruthError: they have different sizes.
    """
    sizes = sorted({mask.shape for mask in masks.values()}) or [size]
    if len(sizes) > 1:
        raise TruthError(f"its masks have different sizes (height, width): {', '.join(map(str, sizes))}")
    seen = {object_id: mask for object_id, mask in masks.items() if mask.any()}
    stacked = np.stack(list(seen.values())) if seen else np.zeros((0, *sizes[0]), np.bool_)
    return TrueFrame(tuple(seen), stacked)
