"""gcgseg: a description of the picture, with a mask for each thing it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from x2sam_ros.engine.task_head import ConversationRequest, ReadContext, TaskHeadFactory, wrong_prompt
from x2sam_ros.hookspecs import hookimpl
from x2sam_ros.model.template import Template
from x2sam_ros.types import CaptionPrompt, Prompt, TextPrompt

if TYPE_CHECKING:
    from x2sam_ros.engine.select import Candidates, Choice

OWN_WORDS = Template("{text}", None)
"""The user's question as it is."""

TEMPLATES = {
    "official": Template(
        "Could you please give me a brief description of the {media}? "
        "Please respond with interleaved segmentation masks for the corresponding parts of the answer.",
        None,
    ),
    "short": Template("Describe.", None),
}


@dataclass(frozen=True)
class CaptionHead:
    """One target for each phrase that the answer marks; two phrases may mean one object."""

    task: str
    templates: Mapping[str, Template]

    def request(self, prompt: Prompt) -> ConversationRequest:
        """Ask for a description, in the task's words or the user's; see TaskHead."""
        if isinstance(prompt, TextPrompt):
            return ConversationRequest(text=prompt.text, template=OWN_WORDS)
        if not isinstance(prompt, CaptionPrompt):
            raise wrong_prompt(self.task, "a caption prompt or a text", prompt)
        return ConversationRequest()

    def read(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        """Take the best query of each phrase; see TaskHead. The published rule looks at each frame alone."""
        from x2sam_ros.engine.select import one_per_label

        return one_per_label(found, context.tracks, follow=not context.official_quirks)


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer the head under its task's name."""
    return {"gcgseg": partial(CaptionHead, "gcgseg", TEMPLATES)}
