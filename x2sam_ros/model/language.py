"""The language model: reads pictures, text and region tokens, gives the states that steer the masks.

The layers are transformers' Qwen3-VL modules; what is ours is the order they are called in. Two things differ
from stock Qwen3-VL: positions are 0..L-1 on all three rotary axes, pictures included, and the state that is
handed on is the one before the final norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig, Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextModel,
    Qwen3VLTextRMSNorm,
    Qwen3VLVisionAttention,
    Qwen3VLVisionModel,
    Qwen3VLVisionPatchEmbed,
    apply_rotary_pos_emb_vision,
)

from x2sam_ros.errors import ModelError, PromptError
from x2sam_ros.model.conversation import IMAGE_PLACEHOLDER, Conversation, TokenBatch
from x2sam_ros.model.language_config import LanguageConfig, TextConfig, VisionConfig


@dataclass(frozen=True)
class VisionFeatures:
    """N encoded pictures (or clips), packed one after another; computed once, used by any number of prompts.

    Args:
        embeds: float (T, D), picture tokens in the language model's width.
        deepstack: one float (T, D) per early language layer, added to that layer's output at picture tokens.
        counts: tokens of each picture, N values that sum to T.
    """

    embeds: Tensor
    deepstack: tuple[Tensor, ...]
    counts: tuple[int, ...]

    def gather(self, image_index: Sequence[int | None]) -> VisionFeatures:
        """Return the pictures ``image_index`` names, in that order; one may be named more than once, None is empty."""
        if list(image_index) == list(range(len(self.counts))):
            return self
        counts = (*self.counts, 0)
        chosen = [-1 if i is None else i for i in image_index]
        parts = self.embeds.split(counts)
        layers = [layer.split(counts) for layer in self.deepstack]
        return VisionFeatures(
            torch.cat([parts[i] for i in chosen]),
            tuple(torch.cat([layer[i] for i in chosen]) for layer in layers),
            tuple(counts[i] for i in chosen),
        )


@dataclass(frozen=True)
class Prefix:
    """The beginning of a conversation, read once. Never changes, so any number of prompts may go on from it.

    Args:
        conversation: what was read.
        hidden: float (1, P, D), its states before the final norm, regions expanded.
        keys_values: of each layer, two float (1, heads, P, d).
        vision: the picture or clip it shows; None without one.
    """

    conversation: Conversation
    hidden: Tensor
    keys_values: tuple[tuple[Tensor, Tensor], ...]
    vision: VisionFeatures | None

    @classmethod
    def of(
        cls, conversation: Conversation, hidden: Tensor, cache: DynamicCache, vision: VisionFeatures | None
    ) -> Prefix:
        """Keep what a pass over a whole conversation left in the cache."""
        layers: Sequence[Any] = cache.layers  # transformers types them as any kind of layer, also those without keys
        return cls(conversation, hidden, tuple((layer.keys, layer.values) for layer in layers), vision)

    @property
    def nbytes(self) -> int:
        """Bytes held by states, keys and values; the picture is counted where it is kept."""
        tensors = [self.hidden, *(tensor for pair in self.keys_values for tensor in pair)]
        return sum(tensor.element_size() * tensor.numel() for tensor in tensors)

    def cache(self, rows: int = 1) -> DynamicCache:
        """Return keys and values of that many conversations that begin so; filling it leaves the prefix as it is."""
        return DynamicCache([tuple(x.expand(rows, -1, -1, -1) for x in pair) for pair in self.keys_values])

    def rest(self, conversation: Conversation, vision: VisionFeatures | None = None) -> Conversation:
        """Return what of a conversation is still to be read.

        Raises:
            ModelError: the conversation begins otherwise, or is about another picture.
        """
        own = self.conversation.input_ids
        if conversation.input_ids[: len(own)].tolist() != own.tolist():
            raise ModelError(
                f"the conversation does not begin with the {len(own)} tokens that the prefix has read; "
                "build it on the same picture, or go on from the answer the prefix came with"
            )
        if self.vision is not None and vision is not None and vision is not self.vision:
            raise ModelError("the prefix has read another picture than the one given; make a prefix of this one")
        return conversation.after(len(own))


class _BatchedVisionAttention(Qwen3VLVisionAttention):
    """Attend within all pictures at once where they are equally long; transformers loops over them in Python."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Map hidden_states float (T, D) to the same shape; ``cu_seqlens`` int32 (S+1,) bounds the segments."""
        lengths = cu_seqlens.diff().tolist()
        if position_embeddings is None or len(lengths) == 1 or len(set(lengths)) > 1:
            return super().forward(hidden_states, cu_seqlens, position_embeddings, max_seqlen=max_seqlen, **kwargs)
        total = hidden_states.shape[0]
        query, key, value = self.qkv(hidden_states).reshape(total, 3, self.num_heads, -1).unbind(1)  # (T, heads, d)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        shape = (len(lengths), lengths[0], self.num_heads, -1)
        query, key, value = (x.reshape(shape).transpose(1, 2) for x in (query, key, value))  # (S, heads, T/S, d)
        attended = F.scaled_dot_product_attention(query, key, value, scale=self.scaling)
        return self.proj(attended.transpose(1, 2).reshape(total, -1))


class _LinearPatchEmbed(Qwen3VLVisionPatchEmbed):
    """Embed patches by a matrix product: the convolution it replaces never overlaps, and on a CPU is 4 times slower."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map patches float (P, 1536) to (P, D)."""
        return F.linear(hidden_states.to(self.proj.weight.dtype), self.proj.weight.flatten(1), self.proj.bias)


class LanguageModel(nn.Module):
    """Qwen3-VL as X2SAM uses it. Holds weights only, so threads may share it.

    Args:
        config: sizes and options.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        vision_config, text_config = _stock_vision_config(config.vision), _stock_text_config(config.text)
        self.visual = Qwen3VLVisionModel(vision_config)
        self.visual.patch_embed = _LinearPatchEmbed(vision_config)
        for block in self.visual.blocks:
            block.attn = _BatchedVisionAttention(vision_config)
        self.text = Qwen3VLTextModel(text_config)
        self.final_norm = Qwen3VLTextRMSNorm(config.text.hidden_size, eps=config.text.rms_norm_eps)
        # The projector reads the state before the final norm, the text logits the one after it.
        self.text.register_module("norm", nn.Identity())
        self._initialise()

    def _initialise(self) -> None:
        """Draw linear weights Xavier-uniform: a nano network scored 0.41 after 200 steps, with a 0.02 normal 0.26."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        patches = self.visual.patch_embed.proj
        nn.init.xavier_uniform_(patches.weight.view(len(patches.weight), -1))
        if patches.bias is not None:
            nn.init.zeros_(patches.bias)
        nn.init.normal_(self.text.embed_tokens.weight, std=self.config.text.hidden_size**-0.5)

    def encode_image(self, pixel_values: Tensor, grid_thw: Tensor) -> VisionFeatures:
        """Encode pictures or clips, once for all prompts that refer to them.

        Args:
            pixel_values: float (P, 1536), patches of all pictures one after another (``engine.preprocess``).
            grid_thw: int64 (N, 3), frame pairs, patch rows and patch columns of each.

        Raises:
            ModelError: patches and grids do not agree.
        """
        grids: list[list[int]] = grid_thw.tolist()
        patches = [t * h * w for t, h, w in grids]
        if sum(patches) != len(pixel_values) or pixel_values.shape[-1] != self.config.vision.patch_dim:
            raise ModelError(
                f"picture patches have shape {tuple(pixel_values.shape)}, but grids {grids} need "
                f"({sum(patches)}, {self.config.vision.patch_dim})"
            )
        if len({(h, w) for _, h, w in grids}) == 1:
            # Frames attend only within themselves, so equal pictures are one clip: no loop over pictures.
            grid_thw = grid_thw.new_tensor([[sum(t for t, _, _ in grids), *grids[0][1:]]])
        dtype = self.visual.patch_embed.proj.weight.dtype
        output = self.visual(pixel_values.to(dtype), grid_thw=grid_thw.to(pixel_values.device))
        counts = tuple(count // self.config.vision.spatial_merge_size**2 for count in patches)
        return VisionFeatures(output.pooler_output, tuple(output.deepstack_features), counts)

    def embed(self, batch: TokenBatch, vision: VisionFeatures | None, region_tokens: Tensor | None) -> Tensor:
        """Return the input embeddings, float (B, L, D), with picture and region tokens put in their places.

        Args:
            batch: the tokens.
            vision: one picture per row, in row order.
            region_tokens: float (R, K, D), the regions of all rows one after another.

        Raises:
            ModelError: the features do not fill the placeholders.
        """
        embeds = self.text.embed_tokens(batch.input_ids.clamp_min(0))
        shape = embeds.shape
        flat = embeds.reshape(-1, shape[-1])
        counts = () if vision is None else vision.counts
        if sum(batch.images_per_row) and counts != batch.images_per_row:
            raise ModelError(f"prompts have {batch.images_per_row} picture tokens per row, pictures have {counts}")
        if vision is not None:
            flat = flat.index_copy(0, batch.image_positions, vision.embeds.to(flat.dtype))
        given = 0 if region_tokens is None else region_tokens.shape[0] * region_tokens.shape[1]
        if given != len(batch.region_positions):
            raise ModelError(f"prompts have {len(batch.region_positions)} region tokens, {given} features were given")
        if region_tokens is not None:
            flat = flat.index_copy(0, batch.region_positions, region_tokens.flatten(0, 1).to(flat.dtype))
        return flat.reshape(shape)

    def forward(
        self,
        batch: TokenBatch,
        vision: VisionFeatures | None = None,
        image_index: Sequence[int | None] | None = None,
        region_tokens: Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> Tensor:
        """Return the last layer's states before the final norm, float (B, L, D); padded columns are undefined.

        Args:
            batch: B tokenised prompts.
            vision: N encoded pictures; None for prompts without one.
            image_index: the picture of each row, B values, None for a row without one; by default row i has picture i,
                or all share the only one.
            region_tokens: float (R, K, D), the regions of all rows one after another.
            cache: what was read before, the same number of tokens in every row; gains keys and values of ``batch``.

        Raises:
            ModelError: pictures or regions do not fit the prompts.
            PromptError: a prompt has more tokens than the network has positions.
        """
        rows, length = batch.input_ids.shape
        before = 0 if cache is None else cache.get_seq_length()
        limit = self.config.text.max_position_embeddings
        if before + length > limit:
            raise PromptError(
                f"the conversation has {before + length} tokens, this network reads at most {limit}; "
                "ask with fewer classes, regions or words, or begin a new chat"
            )
        if vision is not None:
            if image_index is None:
                image_index = [0] * rows if len(vision.counts) == 1 else range(rows)
            vision = vision.gather(image_index)
        embeds = self.embed(batch, vision, region_tokens)
        visual_mask = None if vision is None else batch.input_ids == IMAGE_PLACEHOLDER
        mask = batch.attention_mask
        output = self.text(
            inputs_embeds=embeds,
            attention_mask=F.pad(mask, (before, 0), value=1) if mask is not None else None,
            visual_pos_masks=visual_mask,
            deepstack_visual_embeds=None if vision is None else list(vision.deepstack),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def step(self, token: int, cache: DynamicCache) -> Tensor:
        """Read one more token and return its state before the final norm, float (1, 1, D); the cache gains it."""
        ids = torch.tensor([[token]], device=self.text.embed_tokens.weight.device)
        output = self.text(inputs_embeds=self.text.embed_tokens(ids), past_key_values=cache, use_cache=True)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def choose_attention(self) -> None:
        """Use the fastest attention there is for the device and type of the weights; call it after moving them."""
        weight = self.text.embed_tokens.weight
        name = attention_implementation(weight.device, weight.dtype)
        self.text.set_attn_implementation(name)
        self.visual.set_attn_implementation(name)

    def normed(self, hidden: Tensor) -> Tensor:
        """Return states after the final norm, the shape of ``hidden`` (..., D)."""
        normed: Tensor = self.final_norm(hidden)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """Return next-token logits, float (..., V), of states before the final norm; the head is the embedding's."""
        return F.linear(self.normed(hidden), self.text.embed_tokens.weight)


def attention_implementation(device: torch.device, dtype: torch.dtype) -> str:
    """Return transformers' name of the fastest attention installed here for weights of that type on that device."""
    fits = device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)
    # the package refuses GPUs before Ampere when it is run, not when it is imported
    if fits and find_spec("flash_attn") is not None and torch.cuda.get_device_capability(device) >= (8, 0):
        return "flash_attention_2"
    return "sdpa"


def _stock_text_config(config: TextConfig) -> Qwen3VLTextConfig:
    """Return transformers' configuration of the same language tower."""
    values = asdict(config)
    rope = {
        "rope_type": "default",
        "rope_theta": values.pop("rope_theta"),
        "mrope_section": list(values.pop("mrope_section")),
        "mrope_interleaved": True,
    }
    stock = Qwen3VLTextConfig(**values, rope_parameters=rope, use_cache=False)
    stock._attn_implementation = "sdpa"
    return stock


def _stock_vision_config(config: VisionConfig) -> Qwen3VLVisionConfig:
    """Return transformers' configuration of the same picture tower."""
    stock = Qwen3VLVisionConfig(**asdict(config))
    stock._attn_implementation = "sdpa"
    return stock
