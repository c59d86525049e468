"""The segmentor and its parts: shapes, batching of unequal prompts, purity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.model.networks import condition, frames, memory, segmentor, segmentor_config
from x2sam_ros.engine.preprocess import mask_encoder_pixels
from x2sam_ros.errors import ModelError
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.config import DecoderConfig, HieraConfig, SegmentorConfig
from x2sam_ros.model.encoder import HieraEncoder, build_encoder
from x2sam_ros.model.layers import sine_position
from x2sam_ros.model.mask_decoder import PADDED_CLASS_LOGIT, ClassPredictor, allowed_region
from x2sam_ros.model.memory import MemoryBatch
from x2sam_ros.model.pixel_decoder import DeformableAttention, PixelFeatures, reference_points


def near(got: Tensor, expected: Tensor) -> None:
    """Compare within a thousandth of the largest value: rounding that turns a mask's cell on or off moves that much."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


def pixel_values(count: int = 1) -> Tensor:
    pictures = np.stack([frame.image for frame in frames(count)])
    return mask_encoder_pixels(pictures, segmentor_config().image_size)


def pixels(count: int = 1, first: bool = True) -> PixelFeatures:
    with torch.no_grad():
        return segmentor().decode_pixels(segmentor().encode_image(pixel_values(count)), first)


@torch.no_grad()
def test_shapes_of_one_step() -> None:
    model, config = segmentor(), segmentor_config()
    features = model.encode_image(pixel_values(2))
    side, width = config.image_size, config.decoder.hidden
    assert [tuple(x.shape[1:3]) for x in features.stages] == [(side // s, side // s) for s in (4, 8, 16, 32)]
    assert [x.shape[-1] for x in features.pyramid] == [side // s for s in (4, 8, 16)]
    decoded = model.decode_pixels(features, first=True)
    assert [tuple(x.shape) for x in decoded.multi_scale] == [(2, width, side // s, side // s) for s in (16, 8, 4)]
    output = model.step(decoded, PromptCondition.merge([condition(2, 5, seed) for seed in range(4)]))
    queries = config.decoder.num_queries
    assert output.class_logits.shape == (4, queries, 3)
    assert output.mask_logits.shape == (4, queries, side // 4, side // 4)
    assert len(output.layers) == config.decoder.mask_layers + 1
    entry = model.write_memory(decoded, output)
    assert [tuple(x.shape) for x in entry.embeds] == [(4, 64, side // 16, side // 16)] * 3


@torch.no_grad()
def test_prompts_of_different_lengths_together_equal_each_alone() -> None:
    """Phrases, tokens and memories of different lengths are padded; no prompt may notice."""
    model = segmentor()
    conditions = [condition(1, 2, 1), condition(5, 17, 2), condition(2, 6, 3)]
    memories = [memory(5, 1), memory(1, 2), memory(3, 3)]
    for first in (True, False):
        decoded = pixels(first=first)
        together = model.step(
            decoded, PromptCondition.merge(conditions), None if first else MemoryBatch.merge(memories)
        )
        entry = model.write_memory(decoded, together)
        for row, (words, stored) in enumerate(zip(conditions, memories)):
            alone = model.step(decoded, words, None if first else stored)
            near(together.mask_logits[row], alone.mask_logits[0])
            real = words.num_phrases
            got = together.class_logits[row]
            near(got[:, :real], alone.class_logits[0, :, :-1])
            near(got[:, -1], alone.class_logits[0, :, -1])
            assert (got[:, real:-1] == PADDED_CLASS_LOGIT).all()
            for x, y in zip(entry.embeds, model.write_memory(decoded, alone).embeds):
                near(x[row], y[0])


@torch.no_grad()
def test_images_together_equal_each_alone() -> None:
    model = segmentor()
    words = [condition(1, 3, seed) for seed in range(4)]
    both = model.step(pixels(2), PromptCondition.merge(words))
    for image in range(2):
        one = model.decode_pixels(model.encode_image(pixel_values(2)[image : image + 1]), first=True)
        alone = model.step(one, PromptCondition.merge(words[2 * image : 2 * image + 2]))
        near(both.mask_logits[2 * image : 2 * image + 2], alone.mask_logits)


@torch.no_grad()
def test_a_step_changes_neither_its_inputs_nor_the_weights() -> None:
    model = segmentor()
    decoded, words, stored = pixels(first=False), condition(2, 5), memory(3)
    inputs = [*decoded.multi_scale, decoded.mask_features, *vars(words).values(), *stored.embeds, stored.gaps]
    before, weights = [x.clone() for x in inputs], [x.clone() for x in model.state_dict().values()]
    outputs = [model.step(decoded, words, stored) for _ in range(2)]
    model.write_memory(decoded, outputs[0])
    assert torch.equal(outputs[0].mask_logits, outputs[1].mask_logits)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs))
    assert all(torch.equal(a, b) for a, b in zip(weights, model.state_dict().values()))


@torch.no_grad()
def test_first_and_later_frames_are_told_apart() -> None:
    assert (pixels(first=True).mask_features - pixels(first=False).mask_features).abs().max() > 0


def test_prompts_that_cannot_share_the_images_are_refused() -> None:
    three = PromptCondition.merge([condition(1, 2, seed) for seed in range(3)])
    with pytest.raises(ModelError, match="3 prompts cannot share 2 images"):
        segmentor().step(pixels(2), three)


def test_a_query_with_an_empty_mask_may_look_everywhere() -> None:
    logits = torch.full((1, 2, 4, 4), -1.0)
    logits[0, 1, :2, :2] = 1.0
    allowed = allowed_region(logits, (2, 2))
    assert allowed[0].tolist() == [[True] * 4, [True, False, False, False]]


def test_class_heads() -> None:
    queries, conditions = torch.randn(1, 3, 8), torch.randn(1, 2, 8)
    learnt = ClassPredictor("learn")(queries, conditions, torch.tensor([[False, True]]))
    assert (learnt[..., 0] == PADDED_CLASS_LOGIT).all()
    cosine = torch.nn.functional.cosine_similarity(queries[0], conditions[0, 1:], dim=-1) / 0.07
    torch.testing.assert_close(learnt[0, :, 1], cosine)
    assert ClassPredictor("auto")(queries, conditions).shape == (1, 3, 2)
    with pytest.raises(ModelError, match="unknown class head 'none'"):
        ClassPredictor("none")


def test_deformable_attention_without_offsets_reads_its_own_cell() -> None:
    attention = DeformableAttention(8, 2, 1)
    with torch.no_grad():
        for layer in (attention.sampling_offsets, attention.attention_weights):
            layer.weight.zero_()
            layer.bias.zero_()
        for layer in (attention.value_proj, attention.output_proj):
            layer.weight.copy_(torch.eye(8))
            layer.bias.zero_()
    shapes = [(2, 2), (2, 2), (2, 2)]
    level = torch.randn(1, 4, 8)
    tokens = torch.cat([level] * 3, dim=1)
    out, weights = attention(tokens, torch.zeros(1, 12, 8), reference_points(shapes, tokens.device), shapes)
    torch.testing.assert_close(out, tokens)
    torch.testing.assert_close(weights.flatten(3).sum(-1), torch.ones(1, 12, 2))


def test_the_hiera_encoder_gives_the_same_layout() -> None:
    config = HieraConfig(
        embed_dims=(8, 16, 32, 64),
        blocks=(1, 1, 2, 1),
        heads=(1, 2, 4, 8),
        windows=(8, 4, 4, 4),
        global_blocks=(3,),
        fpn_channels=32,
    )
    encoder = HieraEncoder(config).eval()
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, 64, 64))
    assert [tuple(x.shape) for x in features.stages] == [(1, 64 // s, 64 // s, 2 * s) for s in (4, 8, 16, 32)]
    assert [tuple(x.shape) for x in features.pyramid] == [(1, 32, 64 // s, 64 // s) for s in (4, 8, 16)]


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(ModelError, match="'vit' is not built in"):
        build_encoder(SegmentorConfig(mask_encoder="vit", decoder=DecoderConfig()))


def test_position_codes_survive_inference_mode_and_autocast() -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        code = sine_position(3, 5, 16, torch.device("cpu"), torch.float32)
    assert code.dtype is torch.float32 and not code.is_inference()
    assert code.shape == (1, 16, 3, 5)
    assert torch.equal(code[0, :8, :, 0], code[0, :8, :, 4])  # the first half codes y
    assert torch.equal(code[0, 8:, 0], code[0, 8:, 2])
