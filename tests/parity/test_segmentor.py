"""The segmentor against the official implementation, weights through the production converter's names.

Every size and option comes from the fixture folder's config.json, so any set of fixtures in the format runs.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.shared_data import PARITY, parity_folder
from x2sam_ros.checkpoint.names import our_name
from x2sam_ros.checkpoint.official_config import segmentor_config
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.layers import attend, rotary_table, sine_position, temporal_code
from x2sam_ros.model.memory import MemoryBatch, MemoryEntry
from x2sam_ros.model.pixel_decoder import reference_points
from x2sam_ros.model.regions import space_to_depth
from x2sam_ros.model.segmentor import Segmentor

LOGITS, MASKS = 1e-4, 1e-3

Tensors = dict[str, Tensor]


def folders(kind: str) -> list[str]:
    """Return the seg_* fixtures of one kind; whatever is neither units, video nor referring is images."""
    names = sorted(path.parent.name for path in PARITY.glob("seg_*/data.safetensors"))
    special = ("seg_units", "seg_video", "seg_refer")
    if kind == "seg_image":
        return [name for name in names if not name.startswith(special)] or [kind]
    return [name for name in names if name.startswith(kind)] or [kind]


@lru_cache(maxsize=1)
def segmentor() -> Segmentor:
    folder = parity_folder("tiny_segmentor")
    model = Segmentor(segmentor_config(json.loads((folder / "config.json").read_text()))).eval()
    weights = {
        our_name("segmentor." + name): x.float() for name, x in load_file(folder / "weights.safetensors").items()
    }
    model.load_state_dict({name.removeprefix("segmentor."): x for name, x in weights.items() if name}, strict=True)
    return model.requires_grad_(False)


def read(name: str) -> Tensors:
    return {key: x.float() for key, x in load_file(parity_folder(name) / "data.safetensors").items()}


def condition(data: Tensors) -> PromptCondition:
    conditions = data["in.cond_embeds"]
    keep = data.get("in.embed_masks", torch.ones(conditions.shape[:2]))
    return PromptCondition(
        conditions, keep.bool(), data["in.token_embeds"], data["in.token_masks"].bool(), data["in.seg_embeds"]
    )


def near(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


def spread(x: Tensor, like: Tensor, start_row: int, start_column: int) -> Tensor:
    """Take the evenly spaced rows and columns of the last two dimensions that ``like`` keeps."""
    row_step, column_step = x.shape[-2] // like.shape[-2], x.shape[-1] // like.shape[-1]
    return x[..., start_row::row_step, start_column::column_step]


def full_size(mask_logits: Tensor) -> Tensor:
    side = segmentor().config.image_size
    return torch.nn.functional.interpolate(mask_logits, size=(side, side), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("name", folders("seg_image"))
def test_images(name: str) -> None:
    data, model = read(name), segmentor()
    features = model.encode_image(data["in.pixel_values"])
    pixels = model.decode_pixels(features, first=True)
    output = model.step(pixels, condition(data))
    for level, feature in enumerate(features.stages):
        if f"mid.hiera_stage{level}" in data:
            near(feature, data[f"mid.hiera_stage{level}"], LOGITS)
    for level, feature in enumerate(features.pyramid):
        if f"mid.fpn{level}" in data:
            near(feature, data[f"mid.fpn{level}"], LOGITS)
    for level, feature in enumerate(pixels.multi_scale):
        if f"mid.multi_scale{level}" in data:
            near(feature, data[f"mid.multi_scale{level}"], LOGITS)
    if "mid.mask_features" in data:
        near(pixels.mask_features, data["mid.mask_features"], LOGITS)
    for index, layer in enumerate(output.layers):
        if f"mid.decoder_norm{index}" in data:
            near(layer.queries.transpose(0, 1), data[f"mid.decoder_norm{index}"], LOGITS)
        if f"mid.mask_logits_layer{index}_sub" in data:
            expected = data[f"mid.mask_logits_layer{index}_sub"]
            near(spread(layer.mask_logits, expected, 1, 2), expected, MASKS)
    near(output.class_logits, data["out.class_queries_logits"], LOGITS)
    near(output.mask_logits, data["out.masks_queries_logits_lowres"], MASKS)
    if "out.masks_queries_logits_sub" in data:
        expected = data["out.masks_queries_logits_sub"]
        near(spread(full_size(output.mask_logits), expected, 3, 5), expected, MASKS)
    for key in (key for key in data if key.startswith("mid.sine_pos_")):
        side = int(key.rsplit("_", 1)[1])
        channels = data[key].shape[1]
        near(sine_position(side, side, channels, torch.device("cpu"), torch.float32), data[key], LOGITS)
    if "mid.temporal_encoding_gap3" in data:
        expected = data["mid.temporal_encoding_gap3"]
        near(temporal_code(torch.tensor([[3]]), expected.shape[-1]), expected, LOGITS)


@pytest.mark.parametrize("name", folders("seg_refer"))
def test_referring_batch_as_the_official_code_reads_it(name: str) -> None:
    """All phrases form one list; image i takes the embedding of row ``cond_lens[i] - 1``, as the fixture records."""
    data, model = read(name), segmentor()
    lengths = json.loads((PARITY / name / "meta.json").read_text())["cond_lens"]
    data["in.seg_embeds"] = data["in.seg_embeds"][[length - 1 for length in lengths]]
    pixels = model.decode_pixels(model.encode_image(data["in.pixel_values"]), first=True)
    output = model.step(pixels, condition(data))
    near(output.class_logits, data["out.class_queries_logits"], LOGITS)
    near(output.mask_logits, data["out.masks_queries_logits_lowres"], MASKS)


@pytest.mark.parametrize("name", folders("seg_video"))
def test_streaming_equals_the_clip(name: str) -> None:
    data, model = read(name), segmentor()
    prompt, bank = condition(data), []
    for t in range(len(data["in.pixel_values"])):
        pixels = model.decode_pixels(model.encode_image(data["in.pixel_values"][t : t + 1]), first=t == 0)
        memory = MemoryBatch.stack([e for _, e in bank], [t - stored for stored, _ in bank]) if bank else None
        if memory is not None:
            check_attention(data, t, model, pixels.multi_scale, memory)
        output = model.step(pixels, prompt, memory)
        entry = model.write_memory(pixels, output)
        bank = [*bank, (t, entry)][-model.config.memory.num_maskmem :]
        for scale, embeds in enumerate(entry.embeds):
            if f"mid.frame{t}.memory_encoder.scale{scale}" in data:
                near(embeds, data[f"mid.frame{t}.memory_encoder.scale{scale}"], LOGITS)
        near(output.queries.transpose(0, 1), data[f"mid.frame{t}.decoder_last"], LOGITS)
        near(output.class_logits[0], data["out.class_queries_logits"][t], LOGITS)
        coarse = data["out.masks_queries_logits_lowres_s2"][t]
        near(output.mask_logits[0, :, ::2, ::2], coarse, MASKS)
        fine = data["out.masks_queries_logits_sub"][t]
        near(spread(full_size(output.mask_logits)[0], fine, 3, 5), fine, MASKS)


def check_attention(
    data: Tensors, t: int, model: Segmentor, multi_scale: tuple[Tensor, ...], memory: MemoryBatch
) -> None:
    for scale, (feature, embeds) in enumerate(zip(multi_scale, memory.embeds)):
        name = f"mid.frame{t}.memory_attention.scale{scale}"
        if name in data:
            conditioned = model.memory_attention(feature, embeds, memory.gaps, memory.valid)
            tokens = conditioned.flatten(2).transpose(1, 2)
            near(tokens[:, :: tokens.shape[1] // data[name].shape[1]], data[name], LOGITS)
        name = f"mid.frame{t}.memory_bank.scale{scale}.keys_plus_pos_checksum"
        if name in data:
            check_bank(data[name], embeds, memory.gaps)


def check_bank(checksum: Tensor, embeds: Tensor, gaps: Tensor) -> None:
    _, _, channels, height, width = embeds.shape
    tokens = embeds.flatten(3).transpose(2, 3).double()
    place = sine_position(height, width, channels, torch.device("cpu"), torch.float32).flatten(2).transpose(1, 2)
    position = (place[:, None] + temporal_code(gaps, channels)[:, :, None]).double()
    sums = torch.stack([(tokens + position).sum(), tokens.abs().sum(), position.abs().sum()])
    torch.testing.assert_close(sums.float(), checksum.flatten(), rtol=1e-5, atol=0.05)


class TestUnits:
    """Single blocks with random inputs."""

    def test_memory_encoder(self) -> None:
        data, encoder = read("seg_units"), segmentor().memory_encoder
        scales = len(encoder.vision_downsampler)
        features = tuple(data[f"memory_encoder.in.features_scale{i}"] for i in range(scales))
        soft = encoder.fuse_masks(data["memory_encoder.in.class_logits"], data["memory_encoder.in.mask_logits"])
        near(soft * encoder.mask_scale + encoder.mask_bias, data["memory_encoder.mid.fused_mask"], LOGITS)
        vision = encoder.encode_vision(features)
        for scale, shrunk in enumerate(vision):
            near(shrunk, data[f"memory_encoder.mid.vision_downsampled_scale{scale}"], LOGITS)
        where = encoder.mask_downsampler(data["memory_encoder.mid.fused_mask"])
        near(where, data["memory_encoder.mid.mask_downsampled"], LOGITS)
        entry: MemoryEntry = encoder(vision, soft)
        for scale, embeds in enumerate(entry.embeds):
            near(embeds, data[f"memory_encoder.out.scale{scale}"], LOGITS)

    @pytest.mark.parametrize("scale", [0, 1])
    def test_memory_attention(self, scale: int) -> None:
        data, model = read("seg_units"), segmentor()
        attention, prefix = model.memory_attention, "memory_attention.in."
        query, memory, position = (
            data[f"{prefix}scale{scale}.{name}"].transpose(0, 1) for name in ("query", "memory", "memory_position")
        )
        side = math.isqrt(query.shape[1])
        table = rotary_table(side, side, attention.head_dim, attention.rope_theta, torch.device("cpu"))
        rows = len(data[f"memory_attention.rope_cos.scale{scale}"])
        near(table[0][:rows], data[f"memory_attention.rope_cos.scale{scale}"], LOGITS)
        near(table[1][:rows], data[f"memory_attention.rope_sin.scale{scale}"], LOGITS)
        x = query + 0.1 * data[f"{prefix}scale{scale}.query_position"].transpose(0, 1)
        for layer in attention.layers:
            x = layer.attend_memory(layer.attend_self(x, table), memory + position, memory, table, None)
        near(attention.layer_norm(x), data[f"memory_attention.out.scale{scale}"], LOGITS)

    def test_deformable_layer(self) -> None:
        data, layer = read("seg_units"), segmentor().pixel_decoder.encoder.layers[0]
        tokens, position = data["deform.in.tokens"], data["deform.in.position"]
        shapes = level_shapes(tokens.shape[1])
        reference = reference_points(shapes, torch.device("cpu"))
        expected = data["deform.mid.reference_points"]
        near(reference[None, :, None].expand_as(expected), expected, LOGITS)
        attended, weights = layer.self_attn(tokens, position, reference, shapes)
        near(attended, data["deform.out.attention"], LOGITS)
        near(weights, data["deform.out.attention_weights"], LOGITS)
        near(layer(tokens, position, reference, shapes), data["deform.out.layer"], LOGITS)

    def test_mask_decoder_layer(self) -> None:
        data, layer = read("seg_units"), segmentor().decoder.decoder.layers[0]
        inputs = {key.rsplit(".", 1)[1]: x for key, x in data.items() if key.startswith("decoder_layer.in.")}
        output = layer(
            *(inputs[name].transpose(0, 1) for name in ("queries", "query_position", "features", "feature_position")),
            ~inputs["blocked"].bool()[None],
            inputs["text"].transpose(0, 1),
            ~inputs["text_padding"].bool(),
        )
        near(output.transpose(0, 1), data["decoder_layer.out"], LOGITS)

    def test_class_predictor(self) -> None:
        data, predictor = read("seg_units"), segmentor().class_predictor
        got = predictor(data["class.in.queries"], data["class.in.conditions"], data["class.in.keep"])
        near(got, data["class.out"], LOGITS)

    def test_space_to_depth(self) -> None:
        data = read("seg_units")
        near(space_to_depth(data["pixel_shuffle.in"], 2), data["pixel_shuffle.out"], LOGITS)


def level_shapes(tokens: int) -> list[tuple[int, int]]:
    """Return three square levels, each of twice the side before, that hold ``tokens`` cells."""
    side = math.isqrt(tokens // 21)
    return [(side, side), (2 * side, 2 * side), (4 * side, 4 * side)]


def test_attention_matches_its_slow_twin() -> None:
    q, k, v = torch.randn(2, 5, 8), torch.randn(2, 7, 8), torch.randn(2, 7, 8)
    mask = torch.rand(2, 1, 5, 7) > 0.3
    mask[..., 0] = True
    slow = torch.zeros(2, 5, 8)
    for batch in range(2):
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            scores = q[batch, :, part] @ k[batch, :, part].T / 2.0
            weights = scores.masked_fill(~mask[batch, 0], -torch.inf).softmax(-1)
            slow[batch, :, part] = weights @ v[batch, :, part]
    near(attend(q, k, v, 2, mask), slow, 1e-6)
