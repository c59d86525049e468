"""SA-1B: photographs, each with a JSON of the masks of everything in it, without names."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from x2sam_ros.bag.storage import natural_key
from x2sam_ros.errors import TruthError, told
from x2sam_ros.truth.dataset import Dataset, Kind, TrueFrame, TrueObject
from x2sam_ros.truth.files import Options, fingerprint, images_in, read_json
from x2sam_ros.truth.label_maps import frame_of_segmentations
from x2sam_ros.truth.sequences import MALFORMED, FileSequence, attempt, usable

_PROBED = 3


def find_segment_anything(path: Path, options: Options) -> Path | None:
    """Return a folder with pairs ``sa_1.jpg`` and ``sa_1.json``, or one of such folders (``sa_000000/``)."""
    if not path.is_dir():
        return None
    return path if any(_is_pairs(folder) for folder in _folders(path)[: _PROBED + 1]) else None


def _folders(path: Path) -> list[Path]:
    return [path, *sorted((folder for folder in path.glob("sa_*/") if folder.is_dir()), key=natural_key)]


def _is_pairs(folder: Path) -> bool:
    for image in images_in(folder)[:_PROBED]:
        file = image.with_suffix(".json")
        said = read_json(file) if file.is_file() else None
        if isinstance(said, dict) and "annotations" in said and isinstance(said.get("image"), dict):
            return True
    return False


def open_segment_anything(path: Path, options: Options) -> Dataset:
    """Open photographs: one sequence each, whose objects have no class. An image without a JSON is left out.

    The JSON of an image is read when its masks are asked for: a release has millions of them.
    """
    images = [image for folder in _folders(path) for image in images_in(folder) if image.with_suffix(".json").is_file()]
    sequences = usable(
        (attempt(_name(path, image), partial(_Photograph, path, image, options)) for image in images), str(path)
    )
    return Dataset(
        f"sa-1b-{path.name}",
        Kind.OBJECTS,
        sequences,
        fingerprint=fingerprint(masks=[i.with_suffix(".json") for i in images]),
    )


def _name(root: Path, image: Path) -> str:
    return image.relative_to(root).with_suffix("").as_posix()


class _Photograph(FileSequence):
    """A photograph with the masks of its JSON, numbered from 1 in the order of the file."""

    def __init__(self, root: Path, image: Path, options: Options) -> None:
        super().__init__(_name(root, image), options, (image,), self._numbered)
        self._file = image.with_suffix(".json")

    @property
    def _annotations(self) -> list[Any]:
        return list(read_json(self._file)["annotations"])

    def _numbered(self) -> tuple[TrueObject, ...]:
        return tuple(TrueObject(number) for number, _ in enumerate(self._annotations, 1))

    def read(self, image: Path, size: tuple[int, int]) -> TrueFrame:
        """Decode the masks."""
        try:
            tracks = [(number, item["segmentation"]) for number, item in enumerate(self._annotations, 1)]
        except MALFORMED as error:
            raise TruthError(
                f"{self._file} has another structure than SA-1B's ({told(error)}); copy it again"
            ) from error
        return frame_of_segmentations(tracks, size)
