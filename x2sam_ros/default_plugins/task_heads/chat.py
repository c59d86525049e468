"""chat: an answer in words; where it marks phrases and points at them, they become targets."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from x2sam_ros.default_plugins.task_heads.gcgseg import OWN_WORDS, CaptionHead
from x2sam_ros.engine.task_head import ConversationRequest, TaskHeadFactory, wrong_prompt
from x2sam_ros.hookspecs import hookimpl
from x2sam_ros.model.template import TEMPLATE_SETS
from x2sam_ros.types import Prompt, TextPrompt


class ChatHead(CaptionHead):
    """A question that need not be answered with a mask."""

    def request(self, prompt: Prompt) -> ConversationRequest:
        """Ask the question; see TaskHead."""
        if not isinstance(prompt, TextPrompt):
            raise wrong_prompt(self.task, "a text", prompt)
        return ConversationRequest(text=prompt.text, wants_masks=False)


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer the head under its task's name."""
    return {"chat": partial(ChatHead, "chat", dict.fromkeys(TEMPLATE_SETS, OWN_WORDS))}
