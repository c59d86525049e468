"""How plots look: quiet, and on no background of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#808080"
"""Text and axes: readable on white and on black, so that the picture needs no background of its own."""


@contextmanager
def drawing(path: Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure and its axes, and write it when they are drawn; an older file is replaced by the whole new one.

    Args:
        path: an SVG or PNG file; it is the same for the same drawing.
        rows, columns: shape of the array of axes.
        size: (width, height) of the figure in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    quiet: dict[str, Any] = {"svg.hashsalt": "x2sam", "svg.fonttype": "none", "font.size": 9}
    quiet |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    with matplotlib.rc_context(cast(Any, quiet)):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.patch.set_alpha(0)
            axis.grid(color=INK, alpha=0.25, linewidth=0.6)
        yield figure, axes
        fresh = path.with_name(f".{path.stem}.new{path.suffix}")
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(fresh, dpi=150, transparent=True, metadata=metadata)
        os.replace(fresh, path)
