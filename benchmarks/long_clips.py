"""J&F of streamed generated clips by their length: what is followed for longer must not be followed worse.

The same scenes go on for longer, prompted once. Each clip is a sample of the error.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from tables import arguments, hardware_line, number, print_table, printed_into, progress

from x2sam_ros.cli.eval_scenes import generated_dataset
from x2sam_ros.config import NodeConfig
from x2sam_ros.evaluation.inputs import Input
from x2sam_ros.evaluation.plan import X2SamOpener, plan_cells
from x2sam_ros.evaluation.runner import run_cells

HEADER = ("prompt", "frames", "clips", "J&F", "std error")
LENGTHS = (40, 200)
PROMPTS = ("text", "point")
"""How what is followed is asked for."""


def scores(model: str, device: str, prompt: str, length: int, clips: int) -> np.ndarray:
    """Return J&F of each clip, float (clips,)."""
    opener = X2SamOpener(model, NodeConfig.memory_policy, "stream", device, NodeConfig.dtype, NodeConfig.weights)
    plans = plan_cells([Input(generated_dataset(clips, length))], [opener], [prompt])
    with tempfile.TemporaryDirectory() as folder:
        (cell,) = run_cells(plans, Path(folder)).cells
    return np.array([item.metrics["J&F"] for item in cell.sequences if not item.error])


def row(prompt: str, length: int, found: np.ndarray) -> tuple[str, ...]:
    error = found.std(ddof=1) / np.sqrt(len(found))
    return prompt, str(length), str(len(found)), number(float(found.mean())), number(float(error))


def main() -> None:
    """Measure and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--clips", type=int, default=6, help="clips of each kind of scene")
    options = parser.parse_args()
    cases = [(prompt, length) for prompt in PROMPTS for length in LENGTHS]
    with printed_into(options.into, "long-clips"):
        print(f"{options.model}: {hardware_line(options.device)}")
        rows = [
            row(*case, scores(options.model, options.device, *case, options.clips))
            for case in progress(cases, "long clips", len(cases))
        ]
        print_table("Streamed clips by length", HEADER, rows, options.markdown or bool(options.into))


if __name__ == "__main__":
    main()
