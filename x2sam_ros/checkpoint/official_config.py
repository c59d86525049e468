"""The published layout's configuration files, read into our configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from x2sam_ros.errors import ConfigError
from x2sam_ros.model.config import DecoderConfig, HieraConfig, MemoryConfig, SegmentorConfig, X2SAMConfig, preset
from x2sam_ros.model.language_config import LanguageConfig, RegionConfig, TextConfig, VisionConfig

_HIERA = {
    "embed_dim_per_stage": "embed_dims",
    "blocks_per_stage": "blocks",
    "num_attention_heads_per_stage": "heads",
    "window_size_per_stage": "windows",
    "global_attention_blocks": "global_blocks",
    "window_positional_embedding_background_size": "background_size",
    "num_query_pool_stages": "num_query_pool_stages",
    "query_stride": "query_stride",
    "mlp_ratio": "mlp_ratio",
    "patch_kernel_size": "patch_kernel",
    "patch_stride": "patch_stride",
    "patch_padding": "patch_padding",
    "layer_norm_eps": "layer_norm_eps",
}
_PYRAMID = {
    "fpn_hidden_size": "fpn_channels",
    "fpn_kernel_size": "fpn_kernel",
    "fpn_top_down_levels": "fpn_top_down_levels",
}
_MEMORY = {
    "num_maskmem": "num_maskmem",
    "memory_attention_hidden_size": "attention_hidden",
    "memory_attention_num_layers": "attention_layers",
    "memory_attention_num_attention_heads": "attention_heads",
    "memory_attention_downsample_rate": "attention_downsample",
    "memory_attention_feed_forward_hidden_size": "attention_feedforward",
    "memory_attention_rope_theta": "rope_theta",
    "memory_encoder_hidden_size": "encoder_hidden",
    "memory_encoder_output_channels": "encoder_channels",
    "feature_downsampler_scale_strides": "feature_strides",
    "mask_downsampler_scale_strides": "mask_stride",
    "mask_downsampler_embed_dim": "mask_channels",
    "mask_downsampler_kernel_size": "downsampler_kernel",
    "mask_downsampler_stride": "downsampler_stride",
    "mask_downsampler_padding": "downsampler_padding",
    "memory_fuser_num_layers": "fuser_layers",
    "memory_fuser_embed_dim": "fuser_channels",
    "memory_fuser_intermediate_dim": "fuser_hidden",
    "memory_fuser_kernel_size": "fuser_kernel",
    "memory_fuser_padding": "fuser_padding",
    "sigmoid_scale_for_mem_enc": "mask_scale",
    "sigmoid_bias_for_mem_enc": "mask_bias",
    "use_mask_guidance": "use_mask_guidance",
    "use_class_guidance": "use_class_guidance",
}
_DECODER = {
    "feature_size": "feature_channels",
    "mask_feature_size": "mask_channels",
    "hidden_dim": "hidden",
    "num_attention_heads": "heads",
    "encoder_layers": "pixel_layers",
    "encoder_feedforward_dim": "pixel_feedforward",
    "dim_feedforward": "mask_feedforward",
    "num_queries": "num_queries",
    "use_text_cross_attn": "use_text_cross_attention",
    "head_cls_type": "class_head",
}
_REGION = {
    "num_sample_point": "num_sample_point",
    "sampler_pooling_kernel_size": "pooling_kernel",
    "sampler_pooling_mode": "pooling_mode",
    "downsample_ratio": "downsample_ratio",
    "visual_select_layer": "region_stage",
}
_TEXT = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "attention_bias",
    "rms_norm_eps",
    "max_position_embeddings",
)
_ONLY_SUPPORTED: dict[str, dict[str, Any]] = {
    "x2sam": {"cond_type": "phrase", "sampler_input_feat": "extra_pixel_values", "use_flatten_cond": False},
    "mask2former": {
        "num_feature_levels": 3,
        "pre_norm": False,
        "enforce_input_projection": False,
        "activation_function": "relu",
        "use_repeat_cond": False,
    },
    "segmentor": {"use_memory": True},
    "text_config": {"tie_word_embeddings": True},
    "qwen3_vl": {"tie_word_embeddings": True},
    "lora": {"use_rslora": False, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, "lora_bias": False},
}
"""Options of the published code that its weights do not use; any other value is refused rather than ignored."""


def segmentor_config(official: Mapping[str, Any]) -> SegmentorConfig:
    """Read the segmentor's configuration.

    Args:
        official: tables ``sam2`` and ``mask2former`` with the published names, and ``image_processor``, what the mask
            encoder's preprocessor_config.json holds; absent settings keep their defaults.

    Raises:
        ConfigError: a table is missing, a setting contradicts the network, or an option is not supported.
    """
    sam2, mask2former = _table(official, "sam2"), _table(official, "mask2former")
    vision = _table(sam2, "vision_config")
    backbone = _table(vision, "backbone_config")
    _refuse_unsupported("mask2former", mask2former)
    _refuse_unsupported("segmentor", official.get("segmentor", {}))
    image_size = int(sam2.get("image_size", mask2former.get("image_size", SegmentorConfig.image_size)))
    hiera = replace(HieraConfig(), **_renamed(backbone, _HIERA, HieraConfig), **_renamed(vision, _PYRAMID, HieraConfig))
    memory = replace(MemoryConfig(), **_renamed(sam2, _MEMORY, MemoryConfig))
    # one set of these settings serves masks and features, as in the release
    shared = {
        "feature_downsampler_kernel_size": memory.downsampler_kernel,
        "feature_downsampler_stride": memory.downsampler_stride,
        "feature_downsampler_padding": memory.downsampler_padding,
    }
    _refuse_other("sam2", sam2, shared)
    decoder = replace(DecoderConfig(), **_renamed(mask2former, _DECODER, DecoderConfig))
    if "decoder_layers" in mask2former:
        # The published count includes the prediction from the learned queries, before any layer.
        decoder = replace(decoder, mask_layers=int(mask2former["decoder_layers"]) - 1)
    processor = official.get("image_processor")
    resize = SegmentorConfig.resize if processor is None else _resize_mode(processor, image_size)
    return SegmentorConfig(image_size=image_size, resize=resize, hiera=hiera, memory=memory, decoder=decoder)


def _resize_mode(processor: Mapping[str, Any], side: int) -> str:
    sizes = {"square": {"height": side, "width": side}, "longest": {"longest_edge": side}}
    size = processor.get("size", sizes["longest"])  # the published class's own default
    for mode, supported in sizes.items():
        if size == supported:
            return mode
    raise ConfigError(f"option image_processor.size is {size!r}; only {list(sizes.values())} are supported")


def language_config(official: Mapping[str, Any]) -> LanguageConfig:
    """Read the language side's configuration.

    Args:
        official: tables ``qwen3_vl`` and ``x2sam``, and ``len_tokenizer``, the rows the embedding table shrinks to.

    Raises:
        ConfigError: a table is missing, or an option is not supported.
    """
    qwen, options = _table(official, "qwen3_vl"), official.get("x2sam", {})
    text, vision = _table(qwen, "text_config"), _table(qwen, "vision_config")
    _refuse_unsupported("x2sam", options)
    _refuse_unsupported("text_config", text)
    _refuse_unsupported("qwen3_vl", qwen)
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise ConfigError(f"rope_type is {rope['rope_type']!r}; only 'default' is supported")
    values = {name: text[name] for name in _TEXT if name in text}
    values["rope_theta"] = float(text.get("rope_theta", rope.get("rope_theta", TextConfig.rope_theta)))
    values["mrope_section"] = tuple(rope.get("mrope_section", TextConfig.mrope_section))
    values["vocab_size"] = int(official.get("len_tokenizer", text.get("vocab_size", TextConfig.vocab_size)))
    same_name = {name: name for name in VisionConfig.__dataclass_fields__}
    return LanguageConfig(
        text=TextConfig(**values),
        vision=VisionConfig(**_renamed(vision, same_name, VisionConfig)),
        phrase_markers=not options.get("ptoken_shift", 0),
    )


def config_from_official(language: Mapping[str, Any], segmentor: Mapping[str, Any] | None = None) -> X2SAMConfig:
    """Read the whole network's configuration; see ``language_config`` and ``segmentor_config``.

    Without tables of its own the segmentor is the release's.

    Raises:
        ConfigError: a table is missing, or an option is not supported.
    """
    region = replace(RegionConfig(), **_renamed(language.get("x2sam", {}), _REGION, RegionConfig))
    masks = SegmentorConfig() if segmentor is None else segmentor_config(segmentor)
    config = X2SAMConfig(segmentor=masks, language=language_config(language), region=region)
    return config if config == preset(config.preset) else replace(config, preset="converted")


RELEASE_LORA_SCALE = 2.0
"""alpha / r of the published adapters, 256 / 128."""


def lora_scale(language: Mapping[str, Any]) -> float:
    """Return what LoRA products are multiplied with when merged: alpha / r.

    Raises:
        ConfigError: the ``lora`` table lacks both ``scaling`` and ``lora_alpha`` / ``r``, or asks for another rule.
    """
    lora = _table(language, "lora")
    _refuse_unsupported("lora", lora)
    try:
        return float(lora["scaling"]) if "scaling" in lora else float(lora["lora_alpha"]) / float(lora["r"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"table 'lora' needs 'scaling', or 'lora_alpha' and 'r'; got {dict(lora)}") from error


def _refuse_unsupported(table: str, options: Mapping[str, Any]) -> None:
    _refuse_other(table, options, _ONLY_SUPPORTED[table])


def _refuse_other(table: str, options: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    for name, supported in only.items():
        if options.get(name, supported) != supported:
            raise ConfigError(f"option {table}.{name} is {options[name]!r}; only {supported!r} is supported")


def _table(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = parent.get(name)
    if not isinstance(table, Mapping):
        raise ConfigError(f"published configuration lacks the table {name!r}; it has: {', '.join(sorted(parent))}")
    return table


def _renamed(table: Mapping[str, Any], names: Mapping[str, str], target: type) -> dict[str, Any]:
    """Return our names and values of the settings that ``table`` holds, lists as tuples, squares as their side."""
    renamed = {}
    for official, ours in names.items():
        if table.get(official) is None:
            continue
        value, default = table[official], getattr(target, ours, None)
        if isinstance(value, (list, tuple)):
            value = tuple(value)
            if isinstance(default, int):
                if len(set(value)) != 1:
                    raise ConfigError(f"setting {official} is {list(value)}; only equal values are supported")
                value = value[0]
        renamed[ours] = value
    return renamed
