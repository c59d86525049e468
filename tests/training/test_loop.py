"""The training loop: resumed equals uninterrupted, whatever went wrong; log and plot, exported weights."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.training.test_joint import files_of_at_most
from x2sam_ros.checkpoint.load import load_model, weights_sha256
from x2sam_ros.config import PhaseConfig, TrainConfig
from x2sam_ros.errors import CheckpointError, ConfigError, TrainingError
from x2sam_ros.model.config import preset
from x2sam_ros.training.loop import Trainer, timed, train_preset
from x2sam_ros.training.plot import plot_losses
from x2sam_ros.training.run_folder import KEPT_STATES
from x2sam_ros.training.samples import Batch, SceneBatches

TINY = TrainConfig(
    pixels=PhaseConfig(steps=1, clips=1, prompts=0, learning_rate=1e-3),
    image=PhaseConfig(steps=2, clips=1, prompts=4, learning_rate=1e-3, texts=2),
    video=PhaseConfig(steps=2, clips=1, prompts=2, learning_rate=1e-3, frames=2, texts=1),
    words=PhaseConfig(steps=2, clips=1, prompts=2, learning_rate=1e-3, frames=2, texts=2),
    memory=replace(TrainConfig().memory, steps=0),
    warmup_steps=2,
    tokenizer_sentences=300,
    checkpoint_every=1,
    score_every=2,
)
TO_THE_END = replace(
    TINY,
    **{name: replace(TINY.phase(name), steps=0) for name in ("pixels", "image", "video")},
    memory=PhaseConfig(steps=2, clips=1, prompts=2, learning_rate=1e-3, frames=2),
    score_every=9,
)
TRACES = ("loss", "phase", "step")


pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(Exception):
    """Stands for a power cut."""


class Interrupted(Trainer):
    """A trainer that dies in front of a step."""

    dies_at: tuple[str, int]

    def _train_step(self, batch: Batch, rate: float) -> dict[str, Any]:
        if (self.phase, self.step) == self.dies_at:
            raise Killed
        return super()._train_step(batch, rate)


class Spoilt(Trainer):
    """A trainer that is given pictures that are no numbers at a step."""

    spoils: tuple[str, int]

    def _train_step(self, batch: Batch, rate: float) -> dict[str, Any]:
        if (self.phase, self.step) == self.spoils:
            batch = replace(batch, pixel_values=batch.pixel_values * float("nan"))
        return super()._train_step(batch, rate)


def quiet() -> Console:
    return Console(file=io.StringIO())


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the tiny recipe without a break."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    Trainer(TINY, preset("nano"), folder, amp=False).run(quiet())
    return folder


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the last two phases without a break."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("memory")
    Trainer(TO_THE_END, preset("nano"), folder, amp=False).run(quiet())
    return folder


def state(folder: Path) -> dict[str, Any]:
    newest = max(folder.glob("step-*"))
    read: dict[str, Any] = torch.load(newest / "state.pt", weights_only=True)
    return read


def differing(a: Any, b: Any, path: str = "") -> list[str]:
    """Return where two training states differ."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    if isinstance(a, dict):
        return [d for key in a.keys() | b.keys() for d in differing(a.get(key), b.get(key), f"{path}.{key}")]
    if isinstance(a, list):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differing(x, y, f"{path}.{i}")]
    return [] if a == b else [path]


def check_resumed(config: TrainConfig, finished: Path, tmp_path: Path, dies_at: tuple[str, int]) -> None:
    """Compare a run that dies with one that did not."""
    trainer = Interrupted(config, preset("nano"), tmp_path, amp=False)
    trainer.dies_at = dies_at
    with pytest.raises(Killed):
        trainer.run(quiet())
    with (tmp_path / "log.jsonl").open("a") as file:  # written after the last saved state, and half a line
        file.write(json.dumps({"loss": 7.0, "phase": dies_at[0], "step": trainer.done + 1}) + '\n{"loss"')
    torch.rand(5)
    Trainer(config, preset("nano"), tmp_path, amp=False).run(quiet())
    assert differing(state(tmp_path), state(finished)) == []
    assert [[row[k] for k in TRACES] for row in log(tmp_path)] == [[row[k] for k in TRACES] for row in log(finished)]
    ours, theirs = (load_file(folder / "weights" / "model.safetensors") for folder in (tmp_path, finished))
    assert differing(ours, theirs) == []


@pytest.mark.parametrize("dies_at", [("image", 1), ("video", 0), ("video", 1), ("words", 0), ("words", 1)])
def test_resumed_equals_uninterrupted(finished: Path, tmp_path: Path, dies_at: tuple[str, int]) -> None:
    """Weights, their average, the optimiser's moments and the random generator, to the bit."""
    check_resumed(TINY, finished, tmp_path, dies_at)


@pytest.mark.parametrize("dies_at", [("words", 1), ("memory", 0), ("memory", 1)])
def test_resumed_equals_uninterrupted_to_the_last_phase(
    remembering: Path, tmp_path: Path, dies_at: tuple[str, int]
) -> None:
    check_resumed(TO_THE_END, remembering, tmp_path, dies_at)


def test_a_finished_run_does_nothing_more(finished: Path) -> None:
    before, lines = state(finished), log(finished)
    Trainer(TINY, preset("nano"), finished, amp=False).run(quiet())
    assert differing(before, state(finished)) == [] and log(finished) == lines


def test_a_run_of_another_configuration_is_refused_and_nothing_of_it_lost(finished: Path) -> None:
    config, before, rows = preset("nano"), state(finished), log(finished)
    other = replace(config, region=replace(config.region, picture_features=False))
    recipe = replace(TINY, seed=1, video=replace(TINY.video, steps=3), checkpoint_every=7)
    with pytest.raises(ConfigError) as caught:
        Trainer(recipe, other, finished, amp=True, render="device", start="abc")
    message = str(caught.value)
    for difference in (
        "train.seed: 0 there, 1 here",
        "train.video.steps: 2 there, 3 here",
        "network.region.picture_features: true there, false here",
        'start: "" there, "abc" here',
        'render: "host" there, "device" here',
        "bf16: false there, true here",
    ):
        assert difference in message
    assert "checkpoint_every" not in message, "when states are saved changes nothing"
    assert differing(before, state(finished)) == [] and log(finished) == rows


def test_other_weights_to_start_from_are_another_run(tmp_path: Path) -> None:
    Trainer(TINY, preset("nano"), tmp_path, amp=False, older=load_model("nano"), start="older still").save()
    with pytest.raises(ConfigError, match=f'start: "older still" there, "{weights_sha256("nano")}" here; use the same'):
        train_preset("nano", TINY, tmp_path, "cpu", False, "nano", "host", quiet())


def test_a_damaged_state_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "step-00000007" / "state.pt").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="cannot resume from .*step-00000007.*delete that folder"):
        Trainer(TINY, preset("nano"), folder, amp=False)
    shutil.rmtree(folder / "step-00000007")
    assert Trainer(TINY, preset("nano"), folder, amp=False).done == 6


def test_log_and_plot(finished: Path) -> None:
    rows = log(finished)
    assert [(row["phase"], row["step"]) for row in rows] == [
        ("pixels", 1),
        ("image", 2),
        ("image", 3),
        ("video", 4),
        ("video", 5),
        ("words", 6),
        ("words", 7),
    ]
    assert all(0 < row["loss"] < 1_000 and row["norm"] > 0 for row in rows)
    assert all(row["seconds"] > 0 and row["waiting"] >= 0 for row in rows)
    assert [("score" in row, "segmentation" in row) for row in rows] == [
        (False, False),
        (False, True),
        (True, True),
        (False, True),
        (True, True),
        (False, False),
        (True, False),
    ]
    assert all(0 <= row[name] <= 1 for row in rows if "score" in row for name in ("score", "answers"))
    assert (finished / "loss.png").read_bytes().startswith(b"\x89PNG") and not list(finished.glob("*partial*"))
    assert len(list(finished.glob("step-*"))) == KEPT_STATES


def test_scenes_that_torch_draws_teach_the_same(finished: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    Trainer(TINY, preset("nano"), tmp_path, amp=False, render="device").run(Console(file=said))
    ours, theirs = log(tmp_path), log(finished)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=0.01) and ours[0]["loss"] != theirs[0]["loss"]
    shares = re.findall(r"(\w+): (\d+\.\d)% of the time waiting for batches", said.getvalue())
    assert [phase for phase, _ in shares] == ["pixels", "image", "video", "words"]
    assert all(0 <= float(share) <= 100 for _, share in shares)


def test_an_unknown_renderer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="renderer is 'gpu', expected one of host, device"):
        Trainer(TINY, preset("nano"), tmp_path, render="gpu")


def test_waiting_is_what_goes_by_in_front_of_an_item() -> None:
    def slow() -> Iterator[int]:
        for number in range(2):
            time.sleep(0.05 * number)
            yield number

    times = []
    for _, waited in timed(slow()):
        times.append(waited)
        time.sleep(0.2)
    assert times[0] < 0.05 <= times[1] < 0.15, "not what goes by behind it, too"


def test_the_last_phase_teaches_the_language_model_alone(finished: Path) -> None:
    before, after = (load_file(finished / folder / "model.safetensors") for folder in ("before_words", "weights"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("language.text.", "language.final_norm."))}


def test_a_plot_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"loss": 1.5}\n')
    plot_losses(tmp_path / "log.jsonl", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").stat().st_size > 1_000


def test_the_exported_weights_are_the_averaged_network_and_nothing_else(finished: Path) -> None:
    """No head that only teaches; as data, with the tokenizer and the configuration."""
    exported = load_file(finished / "weights" / "model.safetensors")
    saved = state(finished)
    assert set(exported) == set(saved["model"]) and saved["heads"]
    assert not {name for name in exported if "attributes" in name or "grounding" in name or "centre" in name}
    assert all(torch.equal(x, saved["average"]["module." + name]) for name, x in exported.items())
    moved = {name for name, x in exported.items() if not torch.equal(x, saved["model"][name])}
    learnt = {name for name in exported if name.startswith(("language.text.", "language.final_norm."))}
    assert moved == learnt, "the average lags behind what the last phase teaches"
    model = load_model(finished / "weights")
    assert model.config == preset("nano") and not model.training


def seeds(phase: str, step: int) -> str:
    """Return the seeds of the scenes of a batch, from its number alone."""
    tokenizer = load_model("nano").tokenizer
    return ", ".join(map(str, SceneBatches(TINY, preset("nano"), tokenizer, phase, step, step + 1).plan(0).seeds))


@pytest.mark.parametrize("spoils", [("image", 1), ("words", 0)])
def test_a_loss_that_is_no_number_stops_and_names_the_batch(
    finished: Path, tmp_path: Path, spoils: tuple[str, int]
) -> None:
    """The state before it is saved, unspoilt: with good pictures it goes on as if nothing had been."""
    rare = replace(TINY, checkpoint_every=9)
    trainer = Spoilt(rare, preset("nano"), tmp_path, amp=False)
    trainer.spoils = spoils
    with pytest.raises(TrainingError) as caught:
        trainer.run(quiet())
    message, step = str(caught.value), {"image": 3, "words": 6}[spoils[0]]
    assert f"the loss of step {step} is not finite (loss nan" in message
    assert f"batch of {spoils[0]} {spoils[1]}, scenes of the seeds {seeds(*spoils)};" in message
    assert f"step-{step - 1:08}. To go on, start from {tmp_path / 'weights'} in another folder" in message
    assert all(bool(x.isfinite().all()) for x in load_model(tmp_path / "weights").state_dict().values())
    resumed = Trainer(TINY, preset("nano"), tmp_path, amp=False)
    assert resumed.done == step - 1
    resumed.run(quiet())
    assert differing(state(tmp_path), state(finished)) == []


def test_a_full_disk_keeps_the_last_good_state(finished: Path, tmp_path: Path) -> None:
    trainer = Interrupted(TINY, preset("nano"), tmp_path, amp=False)
    trainer.dies_at = ("image", 1)
    with pytest.raises(Killed):
        trainer.run(quiet())
    resumed = Trainer(TINY, preset("nano"), tmp_path, amp=False)
    with files_of_at_most(1 << 20), pytest.raises(CheckpointError) as caught:
        resumed.run(quiet())
    assert "cannot save the state of step 3" in str(caught.value) and "step-00000002; " in str(caught.value)
    assert not list(tmp_path.glob("*partial*"))
    Trainer(TINY, preset("nano"), tmp_path, amp=False).run(quiet())
    assert differing(state(tmp_path), state(finished)) == []


def test_a_full_disk_does_not_hide_which_batch_was_no_number(tmp_path: Path) -> None:
    trainer = Spoilt(TINY, preset("nano"), tmp_path, amp=False)
    trainer.spoils = ("pixels", 0)
    told = r"loss of step 1 is .* batch of pixels 0, scenes .*; then, cannot save the state of step 0"
    with files_of_at_most(1 << 20), pytest.raises(CheckpointError, match=told):
        trainer.run(quiet())


def test_the_learning_rate_warms_up_and_falls(tmp_path: Path) -> None:
    trainer = Trainer(TINY, preset("nano"), tmp_path, amp=False)
    rates = []
    for trainer.step in range(10):
        rates.append(trainer._learning_rate(1.0, 10))
    assert rates[0] == pytest.approx(0.5) and max(rates) == rates[1]
    assert rates[1:] == sorted(rates[1:], reverse=True) and rates[-1] >= 0.02
