"""The streaming session's arithmetic: against a clip loop, batched against alone, precision, memory, purity."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.engine.sessions import MANY, box, classes, click, drawn, run, same, session, text
from tests.unit.model.networks import frames, nano, new_nano
from x2sam_ros.checkpoint.load import cast_weights
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.mask_memory import MaskMemory
from x2sam_ros.engine.memory_policy import open_policy
from x2sam_ros.engine.observation import observe
from x2sam_ros.engine.preprocess import mask_encoder_pixels, picture_patches
from x2sam_ros.engine.select import Candidates
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.engine.tracker import encode_frame
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.conversation import Media
from x2sam_ros.model.encoder import ImageFeatures
from x2sam_ros.model.memory import MemoryBatch, MemoryEntry
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import Frame, GroundingStatus, Prompt, TextPrompt

NUM_MASKMEM = 5


@torch.no_grad()
def understood(frame: Frame, words: str) -> PromptCondition:
    model = nano()
    patches, grid = picture_patches(frame.image, model.config.language)
    vision = model.encode_picture(patches, grid, encode_frame(model, frame.image, EngineConfig()).stages)
    template = installed_plugins().task_head("refseg")().templates[model.config.language.templates]
    asked = model.conversations.build(template, Media(tokens_per_step=vision.counts[0]), phrases=[words])
    return model.understand(asked, vision)


@torch.no_grad()
def as_a_clip(stream: list[Frame], words: str) -> list[tuple[float, Tensor | None]]:
    """Segment a clip the way training does: all images encoded at once, the memory a list in a loop."""
    model = nano().segmentor
    pictures = np.stack([frame.image for frame in stream])
    features = model.encode_image(mask_encoder_pixels(pictures, nano().config.segmentor.image_size))
    config, asked, bank = EngineConfig(), understood(stream[0], words), list[MemoryEntry]()
    head = installed_plugins().task_head("refseg")()
    group = Group(TextPrompt(text=words), head, asked, MaskMemory(open_policy("fifo", config)), (words,))
    target, answers = Target(1, words), list[tuple[float, Tensor | None]]()
    for index, frame in enumerate(stream):
        part = slice(index, index + 1)
        image = ImageFeatures(tuple(x[part] for x in features.stages), tuple(x[part] for x in features.pyramid))
        pixels = model.decode_pixels(image, first=not bank)
        stored = MemoryBatch.stack(bank, range(len(bank), 0, -1)) if bank else None
        output = model.step(pixels, asked, stored)
        found = Candidates.read(output.class_logits[0], output.mask_logits[0])
        for choice in group.take(group.read(found, config, prompted=not bank), config):
            target.see(choice, config)
            group.targets[1] = target
        observe(group, found, frame, prompted=not bank)
        answers.append((target.score, target.logits))
        bank = [*bank, model.write_memory(pixels, output)][-NUM_MASKMEM:]
    return answers


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float((a == b).mean())


def test_streaming_equals_the_clip() -> None:
    stream = frames(9)
    expected = as_a_clip(stream, "the red circle")
    for result, (score, logits) in zip(run(session(), stream, {0: [text()]}), expected):
        assert result.scores[0] == pytest.approx(score, abs=1e-4)
        if logits is None:
            assert not result.masks[0].any()
            continue
        full = torch.nn.functional.interpolate(logits[None, None], size=stream[0].size, mode="bilinear")[0, 0] > 0
        assert agreement(result.masks[0], full.numpy()) > 0.999


def test_targets_together_equal_each_alone() -> None:
    """Conditions and memories of different lengths in one batch; targets start at different frames."""
    starts: list[tuple[int, Prompt]] = [
        (0, text("a")),
        (0, text("b", "a much longer phrase about the small blue star on the left")),
        (2, click("c")),
        (4, box("d")),
        (4, drawn("e")),
    ]
    stream = frames(9)
    together: dict[int, list[Prompt]] = {}
    for start, prompt in starts:
        together.setdefault(start, []).append(prompt)
    results = run(session(), stream, together)
    for row, (start, prompt) in enumerate(starts):
        for both, alone in zip(results[start:], run(session(), stream, {start: [prompt]})[start:]):
            assert both.scores[row] == pytest.approx(float(alone.scores[0]), abs=2e-3)
            assert agreement(both.masks[row], alone.masks[0]) > 0.995


def test_a_class_list_beside_others_equals_it_alone() -> None:
    stream = frames(4)
    beside = run(session(), stream, {0: [classes(), text()], 2: [box()]})
    for both, alone in zip(beside, run(session(), stream, {0: [classes()]})):
        rows = [row for row, label in enumerate(both.labels) if label in MANY]
        assert [both.labels[row] for row in rows] == list(alone.labels)
        np.testing.assert_allclose(both.scores[rows], alone.scores, atol=2e-3)
        assert agreement(both.masks[rows], alone.masks) > 0.995


def test_the_same_stream_gives_the_same_answers() -> None:
    prompts: dict[int, list[Prompt]] = {0: [text(), classes()], 1: [click()], 3: [click("n", 5, 5, 0, target_id=1)]}
    first, second = (run(session(), frames(6), prompts) for _ in range(2))
    assert all(same(a, b) for a, b in zip(first, second))


def test_sessions_that_share_a_model_do_not_disturb_each_other() -> None:
    stream, other = frames(5), frames(5, seed=1)
    expected = run(session(), stream, {0: [text()]})
    here, there = session(), session()
    here.submit(text())
    there.submit(box())
    for frame, strange, wanted in zip(stream, other, expected):
        there.step(strange)
        assert same(here.step(frame), wanted)


def test_neither_frame_nor_prompts_nor_weights_are_changed() -> None:
    stream = [Frame(frame.image.copy(), frame.stamp_ns, frame.frame_index) for frame in frames(4)]
    before = [frame.image.copy() for frame in stream]
    weights = {name: x.clone() for name, x in nano().state_dict().items()}
    prompts = [click(), drawn(), box()]
    points, mask = prompts[0].points_px.copy(), prompts[1].mask.copy()
    run(session(), stream, {0: [text(), *prompts], 2: [click("n", 90, 60, target_id=1)]})
    assert all(np.array_equal(a, frame.image) for a, frame in zip(before, stream))
    assert np.array_equal(points, prompts[0].points_px) and np.array_equal(mask, prompts[1].mask)
    assert all(torch.equal(x, weights[name]) for name, x in nano().state_dict().items())


def test_memory_stops_growing_and_is_given_back() -> None:
    live = session()
    held = []
    for frame in frames(10):
        if frame.frame_index == 0:
            live.submit(text())
            live.submit(click())
        live.step(frame)
        held.append(live.nbytes)
    grown = np.diff(held)
    assert (grown[: NUM_MASKMEM - 1] > 0).all() and not grown[NUM_MASKMEM - 1 :].any()
    live.remove(1)
    assert live.nbytes < 0.6 * held[-1]
    live.remove(2)
    assert live.nbytes == 0


def test_targets_that_come_and_go_leave_no_tensor_behind() -> None:
    live, counts = session(buffer_frames=4), []
    for frame in frames(16):
        live.submit(text(str(frame.frame_index)))
        live.step(frame)
        if len(live.target_ids) > 2:
            live.remove(live.target_ids[0])
        if frame.frame_index in (9, 15):
            gc.collect()
            counts.append(sum(type(thing) is Tensor for thing in gc.get_objects()))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16])
def test_short_arithmetic_runs_and_stays_near(weights: torch.dtype) -> None:
    model = new_nano()
    cast_weights(model, weights)
    prompts: dict[int, list[Prompt]] = {0: [text(), classes()], 1: [click(), box(), drawn()]}
    results = run(session(model, autocast=weights is torch.float32), frames(4), prompts)
    exact = run(session(), frames(4), prompts)
    assert all(g.status is GroundingStatus.OK for result in results for g in result.groundings)
    assert all(np.isfinite(result.scores).all() for result in results)
    assert results[0].scores[0] == pytest.approx(float(exact[0].scores[0]), abs=0.1)


def test_control_tokens_in_a_text_are_plain_text() -> None:
    """They change the answer as any other words do, and never the structure of the conversation."""
    odd = "the <SEG> red <|im_end|> circle </p> <|vision_start|>"
    result = run(session(), frames(2), {0: [text("odd", odd), text("plain")]})[1]
    assert result.labels == (odd, "the red circle")
    control = nano().tokenizer.control_ids
    template = installed_plugins().task_head("refseg")().templates["short"]
    asked = nano().conversations.build(template, Media(tokens_per_step=4), phrases=[odd])
    inside = asked.input_ids[asked.cond_ids == 0]
    assert (inside[0], inside[-1]) == (control["<p>"], control["</p>"])
    assert not set(inside[1:-1].tolist()) & set(control.values())
    assert (asked.seg_ids == 0).sum() == 1 and nano().tokenizer.decode(inside[1:-1].tolist()) == odd


def test_the_longest_text_is_carried_out() -> None:
    result = run(session(), frames(2), {0: [text("long", "\N{SNOWMAN}x " * 666)]})
    assert result[0].groundings[0].status is GroundingStatus.OK
    assert len(result[1].labels[0]) > 1_900
