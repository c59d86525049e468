"""The mask encoders that ship: the published Hiera, and the small residual network of the nano preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from x2sam_ros.hookspecs import hookimpl

if TYPE_CHECKING:
    from x2sam_ros.hookspecs import MaskEncoderFactory
    from x2sam_ros.model.config import SegmentorConfig
    from x2sam_ros.model.encoder import MaskEncoder


def built_in(config: SegmentorConfig) -> MaskEncoder:
    """Build the encoder ``config.mask_encoder`` names, with random weights."""
    from x2sam_ros.model.encoder import build_encoder

    return build_encoder(config)


@hookimpl
def x2sam_mask_encoders() -> Mapping[str, MaskEncoderFactory]:
    """Offer ``hiera`` and ``resnet``."""
    return {"hiera": built_in, "resnet": built_in}
