"""The compiled step: fixed shapes, nothing compiled when targets come and go, and a way on where nothing can be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tests.unit.engine.test_batched_step import drawn_condition, drawn_entries, random_segmentor
from tests.unit.model.networks import frames, new_nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.preprocess import mask_encoder_pixels
from x2sam_ros.engine.session import Session
from x2sam_ros.engine.stepper import Stepper, bucket, copied
from x2sam_ros.errors import ConfigError
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.int8 import quantise
from x2sam_ros.model.memory import MemoryBatch, MemoryEntry
from x2sam_ros.model.segmentor import StepOutput
from x2sam_ros.types import TextPrompt

SEGMENTOR = random_segmentor(2)
ON = EngineConfig(compiled="on")


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """Forget what other tests compiled."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced() -> Iterator[None]:
    """Trace and guard as ever, but run what was traced as it is: a C++ compiler takes a minute."""
    with torch.compiler.set_stance("default", force_backend="eager"):
        yield


def near(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@torch.inference_mode()
def run(stepper: Stepper, slots: list[int], phrases: int = 1, tokens: int = 4) -> tuple[StepOutput, MemoryEntry]:
    """Step targets whose memories hold so many frames."""
    pixels = mask_encoder_pixels(frames(1)[0].image, SEGMENTOR.config.image_size)
    decoded = stepper.decode_pixels(stepper.encode(pixels), first=False)
    words = PromptCondition.merge([drawn_condition(SEGMENTOR, phrases, tokens, i) for i in range(len(slots))])
    stored = [MemoryBatch.stack(drawn_entries(SEGMENTOR, n, 7 + i), range(n, 0, -1)) for i, n in enumerate(slots)]
    output = stepper.step(decoded, words, MemoryBatch.merge(stored))
    return output, stepper.write(decoded, output)


def assert_equal(slots: list[int], **options: int) -> None:
    (output, entry), (expected, own) = (
        run(Stepper(SEGMENTOR, config), slots, **options) for config in (ON, EngineConfig())
    )
    near(output.mask_logits, expected.mask_logits)
    near(output.queries, expected.queries)
    real = options.get("phrases", 1)
    near(output.class_logits[..., :real], expected.class_logits[..., :real])
    near(output.class_logits[..., -1], expected.class_logits[..., -1])
    assert len(output.mask_logits) == len(slots)
    for x, y in zip(entry.embeds, own.embeds):
        near(x, y)


def test_counts_are_padded_to_powers_of_two() -> None:
    assert [bucket(count) for count in (1, 2, 3, 4, 5, 9, 16)] == [1, 2, 4, 4, 8, 16, 16]
    assert [bucket(count, 8) for count in (0, 1, 8, 9)] == [8, 8, 8, 16]


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("slots", [[1], [5, 2, 1], [5] * 4])
def test_padding_changes_no_real_row(slots: list[int]) -> None:
    assert_equal(slots)
    assert_equal(slots, phrases=3, tokens=11)
    assert graphs() > 0


@pytest.mark.usefixtures("traced")
def test_nothing_is_compiled_when_targets_come_and_go() -> None:
    stepper = Stepper(SEGMENTOR, ON)
    for count in (1, 2, 4):
        run(stepper, [5] * count)
    known = graphs()
    assert known > 0 and not stepper.fault
    for slots in ([1], [2, 1], [5, 4, 3], [3], [1, 1, 1, 5], [2, 5], [4, 4, 4]):
        run(stepper, slots, tokens=1 + len(slots))
    run(Stepper(SEGMENTOR, ON), [3, 2])  # another session of the model
    assert graphs() == known
    run(stepper, [1] * 5)
    assert graphs() > known  # the counter counts


@pytest.mark.usefixtures("traced")
def test_more_shapes_than_torch_keeps_by_default() -> None:
    stepper = Stepper(SEGMENTOR, ON)
    shapes = [([1] * count, words) for count in (1, 2, 3) for words in (4, 9, 17, 33)]
    for slots, tokens in shapes:
        run(stepper, slots, tokens=tokens)
    known = graphs()
    for slots, tokens in shapes:
        run(stepper, slots, tokens=tokens)
    assert graphs() == known and not stepper.fault


@pytest.mark.slow
def test_compiled_equals_eager() -> None:
    assert_equal([5, 2, 1])
    assert graphs() > 0


@pytest.mark.slow
def test_without_a_compiler_the_stream_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/g++",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    config = EngineConfig(compiled="on", score_threshold=0.0, mask_score_threshold=0.0)
    plain = EngineConfig(score_threshold=0.0, mask_score_threshold=0.0)
    sessions = [Session(new_nano(), each) for each in (config, plain)]
    for session in sessions:
        session.submit(TextPrompt("text", text="the red circle"))
    for frame in frames(4):
        one, other = (session.step(frame) for session in sessions)
        assert (one.masks == other.masks).all()
    (fault,) = sessions[0].faults
    assert "cannot be compiled here and runs as it is" in fault and "set compiled to off" in fault
    assert sum("cannot be compiled" in record.getMessage() for record in caplog.records) == 1
    assert not sessions[1].faults


def test_int8_weights_are_not_compiled() -> None:
    rounded = random_segmentor(3)
    quantise(rounded, 1)
    with pytest.raises(ConfigError, match="compiled is on, but weights are int8"):
        Stepper(rounded, ON)
    Stepper(rounded, EngineConfig())


def test_a_failing_compiler_is_asked_once() -> None:
    asked: list[int] = []

    def broken(graph: Any, inputs: Any) -> Any:
        asked.append(1)
        raise RuntimeError("no compiler")

    stepper = Stepper(SEGMENTOR, ON)
    with torch.compiler.set_stance("default", force_backend=broken):
        output, _ = run(stepper, [5, 1])
    expected, _ = run(Stepper(SEGMENTOR, EngineConfig()), [5, 1])
    assert torch.equal(output.mask_logits, expected.mask_logits)
    assert len(asked) == 1 and "no compiler" in stepper.fault


def test_answers_are_copied_whole() -> None:
    output, entry = run(Stepper(SEGMENTOR, EngineConfig()), [2])
    for given in (output, entry):
        again = copied(given)
        for name, x in vars(given).items():
            y = getattr(again, name)
            pairs = zip(x, y) if isinstance(x, tuple) else [(x, y)]
            for one, other in pairs:
                tensors = [one, other] if isinstance(one, Tensor) else [one.queries, other.queries]
                assert torch.equal(*tensors) and tensors[0].data_ptr() != tensors[1].data_ptr()
