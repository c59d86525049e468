"""V-VGD: one JSON file with the regions that are shown and everything that looks like them.

``x2sam vgd`` makes it from class-labelled videos (visual_builder.py). All of it is UTF-8 JSON::

    {"format": "x2sam-vvgd-1",
     "name": "valid",                        of the dataset it was made from
     "source": "<SHA-256>",                  that dataset's fingerprint
     "seed": 0, "clip_length": 0,            how it was made
     "images": "../JPEGImages",              what files are relative to; itself relative to this file
     "categories": [{"id": 3, "name": "dog"}],
     "sequences": [
       {"name": "a1b2",
        "frames": [{"file": "a1b2/00000.jpg", "stamp_ns": 0, "annotated": true}],
        "objects": [{"id": 1, "category_id": 3, "segmentations": [<rle or null>]}],      one for each frame
        "prompt": {"frame": 0,                                                           position in "frames"
                   "regions": [{"category_id": 3, "object_id": 1,                        whom it was drawn for
                                "point": <rle>, "scribble": <rle>, "box": <rle>, "mask": <rle>}]}}]}

An ``rle`` is COCO's compressed form, ``{"size": [height, width], "counts": "..."}``, of the whole image. A region
stands for its category: all objects of that category are meant, and objects of others are not in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from x2sam_ros.bag.media import read_image
from x2sam_ros.bag.source import FrameSource, RawFrame
from x2sam_ros.errors import TruthError, told
from x2sam_ros.truth.dataset import Category, Dataset, Expression, Kind, TrueFrame, TrueObject
from x2sam_ros.truth.files import Options, fingerprint, read_json
from x2sam_ros.truth.label_maps import mask_of_segmentation
from x2sam_ros.truth.sequences import MALFORMED, Segmentations, attempt, usable
from x2sam_ros.types import BoolArray

_FAMILY = "x2sam-vvgd-"
FORMAT = f"{_FAMILY}1"


class VisualSequence(Segmentations):
    """A sequence with regions: expression k is the k-th region, its id the category that the region stands for.

    Args:
        record: one of the file's ``sequences``.
        root: folder that its files are relative to.
        options: how the dataset is opened; a stride keeps the frame of the prompt, and the stamps are the file's.

    Raises:
        TruthError: an object has fewer masks than there are frames, or the frame of the prompt does not exist.
    """

    def __init__(self, record: Mapping[str, Any], root: Path, options: Options) -> None:
        regions = {str(region["category_id"]): region for region in record["prompt"]["regions"]}
        objects = tuple(TrueObject(int(thing["id"]), int(thing["category_id"])) for thing in record["objects"])
        meant = {key: tuple(thing.object_id for thing in objects if str(thing.category_id) == key) for key in regions}
        super().__init__(
            str(record["name"]),
            options,
            [root / frame["file"] for frame in record["frames"]],
            [(int(thing["id"]), thing["segmentations"]) for thing in record["objects"]],
            objects=objects,
            expressions=tuple(Expression(key, "", ids) for key, ids in meant.items()),
        )
        self._frames, self._regions = record["frames"], regions
        self._prompt_frame = int(record["prompt"]["frame"])
        if not 0 <= self._prompt_frame < len(self.images):
            raise TruthError(f"the prompt is on frame {self._prompt_frame} of {len(self.images)}")

    def frames(self) -> FrameSource:
        """Open the images, from the first that a stride to the prompt's begins with."""
        stride = self._options.stride
        stamped = [(file, int(frame["stamp_ns"])) for file, frame in zip(self.images, self._frames, strict=True)]
        return _StampedImages(self.name, stamped[self._prompt_frame % max(stride, 1) :], stride)

    def read(self, image: Path, size: tuple[int, int]) -> TrueFrame | None:
        """Decode the masks of an image, None where it is not annotated."""
        index = self._indices.get(image)
        return super().read(image, size) if index is None or self._frames[index]["annotated"] else None

    def annotated(self) -> list[int]:
        """Return the places of the annotated images; see ``Sequence.annotated``."""
        stride = self._options.stride
        kept = self._frames[self._prompt_frame % stride :: stride]
        return [place for place, frame in enumerate(kept) if frame["annotated"]]

    @property
    def prompt_place(self) -> int:
        """The place of the image with the prompt among ``frames()``, readable or not."""
        return self._prompt_frame // self._options.stride

    def prompt_index(self) -> int:
        """Return the ``frame_index`` that the image with the prompt has among ``frames()``.

        Raises:
            TruthError: that image cannot be read.
        """
        file = str(self.images[self._prompt_frame])
        for frame in self.frames():
            if frame.source == file:
                return frame.frame_index
        raise TruthError(f"{self.name}: {file}, which the prompt is on, cannot be read; copy it again")

    def region(self, expression: Expression, kind: str) -> BoolArray:
        """Return what is shown for an expression: point, scribble, box or mask, bool (H, W).

        Raises:
            TruthError: it is damaged.
        """
        return mask_of_segmentation(self._regions[expression.expression_id][kind], (0, 0))


class _StampedImages(FrameSource):
    """Image files with the stamps that a list gives them."""

    def __init__(self, name: str, files: list[tuple[Path, int]], stride: int) -> None:
        super().__init__(name, name, stride)
        self._files = files

    @property
    def num_images(self) -> int:
        """Number of files before striding."""
        return len(self._files)

    def _images(self) -> Iterator[Callable[[], RawFrame]]:
        for file, stamp_ns in self._files:
            yield partial(_read, file, stamp_ns)


def _read(file: Path, stamp_ns: int) -> RawFrame:
    return RawFrame(read_image(file), stamp_ns, source=str(file))


def find_visual(path: Path, options: Options) -> Path | None:
    """Return the file where it is one of ``x2sam vgd``, of whatever version."""
    if path.suffix != ".json" or not path.is_file():
        return None
    said = read_json(path)
    is_ours = isinstance(said, dict) and str(said.get("format")).startswith(_FAMILY)
    return path if is_ours else None


def open_visual(path: Path, options: Options) -> Dataset:
    """Open what ``x2sam vgd`` wrote.

    Raises:
        TruthError: it is damaged, of another version, or nothing in it can be used.
    """
    said = read_json(path)
    try:
        if said["format"] != FORMAT:
            raise TruthError(f"{path} is {said['format']!r}, expected {FORMAT!r}; make it again with `x2sam vgd`")
        root = path.parent / said["images"]
        categories = tuple(Category(int(row["id"]), str(row["name"])) for row in said["categories"])
        sequences = [
            attempt(str(record["name"]), partial(VisualSequence, record, root, options)) for record in said["sequences"]
        ]
        return Dataset(str(said["name"]), Kind.VISUAL, usable(sequences, str(path)), categories, fingerprint(path))
    except MALFORMED as error:
        raise TruthError(f"{path} has another structure than {FORMAT} ({told(error)}); make it again") from error
