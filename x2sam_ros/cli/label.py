"""``x2sam label``: published masks out to be corrected by a person, and corrected ones back in as ground truth."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from x2sam_ros.cli import options
from x2sam_ros.errors import ConfigError, plain

if TYPE_CHECKING:
    from x2sam_ros.bag.source import FrameSource
    from x2sam_ros.training.labelling import MarkedImage

FORMATS = ("coco", "cvat-images", "cvat-video")


def label(
    recording: Annotated[Path, typer.Argument(help="Bag, video or folder of images that the masks belong to.")],
    out: Annotated[Path, typer.Option(help="With --to a new folder, with --corrected a new .mcap file.")],
    to: Annotated[str | None, typer.Option(help=f"Export masks as {', '.join(FORMATS)}.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Bag with the published masks; the recording itself by default.")
    ] = None,
    mask_topic: Annotated[str | None, typer.Option(help="Topic of the masks, where there are several.")] = None,
    corrected: Annotated[
        Path | None, typer.Option(help="Import this COCO .json or CVAT .xml as ground truth of the recording.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder of the exported pictures, for CVAT video; the one beside the file by default."),
    ] = None,
    topic: options.Topic = None,
    stride: Annotated[int, typer.Option(help="Export every n-th image.")] = 1,
) -> None:
    """Export masks that were published, to be corrected in COCO tools or CVAT, and import what was corrected.

    x2sam label clip.mcap --masks results.mcap --to cvat-images --out labels

    x2sam label clip.mcap --corrected labels/annotations.xml --out labelled.mcap

    Images that were not exported stay in the bag without ground truth. Train with it: x2sam finetune.
    """
    from x2sam_ros.bag.source import open_source

    if (to is None) == (corrected is None):
        raise ConfigError(f"give either --to ({', '.join(FORMATS)}) to export, or --corrected FILE to import")
    if corrected is None:
        assert to is not None
        if to not in FORMATS:
            raise ConfigError(f"cannot export to {to!r:.80}; expected {', '.join(FORMATS)}")
        if pictures is not None:
            raise ConfigError("--pictures is for --corrected; leave it away")
        _check_new(out, "folder")
        _export(open_source(recording, topic, stride), masks or recording, mask_topic, to, out)
        return
    for name, given in (
        ("--masks", masks),
        ("--mask-topic", mask_topic),
        ("--stride", stride if stride != 1 else None),
    ):
        if given is not None:
            raise ConfigError(f"{name} is for --to; leave it away")
    _check_new(out, "file")
    _import(open_source(recording, topic), corrected, pictures, out)


def _check_new(out: Path, kind: str) -> None:
    if out.exists():
        raise ConfigError(
            f"{out} is there already; give --out a new {kind}, so that nothing recorded, published or corrected is lost"
        )


def _export(source: FrameSource, masks: Path, mask_topic: str | None, to: str, out: Path) -> None:
    from rich.console import Console

    from x2sam_ros.bag.source import Problems
    from x2sam_ros.cli.printing import counted, print_problems
    from x2sam_ros.training import label_coco, label_cvat
    from x2sam_ros.training.label_export import export_images, read_published

    damaged = Problems()
    published = read_published(masks, damaged, mask_topic)
    file = out / ("annotations.json" if to == "coco" else "annotations.xml")
    write = {
        "coco": label_coco.write_coco,
        "cvat-images": label_cvat.write_cvat_images,
        "cvat-video": label_cvat.write_cvat_video,
    }
    try:
        images = export_images(source, published, out)
        write[to](images, file)
        label_cvat.write_label_constructor(images, out / label_cvat.LABELS_FILE)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # half an export looks like a whole one
        raise
    count = sum(len(image.marks) for image in images)
    console = Console()
    print_problems(damaged, console)
    print_problems(source.problems, console)
    console.print(
        f"{file}: {counted(count, 'mask')} on {counted(len(images), 'image')}; labels of a CVAT task: "
        f"{out / label_cvat.LABELS_FILE}",
        markup=False,
        soft_wrap=True,
    )


def _import(source: FrameSource, corrected: Path, pictures: Path | None, out: Path) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from x2sam_ros.cli.printing import counted, print_problems
    from x2sam_ros.training.labelling import settled, write_truth

    labelled = settled(_read(corrected, pictures))
    console = Console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("writing", total=source.num_frames)
        written = write_truth(labelled, source, out, lambda: bar.advance(task))
    print_problems(source.problems, console)
    names = ", ".join(f"{number} {plain(name)}" for number, name in labelled.names.items())
    console.print(
        f"{out}: {written.annotated} of {counted(written.images, 'image')} annotated; objects: {names}",
        markup=False,
        soft_wrap=True,
    )
    if labelled.by_label:
        masks = counted(labelled.by_label, "mask")
        said = f"{masks} without an object_id: taken for the object that has the same label on other images"
        console.print(said, markup=False, soft_wrap=True)
    if labelled.empty:
        said = f"{counted(len(labelled.empty), 'mask')} without a pixel left out, the first on {labelled.empty[0]}"
        console.print(said, markup=False, soft_wrap=True)
    if written.overlapping:
        said = f"objects overlap on {counted(written.overlapping, 'image')}; there the smaller one is on top"
        console.print(said, markup=False)


def _read(corrected: Path, pictures: Path | None) -> list[MarkedImage]:
    from x2sam_ros.training.label_coco import read_coco
    from x2sam_ros.training.label_cvat import read_cvat
    from x2sam_ros.training.labelling import IMAGES_FOLDER

    suffix = corrected.suffix.lower()
    if suffix == ".json":
        return read_coco(corrected)
    if suffix == ".xml":
        return read_cvat(corrected, pictures or corrected.parent / IMAGES_FOLDER)
    raise ConfigError(f"{corrected} is neither .json (COCO) nor .xml (CVAT); unpack what the tool exported")
