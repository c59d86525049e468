"""Watch resident memory and ids over a long stream with targets coming and going.

Flat means: from frame 500 on the resident size stays within 2 % of what it is there. Ids are stable when no id is given
twice, none vanishes before its target is removed, and whatever is followed under an id is the object that was clicked.
The scene has eight objects that differ and stay in view. Linux only (reads /proc).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scene_cases import JpegCamera
from tables import arguments, hardware_line, number, print_table, progress

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.cli.bench_scene import MAX_SPEED, NUM_FRAMES, NUM_OBJECTS, SEED
from x2sam_ros.config import SceneConfig
from x2sam_ros.engine.frame_buffer import MIB
from x2sam_ros.engine.process_memory import resident_mib
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.metrics.masks import region_similarity
from x2sam_ros.types import FrameResult, TargetState

REFERENCE_FRAME = 500
TOLERANCE = 0.02
CHANGE_EVERY = 50
"""Every so many frames a click adds a target."""

LIFETIME = 60
"""Frames after which it is removed."""

SAMPLE_EVERY = 10
SHOWN = (SAMPLE_EVERY, 100, REFERENCE_FRAME, 1000, 2000, 5000, 10_000)
SAME = 0.5
"""Overlap from which a mask is an object's."""


@dataclass
class Ledger:
    """Who is followed under which id, and what was wrong with it."""

    objects: dict[int, int] = field(default_factory=dict)
    added_on: dict[int, int] = field(default_factory=dict)
    given: int = 0
    missed_clicks: int = 0
    seen: int = 0
    strangers: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, result: FrameResult, clicked: int) -> None:
        """Note the target of a click on an object, which this frame's result reports."""
        ids = [target_id for grounding in result.groundings for target_id in grounding.target_ids]
        if len(ids) != 1:
            self.missed_clicks += 1
            return
        if ids[0] <= max([0, *self.added_on]):
            self.faults.append(f"frame {result.frame_index}: id {ids[0]} was given before")
        self.given += 1
        self.objects[ids[0]], self.added_on[ids[0]] = clicked, result.frame_index

    def check(self, result: FrameResult, labels: np.ndarray) -> None:
        """Compare a frame's targets with the ids in use and with the objects, int (H, W)."""
        if sorted(result.target_ids.tolist()) != sorted(self.objects):
            self.faults.append(f"frame {result.frame_index}: ids {result.target_ids}, expected {sorted(self.objects)}")
        for target_id, mask, state in zip(result.target_ids.tolist(), result.masks, result.states):
            if state is not TargetState.TRACKED or target_id not in self.objects:
                continue
            overlaps = [region_similarity(mask, labels == k + 1) for k in range(NUM_OBJECTS)]
            if max(overlaps) >= SAME:
                self.seen += 1
                self.strangers += int(np.argmax(overlaps)) != self.objects[target_id]

    @property
    def is_clean(self) -> bool:
        """Whether every id was one object's alone."""
        return not (self.faults or self.strangers)


def stream(session: Session, camera: JpegCamera, num_frames: int) -> tuple[list[tuple[int, float, int]], Ledger]:
    """Run the session, removing and adding targets.

    Returns:
        (frames done, resident MiB, session's own bytes) every `SAMPLE_EVERY` frames, and the targets.
    """
    samples, ledger = [], Ledger()
    for index in progress(range(num_frames), "frames", num_frames):
        for target_id in [key for key in ledger.objects if index - ledger.added_on[key] >= LIFETIME]:
            session.remove(target_id)
            del ledger.objects[target_id]
        asked = index % CHANGE_EVERY == 0
        if asked:
            session.submit(camera.click(index, index // CHANGE_EVERY))
        result = session.step(camera.frame(index))
        if asked:
            ledger.add(result, camera.clicked(index, index // CHANGE_EVERY))
        ledger.check(result, camera.labels(index))
        if (index + 1) % SAMPLE_EVERY == 0:
            samples.append((index + 1, resident_mib(), session.nbytes))
    return samples, ledger


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
    """Run the stream, print the table and draw the plot; the exit code is 1 where memory grew or an id was wrong."""
    parser = arguments(__doc__, pages=False)
    parser.add_argument("--frames", type=int, default=10_000, help="at least twice the reference frame")
    parser.add_argument("--plot", type=Path, default=Path("memory.png"), help="where the plot goes")
    options = parser.parse_args()
    if options.frames < 2 * REFERENCE_FRAME:
        parser.error(f"--frames is {options.frames}, expected at least {2 * REFERENCE_FRAME}")
    scene = SceneConfig(min_objects=NUM_OBJECTS, max_objects=NUM_OBJECTS, max_speed=MAX_SPEED)
    session = Session(load_model(options.model, options.device))
    samples, ledger = stream(session, JpegCamera(NUM_FRAMES, SEED, scene), options.frames)
    by_frame = {frames: (mib, nbytes) for frames, mib, nbytes in samples}
    reference_mib = by_frame[REFERENCE_FRAME][0]
    later = [mib for frames, mib, _ in samples if frames > REFERENCE_FRAME]
    growth = float(np.mean([mib for frames, mib, _ in samples if frames > 0.9 * options.frames])) / reference_mib - 1
    farthest = max(later, key=lambda mib: abs(mib - reference_mib)) / reference_mib - 1

    print(f"{options.model}: {hardware_line(options.device)}")
    rows = [(str(f), number(by_frame[f][0], 1), number(by_frame[f][1] / MIB, 2)) for f in SHOWN if f in by_frame]
    title = f"Memory, {ledger.given} targets added, each removed after {LIFETIME} frames"
    print_table(title, ("frames", "resident MiB", "session MiB"), rows, options.markdown)
    print(
        f"\nLast tenth {growth:+.2%} of frame {REFERENCE_FRAME}, farthest from it {farthest:+.2%}; allowed "
        f"{TOLERANCE:.0%}.\nOf {ledger.seen:,} masks that cover an object, {ledger.strangers} covered another than the "
        f"one clicked; {len(ledger.faults)} ids were given twice or vanished; {ledger.missed_clicks} clicks found "
        "nothing."
    )
    for fault in ledger.faults[:5]:
        print(fault, file=sys.stderr)
    plot(samples, reference_mib, options.plot)
    print(f"plot: {options.plot}", file=sys.stderr)
    return int(abs(farthest) > TOLERANCE or not ledger.is_clean)


if __name__ == "__main__":
    sys.exit(main())
