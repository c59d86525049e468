"""Compare a distilled student with its teacher: weights, time of a frame's stages, masks on held-out scenes.

Both answer the very same cases, no two cases of a kind are of one scene, so the difference has a standard error of its
own, that of the differences.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import chain

import numpy as np
from pieces import Notes, in_pieces, mean_and_error, network, stop_after
from scene_cases import clip_cases, image_cases
from stages import HEIGHT, WIDTH, frame_stages
from tables import arguments, at_least, hardware_line, number, print_table, printed_into, progress

from x2sam_ros.checkpoint.load import load_model, weights_sha256
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.generated import Case, CaseScore, evaluate_case
from x2sam_ros.model.x2sam import X2SAM

HEADER = ("kind", "cases", "teacher", "student", "difference", "std error")
SIZES_HEADER = ("what", "teacher", "student", "student / teacher")
CLIPS = (("plain", "text"), ("plain", "point"))


def quality(score: CaseScore) -> float:
    """Return a case's mean J, or the share of its absent labels that were left without a target."""
    return float(score.j.mean()) if score.j.size else float(score.quiet.mean())


def both(teacher: X2SAM, student: X2SAM, case: Case) -> tuple[float, float]:
    """Return the quality of teacher and student on a case."""
    first, second = (quality(evaluate_case(Session(model), case)) for model in (teacher, student))
    return first, second


def compared(teacher: X2SAM, student: X2SAM, cases: Iterable[Case], notes: Notes) -> list[tuple[str, ...]]:
    """Return a row for each kind of case."""
    found: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        pairs = found.setdefault(case.kind, [])
        pairs.append(notes.of(f"{case.kind}, {len(pairs)}", partial(both, teacher, student, case)))
    rows = []
    for kind, pairs in found.items():
        values = np.array(pairs)
        means = (*values.mean(0).tolist(), *mean_and_error(values[:, 1] - values[:, 0]))
        rows.append((kind, str(len(values)), *(number(value) for value in means)))
    return rows


def sizes(teacher: X2SAM, student: X2SAM, repeats: int) -> list[tuple[str, ...]]:
    """Return parameters and the median milliseconds of every stage of a frame."""
    count = [sum(parameter.numel() for parameter in model.parameters()) for model in (teacher, student)]
    rows = [("parameters", *(f"{n:,}" for n in count), number(count[1] / count[0], 2))]
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for (name, slow, _), (_, quick, _) in zip(*(list(frame_stages(m, image, repeats)) for m in (teacher, student))):
        rows.append((f"{name}, ms", number(slow, 2), number(quick, 2), number(quick / slow, 2)))
    return rows


def main() -> None:
    """Run the comparison and print the tables."""
    parser = arguments(__doc__)
    parser.add_argument("--student", required=True, help="checkpoint folder of the distilled network")
    parser.add_argument("--scenes", type=at_least(1), default=100, help="images of each kind")
    parser.add_argument("--clips", type=at_least(1), default=20, help="clips of each kind")
    parser.add_argument("--frames", type=at_least(1), default=40, help="length of the clips")
    parser.add_argument("--repeats", type=at_least(1), default=50, help="runs of each stage")
    in_pieces(parser)
    options = parser.parse_args()
    stop_after(options.minutes)
    own = {"student": weights_sha256(options.student), "scenes": options.scenes, "frames": options.frames}
    notes = Notes(options.out, {**network(options), **own})
    teacher, student = load_model(options.model, options.device), load_model(options.student, options.device)
    clips = chain.from_iterable(clip_cases(*kind, options.clips, options.frames) for kind in CLIPS)
    cases = chain(image_cases(options.scenes) if options.scenes else (), clips)
    markdown = options.markdown or bool(options.into)
    with printed_into(options.into, "distilled"):
        print(f"{options.model} and {options.student}: {hardware_line(options.device)}")
        print_table("Size and time", SIZES_HEADER, sizes(teacher, student, options.repeats), markdown)
        rows = compared(teacher, student, progress(cases, "cases", 0), notes)
        print_table("Held-out scenes, mean J (absent: share of no target)", HEADER, rows, markdown)


if __name__ == "__main__":
    main()
