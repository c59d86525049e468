"""The built-in plugins keep the contracts that third parties are held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.memory_policy import MemoryRecord, checked_keep
from x2sam_ros.engine.task_head import ConversationRequest
from x2sam_ros.errors import PluginError, PromptError
from x2sam_ros.model.template import TEMPLATE_SETS, Template
from x2sam_ros.plugins import MEMORY_POLICIES, TASK_HEADS, load_plugins
from x2sam_ros.testing import check_memory_policy, check_task_head, memory_record, run_memory_policy, sample_prompts
from x2sam_ros.types import ClassListPrompt, MaskPrompt, PointPrompt, Prompt, RegionsPrompt, Task, TextPrompt

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


def request(task: str, prompt: Prompt) -> ConversationRequest:
    return PLUGINS.task_head(task)().request(prompt)


def test_requests_of_the_tasks() -> None:
    text, caption, classes, panoptic, point, box, mask, regions = sample_prompts()
    cup, both = ("the red cup",), ("cup", "kettle")
    for task in ("refseg", "grefseg", "reaseg"):
        assert request(task, text) == ConversationRequest(cup, labels=cup)
        assert request(task, classes) == ConversationRequest(both, labels=both)
    for task in ("genseg", "ovseg"):
        assert request(task, classes) == ConversationRequest(both, labels=both)
        assert request(task, panoptic) == ConversationRequest(("cup", "table"), labels=("cup", "table"), stuff=(1,))
    for task in ("objseg", "intseg", "vgdseg"):
        for region in (point, box, mask):
            assert request(task, region) == ConversationRequest(num_regions=1, labels=("",))
    assert request("vgdseg", regions) == ConversationRequest(num_regions=2, labels=("", ""))
    named = RegionsPrompt(regions=(point, mask), labels=("cup", "kettle"))
    assert isinstance(point, PointPrompt) and isinstance(mask, MaskPrompt)
    assert request("vgdseg", named).labels == ("cup", "kettle")
    assert request("chat", text) == ConversationRequest(text="the red cup", wants_masks=False)
    assert request("gcgseg", caption) == ConversationRequest()
    asked = request("gcgseg", text)
    assert (asked.text, asked.template, asked.wants_masks) == ("the red cup", Template("{text}", None), True)


def test_every_published_task_has_a_head_with_both_wordings() -> None:
    assert set(PLUGINS.names(TASK_HEADS)) == {task.value for task in Task}
    for name in PLUGINS.names(TASK_HEADS):
        assert set(PLUGINS.task_head(name)().templates) == set(TEMPLATE_SETS)


def test_the_short_wording_is_what_the_shipped_weights_were_trained_with() -> None:
    questions = {name: PLUGINS.task_head(name)().templates["short"].question for name in PLUGINS.names(TASK_HEADS)}
    assert questions == {
        "chat": "{text}",
        "gcgseg": "Describe.",
        "genseg": "Classes {phrases}.",
        "ovseg": "Classes {phrases}.",
        "refseg": "Segment {phrases}.",
        "grefseg": "Segment {phrases}.",
        "reaseg": "Segment {phrases}.",
        "intseg": "Regions {phrases}.",
        "objseg": "Regions {phrases}.",
        "vgdseg": "Regions {phrases}.",
    }


@pytest.mark.parametrize(
    ("task", "prompt", "takes"),
    [
        ("objseg", TextPrompt(text="the cup"), "points, a box or a mask"),
        ("intseg", sample_prompts()[-1], "points, a box or a mask"),
        ("vgdseg", TextPrompt(text="the cup"), "points, a box, a mask or several of them"),
        ("genseg", TextPrompt(text="the cup"), "a class list"),
        ("refseg", sample_prompts()[1], "a text or a list of phrases"),
        ("chat", sample_prompts()[1], "a text"),
        ("gcgseg", ClassListPrompt(classes=("cup",)), "a caption prompt or a text"),
    ],
)
def test_wrong_prompt_for_a_task_says_what_it_takes(task: str, prompt: Prompt, takes: str) -> None:
    with pytest.raises(PromptError, match=f"task {task} takes {takes}, got a {type(prompt).__name__}"):
        request(task, prompt)


def test_a_referring_task_knows_no_stuff() -> None:
    with pytest.raises(PromptError, match="knows no stuff"):
        request("refseg", ClassListPrompt(classes=("cup", "sky"), stuff=("sky",)))


class Wrong:
    """A head whose parts can be bent."""

    task, templates = "wrong", PLUGINS.task_head("refseg")().templates

    def __init__(self, answer: ConversationRequest | None = None, **parts: Any) -> None:
        self.answer = answer
        vars(self).update(parts)

    def request(self, prompt: Prompt) -> ConversationRequest:
        if self.answer is None:
            raise PromptError("no")
        return self.answer

    def read(self, found: Any, context: Any) -> Sequence[Any]:
        return ()


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (Wrong(task="other"), "serves task 'other'"),
        (Wrong(templates={}), "templates of no name, expected some of official, short"),
        (Wrong(templates={"long": Template("{text}", None)}), "templates long"),
        (Wrong(), "rejects every kind"),
        (Wrong(ConversationRequest()), "does not fit its template"),
        (Wrong(ConversationRequest(("cup",), text="and more", labels=("cup",))), "does not fit its template"),
        (Wrong(ConversationRequest(text="why", template=Template("Why?", None))), "does not fit its template"),
        (Wrong(ConversationRequest(("cup",))), "1 phrases or regions, 0 labels"),
        (Wrong(ConversationRequest(("cup",), labels=("cup",), stuff=(1,))), r"stuff \(1,\)"),
    ],
)
def test_a_head_that_breaks_the_contract_fails_the_check(head: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        check_task_head("wrong", lambda: head)


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
