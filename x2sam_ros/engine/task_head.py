"""What a task head is: how prompts of one task become a language request, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from x2sam_ros.types import Prompt, Task

Selection = Literal["best_query", "per_class_instances", "prompt_overlap"]
"""How targets are read from the decoder's queries: the most confident query; every confident query of
every class; the query whose mask overlaps the prompt's region best."""


@dataclass(frozen=True)
class ConversationRequest:
    """What the language model is asked.

    Args:
        task: chooses the wording.
        phrases: what to look for, plain text; empty when the prompt is a region.
        num_regions: how many region prompts the conversation refers to.
    """

    task: Task
    phrases: tuple[str, ...] = ()
    num_regions: int = 0


class TaskHead(Protocol):
    """Carries one task from prompt to targets. Runs once per prompt and holds neither state nor weights."""

    @property
    def task(self) -> Task:
        """The task it serves; its value is the name the head is registered under."""
        ...

    @property
    def selection(self) -> Selection:
        """How targets are read from the decoder's queries."""
        ...

    def request(self, prompt: Prompt) -> ConversationRequest:
        """Turn a prompt into a request.

        Raises:
            PromptError: the task does not take this kind of prompt.
        """
        ...


TaskHeadFactory = Callable[[], TaskHead]
"""What a plugin offers under a task's name: builds the head."""
