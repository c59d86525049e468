"""The loss plot of a training run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

_TAUGHT = ("features", "condition", "memory")
"""Terms of distillation."""


def plot_losses(log: Path, picture: Path) -> None:
    """Draw the smoothed loss terms and the held-out score of ``log`` (one JSON object a line) into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure, axes = plt.subplots(figsize=(9, 4.5))
    for name in (
        "loss",
        "segmentation",
        "attributes",
        "cells",
        "grounding",
        "centre",
        "text",
        "keep",
        "recollection",
        *_TAUGHT,
    ):
        points = [(i, row[name]) for i, row in enumerate(rows) if name in row]
        if points:
            steps, values = np.array(points).T
            width = max(1, len(values) // 100)
            axes.plot(steps[width - 1 :], np.convolve(values, np.ones(width) / width, "valid"), label=name)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend(loc="upper right")
    right = axes.twinx()
    held_out = (
        ("score", "k.-", "held-out mean IoU"),
        ("answers", "k.--", "held-out exact answers"),
        ("memory gain", "k.:", "what the memory adds on held-out twins"),
    )
    for name, line, label in held_out:
        scores = [(i, row[name]) for i, row in enumerate(rows) if name in row]
        if scores:
            right.plot(*np.array(scores).T, line, label=label)
    right.set(ylabel="share", ylim=(0, 1))
    if right.lines:
        right.legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
    plt.close(figure)
