"""The task heads of the published network, one per task that yields masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from x2sam_ros.engine.task_head import ConversationRequest, Selection, TaskHeadFactory
from x2sam_ros.errors import PromptError
from x2sam_ros.hookspecs import hookimpl
from x2sam_ros.types import BoxPrompt, ClassListPrompt, MaskPrompt, PointPrompt, Prompt, Task, TextPrompt


@dataclass(frozen=True)
class PhraseHead:
    """One phrase, one answer: the most confident query is the target."""

    task: Task
    selection: Selection = "best_query"

    def request(self, prompt: Prompt) -> ConversationRequest:
        """Ask for the text; see TaskHead."""
        if not isinstance(prompt, TextPrompt):
            raise _wrong_prompt(self.task, "a text", prompt)
        return ConversationRequest(self.task, phrases=(prompt.text,))


@dataclass(frozen=True)
class ClassListHead:
    """Several class names: every confident query of every class is a target."""

    task: Task
    selection: Selection = "per_class_instances"

    def request(self, prompt: Prompt) -> ConversationRequest:
        """Ask for every class; see TaskHead."""
        if not isinstance(prompt, ClassListPrompt):
            raise _wrong_prompt(self.task, "a class list", prompt)
        return ConversationRequest(self.task, phrases=prompt.classes)


@dataclass(frozen=True)
class RegionHead:
    """One region: by default the object under it, and no other that looks alike."""

    task: Task
    selection: Selection = "prompt_overlap"

    def request(self, prompt: Prompt) -> ConversationRequest:
        """Ask about the region; see TaskHead."""
        if not isinstance(prompt, (PointPrompt, BoxPrompt, MaskPrompt)):
            raise _wrong_prompt(self.task, "points, a box or a mask", prompt)
        return ConversationRequest(self.task, num_regions=1)


def _wrong_prompt(task: Task, expected: str, prompt: Prompt) -> PromptError:
    return PromptError(
        f"task {task.value} takes {expected}, got a {type(prompt).__name__}; change the task or the prompt"
    )


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer a head for each of the tasks, under the task's name."""
    return {
        Task.REFSEG.value: partial(PhraseHead, Task.REFSEG),
        Task.GENSEG.value: partial(ClassListHead, Task.GENSEG),
        Task.OVSEG.value: partial(ClassListHead, Task.OVSEG),
        Task.OBJSEG.value: partial(RegionHead, Task.OBJSEG),
        Task.INTSEG.value: partial(RegionHead, Task.INTSEG),
        # Category-level: everything that looks like the region, as published (V-VGD).
        Task.VGDSEG.value: partial(RegionHead, Task.VGDSEG, selection="per_class_instances"),
    }
