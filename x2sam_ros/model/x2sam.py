"""The whole network: the language model on the slow lane, the segmentor on the fast one, and what joins them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from x2sam_ros.config import NodeConfig
from x2sam_ros.errors import ModelError
from x2sam_ros.model import generation
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.config import X2SAMConfig
from x2sam_ros.model.conversation import NO_PHRASE, Conversation, ConversationBuilder, Media, TokenBatch, collate
from x2sam_ros.model.encoder import MaskEncoder
from x2sam_ros.model.language import LanguageModel, Prefix, VisionFeatures
from x2sam_ros.model.regions import Projector, RegionSampler, draw_points, space_to_depth
from x2sam_ros.model.segmentor import Segmentor
from x2sam_ros.model.tokenizer import Tokenizer


class X2SAM(nn.Module):
    """The network with its tokenizer. Holds weights and vocabulary, no time: a ``Session`` holds that.

    Args:
        config: all sizes and options.
        tokenizer: the checkpoint's tokenizer.
        encoder: the mask encoder, by default the built-in one that ``config`` names.

    Attributes:
        identity: tells its weights from others: the SHA-256 of the file they were loaded from, "" where unknown.

    Raises:
        ModelError: the tokenizer has more tokens than the embedding table.
    """

    def __init__(self, config: X2SAMConfig, tokenizer: Tokenizer, encoder: MaskEncoder | None = None) -> None:
        super().__init__()
        language = config.language
        if len(tokenizer) > language.text.vocab_size:
            raise ModelError(f"tokenizer has {len(tokenizer)} tokens, the embedding table {language.text.vocab_size}")
        self.config = config
        self.identity = ""
        self.tokenizer = tokenizer
        self.conversations = ConversationBuilder(tokenizer, language.phrase_markers)
        self.language = LanguageModel(language)
        self.segmentor = Segmentor(config.segmentor, encoder)
        width, hidden = config.segmentor.decoder.hidden, language.text.hidden_size
        stage_dim = self.segmentor.encoder.stage_channels[config.region.region_stage]
        self.mlm_projector = Projector(hidden, width)
        self.extra_projector = Projector(stage_dim * config.region.block_size**2, hidden)
        if config.region.picture_features:
            self.picture_projector = Projector(stage_dim * config.region.block_size**2, hidden)
        self.region_sampler = RegionSampler(config.region)
        self.bg_embeds = nn.Embedding(1, width)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.bg_embeds.weight.device

    def region_maps(self, stages: Sequence[Tensor]) -> Tensor:
        """Return the projected feature maps that regions are read from, float (N, h, w, D).

        Args:
            stages: the mask encoder's stage outputs, each float (N, H, W, C).
        """
        return self._stage_maps(self.extra_projector, stages)

    def picture_maps(self, stages: Sequence[Tensor]) -> Tensor:
        """Return what the tokens of pictures carry of the mask encoder, float (N, h, w, D); see `encode_picture`.

        Args:
            stages: the mask encoder's stage outputs, each float (N, H, W, C).
        """
        return self._stage_maps(self.picture_projector, stages)

    def _stage_maps(self, projector: Projector, stages: Sequence[Tensor]) -> Tensor:
        region = self.config.region
        maps: Tensor = projector(space_to_depth(stages[region.region_stage], region.block_size))
        return maps

    def encode_picture(self, patches: Tensor, grid_thw: Tensor, stages: Sequence[Tensor] = ()) -> VisionFeatures:
        """Encode pictures or clips for the language side, once for all prompts about them.

        Args:
            patches, grid_thw: see ``language.encode_image``.
            stages: the mask encoder's stage outputs for the first frame of each frame pair, each float (S, H, W, C),
                picture after picture; read only where the configuration has ``picture_features``.

        Raises:
            ModelError: patches and grids do not agree, or there are not as many frames as frame pairs.
        """
        vision = self.language.encode_image(patches, grid_thw)
        if not self.config.region.picture_features:
            return vision
        pairs, frames = int(grid_thw[:, 0].sum()), len(stages[0]) if stages else 0
        if frames != pairs:
            raise ModelError(
                f"the mask encoder saw {frames} frames, the pictures have {pairs} frame pairs; give its stages for the "
                "first frame of each pair, since picture_features is on"
            )
        maps = self.picture_maps(stages).permute(0, 3, 1, 2)  # (S, D, h, w)
        merge = self.config.language.vision.spatial_merge_size
        sizes = [(rows // merge, columns // merge) for _, rows, columns in grid_thw.tolist()]
        pictures = [maps] if len(set(sizes)) == 1 else maps.split(grid_thw[:, 0].tolist())
        resized = [
            F.interpolate(x.float(), size, mode="bilinear", align_corners=False) for x, size in zip(pictures, sizes)
        ]
        added = torch.cat([part.flatten(2).transpose(1, 2).flatten(0, 1) for part in resized])  # (T, D)
        return replace(vision, embeds=vision.embeds + added.to(vision.embeds.dtype))

    def region_tokens(
        self,
        maps: Tensor,
        masks: Tensor,
        image_index: Tensor | None = None,
        generator: torch.Generator | None = None,
        points_yx: Tensor | None = None,
    ) -> Tensor:
        """Return the tokens of R regions, float (R, K, D).

        Args:
            maps: float (N, h, w, D), see ``region_maps``.
            masks: bool (R, H, W), any size that covers the picture.
            image_index: int64 (R,), the map each region lies on; by default the first.
            generator: host generator for the drawn points.
            points_yx: float (R, P, 2), row / H and column / W, instead of drawn ones.

        Raises:
            PromptError: a region has no pixel.
        """
        if points_yx is None:
            points_yx = draw_points(masks, self.config.region.num_sample_point, generator)
        if image_index is None:
            image_index = torch.zeros(len(points_yx), dtype=torch.int64, device=maps.device)
        tokens: Tensor = self.region_sampler(maps, points_yx.to(maps.device), image_index)
        return tokens

    def collate(self, conversations: Sequence[Conversation]) -> TokenBatch:
        """Return the conversations as one batch on the model's device."""
        return collate(conversations, self.config.region.tokens_per_region).to(self.device)

    def condition(
        self,
        batch: TokenBatch,
        vision: VisionFeatures | None = None,
        image_index: Sequence[int] | None = None,
        region_tokens: Tensor | None = None,
    ) -> PromptCondition:
        """Understand B prompts: one language pass, then ``condition_from_states``.

        Args:
            batch: the tokenised prompts, see ``collate``.
            vision: the encoded pictures, see ``language.encode_image``.
            image_index: the picture of each row; by default row i has picture i, or all share the only one.
            region_tokens: float (R, K, D), the regions of all rows one after another.

        Raises:
            ModelError: pictures or regions do not fit the prompts.
        """
        return self.condition_from_states(batch, self.language(batch, vision, image_index, region_tokens))

    def condition_from_states(self, batch: TokenBatch, hidden: Tensor) -> PromptCondition:
        """Project language states and read them at the phrases and at ``<SEG>``.

        Args:
            batch: the tokenised prompts.
            hidden: float (B, L, D), states before the final norm.

        Raises:
            ModelError: a prompt does not say ``<SEG>``, which asks for masks, or names no phrase.
        """
        mute = [row for row, said in enumerate(batch.has_seg) if not said]
        if mute or not bool((batch.num_phrases > 0).all()):
            lacking = f"prompts {mute} have no <SEG>" if mute else "a prompt names no phrase"
            raise ModelError(f"{lacking}, so there is nothing to segment; ask for text only, or for masks")
        token_index = batch.token_index
        index = torch.cat([token_index, batch.seg_index[:, None]], dim=1)  # (B, T + 1)
        read = hidden.gather(1, index.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        states: Tensor = self.mlm_projector(read)  # (B, T + 1, W)
        tokens = states[:, :-1] * batch.token_mask.unsqueeze(-1)

        num_phrases = int(batch.num_phrases.max())
        phrase = batch.cond_ids.gather(1, token_index).masked_fill(~batch.token_mask, NO_PHRASE)  # (B, T)
        slots = torch.arange(num_phrases, device=states.device)
        member = (phrase.unsqueeze(1) == slots.view(1, -1, 1)).to(states.dtype)  # (B, C, T)
        means = (member @ tokens) / member.sum(-1, keepdim=True).clamp_min(1)

        background = self.bg_embeds.weight.expand(len(states), 1, -1).to(means.dtype)
        real = slots < batch.num_phrases.unsqueeze(1)
        return PromptCondition(
            cond_embeds=torch.cat([means, background], dim=1),
            embed_mask=torch.cat([real, real.new_ones(len(states), 1)], dim=1),
            token_embeds=tokens,
            token_mask=batch.token_mask,
            seg_embeds=states[:, -1:],
        )

    def states(
        self,
        conversations: Sequence[Conversation],
        vision: VisionFeatures | None = None,
        region_tokens: Tensor | None = None,
        prefix: Prefix | None = None,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """Read B conversations and return their states before the final norm, float (B, L, D).

        Args:
            conversations: the tokenised prompts.
            vision: their picture, or one for each; may be left out where the prefix shows it.
            region_tokens: float (R, K, D), the regions of all prompts one after another, less those of the prefix.
            prefix: what all of them begin with; only the rest is read, the result is the same.
            cache: where to leave the keys and values; it must be ``prefix.cache(B)`` where there is a prefix.

        Raises:
            ModelError: pictures or regions do not fit the prompts, or a prompt does not begin with the prefix.
            PromptError: a prompt has more tokens than the network has positions.
        """
        if prefix is None:
            return self.language(self.collate(conversations), vision, region_tokens=region_tokens, cache=cache)
        rests = [prefix.rest(conversation, vision) for conversation in conversations]
        hidden = prefix.hidden.expand(len(rests), -1, -1)
        if not any(len(rest.input_ids) for rest in rests):
            return hidden
        cache = prefix.cache(len(rests)) if cache is None else cache
        unread = vision if prefix.vision is None else None
        return torch.cat([hidden, self.language(self.collate(rests), unread, None, region_tokens, cache)], dim=1)

    def understand(
        self,
        conversation: Conversation,
        vision: VisionFeatures | None = None,
        region_tokens: Tensor | None = None,
        prefix: Prefix | None = None,
    ) -> PromptCondition:
        """Understand one prompt whose answer is given, in one language pass; see ``understand_all``."""
        return self.understand_all([conversation], vision, region_tokens, prefix)

    def understand_all(
        self,
        conversations: Sequence[Conversation],
        vision: VisionFeatures | None = None,
        region_tokens: Tensor | None = None,
        prefix: Prefix | None = None,
    ) -> PromptCondition:
        """Understand B prompts whose answers are given, in one language pass.

        Args:
            conversations, vision, region_tokens, prefix: see ``states``.

        Raises:
            ModelError: as ``states``; or a prompt does not say ``<SEG>``, or names no phrase.
            PromptError: a prompt has more tokens than the network has positions.
        """
        hidden = self.states(conversations, vision, region_tokens, prefix)
        return self.condition_from_states(self.collate(conversations), hidden)

    @torch.no_grad()
    def prefix(self, media: Media, vision: VisionFeatures) -> Prefix:
        """Read a picture or clip once for all prompts about it.

        Args:
            media: as the conversations are built with.
            vision: its features.
        """
        opening, cache = self.conversations.opening(media), DynamicCache()
        return Prefix.of(opening, self.states([opening], vision, cache=cache), cache, vision)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        dtype: str | torch.dtype = NodeConfig.dtype,
        device: str = NodeConfig.device,
        weights: str = NodeConfig.weights,
    ) -> X2SAM:
        """Load a checkpoint, ready for inference; see ``checkpoint.load.load_model``.

        Args:
            path_or_id: a checkpoint folder, the hub id ``owner/name`` of one, or a preset that ships with weights.
            dtype: type of the weights: float32, bfloat16 or float16, by name or as torch's.
            device: where to put it, for example ``cpu`` or ``cuda:0``.
            weights: ``exact``, or ``int8`` for the large layers of the segmentor.

        Raises:
            ConfigError: preset, device, dtype or weights is unknown, or int8 is not for them.
            CheckpointError: files are missing, corrupt, or of another size.
        """
        from x2sam_ros.checkpoint.load import load_model

        return load_model(path_or_id, device, dtype, weights)

    # as a method, with the one signature and docstring it has there
    generate = generation.generate
