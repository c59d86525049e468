"""What evaluation adds to a replay: the same session on the same frames, alone and within `x2sam eval`.

Alone, images are decoded, prompts given and frames answered, and nothing is kept. With evaluation, prompts are made
from ground truth, masks are encoded and written, and everything is scored. Both take turns, sequence by sequence.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from tables import arguments, hardware_line, print_table, printed_into

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.cli.eval_scenes import NAME as GENERATED
from x2sam_ros.cli.eval_scenes import generated_dataset
from x2sam_ros.config import NodeConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.inputs import Input, open_inputs
from x2sam_ros.evaluation.methods import Method, X2SamMethod, evaluated_config
from x2sam_ros.evaluation.plan import BaselineOpener, CellPlan, Shelf, plan_cells
from x2sam_ros.evaluation.prompting import make_prompts
from x2sam_ros.evaluation.runner import run_cells
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.truth.dataset import Dataset

HEADER = ("sequence", "frames", "prompts", "replay s", "with evaluation s", "added")


@dataclass(frozen=True)
class Loaded(BaselineOpener):
    """The session with a model that is loaded already, so that loading is not measured."""

    model: X2SAM | None = None

    def open(self, dataset: Dataset, shelf: Shelf) -> AbstractContextManager[Method]:
        assert self.model is not None
        return nullcontext(X2SamMethod(self.model, evaluated_config(), NodeConfig.memory_policy))


def replay_alone(plan: CellPlan, model: X2SAM) -> tuple[float, int, int]:
    """Return the seconds of a replay that keeps nothing, its frames and its prompts."""
    (sequence,) = plan.dataset.sequences
    prompts = make_prompts(sequence, plan.dataset.kind, plan.cell.prompt, plan.dataset.categories)
    started, frames = time.perf_counter(), 0
    with Session(model, evaluated_config(), NodeConfig.memory_policy) as session:
        for frame in sequence.frames():
            for planned in prompts:
                if planned.given.frame_index == frame.frame_index:
                    session.submit(planned.prompt)
            session.step(frame)
            frames += 1
    return time.perf_counter() - started, frames, len(prompts)


def evaluated(plan: CellPlan) -> float:
    """Return the seconds of the same replay with everything that an evaluation does, results file included."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run_cells([plan], Path(folder))
        return time.perf_counter() - started


def row(name: str, frames: int, prompts: int, alone: float, whole: float) -> tuple[str, ...]:
    return name, str(frames), str(prompts), f"{alone:.2f}", f"{whole:.2f}", f"{100 * (whole / alone - 1):.1f} %"


def main() -> None:
    """Measure and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("inputs", nargs="*", default=[GENERATED], help="as x2sam eval takes them")
    parser.add_argument("--prompt", default="mask")
    parser.add_argument("--limit", type=int, default=5, help="sequences of each input")
    options = parser.parse_args()
    model = load_model(options.model, options.device)
    paths = [Path(path) for path in options.inputs if path != GENERATED]
    inputs = [*([Input(generated_dataset())] if GENERATED in options.inputs else []), *open_inputs(paths, None)]
    rows, totals = [], [0, 0, 0.0, 0.0]
    with printed_into(options.into, "eval-overhead"):
        print(f"{options.model}: {hardware_line(options.device)}")
        for item in inputs:
            for sequence in item.dataset.sequences[: options.limit]:
                only = replace(item, dataset=replace(item.dataset, sequences=(sequence,)))
                (plan,) = plan_cells([only], [Loaded("x2sam", mode="stream", model=model)], [options.prompt])
                alone, frames, prompts = replay_alone(plan, model)
                measured = (frames, prompts, alone, evaluated(plan))
                rows.append(row(sequence.name, *measured))
                totals = [total + value for total, value in zip(totals, measured)]
        rows.append(row("all", int(totals[0]), int(totals[1]), totals[2], totals[3]))
        print_table("What evaluation adds to a replay", HEADER, rows, options.markdown or bool(options.into))


if __name__ == "__main__":
    main()
