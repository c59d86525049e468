"""For authors of plugins: checks that hold a plugin to its contract, and values to feed it. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.memory_policy import (
    MemoryPolicy,
    MemoryPolicyFactory,
    MemoryRecord,
    checked_keep,
    checked_merge,
    checked_show,
    merge_records,
)
from x2sam_ros.engine.task_head import ConversationRequest, TaskHead, TaskHeadFactory
from x2sam_ros.errors import PluginError, PromptError
from x2sam_ros.model.template import TEMPLATE_SETS, Template
from x2sam_ros.types import (
    BoxPrompt,
    CaptionPrompt,
    ClassListPrompt,
    MaskPrompt,
    PointPrompt,
    Prompt,
    RegionsPrompt,
    TextPrompt,
)

FRAME_INTERVAL_NS = 33_366_700
"""Time between the frames of a 29.97 Hz camera."""


def memory_record(
    frame_index: int, *, score: float = 0.9, mask_fraction: float = 0.1, prompted: bool = False, **rest: Any
) -> MemoryRecord:
    """Return a record of a 29.97 Hz stream that starts at stamp 0; ``rest``: other fields of MemoryRecord."""
    return MemoryRecord(frame_index, frame_index * FRAME_INTERVAL_NS, score, mask_fraction, prompted, **rest)


def memory_stream(num_frames: int, seed: int = 0) -> tuple[MemoryRecord, ...]:
    """Return the records of a hard life: a prompt on frame 0 and rarely later, occlusions, look-alikes, dropped frames.

    Args:
        num_frames: how many records, at least 1.
        seed: the same seed gives the same stream.
    """
    rng = np.random.default_rng(seed)
    records, frame_index = [], 0
    for position in range(num_frames):
        hidden = position > 0 and rng.random() < 0.2
        sight = (0.0,) * 3 if hidden else tuple(float(rng.random()) for _ in range(3))
        beside = not hidden and rng.random() < 0.2
        records.append(
            memory_record(
                frame_index,
                score=sight[0],
                mask_fraction=sight[1],
                prompted=position == 0 or rng.random() < 0.05,
                stability=sight[2],
                size_ratio=1.0 if hidden else float(rng.uniform(0.5, 2.0)),
                motion_iou=1.0 if hidden else float(rng.random()),
                distractors=int(beside),
                distractor_iou=float(rng.uniform(0.1, 0.7)) if beside else 1.0,
            )
        )
        frame_index += int(rng.integers(1, 4))
    return tuple(records)


def run_memory_policy(
    policy: MemoryPolicy, stream: Sequence[MemoryRecord], slots: int = EngineConfig.num_maskmem
) -> tuple[tuple[MemoryRecord, ...], ...]:
    """Return what the policy holds after each record of the stream, asked as a session asks it.

    Args:
        policy: it.
        stream: records in the order of their frames.
        slots: most entries that the network looks at.

    Raises:
        PluginError: an answer breaks the contract of `MemoryPolicy`.
    """
    stored: tuple[MemoryRecord, ...] = ()
    history = []
    for new in stream:
        entries = [*stored, new]
        merged = checked_merge(policy, stored, new)
        if merged is not None:
            entries[merged[0]] = merge_records(entries[merged[0]], entries.pop(merged[1]))
        stored = tuple(entries[index] for index in checked_keep(policy, tuple(entries[:-1]), entries[-1]))
        checked_show(policy, stored, new.frame_index + 1, new.stamp_ns + FRAME_INTERVAL_NS, slots)
        history.append(stored)
    return tuple(history)


def check_memory_policy(factory: MemoryPolicyFactory) -> None:
    """Check a memory policy over several capacities and streams.

    Args:
        factory: what the plugin's `x2sam_memory_policies` returns under a name.

    Raises:
        PluginError: it has no name, its capacity is below 1, an answer breaks the contract, the first entry
            is not kept, or the same stream gives two different memories (it holds state or chance).
    """
    for num_maskmem in (1, 2, 5, 8):
        policy = factory(EngineConfig(num_maskmem=num_maskmem))
        if not policy.name or policy.capacity < 1:
            raise PluginError(f"memory policy '{policy.name}' has capacity {policy.capacity}, expected a name and >= 1")
        for seed in range(4):
            stream = memory_stream(200, seed)
            history = run_memory_policy(policy, stream, num_maskmem)
            if not history[0]:
                raise PluginError(f"memory policy '{policy.name}' did not keep the first entry, which was prompted")
            if run_memory_policy(policy, stream, num_maskmem) != history:
                raise PluginError(
                    f"memory policy '{policy.name}' answered one stream in two ways; it must hold no state"
                )


def sample_prompts() -> tuple[Prompt, ...]:
    """Return one prompt of each kind, for an image of at least 32x32 pixels."""
    mask = np.zeros((32, 32), bool)
    mask[8:16, 8:16] = True
    point, box = (
        PointPrompt("point", points_px=np.array([[12.0, 12.0]])),
        BoxPrompt("box", box_px=np.array([8, 8, 16, 16])),
    )
    return (
        TextPrompt("text", text="the red cup"),
        CaptionPrompt("caption"),
        ClassListPrompt("classes", classes=("cup", "kettle")),
        ClassListPrompt("panoptic", classes=("cup", "table"), stuff=("table",)),
        point,
        box,
        MaskPrompt("mask", mask=mask),
        RegionsPrompt("regions", regions=(point, box)),
    )


def check_task_head(name: str, factory: TaskHeadFactory) -> None:
    """Check a task head against one prompt of each kind. What it reads is checked on every frame (`checked_read`).

    Args:
        name: the name it is registered under.
        factory: what the plugin's `x2sam_task_heads` returns under that name.

    Raises:
        PluginError: its task is not ``name``, it has no wording for any template set or one for a set that does not
            exist, it takes no kind of prompt, or a request does not fit its wording or has labels that do not fit.
    """
    head = factory()
    if head.task != name:
        raise PluginError(f"task head '{name}' serves task '{head.task}'; register it under that name")
    if not head.templates or not set(head.templates) <= set(TEMPLATE_SETS):
        raise PluginError(
            f"task head '{name}' has templates {', '.join(head.templates) or 'of no name'}, "
            f"expected some of {', '.join(TEMPLATE_SETS)}"
        )
    requests = []
    for prompt in sample_prompts():
        try:
            requests.append(head.request(prompt))
        except PromptError:
            continue
    if not requests:
        raise PluginError(f"task head '{name}' rejects every kind of prompt")
    for request in requests:
        _check_request(head, request)


def _check_request(head: TaskHead, request: ConversationRequest) -> None:
    asked = len(request.phrases) or request.num_regions
    templates: Sequence[Template] = [request.template] if request.template else list(head.templates.values())
    slots = {"{phrases}": bool(asked), "{text}": bool(request.text)}
    if any((slot in template.question) != filled for template in templates for slot, filled in slots.items()):
        raise PluginError(f"task head '{head.task}' made a request that does not fit its template: {request}")
    if len(request.labels) != asked or not set(request.stuff) <= set(range(asked)):
        raise PluginError(
            f"task head '{head.task}' made a request with {asked} phrases or regions, {len(request.labels)} labels "
            f"and stuff {request.stuff}; give one label for each, and stuff as positions of labels"
        )
