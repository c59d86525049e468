"""Watch the resident memory over a long stream with targets coming and going.

Flat means: the mean over the last tenth of the stream is within 2 % of the resident size after 300 frames.
Linux only (reads /proc).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from scene_cases import JpegCamera
from tables import hardware_line, number, print_table, progress

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import NodeConfig
from x2sam_ros.engine.session import Session

REFERENCE_FRAME = 300
TOLERANCE = 0.02
CHANGE_EVERY = 40
"""Every so many frames the oldest target goes and a click adds another."""

MAX_TARGETS = 3
SAMPLE_EVERY = 10


def resident_mib() -> float:
    """Return this process's resident size in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def stream(session: Session, camera: JpegCamera, num_frames: int) -> tuple[list[tuple[int, float, int]], int]:
    """Run the stream.

    Returns:
        (frames done, resident MiB, session's own bytes) every `SAMPLE_EVERY` frames, and how many targets there were.
    """
    samples, clicks, targets = [], 0, set[int]()
    for index in progress(range(num_frames), "frames", num_frames):
        if index % CHANGE_EVERY == 0:
            if len(session.target_ids) >= MAX_TARGETS:
                session.remove(min(session.target_ids))
            session.submit(camera.click(index, clicks))
            clicks += 1
        session.step(camera.frame(index))
        targets.update(session.target_ids)
        if (index + 1) % SAMPLE_EVERY == 0:
            samples.append((index + 1, resident_mib(), session.nbytes))
    return samples, len(targets)


def plot(samples: list[tuple[int, float, int]], reference_mib: float, path: Path) -> None:
    """Draw the resident size over the frames, with the band it may not leave."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    axes.plot([frames for frames, _, _ in samples], [mib for _, mib, _ in samples], label="resident size")
    low, high = (1 - TOLERANCE) * reference_mib, (1 + TOLERANCE) * reference_mib
    axes.axhspan(low, high, alpha=0.2, label=f"within {TOLERANCE:.0%} of frame {REFERENCE_FRAME}")
    axes.set(xlabel="frames", ylabel="MiB", title="Resident memory, targets coming and going", ylim=(0, None))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> int:
    """Run the stream, print the table and draw the plot; the exit code is 1 where memory grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=NodeConfig.preset, help="preset or checkpoint folder")
    parser.add_argument("--device", default=NodeConfig.device)
    parser.add_argument("--frames", type=int, default=3000, help="at least twice the reference frame")
    parser.add_argument("--plot", type=Path, default=Path("memory.png"), help="where the plot goes")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args()
    if options.frames < 2 * REFERENCE_FRAME:
        parser.error(f"--frames is {options.frames}, expected at least {2 * REFERENCE_FRAME}")
    session = Session(load_model(options.model, options.device))
    samples, num_targets = stream(session, JpegCamera(), options.frames)
    by_frame = {frames: (mib, nbytes) for frames, mib, nbytes in samples}
    reference_mib = by_frame[REFERENCE_FRAME][0]
    last_mib = float(np.mean([mib for frames, mib, _ in samples if frames > 0.9 * options.frames]))
    growth = last_mib / reference_mib - 1

    print(f"{options.model}: {hardware_line(options.device)}")
    shown = [frames for frames in (SAMPLE_EVERY, 100, REFERENCE_FRAME, 1000, 2000, 3000) if frames in by_frame]
    rows = [(str(f), number(by_frame[f][0], 1), number(by_frame[f][1] / 2**20, 2)) for f in shown]
    print_table(
        f"Memory, {num_targets} targets one after another",
        ("frames", "resident MiB", "session MiB"),
        rows,
        options.markdown,
    )
    print(f"last tenth {last_mib:.1f} MiB, {growth:+.2%} of frame {REFERENCE_FRAME}; allowed {TOLERANCE:.0%}")
    plot(samples, reference_mib, options.plot)
    print(f"plot: {options.plot}")
    return int(abs(growth) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
