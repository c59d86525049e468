"""The SAM 2 peer is transformers' own, of the same size, and really goes from frame to frame."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import Sam2VideoConfig

from tests.unit.evaluation.bench_scenes import opened, scene
from x2sam_ros.evaluation.sam2_peer import Sam2Peer, build_sam2, describe, sam2_config
from x2sam_ros.model.config import preset


def test_nano_gets_a_backbone_of_its_own_size_and_follows_every_click() -> None:
    model = build_sam2(opened())
    facts = describe(model)
    wanted = sum(p.numel() for p in opened().model.segmentor.encoder.parameters())
    assert facts["backbone_parameters"] == pytest.approx(wanted, rel=0.1)
    assert (facts["image_side"], facts["width"], facts["memory_attention_layers"]) == (128, 64, 2)
    peer = Sam2Peer(opened(), 2, model)
    spent = [peer.step(scene(), index) for index in range(4)]
    assert all(step.total_ms > 0 and step.followed == 2 for step in spent)
    tracked = peer.session.output_dict_per_obj
    assert len(tracked) == 2
    for found in tracked.values():
        assert list(found["cond_frame_outputs"]) == [0]
        assert list(found["non_cond_frame_outputs"]) == [1, 2, 3]
    held = peer.nbytes
    peer.step(scene(), 4)
    assert peer.nbytes > held  # it keeps every frame


def test_it_runs_in_bfloat16() -> None:
    other = replace(opened(), dtype=torch.bfloat16)
    peer = Sam2Peer(other, 1, build_sam2(other))
    assert all(peer.step(scene(), index).total_ms > 0 for index in range(3))


def test_release_gets_the_published_layout() -> None:
    segmentor = preset("release").segmentor
    ours, published = sam2_config(segmentor, segmentor.hiera), Sam2VideoConfig()
    for name in (
        "image_size",
        "num_maskmem",
        "memory_attention_hidden_size",
        "memory_attention_num_layers",
        "memory_attention_feed_forward_hidden_size",
        "memory_attention_rope_feat_sizes",
        "memory_encoder_output_channels",
        "memory_fuser_intermediate_dim",
        "mask_downsampler_embed_dim",
    ):
        assert getattr(ours, name) == getattr(published, name), name
    vision, default = ours.vision_config, published.vision_config
    assert vision.backbone_config.embed_dim_per_stage == [144, 288, 576, 1152]
    assert vision.backbone_config.blocks_per_stage == [2, 6, 36, 4]
    assert vision.backbone_feature_sizes == default.backbone_feature_sizes
    assert ours.mask_decoder_config.mlp_dim == published.mask_decoder_config.mlp_dim
    assert ours.prompt_encoder_config.image_size == published.prompt_encoder_config.image_size
