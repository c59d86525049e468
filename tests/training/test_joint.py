"""Joint training: resumed equals uninterrupted, whatever went wrong; what was seen is counted for each source."""

from __future__ import annotations

import io
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.training.failing_run import HELD_OUT as HELD_OUT_SAMPLES
from tests.training.joint_runs import RECIPE, Faulty, Killed, log, run, scenes, trainer
from x2sam_ros.bag.source import MAX_KEPT_PROBLEMS
from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.errors import CheckpointError, ConfigError, TrainingError, TruthError
from x2sam_ros.training.held_out import HeldOut
from x2sam_ros.training.joint import JointTrainer, prepare
from x2sam_ros.training.ledger import HELD_OUT, Ledger
from x2sam_ros.training.objectives import AgnosticLoss, JointLoss
from x2sam_ros.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train without a break."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    run(trainer(folder))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights" / "model.safetensors")


def differing(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in a.keys() | b.keys() if name not in a or name not in b or not torch.equal(a[name], b[name])}


def first_batch_of(step: int) -> int:
    """Return the number of the first batch of a step, counted from 1, and check that it is not the first of all."""
    plan = scenes(load_model("nano"))
    number = 0
    for _ in range(step - 1):
        number += plan.parts_of(plan.plan[number][0])
    return number


def names_of(batch: int) -> str:
    phase, number = scenes(load_model("nano")).plan[batch]
    return f"{phase} {number}, clip 0"


@pytest.mark.parametrize("dies_in_step", [1, 2, 3, 4])
def test_resumed_equals_uninterrupted(finished: Path, tmp_path: Path, dies_in_step: int) -> None:
    """Weights and log to the bit, with dropout and drawn points; what dies in step 4 goes on from step 2."""
    with pytest.raises(Killed):
        run(trainer(tmp_path, dies=first_batch_of(dies_in_step)))
    torch.rand(5)
    resumed = trainer(tmp_path)
    assert resumed.step == (0 if dies_in_step < 3 else 2)
    ledger = run(resumed)
    assert differing(weights(tmp_path), weights(finished)) == set()
    assert log(tmp_path) == log(finished)
    assert ledger.total.steps == RECIPE.steps, "what was done twice is counted once"


def test_looking_at_held_out_samples_changes_nothing(finished: Path, tmp_path: Path) -> None:
    run(trainer(tmp_path, held_out=False))
    assert differing(weights(tmp_path), weights(finished)) == set()
    scored = [row for row in log(finished) if "score" in row]
    assert [row["step"] for row in scored] == [2, 4] and not [row for row in log(tmp_path) if "score" in row]
    for row in scored:
        assert min(row["score/image"], row["score/video"], row["answers"]) >= 0
        assert row["score"] == pytest.approx((2 * row["score/image"] + row["score/video"]) / 3, abs=1e-4)


def test_what_is_written_is_the_average(finished: Path) -> None:
    """The state has the weights themselves; the average is between the start and them."""
    name = "mlm_projector.model.0.weight"
    start, found = load_model("nano").state_dict()[name], weights(finished)[name]
    last = load_file(finished / "step-00000004" / "model.safetensors")[f"model.{name}"]
    assert not torch.equal(found, last)
    assert 0 < (found - start).norm() < (last - start).norm()


def test_what_learns_and_what_rests(finished: Path) -> None:
    before, after = load_model("nano").state_dict(), weights(finished)
    changed = differing(after, dict(before))
    assert before.keys() == after.keys()
    adapted = {name for name in before if name.startswith("language.text.layers.") and name.endswith("_proj.weight")}
    assert adapted and adapted <= changed, "adapters are worked into the weights"
    still = {name for name in before if name.startswith("language.") and name not in adapted}
    assert changed & still <= {
        name for name in still if "merger" in name or name == "language.text.embed_tokens.weight"
    }
    assert "language.text.embed_tokens.weight" in changed
    for part in ("segmentor.encoder.", "segmentor.decoder.", "segmentor.memory_attention.", "mlm_projector."):
        assert any(name.startswith(part) for name in changed), part
    load_model(finished / "weights")


def test_a_saved_state_has_no_weights_that_rest(finished: Path) -> None:
    (state,) = [folder for folder in finished.glob("step-*") if folder.name.endswith("4")]
    names = load_file(state / "model.safetensors").keys()
    assert not [name for name in names if "base_layer" in name or ".visual.blocks." in name]
    assert [name for name in names if "lora_A" in name]
    assert not list(finished.glob("partial-*"))


def test_a_loss_that_is_no_number_stops_and_names_the_batch(finished: Path, tmp_path: Path) -> None:
    """The state before it is saved, unspoilt: with good pictures it goes on as if nothing had been."""
    spoilt = first_batch_of(4)
    with pytest.raises(TrainingError) as caught:
        run(trainer(tmp_path, spoils=spoilt))
    assert "loss of step 4 is not finite" in str(caught.value) and names_of(spoilt) in str(caught.value)
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path).values() if tensor.is_floating_point())
    resumed = trainer(tmp_path)
    assert resumed.step == 3
    run(resumed)
    assert differing(weights(tmp_path), weights(finished)) == set()
    assert log(tmp_path) == log(finished)


def test_a_full_disk_does_not_hide_what_came_before_it(tmp_path: Path) -> None:
    full = "; then, cannot save the state of step 0 in"
    with files_of_at_most(1 << 20), pytest.raises(CheckpointError, match=f"is not finite .*{names_of(0)}.*{full}"):
        run(trainer(tmp_path, spoils=0))
    with files_of_at_most(1 << 20), pytest.raises(CheckpointError, match=rf"a\.jpg is gone{full}"):
        run(trainer(tmp_path, loses=0))


def test_what_was_left_out_is_told_once(tmp_path: Path) -> None:
    said = io.StringIO()
    trainer(tmp_path, held_out=False, lacks=0).run(Console(file=said))
    assert said.getvalue().count("b.jpg is damaged") == 1


def test_of_many_problems_the_first_are_told_and_the_others_counted(tmp_path: Path) -> None:
    said, beyond = io.StringIO(), 3
    made = trainer(tmp_path, held_out=False, lacks=0)
    assert isinstance(made.sources, Faulty)
    made.sources.problems = tuple(f"{n}\x1b[2J.jpg is damaged" for n in range(MAX_KEPT_PROBLEMS + beyond))
    made.run(Console(file=said))
    assert said.getvalue().count("is damaged") == MAX_KEPT_PROBLEMS and "\x1b" not in said.getvalue()
    assert f"{beyond * len(made.sources)} more like these" in said.getvalue()


def test_names_of_sources_cannot_command_a_terminal() -> None:
    ledger, said = Ledger("cpu"), io.StringIO()
    ledger.add("[/b]\x1b[2J", 1, 1, 1.0, 0.0, 1.0)
    Console(file=said, width=160).print(ledger.table())
    assert "[/b]\N{REPLACEMENT CHARACTER}[2J" in said.getvalue()


def test_held_out_samples_that_cannot_be_read_stop_before_a_step(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match=r"a\.jpg is gone"):
        run(trainer(tmp_path, unseen_is_gone=True))
    assert not (tmp_path / "log.jsonl").exists()


def of_two_processes_the_last_loses(what: str, folder: Path) -> str:
    """Train in two processes until both have stopped; return what they said."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "tests.training.failing_run", str(folder), what]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170)
    assert done.returncode != 0 and "TruthError: a.jpg is gone" in done.stderr
    assert "TrainingError: another process stopped: a.jpg is gone" in done.stderr
    return done.stderr


@pytest.mark.slow
def test_held_out_samples_that_one_process_cannot_read_stop_all(tmp_path: Path) -> None:
    of_two_processes_the_last_loses(HELD_OUT_SAMPLES, tmp_path)
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.slow
def test_what_stops_one_process_stops_all_with_the_state_before_it(tmp_path: Path) -> None:
    of_two_processes_the_last_loses(str(first_batch_of(2)), tmp_path)
    assert [folder.name for folder in tmp_path.glob("*-0*")] == ["step-00000001"]
    assert {file.name for file in (tmp_path / "step-00000001").glob("average-*")} == {"average-0.pt", "average-1.pt"}


def test_samples_that_cannot_be_read_stop_without_a_loss(finished: Path, tmp_path: Path) -> None:
    """Where a step's second batch is gone, the state before its first is saved."""
    video = 1 + next(number for number, (phase, _) in enumerate(scenes(load_model("nano")).plan) if phase == "video")
    with pytest.raises(TruthError, match=r"a\.jpg is gone"):
        run(trainer(tmp_path, loses=video))
    run(trainer(tmp_path))
    assert differing(weights(tmp_path), weights(finished)) == set()
    assert log(tmp_path) == log(finished)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Have the system refuse to write larger files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_last_good_state(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(trainer(tmp_path, dies=first_batch_of(3)))
    made = trainer(tmp_path)
    with files_of_at_most(1 << 20), pytest.raises(CheckpointError, match=r"cannot save the state of step 4 .*step-0*2"):
        run(made)
    assert [folder.name for folder in tmp_path.glob("step-*")] == ["step-00000002"]
    assert not list(tmp_path.glob("partial-*"))
    run(trainer(tmp_path))
    assert differing(weights(tmp_path), weights(finished)) == set()


def test_a_log_that_cannot_be_written_stops_and_tells(tmp_path: Path) -> None:
    made = trainer(tmp_path)
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="cannot write the log in .*No space left .* there is no state yet; "):
        run(made)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot make the folder in .*file"):
        trainer(tmp_path / "file" / "run")


def test_another_configuration_is_refused(finished: Path) -> None:
    other = replace(RECIPE, learning_rate=2e-3, checkpoint_every=1)
    with pytest.raises(ConfigError) as caught:
        trainer(finished, other, steps=5)
    message = str(caught.value)
    assert "recipe.learning_rate: 0.001 there, 0.002 here" in message
    assert "sources.steps: 4 there, 5 here" in message
    assert "checkpoint_every" not in message, "when states are saved changes nothing"


def test_another_type_of_what_rests_or_other_held_out_samples_are_refused(finished: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer(finished, replace(RECIPE, bf16=True), dtype="bfloat16")
    assert 'dtype: ["float32"] there, ["bfloat16"] here' in str(caught.value)
    with pytest.raises(ConfigError, match=r"held_out: \{.*\} there, null here"):
        trainer(finished, held_out=False)


@pytest.mark.parametrize(
    ("dtype", "bf16", "message"),
    [
        ("bfloat16", False, "are bfloat16, but with bf16: false .* with dtype float32, or set bf16: true"),
        ("float16", True, "are float16, which a CPU cannot train with; load them with dtype bfloat16 or float32"),
    ],
)
def test_types_that_cannot_be_multiplied(tmp_path: Path, dtype: str, bf16: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, replace(RECIPE, bf16=bf16), dtype=dtype)


def test_a_damaged_state_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    (folder / "step-00000004" / "progress.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot resume from .*step-00000004.*delete that folder"):
        trainer(folder)
    shutil.rmtree(folder / "step-00000004")
    assert trainer(folder).step == 2


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (None, r"random_states_0.pkl cannot be read \(FileNotFoundError: "),
        (b"torn", r"random_states_0.pkl cannot be read \("),
        ({"torch_manual_seed": torch.Generator().get_state()}, "the random states of process 0 were not restored"),
    ],
)
def test_a_state_without_its_random_states_is_refused(
    finished: Path, tmp_path: Path, left: bytes | dict[str, torch.Tensor] | None, message: str
) -> None:
    """Accelerate would go on with others, and the run would not be the one that was interrupted."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    file = folder / "step-00000004" / "random_states_0.pkl"
    file.unlink()
    if isinstance(left, bytes):
        file.write_bytes(left)
    elif left is not None:
        torch.save(left, file)
    with pytest.raises(
        CheckpointError, match=f"cannot resume from .*step-00000004: ValueError: {message}.*delete that folder"
    ):
        trainer(folder)


def test_every_source_is_counted(finished: Path) -> None:
    ledger = trainer(finished).ledger
    plan = [phase for phase, _ in scenes(load_model("nano")).plan]
    assert set(ledger.accounts) - {HELD_OUT} == set(plan) == {"image", "video"}
    looks = ledger.accounts[HELD_OUT]
    assert (looks.steps, looks.samples) == (0, 0) and looks.device_seconds > 0
    for source, parts, frames in (("image", 1, 1), ("video", 2, 2)):
        account, batches = ledger.accounts[source], plan.count(source)
        assert (account.steps, account.samples, account.frames) == (batches // parts, batches, batches * frames)
        assert 0 < account.waiting_seconds < account.device_seconds and account.processor_seconds > 0
    assert ledger.total.samples == len(plan) and ledger.total.steps == RECIPE.steps
    cells = [*ledger.table().columns[-1].cells]
    assert cells[-1] == f"{ledger.waiting:.0%}", "the share of all time in which batches were waited for"


def test_tensorboard_and_plot(finished: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("score")] == [2, 4]
    assert (finished / "loss.png").stat().st_size > 5_000


def test_sources_that_end_too_early(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="end after 3 of 4 steps"):
        run(trainer(tmp_path, steps=3))
    assert max(folder.name for folder in tmp_path.glob("step-*")) == "step-00000003", "what was done is kept"


def test_parts_of_a_step_weigh_the_same(tmp_path: Path) -> None:
    """A step of one batch twice is the step of that batch."""
    made = trainer(tmp_path, replace(RECIPE, lora=None, loss=replace(RECIPE.loss, points=0)))
    item = next(iter(scenes(made.model)))
    made.module.eval()
    gradients = []
    for parts in (1, 2):
        made.optimizer.zero_grad()
        for part in range(parts):
            torch.manual_seed(0)  # points of regions are drawn
            made._learn(item, parts, last=part == parts - 1)
        gradients.append(made.model.mlm_projector.model[0].weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_activation_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for activation_checkpointing in (False, True):
        model = load_model("nano")
        loss = JointLoss(model, RECIPE)
        torch.manual_seed(0)
        prepare(loss, replace(RECIPE, activation_checkpointing=activation_checkpointing))
        model.train()
        item = next(item for item in scenes(model) if item.source == "video")
        torch.manual_seed(1)
        sum(loss(item).values()).backward()
        gradients.append({n: p.grad for n, p in loss.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_first_stage_trains_the_decoders_alone(tmp_path: Path) -> None:
    recipe = Recipe.segmentor(1, learning_rate=1e-3, bf16=False, warmup=0.0, loss=RECIPE.loss)
    model = load_model("nano")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unseen = HeldOut([scenes(model, 1)], 1)
    run(JointTrainer(AgnosticLoss(model, recipe), recipe, scenes(model, 1), tmp_path, cpu=True, held_out=unseen))
    assert 0 <= log(tmp_path)[-1]["score"] <= 1
    changed = differing(weights(tmp_path), before)
    assert {".".join(name.split(".")[:2]) for name in changed} == {
        "segmentor.pixel_decoder",
        "segmentor.decoder",
        "segmentor.no_memory_embedding",
    }
    assert not [name for name in changed if "text_cross_attn" in name]


def test_nothing_that_learns() -> None:
    recipe = replace(RECIPE, lora=None, rates=(("*", 0.0),))
    with pytest.raises(ConfigError, match="nothing learns"):
        prepare(JointLoss(load_model("nano"), recipe), recipe)
