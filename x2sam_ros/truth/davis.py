"""DAVIS 2016 and 2017 as they are released: JPEGImages, Annotations and ImageSets."""

from __future__ import annotations

from pathlib import Path

from x2sam_ros.errors import TruthError
from x2sam_ros.truth.dataset import Dataset, Kind, TrueObject
from x2sam_ros.truth.files import Options, choose_name, fingerprint
from x2sam_ros.truth.sequences import mask_folder, usable

FPS = 24.0

_ONE_OBJECT = dict.fromkeys(range(1, 256), 1)
"""DAVIS 2016: whatever is marked is the object."""


def find_davis(path: Path, options: Options) -> Path | None:
    """Return the folder where it is a release of DAVIS."""
    is_one = all((path / name).is_dir() for name in ("JPEGImages", "Annotations", "ImageSets"))
    return path if is_one else None


def open_davis(path: Path, options: Options) -> Dataset:
    """Open a release.

    A split is ``val`` or ``2016/val``. Without a year it is 2017's where there is a list of that year. In 2016 all
    that is marked is one object; in 2017 each value is an object, and 255 is void unless a sequence has no other.
    """
    folder = path / "ImageSets"
    lists = {str(file.relative_to(folder).with_suffix("")): file for file in folder.rglob("*.txt")}
    sets = lists[choose_name(lists, options, folder, ("", "2017/", "2016/", "480p/"))]
    resolution = _resolution(path / "JPEGImages")
    images, masks = path / "JPEGImages" / resolution, path / "Annotations" / resolution
    is_single = sets.parent.name != "2017"
    # The first release lists pairs of files: /JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png
    lines = [line.split()[0] for line in sets.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = dict.fromkeys(Path(line).parent.name if "/" in line else line for line in lines)
    sequences = [
        mask_folder(
            name,
            options,
            images / name,
            masks / name,
            _ONE_OBJECT if is_single else None,
            objects=(TrueObject(1),),
            rate=FPS,
        )
        for name in names
    ]
    return Dataset(
        f"davis-{'2016' if is_single else '2017'}",
        Kind.OBJECTS,
        usable(sequences, str(sets)),
        fingerprint=fingerprint(sets, masks=(masks / name for name in names)),
    )


def _resolution(folder: Path) -> str:
    found = sorted(child.name for child in folder.iterdir() if child.is_dir())
    if "480p" in found or len(found) == 1:
        return "480p" if "480p" in found else found[0]
    raise TruthError(f"{folder} holds {', '.join(found) or 'nothing'}; expected 480p, or one folder of another size")
