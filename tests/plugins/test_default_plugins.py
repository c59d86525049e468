"""The built-in plugins keep the contracts that third parties are held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.memory_policy import MemoryRecord, checked_keep
from x2sam_ros.engine.task_head import ConversationRequest, TaskHeadFactory
from x2sam_ros.errors import PluginError, PromptError
from x2sam_ros.plugins import MEMORY_POLICIES, TASK_HEADS, load_plugins
from x2sam_ros.testing import check_memory_policy, check_task_head, memory_record, run_memory_policy, sample_prompts
from x2sam_ros.types import Prompt, Task, TextPrompt

PLUGINS = load_plugins()


@pytest.mark.parametrize("name", PLUGINS.names(MEMORY_POLICIES))
def test_memory_policies_keep_the_contract(name: str) -> None:
    check_memory_policy(PLUGINS.memory_policy(name))


@pytest.mark.parametrize("name", PLUGINS.names(TASK_HEADS))
def test_task_heads_keep_the_contract(name: str) -> None:
    check_task_head(name, PLUGINS.task_head(name))


def test_fifo_keeps_the_newest() -> None:
    fifo = PLUGINS.memory_policy("fifo")(EngineConfig(num_maskmem=3))
    history = run_memory_policy(fifo, [memory_record(index, prompted=index == 0) for index in range(6)])
    frames = [[record.frame_index for record in stored] for stored in history]
    assert frames == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]


@pytest.mark.parametrize("answer", [(0, 0), (1, 0), (2,), (-1,), None, ("a",), (0.5,), 7, (0, 1)])
def test_garbage_from_a_policy_is_named(answer: object) -> None:
    class Garbage:
        name, capacity = "garbage", 1

        def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Any:
            return answer

    with pytest.raises(PluginError, match="memory policy 'garbage' kept"):
        checked_keep(Garbage(), [memory_record(0)], memory_record(1))


def test_policy_with_state_fails_the_check() -> None:
    class Moody:
        name, capacity, calls = "moody", 1, 0

        def keep(self, stored: Sequence[MemoryRecord], new: MemoryRecord) -> Sequence[int]:
            self.calls += 1
            return (0,) if self.calls % 7 == 0 else (len(stored),)

    with pytest.raises(PluginError, match="must hold no state"):
        check_memory_policy(lambda config: Moody())


def test_requests_of_the_tasks() -> None:
    text, classes, point, box, mask = sample_prompts()

    def request(task: Task, prompt: Prompt) -> ConversationRequest:
        return PLUGINS.task_head(task.value)().request(prompt)

    assert request(Task.REFSEG, text) == ConversationRequest(Task.REFSEG, ("the red cup",))
    assert request(Task.GENSEG, classes) == ConversationRequest(Task.GENSEG, ("cup", "kettle"))
    assert request(Task.OVSEG, classes) == ConversationRequest(Task.OVSEG, ("cup", "kettle"))
    for task in (Task.OBJSEG, Task.INTSEG, Task.VGDSEG):
        for region in (point, box, mask):
            assert request(task, region) == ConversationRequest(task, num_regions=1)


def test_selection_of_the_tasks() -> None:
    selections = {name: PLUGINS.task_head(name)().selection for name in PLUGINS.names(TASK_HEADS)}
    assert selections == {
        "refseg": "best_query",
        "genseg": "per_class_instances",
        "ovseg": "per_class_instances",
        "objseg": "prompt_overlap",
        "intseg": "prompt_overlap",
        "vgdseg": "per_class_instances",
    }


def test_wrong_prompt_for_a_task_says_what_it_takes() -> None:
    factory: TaskHeadFactory = PLUGINS.task_head("objseg")
    with pytest.raises(PromptError, match="task objseg takes points, a box or a mask, got a TextPrompt"):
        factory().request(TextPrompt(text="the cup", task=Task.OBJSEG))


def test_hiera_is_the_networks_encoder() -> None:
    import torch

    from x2sam_ros.model.config import preset

    config = preset("nano").segmentor
    encoder = PLUGINS.mask_encoder(config.mask_encoder)(config)
    side, channels = config.image_size, config.resnet.pyramid_channels
    with torch.inference_mode():
        features = encoder(torch.zeros(1, 3, side, side))
    assert [tuple(level.shape) for level in features.pyramid] == [
        (1, channels, side // stride, side // stride) for stride in (4, 8, 16)
    ]
