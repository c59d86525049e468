"""Distillation: what a student starts with, what it is taught, and where it is corrected."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests.unit.model.networks import nano_tokenizer, new_nano
from x2sam_ros.checkpoint.load import load_model, save_model
from x2sam_ros.config import DistillConfig, PhaseConfig
from x2sam_ros.errors import CheckpointError, ConfigError
from x2sam_ros.model.config import HieraConfig, X2SAMConfig, preset, to_dict
from x2sam_ros.model.encoder import HieraEncoder
from x2sam_ros.model.segmentor import StepOutput
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training import distill
from x2sam_ros.training.distill import (
    FeatureLoss,
    PromptLoss,
    corrected,
    distil,
    lesson,
    read_student,
    start_student,
)
from x2sam_ros.training.feed import SourceBatch
from x2sam_ros.training.samples import SceneBatches

TINY = DistillConfig(
    features=PhaseConfig(steps=2, clips=2, prompts=0, learning_rate=3e-3),
    clicks=PhaseConfig(steps=1, clips=2, prompts=2, learning_rate=1e-3),
    prompts=PhaseConfig(steps=1, clips=1, prompts=8, learning_rate=1e-3, frames=3),
    warmup_steps=1,
    checkpoint_every=1,
)


def batch(phase: str, config: DistillConfig = TINY) -> SourceBatch:
    return SourceBatch(phase, SceneBatches(config, preset("nano"), nano_tokenizer(), phase, 0, 9)[0], ("scene",))


def pupil(teacher: X2SAM, name: str = "nano-half") -> X2SAM:
    torch.manual_seed(7)
    return start_student(preset(name), teacher).train()


def reached(model: X2SAM) -> set[str]:
    return {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


def test_half_of_nano_has_less_than_half_of_its_weights() -> None:
    teacher = new_nano()
    sizes = [sum(p.numel() for p in model.parameters()) for model in (pupil(teacher), teacher)]
    assert sizes[0] < 0.5 * sizes[1]
    encoders = [sum(p.numel() for p in model.segmentor.encoder.parameters()) for model in (pupil(teacher), teacher)]
    assert encoders[0] < 0.5 * encoders[1]


def test_a_student_starts_as_its_teacher_where_the_sizes_are_the_same() -> None:
    teacher = new_nano()
    student, known = pupil(teacher), teacher.state_dict()
    own = student.state_dict()
    differing = {name for name, x in own.items() if x.shape != known[name].shape or not torch.equal(x, known[name])}
    encoder = {name for name in own if name.startswith("segmentor.encoder.") and name.endswith("convolution.weight")}
    assert encoder <= differing, "an encoder of another size starts on its own"
    assert all(
        name.startswith(("segmentor.encoder.", "segmentor.memory_encoder.", "extra_projector.", "picture_projector."))
        for name in differing
    )
    twin = pupil(teacher, "nano").state_dict()
    assert all(torch.equal(x, twin[name]) for name, x in known.items())


def test_any_kind_of_mask_encoder_can_be_taught() -> None:
    hiera = HieraConfig(
        embed_dims=(8, 16, 32, 64),
        blocks=(1, 1, 2, 1),
        heads=(1, 2, 4, 8),
        windows=(8, 4, 4, 4),
        global_blocks=(3,),
        fpn_channels=64,
    )
    teacher = new_nano()
    student = start_student(changed(preset("nano"), mask_encoder="hiera", hiera=hiera), teacher).train()
    assert isinstance(student.segmentor.encoder, HieraEncoder)
    FeatureLoss(student, teacher)(batch("features"))["features"].backward()
    names = reached(student)
    assert {"segmentor.encoder.backbone.patch_embed.projection.weight", "extra_projector.model.0.weight"} <= names


def changed(config: X2SAMConfig, **settings: object) -> X2SAMConfig:
    return replace(config, segmentor=replace(config.segmentor, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("student", "words"),
    [
        (preset("release"), r"differs .* only in mask encoder and memory, but .*decoder\.hidden is 256, .* 64"),
        (changed(preset("nano-half"), image_size=160), r"segmentor\.image_size is 160, the teacher's 128"),
        (
            changed(preset("nano-half"), resnet=replace(preset("nano-half").segmentor.resnet, pyramid_channels=32)),
            "maps of 32 channels, the teacher's of 64",
        ),
    ],
)
def test_a_student_that_cannot_learn_from_this_teacher_is_refused(student: X2SAMConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        start_student(student, new_nano())


def test_what_is_learnt_at_once_has_one_rate(tmp_path: Path) -> None:
    config = replace(TINY, prompts=replace(TINY.prompts, learning_rate=2e-3))
    with pytest.raises(ConfigError, match=r"rates of clicks and prompts are \(0.001, 0.002\)"):
        distil(new_nano(), preset("nano-half"), config, tmp_path, Console(file=io.StringIO()), cpu=True)
    assert not list(tmp_path.iterdir())


def test_a_student_is_a_preset_or_the_folder_of_a_configuration(tmp_path: Path) -> None:
    own = changed(preset("nano-half"), resnet=replace(preset("nano-half").segmentor.resnet, depths=(1, 1, 1, 1)))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(own)))
    assert read_student(str(tmp_path)) == own and read_student("nano-half") == preset("nano-half")
    with pytest.raises(CheckpointError, match=r"no student '.*nowhere'; expected nano, .*or a folder"):
        read_student(str(tmp_path / "nowhere"))


def test_features_are_learnt_by_encoder_and_projectors_alone() -> None:
    teacher = new_nano()
    student, given = pupil(teacher), batch("features")
    loss = FeatureLoss(student, teacher)
    assert {name.split(".")[0] for name in loss.state_dict()} == {"model"}, "the teacher is not saved with the student"
    learning = [p for name, p in student.named_parameters() if not name.startswith("language.")]
    optimizer = torch.optim.AdamW(learning, lr=3e-3)
    errors = []
    for _ in range(6):
        terms = loss(given)
        optimizer.zero_grad()
        terms["features"].backward()
        optimizer.step()
        errors.append(float(terms["features"].detach()))
    assert set(terms) == {"features"} and errors[-1] < 0.8 * errors[0]
    names = reached(student)
    assert all(name.startswith(("segmentor.encoder.", "extra_projector.", "picture_projector.")) for name in names)
    assert {name.split(".")[0] for name in names} == {"segmentor", "extra_projector", "picture_projector"}
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teachers_twin_has_nothing_to_learn_but_the_masks_edges() -> None:
    teacher = new_nano()
    twin = pupil(teacher, "nano").eval()
    with torch.no_grad():
        assert float(FeatureLoss(twin, teacher)(batch("features"))["features"]) == 0
        terms = PromptLoss(twin, teacher)(batch("prompts"))
    assert set(terms) == {"segmentation", "condition", "features", "memory"}
    assert [float(terms[name]) for name in ("condition", "features", "memory")] == [0, 0, 0]


def test_answers_on_a_clip_teach_everything_that_sees_decodes_and_remembers() -> None:
    teacher = new_nano()
    student = pupil(teacher)
    terms = PromptLoss(student, teacher)(batch("prompts"))
    assert all(bool(x.isfinite()) and float(x.detach()) > 0 for x in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    names = reached(student)
    parts = ("encoder.", "pixel_decoder.", "decoder.", "memory_encoder.", "memory_attention.")
    for part in (*(f"segmentor.{part}" for part in parts), "picture_projector."):
        assert any(name.startswith(part) for name in names), part


@pytest.mark.parametrize(("phase", "turns"), [("clicks", 2), ("prompts", 0)])
def test_only_clicks_are_asked_in_rounds(phase: str, turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given, corrections = batch(phase), []

    def spy(regions: Tensor, teacher: Tensor, student: Tensor) -> Tensor:
        corrections.append(corrected(regions, teacher, student))
        return corrections[-1]

    monkeypatch.setattr(distill, "corrected", spy)
    teacher = new_nano()
    terms = PromptLoss(pupil(teacher), teacher, rounds=3)(given)
    assert len(corrections) == turns and ("memory" in terms) == (phase == "prompts")
    if phase == "clicks":
        assert len(given.batch.regions) == len(given.batch.conversations) == 4
        assert all(one.shape == given.batch.regions.shape for one in corrections)


def test_a_lesson_is_every_query_that_is_no_background() -> None:
    class_logits = torch.tensor([[[0.0, 0.0, 9.0], [5.0, 0.0, 0.0], [0.0, 8.0, 0.0]], [[0.0, 0.0, 9.0]] * 3])
    mask_logits = torch.randn(2, 3, 4, 4)
    labels, masks = lesson(StepOutput(class_logits, mask_logits, torch.zeros(2, 3, 5), ()))
    assert labels.tolist() == [[1, 0], [-1, -1]], "the surest first, nothing for the second prompt"
    assert torch.equal(masks[0], (mask_logits[0, [2, 1]] > 0).float())


class TestCorrected:
    """One prompt, a region of 32x32 pixels, masks of 8x8 cells."""

    region = torch.zeros(1, 32, 32, dtype=torch.bool)
    region[0, 16:20, 16:20] = True

    def mask(self, rows: slice, columns: slice) -> Tensor:
        mask = torch.zeros(1, 8, 8, dtype=torch.bool)
        mask[0, rows, columns] = True
        return mask

    def test_a_click_on_what_was_missed_joins_the_region(self) -> None:
        found = corrected(self.region, self.mask(slice(0, 8), slice(0, 8)), self.mask(slice(2, 8), slice(0, 8)))
        added = found & ~self.region
        assert bool((found & self.region).eq(self.region).all()) and added.any()
        assert not added[0, 10:].any(), "the click is in the upper two rows of cells"

    def test_a_click_on_what_is_too_much_leaves_the_rest_of_the_mask(self) -> None:
        student = self.mask(slice(2, 8), slice(0, 8))
        found = corrected(self.region, self.mask(slice(4, 8), slice(0, 8)), student)
        big = student.repeat_interleave(4, 1).repeat_interleave(4, 2)
        assert not (found & ~big).any() and (big & ~found).any()
        assert found[0, 20:].all(), "the click is in the upper two rows of cells of the mask"

    def test_nothing_changes_where_both_agree_or_nothing_would_be_left(self) -> None:
        whole, nothing = self.mask(slice(0, 8), slice(0, 8)), self.mask(slice(0, 0), slice(0, 0))
        one = self.mask(slice(3, 4), slice(3, 4))
        state = torch.get_rng_state()
        assert torch.equal(corrected(self.region, whole, whole), self.region)
        assert torch.equal(torch.get_rng_state(), state)
        small = self.region[:, ::4, ::4]  # a mask of one pixel, with a disc as large around the click
        assert torch.equal(corrected(small, nothing, one), small)

    def test_only_rows_that_differ_change(self) -> None:
        regions = self.region.repeat(2, 1, 1)
        whole, part = self.mask(slice(0, 8), slice(0, 8)), self.mask(slice(2, 8), slice(0, 8))
        found = corrected(regions, whole.repeat(2, 1, 1), torch.cat([whole, part]))
        assert torch.equal(found[0], regions[0]) and not torch.equal(found[1], regions[1])


def test_a_run_ends_in_a_checkpoint_and_goes_on_where_it_was_stopped(tmp_path: Path, one_thread: None) -> None:
    save_model(new_nano(), tmp_path / "teacher")
    teacher = load_model(tmp_path / "teacher")
    quiet = Console(file=io.StringIO())
    distil(teacher, preset("nano-half"), TINY, tmp_path / "run", quiet, bf16=False, cpu=True, workers=1)
    whole = load_model(tmp_path / "run" / "weights")
    assert whole.config == preset("nano-half")
    spoken = teacher.language.state_dict()
    assert all(torch.equal(x, spoken[name]) for name, x in whole.language.state_dict().items())

    class Killed(Exception):
        """Stands for a power cut."""

    calls, forward = [], PromptLoss.forward

    def dying(loss: PromptLoss, given: SourceBatch) -> dict[str, Tensor]:
        calls.append(given)
        if len(calls) == 2:
            raise Killed
        return forward(loss, given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptLoss, "forward", dying)
        with pytest.raises(Killed):
            distil(teacher, preset("nano-half"), TINY, tmp_path / "killed", quiet, bf16=False, cpu=True, workers=0)
    torch.rand(3)
    distil(teacher, preset("nano-half"), TINY, tmp_path / "killed", quiet, bf16=False, cpu=True, workers=0)
    resumed = load_model(tmp_path / "killed" / "weights").state_dict()
    assert all(torch.equal(x, resumed[name]) for name, x in whole.state_dict().items())
    with pytest.raises(ConfigError, match="another configuration"):
        distil(
            teacher, preset("nano-half"), replace(TINY, weight_decay=0.5), tmp_path / "run", quiet, bf16=False, cpu=True
        )
