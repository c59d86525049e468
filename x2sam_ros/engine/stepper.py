"""The network's passes over a frame, for all its targets as one batch: as they are, or compiled for fixed shapes.

Compiled, a batch is padded: targets to 1, 2, 4, 8, ..., stored frames to ``num_maskmem``, words likewise to powers of
two. So a handful of shapes serves for ever, and nothing is compiled when targets come and go. Looks without memory, as
on frames on which something begins, are rare, and run as they are.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from x2sam_ros.config import EngineConfig
from x2sam_ros.errors import ConfigError, X2SamError
from x2sam_ros.model.condition import PromptCondition
from x2sam_ros.model.encoder import ImageFeatures
from x2sam_ros.model.int8 import EXACT as EXACT_WEIGHTS
from x2sam_ros.model.int8 import weights_of
from x2sam_ros.model.mask_decoder import padded_class_logit
from x2sam_ros.model.memory import MemoryBatch, MemoryEntry
from x2sam_ros.model.pixel_decoder import PixelFeatures
from x2sam_ros.model.segmentor import FINEST, Segmentor, StepOutput
from x2sam_ros.model.windowed import Shortcuts

LEAST_TOKENS = 8
"""Fewest words' tokens a compiled step has room for."""

SHAPES = 256
"""Shapes that each pass is compiled for at most; later ones run as they are."""

Answer = TypeVar("Answer")
_log = logging.getLogger(__name__)


def bucket(count: int, least: int = 1) -> int:
    """Return the power of two, at least ``least``, that a count is padded to."""
    return max(least, 1 << (count - 1).bit_length()) if count else least


class Stepper:
    """Runs a segmentor's passes with the settings of a session; belongs to one thread.

    Args:
        segmentor: the network; steppers may share it, and what was compiled for it.
        config: ``compiled``, ``num_maskmem`` and the shortcuts.
        may_compile: whether ``compiled`` is heeded: CUDA graphs belong to one thread.

    Attributes:
        fault: why nothing is compiled though it was asked for; "" otherwise.

    Raises:
        ConfigError: a network with int8 weights is to be compiled.
    """

    def __init__(self, segmentor: Segmentor, config: EngineConfig, may_compile: bool = True) -> None:
        self._segmentor, self._device = segmentor, segmentor.no_memory_embedding.device
        self._slots = config.num_maskmem
        self._shortcuts = Shortcuts(config.memory_window, config.memory_pool, config.memory_key_pool)
        self._compiles = may_compile and config.compiled == "on"
        if self._compiles and weights_of(segmentor) != EXACT_WEIGHTS:
            raise ConfigError("compiled is on, but weights are int8, which cannot be compiled; choose one of the two")
        self._thread: int | None = None
        self.fault = ""

    def encode(self, pixel_values: Tensor) -> ImageFeatures:
        """Run the mask encoder; see ``Segmentor.encode_image``."""
        return self._run(_encode, self._segmentor, pixel_values)

    def decode_pixels(self, features: ImageFeatures, first: bool) -> PixelFeatures:
        """Run the pixel decoder; see ``Segmentor.decode_pixels``."""
        if first:
            return self._segmentor.decode_pixels(features, first=True)
        return self._run(_decode_pixels, self._segmentor, features)

    def step(
        self,
        pixels: PixelFeatures,
        condition: PromptCondition,
        memory: MemoryBatch | None = None,
        finest: Tensor | None = None,
    ) -> StepOutput:
        """Segment one frame for N prompts; see ``Segmentor.step``.

        Compiled, the answer has no ``layers``, and may have more padded classes in front of the background.
        """
        if memory is None or not self._is_compiled:
            return self._segmentor.step(pixels, condition, memory, self._shortcuts, finest)
        count = len(condition.seg_embeds)
        index = _padded_rows(count)
        room = bucket(condition.num_phrases), bucket(condition.token_embeds.shape[1], LEAST_TOKENS)
        output = self._run(
            _step,
            self._segmentor,
            pixels,
            PromptCondition.merge([condition.rows(index)], *room),
            self._filled(memory, index),
            self._shortcuts,
            None if finest is None else finest[index],
        )
        return StepOutput(output.class_logits[:count], output.mask_logits[:count], output.queries[:count], ())

    def recall(self, pixels: PixelFeatures, memory: MemoryBatch) -> Tensor:
        """Condition the finest scale on the stored frames of N prompts, (N, C, H, W); see ``Segmentor.recall``."""
        if not self._is_compiled:
            return self._segmentor.recall(pixels, memory, FINEST, self._shortcuts)
        count = len(memory.gaps)
        filled = self._filled(memory, _padded_rows(count))
        return self._run(_recall, self._segmentor, pixels, filled, self._shortcuts)[:count]

    def write(self, pixels: PixelFeatures, output: StepOutput) -> MemoryEntry:
        """Encode what a step found; see ``Segmentor.write_memory``."""
        if not self._is_compiled:
            return self._segmentor.write_memory(pixels, output)
        count = len(output.class_logits)
        index, classes = _padded_rows(count), output.class_logits
        missing = bucket(classes.shape[2] - 1) - classes.shape[2] + 1
        if missing:
            nothing = classes.new_full((*classes.shape[:2], missing), padded_class_logit(classes.dtype))
            classes = torch.cat([classes[..., :-1], nothing, classes[..., -1:]], dim=-1)
        entry = self._run(_write, self._segmentor, pixels, classes[index], output.mask_logits[index])
        return MemoryEntry(tuple(x[:count] for x in entry.embeds))

    @property
    def _is_compiled(self) -> bool:
        """Whether passes are compiled here: CUDA graphs belong to the thread that recorded them."""
        if not self._compiles or self._device.type != "cuda":
            return self._compiles
        self._thread = self._thread or threading.get_ident()
        return self._thread == threading.get_ident()

    def _filled(self, memory: MemoryBatch, index: list[int]) -> MemoryBatch:
        """Return the chosen memories with all their slots, the unused ones marked."""
        return replace(MemoryBatch.merge([memory.rows(index)], self._slots), padded=True)

    def _run(self, part: Callable[..., Answer], *inputs: Any) -> Answer:
        """Run a pass, compiled if it is to be; what cannot be compiled is not tried again."""
        if not self._is_compiled:
            return part(*inputs)
        try:
            with _many_shapes():
                answer: Answer = _compiled(part, self._device.type)(*inputs)
            # what a CUDA graph returns is overwritten by its next run
            return copied(answer) if self._device.type == "cuda" else answer
        except (X2SamError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a compiler raises, frames go on
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = " ".join([f"{type(error).__name__}:", *lines[:2]])[:300]
            self._compiles = False
        self.fault = (
            f"the network cannot be compiled here and runs as it is ({reason}); set compiled to off, or install a "
            "C++ compiler"
        )
        _log.warning("%s", self.fault)
        return part(*inputs)


def copied(answer: Any) -> Any:
    """Return a pass's answer with tensors of its own: a tensor, or tuples and dataclasses of such."""
    if isinstance(answer, Tensor):
        return answer.clone()
    if isinstance(answer, tuple):
        return tuple(copied(x) for x in answer)
    assert is_dataclass(answer) and not isinstance(answer, type)
    return replace(answer, **{item.name: copied(getattr(answer, item.name)) for item in fields(answer)})


def _padded_rows(count: int) -> list[int]:
    """Return the rows of a padded batch; the first one fills it up."""
    return [*range(count), *[0] * (bucket(count) - count)]


def _encode(segmentor: Segmentor, pixel_values: Tensor) -> ImageFeatures:
    return segmentor.encode_image(pixel_values)


def _decode_pixels(segmentor: Segmentor, features: ImageFeatures) -> PixelFeatures:
    return segmentor.decode_pixels(features, first=False)


def _step(
    segmentor: Segmentor,
    pixels: PixelFeatures,
    condition: PromptCondition,
    memory: MemoryBatch,
    shortcuts: Shortcuts,
    finest: Tensor | None,
) -> StepOutput:
    # the layers' own predictions are for training; they would have to be copied
    return replace(segmentor.step(pixels, condition, memory, shortcuts, finest), layers=())


def _recall(segmentor: Segmentor, pixels: PixelFeatures, memory: MemoryBatch, shortcuts: Shortcuts) -> Tensor:
    return segmentor.recall(pixels, memory, FINEST, shortcuts)


def _write(segmentor: Segmentor, pixels: PixelFeatures, class_logits: Tensor, mask_logits: Tensor) -> MemoryEntry:
    return segmentor.write_memory(pixels, StepOutput(class_logits, mask_logits, mask_logits, ()))


@cache
def _compiled(part: Callable[..., Answer], device_type: str) -> Callable[..., Answer]:
    mode = "reduce-overhead" if device_type == "cuda" else "default"
    compiled: Callable[..., Answer] = torch.compile(part, dynamic=False, mode=mode)
    return compiled


def _many_shapes() -> Any:
    """Let torch keep as many compiled shapes of a pass as there are, where by default it stops at eight."""
    import torch._dynamo.config as dynamo

    return dynamo.patch(recompile_limit=SHAPES, accumulated_recompile_limit=8 * SHAPES)
