"""Region prompts as tokens, and the projectors between the mask side and the language side."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from x2sam_ros.errors import ModelError, PromptError
from x2sam_ros.model.language_config import RegionConfig


class Projector(nn.Module):
    """A two-layer perceptron from one width to another.

    Args:
        in_dim: input width.
        out_dim: hidden and output width.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(in_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim))

    def forward(self, states: Tensor) -> Tensor:
        """Map float (..., in_dim) to (..., out_dim)."""
        projected: Tensor = self.model(states)
        return projected


def space_to_depth(features: Tensor, block: int) -> Tensor:
    """Fold blocks of cells into channels: float (N, H, W, C) to (N, H/block, W/block, block x block x C).

    Raises:
        ModelError: H or W is no multiple of block.
    """
    if block == 1:
        return features
    n, height, width, channels = features.shape
    if height % block or width % block:
        raise ModelError(f"feature map of {width}x{height} cells does not divide into blocks of {block}")
    blocks = features.reshape(n, height // block, block, width // block, block, channels)
    return blocks.transpose(2, 3).reshape(n, height // block, width // block, block * block * channels)


def draw_points(masks: Tensor, num_points: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw points from regions.

    With fewer than ``num_points`` pixels all are taken in raster order, then random repeats; with more, a random
    subset in random order. Drawn on the host, so a seed gives the same points on every device.

    Args:
        masks: bool (R, H, W).
        num_points: points per region.
        generator: host generator; the global one by default.

    Returns:
        float32 (R, num_points, 2): row / H and column / W, 0 inclusive to 1 exclusive.

    Raises:
        PromptError: a region has no pixel.
    """
    size = torch.tensor(masks.shape[-2:], dtype=torch.float32)
    drawn = []
    for index, mask in enumerate(masks.cpu().bool()):
        pixels = mask.nonzero()
        count = len(pixels)
        if count == 0:
            raise PromptError(f"region {index} has no pixel set; draw or click inside the image")
        if count < num_points:
            repeats = torch.randint(count, (num_points - count,), generator=generator)
            pixels = torch.cat([pixels, pixels[repeats]])
        elif count > num_points:
            pixels = pixels[torch.randperm(count, generator=generator)[:num_points]]
        drawn.append(pixels / size)
    return torch.stack(drawn).to(masks.device)


class RegionSampler(nn.Module):
    """Read a feature map at a region's points. Has no parameters.

    Args:
        config: number of points and pooling.
    """

    def __init__(self, config: RegionConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, features: Tensor, points_yx: Tensor, image_index: Tensor) -> Tensor:
        """Return the region tokens, float (R, K, D).

        Args:
            features: float (N, H, W, D), projected feature maps.
            points_yx: float (R, P, 2), row / H and column / W, 0 to 1.
            image_index: int64 (R,), the map each region lies on.
        """
        maps = features.permute(0, 3, 1, 2)[image_index]  # (R, D, H, W)
        grid = 2.0 * points_yx.flip(-1).float().unsqueeze(2) - 1.0  # (R, P, 1, 2), x then y
        sampled = F.grid_sample(maps.float(), grid, align_corners=True).squeeze(3)  # (R, D, P)
        pool = F.avg_pool1d if self.config.pooling_mode == "mean" else F.max_pool1d
        tokens: Tensor = pool(sampled, self.config.pooling_kernel)
        return tokens.transpose(1, 2).to(features.dtype)
