"""``x2sam eval``: replay bags and data sets with ground truth, and score what the session answers."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from x2sam_ros.cli import options
from x2sam_ros.cli.eval_scenes import NAME as GENERATED
from x2sam_ros.config import NodeConfig, NodeEngineConfig
from x2sam_ros.errors import ConfigError, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from x2sam_ros.evaluation.methods import Method
    from x2sam_ros.evaluation.plan import CellPlan, Opener, Shelf
    from x2sam_ros.evaluation.results import Results, SequenceResult
    from x2sam_ros.evaluation.runner import Pool, Watch
    from x2sam_ros.truth.dataset import Dataset

X2SAM, LIVE, MODES = "x2sam", "live", ("stream", "clip")
METHODS = (X2SAM, "copy_first", "optical_flow")
EXIT_INCOMPLETE = 1
"""Exit code where sequences failed and the others have numbers."""


def eval(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help=f"Bags with label images, folders of them, data sets; or the word {GENERATED}: held-out generated "
            "clips. Bags that are given one by one have numbers together.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for results.json, report.html and predictions; an interrupted run goes on.")
    ],
    layout: Annotated[str | None, typer.Option(help="Layout of the inputs; found out by default.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set, for example val.")] = None,
    topic: options.Topic = None,
    label_topic: Annotated[str | None, typer.Option(help="Topic of a bag's label images.")] = None,
    stride: Annotated[int, typer.Option(help="Use every n-th image.")] = 1,
    sequences: Annotated[list[str] | None, typer.Option(help="Only the sequence of this name. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many sequences of each input.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(METHODS)}; {X2SAM} by default. Repeatable.")
    ] = None,
    preset: Annotated[
        list[str] | None, typer.Option(help=f"Built-in model; {NodeConfig.preset} by default. Repeatable.")
    ] = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="Folder or hub id of a model of your own. Repeatable.")
    ] = None,
    memory_policy: Annotated[
        list[str] | None,
        typer.Option(help=f"Which frames a target remembers; {NodeConfig.memory_policy} by default. Repeatable."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="mask, point, scribble, box, text, classes, caption; the kind's first by default. Repeatable."
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            help="stream (the default) goes on from the first frame to the last; clip forgets after every 8 and asks "
            "again, as published. Repeatable."
        ),
    ] = None,
    official_quirks: Annotated[
        bool,
        typer.Option(
            "--official-quirks", help="Read masks and count as the published evaluation does, mistakes included."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of prompts that are drawn.")] = 0,
    device: options.Device = NodeConfig.device,
    dtype: options.Dtype = NodeConfig.dtype,
    weights: options.Weights = NodeConfig.weights,
    workers: Annotated[int, typer.Option(help="Processes; more than one need Ray.")] = 1,
    ray_address: Annotated[
        str | None, typer.Option(help="A Ray cluster that runs, or auto; one is started here by default.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Play into a node, at real rate; what does not come is empty.")
    ] = False,
    live_node: Annotated[
        str | None, typer.Option(help="Name of a node that runs; the shipped one is started by default.")
    ] = None,
    live_topic: Annotated[str | None, typer.Option(help="Image topic of a node with several cameras.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Forget what an earlier run left of these cells.")
    ] = False,
) -> None:
    """Score tracking against ground truth: inputs, methods, checkpoints, memory policies, prompts and modes combined.

    A sequence that fails is listed, the others get their numbers, and the exit code is 1.
    """
    from x2sam_ros.cli.eval_inputs import open_given
    from x2sam_ros.evaluation.inputs import chosen
    from x2sam_ros.evaluation.plan import plan_cells
    from x2sam_ros.evaluation.runner import run_cells

    _check_live(live, live_node, live_topic, workers, ray_address, mode, method)
    where = {"split": split, "topic": topic, "label_topic": label_topic, "stride": stride}
    found = chosen(open_given(inputs, layout, where), sequences or (), limit)
    weights_at = (device, dtype, weights)
    models = [*(preset or ()), *(checkpoint or ())] or [NodeConfig.preset]
    policies = memory_policy or [NodeConfig.memory_policy]
    if live:
        openers: list[Opener] = (
            [LiveOpener(out / "node", node=live_node, topic=live_topic)]
            if live_node
            else [LiveOpener(out / "node", m, p, *weights_at, official_quirks) for m in models for p in policies]
        )
    else:
        openers = _openers(method or [X2SAM], models, policies, mode or [MODES[0]], weights_at, official_quirks)
    plans = plan_cells(found, openers, prompt or (), seed, official_quirks)
    pool = _pool(workers, ray_address)
    with _progress(plans) as watch:
        results = run_cells(plans, out, overwrite=overwrite, pool=pool, watch=watch)
    _report(results, plans, out)


@dataclass(frozen=True)
class LiveOpener:
    """Open a node: the shipped one with a checkpoint and a policy, or one that runs.

    Args:
        folder: for what a started node says.
        checkpoint, memory_policy, device, dtype, weights: of a node that is started; '' for one that runs.
        official_quirks: of a node that is started.
        node, topic: of one that runs.
    """

    folder: Path
    checkpoint: str = ""
    memory_policy: str = ""
    device: str = ""
    dtype: str = ""
    weights: str = ""
    official_quirks: bool = False
    node: str | None = None
    topic: str | None = None
    method: str = X2SAM
    mode: str = LIVE

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the checkpoint of a node that is started."""
        from x2sam_ros.checkpoint.load import weights_sha256

        return weights_sha256(self.checkpoint) if self.checkpoint else ""

    def settings(self) -> dict[str, Any]:
        """Return what the answers depend on."""
        if self.node is not None:
            return {"node": self.node, "topic": self.topic}
        engine = asdict(NodeEngineConfig(official_quirks=self.official_quirks))
        own = {"device": self.device, "dtype": self.dtype, "weights": self.weights}
        return {**{f"engine.{name}": value for name, value in engine.items()}, **own}

    def open(self, dataset: Dataset, shelf: Shelf) -> AbstractContextManager[Method]:
        """Start or find the node."""
        from x2sam_ros.checkpoint.load import ships_with_weights
        from x2sam_ros.cli.eval_live import open_live

        if self.node is not None:
            return open_live(self.folder, {}, node=self.node, image_topic=self.topic)
        model = {"preset": self.checkpoint} if ships_with_weights(self.checkpoint) else {"checkpoint": self.checkpoint}
        where = {"device": self.device, "dtype": self.dtype, "weights": self.weights}
        quirks = {"engine.official_quirks": "true"} if self.official_quirks else {}
        return open_live(self.folder, {**model, **where, **quirks, "memory_policy": self.memory_policy})


def _check_live(
    live: bool,
    node: str | None,
    topic: str | None,
    workers: int,
    ray_address: str | None,
    mode: list[str] | None,
    method: list[str] | None,
) -> None:
    """Raise ConfigError for options that contradict each other."""
    if not live and (node or topic):
        raise ConfigError("--live-node and --live-topic need --live")
    if live and (workers != 1 or ray_address):
        raise ConfigError("--live plays in real time and has one process; leave --workers and --ray-address away")
    if live and (mode or method not in (None, [X2SAM])):
        raise ConfigError("--live has a mode of its own and no baselines; leave --mode and --method away")


def _openers(
    methods: list[str],
    models: list[str],
    policies: list[str],
    modes: list[str],
    weights_at: tuple[str, str, str],
    official_quirks: bool,
) -> list[Opener]:
    """Return how each method is opened, the session with every combination."""
    from x2sam_ros.evaluation.plan import BaselineOpener, X2SamOpener

    for name, known, given in (("--method", METHODS, methods), ("--mode", MODES, modes)):
        for value in given:
            if value not in known:
                raise ConfigError(f"{name} is {value!r:.80}, expected one of: {', '.join(known)}")
    openers: list[Opener] = []
    for method in methods:
        if method != X2SAM:
            openers.append(BaselineOpener(method))
            continue
        openers += [
            X2SamOpener(model, policy, mode, *weights_at, official_quirks)  # type: ignore[arg-type]
            for model in models
            for policy in policies
            for mode in modes
        ]
    return openers


def _pool(workers: int, address: str | None) -> Pool | None:
    if workers == 1 and address is None:
        return None
    from x2sam_ros.evaluation.ray_pool import RayPool

    return RayPool(workers, address or "")


@contextmanager
def _progress(plans: list[CellPlan]) -> Iterator[Watch]:
    """Show the sequences that are through, of all, and what is run now."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from x2sam_ros.evaluation.runner import Watch

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
    console = Console(stderr=True)
    all_columns = (*columns, TimeRemainingColumn())
    # of a run that is refused, the error is the only line
    with Progress(*all_columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        total = sum(len(plan.dataset.sequences) for plan in plans)
        task = progress.add_task("sequences", total=total, now="")
        now, frames = "", 0

        def starts(plan: CellPlan, sequence: str) -> None:
            nonlocal now, frames
            now, frames = plain(f"{sequence}, {plan.cell.method}"), 0
            progress.update(task, now=now)

        def frame() -> None:
            nonlocal frames
            frames += 1
            progress.update(task, now=f"{now}, frame {frames}")

        def ends(plan: CellPlan, result: SequenceResult, resumed: bool) -> None:
            progress.advance(task)
            if result.error:
                said = f"failed: {plan.cell.dataset}, {result.sequence}, {plan.cell.method}: {result.error}"
                console.print(plain(said), markup=False, soft_wrap=True, highlight=False)

        yield Watch(starts, frame, ends)


def _report(results: Results, plans: list[CellPlan], out: Path) -> None:
    """Write the page, print the numbers and where they are; exit code 1 where a sequence failed."""
    from x2sam_ros.cli.printing import counted, print_tables
    from x2sam_ros.evaluation.report.page import write_report
    from x2sam_ros.evaluation.results_table import results_tables
    from x2sam_ros.evaluation.runner import RESULTS_FILE, failures

    datasets = {plan.folder: plan.dataset for plan in plans}
    page = write_report(results, out, lambda cell: datasets[cell.folder])
    print_tables(results_tables(results))
    for path in (out / RESULTS_FILE, page):
        typer.echo(f"wrote {path}")
    if failed := failures(results):
        typer.echo(f"{counted(len(failed), 'sequence')} failed; see the report", err=True)
        raise typer.Exit(EXIT_INCOMPLETE)
