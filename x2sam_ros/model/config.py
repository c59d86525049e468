"""The network's sizes: one frozen dataclass tree with the presets ``nano`` and ``release``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

from x2sam_ros.errors import ConfigError
from x2sam_ros.model.language_config import LanguageConfig, RegionConfig

COARSEST_STRIDE = 32
"""Pixels per cell of a mask encoder's last stage; the picture's side is a multiple of it."""

RESIZE_MODES = ("square", "longest")
"""How a picture comes to the encoder's square: squashed, or its longer edge scaled to it and the rest left zero."""

RESAMPLE_MODES = ("pil", "torch")
"""Whose arithmetic resizes a picture for the encoder: PIL's, as the published code, or torch's, quicker on a CPU."""


@dataclass(frozen=True)
class HieraConfig:
    """Mask encoder: the Hiera backbone and feature pyramid of SAM 2 (defaults: SAM 2.1 Hiera-L)."""

    embed_dims: tuple[int, ...] = (144, 288, 576, 1152)
    blocks: tuple[int, ...] = (2, 6, 36, 4)
    heads: tuple[int, ...] = (2, 4, 8, 16)
    windows: tuple[int, ...] = (8, 4, 16, 8)
    global_blocks: tuple[int, ...] = (23, 33, 43)
    background_size: tuple[int, int] = (7, 7)
    num_query_pool_stages: int = 3
    query_stride: tuple[int, int] = (2, 2)
    mlp_ratio: float = 4.0
    patch_kernel: int = 7
    patch_stride: int = 4
    patch_padding: int = 3
    layer_norm_eps: float = 1e-6
    fpn_channels: int = 256
    fpn_kernel: int = 1
    fpn_top_down_levels: tuple[int, ...] = (2, 3)


@dataclass(frozen=True)
class ResNetConfig:
    """Mask encoder of the nano preset: a small residual network with a feature pyramid, strides 4, 8, 16, 32."""

    embedding_size: int = 32
    stage_channels: tuple[int, ...] = (32, 64, 96, 128)
    depths: tuple[int, ...] = (1, 2, 2, 1)
    pyramid_channels: int = 64


@dataclass(frozen=True)
class MemoryConfig:
    """Mask Memory: attention from the current frame to stored frames, and the encoder that writes them."""

    num_maskmem: int = 5
    attention_hidden: int = 256
    attention_layers: int = 4
    attention_heads: int = 1
    attention_downsample: int = 1
    attention_feedforward: int = 2048
    rope_theta: float = 10000.0
    encoder_hidden: int = 256
    encoder_channels: int = 256
    feature_strides: tuple[int, ...] = (1, 2, 4)
    mask_stride: int = 4
    mask_channels: int = 256
    downsampler_kernel: int = 3
    downsampler_stride: int = 2
    downsampler_padding: int = 1
    fuser_layers: int = 2
    fuser_channels: int = 256
    fuser_hidden: int = 1024
    fuser_kernel: int = 7
    fuser_padding: int = 3
    mask_scale: float = 20.0
    mask_bias: float = -10.0
    use_mask_guidance: bool = True
    use_class_guidance: bool = True

    def __post_init__(self) -> None:
        if self.downsampler_stride < 2:
            raise ConfigError(f"downsampler_stride is {self.downsampler_stride}, expected 2 or more")


@dataclass(frozen=True)
class DecoderConfig:
    """Pixel decoder and mask decoder: Mask2Former's, with attention to the prompt's text."""

    feature_channels: int = 256
    mask_channels: int = 256
    hidden: int = 256
    heads: int = 8
    pixel_layers: int = 6
    pixel_feedforward: int = 1024
    pixel_points: int = 4
    mask_layers: int = 9
    mask_feedforward: int = 2048
    num_queries: int = 200
    use_text_cross_attention: bool = True
    class_head: str = "learn"


@dataclass(frozen=True)
class SegmentorConfig:
    """Everything after the language model: encoder, decoders, memory."""

    image_size: int = 1024
    resize: str = "square"
    resample: str = "pil"
    mask_encoder: str = "hiera"
    hiera: HieraConfig = field(default_factory=HieraConfig)
    resnet: ResNetConfig = field(default_factory=ResNetConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)

    def __post_init__(self) -> None:
        if self.image_size < COARSEST_STRIDE or self.image_size % COARSEST_STRIDE:
            raise ConfigError(f"image_size is {self.image_size}, expected a multiple of {COARSEST_STRIDE}")
        for name, known in (("resize", RESIZE_MODES), ("resample", RESAMPLE_MODES)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")


@dataclass(frozen=True)
class X2SAMConfig:
    """The whole network."""

    segmentor: SegmentorConfig = field(default_factory=SegmentorConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    region: RegionConfig = field(default_factory=RegionConfig)
    preset: str = "release"

    def __post_init__(self) -> None:
        if self.region.picture_features and self.segmentor.resize != "square":
            raise ConfigError(
                f"picture_features lays the mask encoder's square over the picture, but resize is "
                f"{self.segmentor.resize!r}; set it to 'square', or picture_features to false"
            )


def _nano() -> X2SAMConfig:
    decoder = DecoderConfig(
        feature_channels=64,
        mask_channels=64,
        hidden=64,
        heads=4,
        pixel_layers=2,
        pixel_points=2,
        pixel_feedforward=128,
        mask_layers=4,
        mask_feedforward=192,
        num_queries=12,
    )
    memory = MemoryConfig(
        attention_hidden=64,
        attention_layers=2,
        attention_feedforward=128,
        encoder_hidden=64,
        encoder_channels=64,
        mask_channels=64,
        fuser_channels=64,
        fuser_hidden=128,
    )
    segmentor = SegmentorConfig(image_size=128, resample="torch", mask_encoder="resnet", decoder=decoder, memory=memory)
    return X2SAMConfig(segmentor=segmentor, language=LanguageConfig.nano(), region=RegionConfig.nano(), preset="nano")


def _release() -> X2SAMConfig:
    return X2SAMConfig()


def _nano_half() -> X2SAMConfig:
    nano = _nano()
    # more than half of nano's weights are the 3x3 kernels that bring maps to the memory's size
    memory = replace(nano.segmentor.memory, downsampler_kernel=1, downsampler_padding=0)
    encoder = ResNetConfig(embedding_size=16, stage_channels=(16, 32, 48, 64))
    return replace(nano, segmentor=replace(nano.segmentor, resnet=encoder, memory=memory), preset="nano-half")


_PRESETS = {"nano": _nano, "release": _release, "nano-half": _nano_half}
PRESETS: tuple[str, ...] = tuple(_PRESETS)


def preset(name: str) -> X2SAMConfig:
    """Return a named configuration.

    Raises:
        ConfigError: no preset has this name; the message lists those there are.
    """
    if name not in _PRESETS:
        raise ConfigError(f"unknown preset '{name}'; available presets: {', '.join(PRESETS)}")
    return _PRESETS[name]()


def to_dict(config: X2SAMConfig) -> dict[str, Any]:
    """Return the configuration as JSON-ready nested dictionaries."""
    return asdict(config)


def from_dict(data: dict[str, Any]) -> X2SAMConfig:
    """Build a configuration from `to_dict`'s output; missing keys keep their defaults.

    Raises:
        ConfigError: a key is unknown, a section is not a table, or a value has another type than its default.
    """
    return _fill(X2SAMConfig(), data, "config")


def _fill(default: Any, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must be a table of settings, got {type(data).__name__}")
    known = {f.name for f in fields(default)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ConfigError(f"{path} has unknown settings {unknown}; known: {sorted(known)}")
    values = {}
    for name, value in data.items():
        old = getattr(default, name)
        if is_dataclass(old):
            values[name] = _fill(old, value, f"{path}.{name}")
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
            if not _is_like(values[name], old):
                raise ConfigError(f"{path}.{name} is {value!r:.80}, expected something like {old!r}")
    return replace(default, **values)


def _is_like(value: Any, example: Any) -> bool:
    """Tell whether a value has the type of ``example``; a whole number will do for a real one."""
    if isinstance(example, tuple):
        return isinstance(value, tuple) and all(_is_like(item, example[0]) for item in value)
    return type(value) in ((int, float) if isinstance(example, float) else (type(example),))
