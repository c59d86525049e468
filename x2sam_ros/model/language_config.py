"""Sizes and options of the language side: the vision-language model, the region sampler, the prompts."""

from __future__ import annotations

from dataclasses import dataclass, field

from x2sam_ros.errors import ConfigError
from x2sam_ros.model.template import TEMPLATE_SETS


@dataclass(frozen=True)
class TextConfig:
    """The language model proper (defaults: Qwen3-VL-4B, vocabulary shrunk to the tokenizer with X2SAM's tokens)."""

    vocab_size: int = 151672
    hidden_size: int = 2560
    intermediate_size: int = 9728
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    hidden_act: str = "silu"
    attention_bias: bool = False
    rope_theta: float = 5_000_000.0
    mrope_section: tuple[int, int, int] = (24, 20, 20)
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 262_144

    def __post_init__(self) -> None:
        if len(self.mrope_section) != 3:
            raise ConfigError(f"mrope_section is {self.mrope_section}, expected three numbers")
        if self.num_key_value_heads < 1 or self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )


@dataclass(frozen=True)
class VisionConfig:
    """The picture encoder of the language model."""

    depth: int = 24
    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_heads: int = 16
    in_channels: int = 3
    patch_size: int = 16
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    out_hidden_size: int = 2560
    num_position_embeddings: int = 2304
    deepstack_visual_indexes: tuple[int, ...] = (5, 11, 17)
    hidden_act: str = "gelu_pytorch_tanh"

    def __post_init__(self) -> None:
        if round(self.num_position_embeddings**0.5) ** 2 != self.num_position_embeddings:
            raise ConfigError(f"num_position_embeddings {self.num_position_embeddings} is not a square number")
        if any(not 0 <= index < self.depth for index in self.deepstack_visual_indexes):
            raise ConfigError(f"deepstack_visual_indexes {self.deepstack_visual_indexes} exceed depth {self.depth}")

    @property
    def patch_dim(self) -> int:
        """Values per patch: channels x frames of a pair x rows x columns."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class LanguageConfig:
    """The vision-language model and how prompts are put to it.

    Args:
        text, vision: sizes of the two towers.
        min_pixels, max_pixels: area limits of a picture on the language side, pixels.
        video_min_pixels, video_max_pixels: limits of frames x height x width of a clip, pixels.
        templates: name of the wording it was trained with, see ``template.TEMPLATE_SETS``.
        phrase_markers: whether a phrase's states include those of its ``<p>`` and ``</p>``.
    """

    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    min_pixels: int = 3_136
    max_pixels: int = 1_003_520
    video_min_pixels: int = 131_072
    video_max_pixels: int = 786_432
    templates: str = "official"
    phrase_markers: bool = True

    def __post_init__(self) -> None:
        if self.templates not in TEMPLATE_SETS:
            raise ConfigError(f"template set {self.templates!r} is unknown; there are: {', '.join(TEMPLATE_SETS)}")
        if self.vision.out_hidden_size != self.text.hidden_size:
            raise ConfigError(
                f"vision out_hidden_size {self.vision.out_hidden_size} differs from text hidden_size "
                f"{self.text.hidden_size}"
            )
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ConfigError(f"need 0 < min_pixels <= max_pixels, got {self.min_pixels} and {self.max_pixels}")

    @classmethod
    def release(cls) -> LanguageConfig:
        """Return the published model's language side."""
        return cls()

    @classmethod
    def nano(cls) -> LanguageConfig:
        """Return the language side of the model that ships with the project."""
        text = TextConfig(
            vocab_size=768,
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            rope_theta=10_000.0,
            mrope_section=(4, 4, 4),
            max_position_embeddings=8_192,
        )
        vision = VisionConfig(
            depth=3,
            hidden_size=64,
            intermediate_size=128,
            num_heads=2,
            out_hidden_size=96,
            num_position_embeddings=64,
            deepstack_visual_indexes=(0,),
        )
        return cls(
            text=text,
            vision=vision,
            min_pixels=64 * 64,
            max_pixels=192 * 192,
            video_min_pixels=4 * 64 * 64,
            video_max_pixels=8 * 128 * 128,
            templates="short",
        )


@dataclass(frozen=True)
class RegionConfig:
    """How a prompt region becomes tokens.

    Args:
        num_sample_point: points drawn from a region.
        pooling_kernel: consecutive points merged into one region token.
        pooling_mode: ``mean`` or ``max``.
        downsample_ratio: 1 / side of the space-to-depth block before the projector.
        region_stage: index of the mask encoder's stage whose features are sampled.
        picture_features: whether the picture's tokens carry that stage's features too. The published network does not
            have it; nano's small picture tower does not learn shapes, which the mask encoder knows.
    """

    num_sample_point: int = 256
    pooling_kernel: int = 4
    pooling_mode: str = "mean"
    downsample_ratio: float = 0.5
    region_stage: int = 2
    picture_features: bool = False

    def __post_init__(self) -> None:
        if self.pooling_kernel < 1 or self.num_sample_point % self.pooling_kernel:
            raise ConfigError(
                f"num_sample_point {self.num_sample_point} is no multiple of pooling_kernel {self.pooling_kernel}"
            )
        if self.pooling_mode not in ("mean", "max"):
            raise ConfigError(f"pooling_mode is {self.pooling_mode!r}, expected 'mean' or 'max'")
        if not 0 < self.downsample_ratio <= 1:
            raise ConfigError(f"downsample_ratio is {self.downsample_ratio}, expected more than 0 and at most 1")

    @property
    def tokens_per_region(self) -> int:
        """Region tokens one region becomes."""
        return self.num_sample_point // self.pooling_kernel

    @property
    def block_size(self) -> int:
        """Side of the space-to-depth block."""
        return round(1 / self.downsample_ratio)

    @classmethod
    def release(cls) -> RegionConfig:
        """Return the published model's region settings."""
        return cls()

    @classmethod
    def nano(cls) -> RegionConfig:
        """Return the settings of the model that ships with the project: 8 tokens from 64 points."""
        return cls(num_sample_point=64, pooling_kernel=8, downsample_ratio=1.0, picture_features=True)
