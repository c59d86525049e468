"""Two checkpoints on the same ground truth, one made from the other."""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import replace
from pathlib import Path

from x2sam_ros.config import NodeConfig
from x2sam_ros.errors import TruthError
from x2sam_ros.evaluation.compare import Comparison, compare
from x2sam_ros.evaluation.inputs import Input
from x2sam_ros.evaluation.plan import CellPlan, X2SamOpener, check_prompt, plan_cells
from x2sam_ros.evaluation.prompting import PROMPTS, own_words
from x2sam_ros.evaluation.report.page import write_report
from x2sam_ros.evaluation.results import Results
from x2sam_ros.evaluation.runner import Watch, run_cells
from x2sam_ros.truth.dataset import Dataset, Kind, Sequence

NAMED_PROMPTS, UNNAMED_PROMPTS = ("text", "box"), ("box",)
"""How objects are asked for, with and without names."""


class BeforeAfter:
    """Score a checkpoint before and after it was trained, on the same prompts.

    Args:
        inputs: ground truth.
        folder: for results.json, report.html and predictions; what is there already is not run again.
        device: where the session runs.
        seed: of prompts that are drawn.
        prompts: kinds of prompts, where the ground truth has them; () takes words and boxes for objects, or boxes alone
            where nothing has a name of its own.
    """

    def __init__(
        self, inputs: Listed[Input], folder: Path, device: str, seed: int = 0, prompts: Listed[str] = ()
    ) -> None:
        self._inputs, self._folder, self._device, self._seed = inputs, folder, device, seed
        self._prompts = tuple(prompts)

    def before(self, checkpoint: str, watch: Watch | None = None) -> Results:
        """Score a checkpoint that is about to be trained.

        Raises:
            X2SamError: as ``run_cells``.
            TruthError: there is ground truth of which nothing could be scored.
        """
        results = run_cells(self._plans(checkpoint), self._folder, watch=watch)
        for item in results.cells:
            failed = [sequence.error for sequence in item.sequences if sequence.error]
            if failed and len(failed) == len(item.sequences):
                raise TruthError(f"nothing can be tested on {item.cell.dataset}: {failed[0]}")
        return results

    def after(self, before: str, after: str, watch: Watch | None = None) -> tuple[Results, Comparison]:
        """Score what became of it, write results.json and report.html with both, and compare them.

        Raises:
            X2SamError: as ``run_cells`` and ``compare``.
        """
        plans = [*self._plans(before), *self._plans(after)]
        results = run_cells(plans, self._folder, watch=watch)
        datasets = {plan.folder: plan.dataset for plan in plans}
        write_report(results, self._folder, lambda cell: datasets[cell.folder])
        sides = [
            replace(results, cells=tuple(item for item in results.cells if item.cell.checkpoint == checkpoint))
            for checkpoint in (before, after)
        ]
        return results, compare(*sides, seed=self._seed)

    def _plans(self, checkpoint: str) -> list[CellPlan]:
        opener = X2SamOpener(
            checkpoint, NodeConfig.memory_policy, "stream", self._device, NodeConfig.dtype, NodeConfig.weights
        )
        plans: list[CellPlan] = []
        for prompt in self._prompts:
            if not any(prompt in PROMPTS[item.dataset.kind] for item in self._inputs):
                check_prompt(self._inputs[0].dataset, prompt)
        for item in self._inputs:
            plans += plan_cells([item], [opener], self._asked(item.dataset), self._seed)
        return plans

    def _asked(self, dataset: Dataset) -> tuple[str, ...]:
        wanted = tuple(prompt for prompt in self._prompts if prompt in PROMPTS[dataset.kind])
        if wanted or dataset.kind is not Kind.OBJECTS:
            return wanted
        return usual_prompts(dataset)


def usual_prompts(dataset: Dataset) -> tuple[str, ...]:
    """Return how objects are asked for where nothing is said: with words, too, where one has a name of its own."""
    return NAMED_PROMPTS if any(_has_words(one, dataset) for one in dataset.sequences) else UNNAMED_PROMPTS


def _has_words(sequence: Sequence, dataset: Dataset) -> bool:
    try:
        return bool((dataset.categories or sequence.expressions) and own_words(sequence, dataset.categories))
    except TruthError:  # which is said when it is run
        return False
