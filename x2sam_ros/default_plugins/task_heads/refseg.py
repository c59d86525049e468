"""refseg: the object that a phrase means, or one object for each of several phrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from x2sam_ros.engine.task_head import ConversationRequest, ReadContext, TaskHeadFactory, wrong_prompt
from x2sam_ros.errors import PromptError
from x2sam_ros.hookspecs import hookimpl
from x2sam_ros.model.template import OFFICIAL_ANSWER, SHORT_ANSWER, Template
from x2sam_ros.types import ClassListPrompt, Prompt, TextPrompt

if TYPE_CHECKING:
    from x2sam_ros.engine.select import Candidates, Choice

SHORT = Template("Segment {phrases}.", SHORT_ANSWER)
TEMPLATES = {
    "official": Template(
        "Can you highlight the {phrases} in this {media} with a segmentation mask? "
        "Please output the segmentation mask.",
        OFFICIAL_ANSWER,
    ),
    "short": SHORT,
}


@dataclass(frozen=True)
class PhraseHead:
    """One target for each phrase: the query that answers it best, and lies where the target was."""

    task: str
    templates: Mapping[str, Template]

    def request(self, prompt: Prompt) -> ConversationRequest:
        """Ask for the text, or for every name of a list; see TaskHead."""
        if not isinstance(prompt, (TextPrompt, ClassListPrompt)):
            raise wrong_prompt(self.task, "a text or a list of phrases", prompt)
        if isinstance(prompt, TextPrompt):
            return ConversationRequest(phrases=(prompt.text,), labels=(prompt.text,))
        if prompt.stuff:
            raise PromptError(f"task {self.task} knows no stuff; use genseg, or leave stuff away")
        return ConversationRequest(phrases=prompt.classes, labels=prompt.classes)

    def read(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        """Take the best query of each phrase; see TaskHead. The published rule looks at each frame alone."""
        from x2sam_ros.engine.select import one_per_label

        return one_per_label(found, context.tracks, follow=not context.official_quirks)


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer the head under its task's name."""
    return {"refseg": partial(PhraseHead, "refseg", TEMPLATES)}
