"""The whole network against the reference's intermediate and final values, loaded by the production converter."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from tests.published import write_tiny
from tests.shared_data import PARITY
from x2sam_ros.checkpoint.convert import convert_checkpoint
from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.engine.preprocess import IMAGE_MEAN, IMAGE_STD
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.conversation import NO_PHRASE, Conversation, Media, TokenBatch, collate
from x2sam_ros.model.generation import STOP_TOKENS, Generated
from x2sam_ros.model.language import VisionFeatures
from x2sam_ros.model.memory import MemoryBatch
from x2sam_ros.model.template import Template
from x2sam_ros.model.x2sam import X2SAM

EMBEDDING_TOLERANCE, MASK_TOLERANCE = 1e-4, 1e-3
IGNORED = -100
"""The reference's label of tokens that are not learned."""


def fixtures(mode: str) -> list[Any]:
    """Names of the fixtures of one mode: ``tensor``, the answer is part of the input, or ``predict``, it is written."""
    metas = ((folder.parent.name, json.loads(folder.read_text())) for folder in PARITY.glob("full_*/meta.json"))
    names = sorted(name for name, meta in metas if meta["mode"] == mode)
    return names or [pytest.param("", marks=pytest.mark.skip(reason=f"no full_* fixture of mode {mode} in {PARITY}"))]


GIVEN, WRITTEN = fixtures("tensor"), fixtures("predict")


@dataclass(frozen=True)
class Case:
    """One fixture with the picture it belongs to."""

    name: str
    data: dict[str, Tensor]
    meta: dict[str, Any]
    inputs: dict[str, Tensor]

    @property
    def is_video(self) -> bool:
        return self.name.startswith("full_vid")

    @property
    def grid(self) -> Tensor:
        return self.inputs["video_grid_thw" if self.is_video else "image_grid_thw"]

    @property
    def patches(self) -> Tensor:
        return self.inputs["pixel_values_videos" if self.is_video else "pixel_values"].float()

    @property
    def frames(self) -> Tensor:
        """The mask encoder's input, one row per frame of the clip, or the one picture."""
        if not self.is_video:
            return (
                self.inputs["extra_pixel_values"].float().reshape(1, 3, *self.inputs["extra_pixel_values"].shape[-2:])
            )
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
        return (self.inputs["extra_rgb_uint8_resized"].float() / 255 - mean) / std

    @property
    def conversation(self) -> Conversation:
        ids = self.data["in.input_ids"]
        cond, seg = (self.data.get(key, torch.full_like(ids, NO_PHRASE)) for key in ("in.cond_ids", "in.seg_ids"))
        return Conversation(ids[0].numpy(), cond[0].numpy(), seg[0].numpy(), answer_start=ids.shape[1])

    def media(self, model: X2SAM) -> Media:
        steps, tokens = int(self.grid[0, 0]), int(self.grid[0, 1:].prod())
        tokens //= model.config.language.vision.spatial_merge_size**2
        return Media(tokens, steps) if self.is_video else Media(tokens)


@cache
def case(name: str) -> Case:
    folder = PARITY / name
    inputs = load_file(PARITY / "full_inputs" / ("video.safetensors" if "_vid_" in name else "image.safetensors"))
    meta = json.loads((folder / "meta.json").read_text())
    return Case(name, load_file(folder / "data.safetensors"), meta, inputs)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> X2SAM:
    """The tiny network: converted from the published layout, and loaded like any checkpoint."""
    folder = tmp_path_factory.mktemp("converted")
    export, base = write_tiny(folder / "published")
    convert_checkpoint(export, folder / "ours", base)
    return load_model(folder / "ours")


def assert_close(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape, f"{what}: {tuple(found.shape)}, expected {tuple(expected.shape)}"
    worst = float((found.float() - expected.float()).abs().max())
    assert worst <= tolerance, f"{what} is off by {worst:.2e}, allowed {tolerance:.0e}"


@torch.no_grad()
def language_inputs(model: X2SAM, case: Case) -> tuple[TokenBatch, VisionFeatures, Tensor | None]:
    batch = model.collate([case.conversation])
    vision = model.language.encode_image(case.patches, case.grid)
    points = case.data.get("in.region_points_yx")
    if points is None:
        return batch, vision, None
    maps = model.region_maps(model.segmentor.encode_image(case.frames[:1]).stages)
    if "mid.extra_projector_frame0" in case.data:
        expected = case.data["mid.extra_projector_frame0"]
        assert_close("projected map", maps.flatten(1, 2), expected, EMBEDDING_TOLERANCE)
    tokens = model.region_tokens(maps, case.inputs["vprompt_masks"][: len(points)].bool(), points_yx=points)
    assert_close("region tokens", tokens, case.data["mid.region_feats"], EMBEDDING_TOLERANCE)
    return batch, vision, tokens


@pytest.mark.parametrize("name", [*GIVEN, *WRITTEN])
def test_prompt_text_gives_the_fixtures_tokens(name: str, model: X2SAM) -> None:
    current = case(name)
    (turn,) = current.meta["conversation_text"]
    question = re.fullmatch(
        r"<\|im_start\|>user\n<\|vision_start\|><(?:image|video)><\|vision_end\|>(.*)<\|im_end\|>\n"
        r"<\|im_start\|>assistant\n",
        turn["input"],
        re.DOTALL,
    )
    assert question is not None
    answer = turn["output"].removesuffix("<|im_end|>") if current.meta["mode"] == "tensor" else None
    phrases = re.findall(r"<p>(.*?)</p>", question[1])
    slots: dict[str, Any] = {"phrases": phrases}
    if not phrases:
        slots = {"text": question[1]}
    elif phrases[0] == "<region>":
        slots = {"regions": len(phrases)}
    slot = re.sub(r"<p>.*</p>", "{phrases}", question[1], flags=re.DOTALL) if phrases else "{text}"
    built = model.conversations.build(Template(slot, answer), current.media(model), **slots)
    np.testing.assert_array_equal(built.input_ids, current.conversation.input_ids)
    np.testing.assert_array_equal(built.cond_ids, current.conversation.cond_ids)
    np.testing.assert_array_equal(built.seg_ids, current.conversation.seg_ids)
    assert torch.equal(collate([built]).answer_mask, current.data["in.labels"] != IGNORED)


@pytest.mark.parametrize("name", GIVEN)
@torch.no_grad()
def test_language_states(name: str, model: X2SAM) -> None:
    current = case(name)
    batch, vision, tokens = language_inputs(model, current)
    data, language = current.data, model.language
    if "mid.expanded_cond_ids" in data:
        assert torch.equal(batch.cond_ids, data["mid.expanded_cond_ids"])
        assert torch.equal(torch.arange(batch.input_ids.shape[1])[None], data["mid.position_ids_used"])
    embeds = language.embed(batch, vision, tokens)
    assert_close("input embeddings", embeds, data["mid.inputs_embeds"], EMBEDDING_TOLERANCE)
    hidden = language(batch, vision, region_tokens=tokens)
    assert_close("hidden states", hidden, data["out.mlm_last_hidden_state"], EMBEDDING_TOLERANCE)
    normed = language.normed(hidden)
    assert_close("normed states", normed, data["mid.lm_output_after_final_norm"], EMBEDDING_TOLERANCE)
    assert_close("logits", language.logits(hidden[:, -16:]), data["out.lm_logits_last16"], EMBEDDING_TOLERANCE)
    loss = F.cross_entropy(language.logits(hidden)[0, :-1], answer_labels(current, batch)[1:], ignore_index=IGNORED)
    assert_close("loss of the answer", loss[None], data["out.lm_loss"], EMBEDDING_TOLERANCE)
    if "mid.mlm_embeds" in data:
        assert_close("projected", model.mlm_projector(hidden), data["mid.mlm_embeds"], EMBEDDING_TOLERANCE)


def answer_labels(current: Case, batch: TokenBatch) -> Tensor:
    """Return the reference's labels, int64 (L,), in front of them as much as regions add."""
    labels = current.data["in.labels"][0]
    return F.pad(labels, (batch.input_ids.shape[1] - len(labels), 0), value=IGNORED)


def assert_condition(condition: PromptCondition, data: dict[str, Tensor]) -> None:
    for key in ("cond_embeds", "token_embeds", "seg_embeds"):
        assert_close(key, getattr(condition, key), data[f"mid.segmentor_in.{key}"], EMBEDDING_TOLERANCE)
    assert torch.equal(condition.embed_mask.flatten(), data["mid.segmentor_in.embed_masks"].bool().flatten())
    assert torch.equal(condition.token_mask, data["mid.segmentor_in.token_masks"].bool())


@pytest.mark.parametrize("name", GIVEN)
@torch.no_grad()
def test_masks_frame_by_frame(name: str, model: X2SAM) -> None:
    current = case(name)
    if not current.meta["has_masks"]:
        pytest.skip(f"{name} asks for no masks")
    batch, vision, tokens = language_inputs(model, current)
    condition = model.condition(batch, vision, region_tokens=tokens)
    assert_condition(condition, current.data)

    assert_masks(model, current, condition)


def assert_masks(model: X2SAM, current: Case, condition: PromptCondition) -> None:
    """Step through the frames with that condition, and compare."""
    segmentor, entries, classes, masks = model.segmentor, [], [], []
    for frame in current.frames:
        pixels = segmentor.decode_pixels(segmentor.encode_image(frame[None]), first=not entries)
        gaps = range(len(entries), 0, -1)
        output = segmentor.step(pixels, condition, MemoryBatch.stack(entries, gaps) if entries else None)
        entries = [*entries, segmentor.write_memory(pixels, output)][-model.config.segmentor.memory.num_maskmem :]
        classes.append(output.class_logits)
        masks.append(output.mask_logits)
    assert_close("class logits", torch.cat(classes), current.data["out.class_queries_logits"], EMBEDDING_TOLERANCE)
    key, stride = ("out.masks_queries_logits_lowres", 1), ("out.masks_queries_logits_lowres_s2", 2)
    name_of, step = next(pair for pair in (key, stride) if pair[0] in current.data)
    assert_close("mask logits", torch.cat(masks)[..., ::step, ::step], current.data[name_of], MASK_TOLERANCE)


def write(model: X2SAM, current: Case, reuse: bool = False, free: bool = False) -> Generated:
    """Let the model write token by token: the reference's answer, or as many tokens of its own; on a prefix or not."""
    _, vision, tokens = language_inputs(model, current)
    prefix = model.prefix(current.media(model), vision) if reuse else None
    sequence = current.data["out.sequences"][0].tolist()
    given = iter(sequence)
    choose = None if free else lambda logits: next(given)
    return model.generate(current.conversation, vision, tokens, prefix, choose=choose, max_new_tokens=len(sequence))


@pytest.mark.parametrize("name", WRITTEN)
@torch.no_grad()
def test_written_answers(name: str, model: X2SAM) -> None:
    current, language = case(name), model.language
    generated = write(model, current)
    assert_close("states", generated.hidden, current.data["out.mlm_last_hidden_state"], EMBEDDING_TOLERANCE)
    sequence = current.data["out.sequences"][0].tolist()
    assert generated.conversation.answer_ids == tuple(sequence)
    stops = [model.tokenizer.control_ids[token] for token in STOP_TOKENS]
    assert generated.finish == ("stop" if sequence[-1] in stops else "length")
    # The reference recorded the head's view of the state before the final norm. What it chooses from is behind the
    # norm, as the logits of the answers that are given show, and as its greedy answers do.
    expected = current.data["out.lm_logits_last_prompt_position"]
    before_norm = F.linear(generated.hidden[:, -len(sequence)], language.text.embed_tokens.weight)
    assert_close("logits", before_norm, expected[0], EMBEDDING_TOLERANCE)
    assert before_norm.argmax() == expected.argmax()
    if not current.meta["has_masks"]:  # where the reference needs no particular answer, it chooses
        assert write(model, current, free=True).conversation.answer_ids == tuple(sequence)
        assert generated.condition(model) is None


@pytest.mark.parametrize("name", WRITTEN)
@torch.no_grad()
def test_masks_of_written_answers(name: str, model: X2SAM) -> None:
    current = case(name)
    if not current.meta["has_masks"]:
        pytest.skip(f"{name} asks for no masks")
    condition = write(model, current).condition(model)
    assert condition is not None
    assert_condition(condition, current.data)
    assert_masks(model, current, condition)


@pytest.mark.parametrize("name", [*GIVEN, *WRITTEN])
@torch.no_grad()
def test_a_picture_that_was_read_before_changes_nothing(name: str, model: X2SAM) -> None:
    current = case(name)
    if name in WRITTEN:
        hidden = write(model, current, reuse=True).hidden
    else:
        _, vision, tokens = language_inputs(model, current)
        prefix = model.prefix(current.media(model), vision)
        hidden = model.states([current.conversation], vision, tokens, prefix)
    assert_close("states", hidden, current.data["out.mlm_last_hidden_state"], EMBEDDING_TOLERANCE)


@torch.no_grad()
def test_prompts_on_one_picture_share_its_prefix(model: X2SAM) -> None:
    """Prompts of different length that go on from one prefix at once give what each gives alone."""
    cases = [case(folder.name) for folder in sorted(PARITY.glob("full_img_*")) if folder.name in GIVEN]
    cases = [c for c in cases if c.meta["has_masks"] and "in.region_points_yx" not in c.data]
    if len(cases) < 2:
        pytest.skip(f"needs two prompts in words on a picture in {PARITY}")
    vision = model.language.encode_image(cases[0].patches, cases[0].grid)
    prefix = model.prefix(cases[0].media(model), vision)
    together = model.understand_all([c.conversation for c in cases], prefix=prefix)
    for row, current in enumerate(cases):
        alone = model.understand(current.conversation, vision, prefix=prefix)
        assert_condition(alone, current.data)
        phrases = alone.num_phrases
        assert_close("phrases", together.cond_embeds[row, :phrases], alone.cond_embeds[0, :-1], EMBEDDING_TOLERANCE)
        assert_close("<SEG>", together.seg_embeds[row], alone.seg_embeds[0], EMBEDDING_TOLERANCE)


@pytest.mark.parametrize("name", [*GIVEN, *WRITTEN])
@torch.no_grad()
def test_fused_attention_equals_the_slow_one(name: str, model: X2SAM) -> None:
    current, towers = case(name), (model.language.visual, model.language.text)
    _, vision, tokens = language_inputs(model, current)
    fused = model.states([current.conversation], vision, tokens)
    assert {tower.config._attn_implementation for tower in towers} == {"sdpa"}
    try:
        for tower in towers:
            tower.set_attn_implementation("eager")
        _, vision, tokens = language_inputs(model, current)
        assert_close("states", fused, model.states([current.conversation], vision, tokens), EMBEDDING_TOLERANCE)
    finally:
        model.language.choose_attention()


@torch.no_grad()
def test_a_batch_equals_its_rows(model: X2SAM) -> None:
    """Prompts of different length, two sharing one picture, give what each gives alone."""
    names = [name for name in ("full_img_refseg", "full_img_genseg", "full_vid_refseg") if (PARITY / name).is_dir()]
    if len(names) < 2:
        pytest.skip(f"needs two of the refseg and genseg fixtures in {PARITY}")
    cases = [case(name) for name in names]
    pictures = [model.language.encode_image(c.patches, c.grid) for c in (cases[0], cases[-1])]
    vision = VisionFeatures(
        torch.cat([p.embeds for p in pictures]),
        tuple(torch.cat(layers) for layers in zip(*(p.deepstack for p in pictures))),
        tuple(count for p in pictures for count in p.counts),
    )
    together = model.condition(model.collate([c.conversation for c in cases]), vision, [int(c.is_video) for c in cases])
    for row, (current, mask) in enumerate(zip(cases, together.token_mask)):
        expected = current.data["mid.segmentor_in.cond_embeds"][0]
        phrases = len(expected) - 1
        assert_close("phrases", together.cond_embeds[row, :phrases], expected[:-1], EMBEDDING_TOLERANCE)
        assert_close("background", together.cond_embeds[row, -1], expected[-1], EMBEDDING_TOLERANCE)
        assert together.embed_mask[row].sum() == phrases + 1
        tokens = current.data["mid.segmentor_in.token_embeds"][0]
        assert_close("tokens", together.token_embeds[row, mask], tokens, EMBEDDING_TOLERANCE)


@torch.no_grad()
def test_equal_pictures_at_once_equal_one_by_one(model: X2SAM) -> None:
    if not (PARITY / "full_inputs").is_dir():
        pytest.skip(f"no full_inputs in {PARITY}")
    inputs = load_file(PARITY / "full_inputs" / "image.safetensors")
    first, grid = inputs["pixel_values"].float(), inputs["image_grid_thw"]
    second = first.flip(0)
    together = model.language.encode_image(torch.cat([first, second]), grid.repeat(2, 1))
    for row, patches in enumerate((first, second)):
        alone = model.language.encode_image(patches, grid)
        part = together.gather([row])
        assert_close("picture", part.embeds, alone.embeds, 1e-5)
        for layer, expected in zip(part.deepstack, alone.deepstack):
            assert_close("deepstack", layer, expected, 1e-5)
