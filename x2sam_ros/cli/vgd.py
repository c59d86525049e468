"""``x2sam vgd``: videos with classes into V-VGD, regions that are shown and everything that looks like them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def vgd(
    source: Annotated[Path, typer.Argument(help="Dataset with classes, such as YouTube-VIS or VIPSeg.")],
    out: Annotated[Path, typer.Option(help="JSON file to make.")],
    bags: Annotated[Path | None, typer.Option(help="Folder for the same as bags, one for each sequence.")] = None,
    layout: Annotated[str | None, typer.Option(help="Layout of the dataset; found out by default.")] = None,
    split: Annotated[str | None, typer.Option(help="Split, where the dataset has several.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of what is chosen and drawn at random.")] = 0,
    clip_length: Annotated[
        int, typer.Option(help="Cut videos into clips with a prompt each; 8 as published. 0 keeps them whole.")
    ] = 0,
) -> None:
    """Build the video visual grounding benchmark: points, scribbles, boxes and masks by the published rules."""
    from rich.console import Console
    from rich.progress import Progress

    from x2sam_ros.bag.output import PendingFile
    from x2sam_ros.cli.printing import counted
    from x2sam_ros.evaluation.visual_builder import build_visual, write_bags
    from x2sam_ros.truth.files import Options
    from x2sam_ros.truth.open import open_dataset
    from x2sam_ros.truth.visual import open_visual

    console = Console()
    file = PendingFile(out, ".json")
    try:
        dataset = open_dataset(source, layout, split=split)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("drawing", total=len(dataset.sequences))
            built = build_visual(
                dataset, out.parent, seed=seed, clip_length=clip_length, on_sequence=lambda name: bar.advance(task)
            )
        file.part.write_text(built.text, encoding="utf-8")
        file.commit()
    finally:
        file.discard()
    for reason in built.left_out:
        console.print(f"left out: {reason}", markup=False)
    console.print(
        f"{out}: {counted(built.num_regions, 'region')} in {counted(built.num_sequences, 'sequence')}", markup=False
    )
    if bags is not None:
        paths = write_bags(open_visual(out, Options()), bags)
        console.print(f"{bags}: {counted(len(paths), 'bag')}", markup=False)
