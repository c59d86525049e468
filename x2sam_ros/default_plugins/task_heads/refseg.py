"""refseg: the object that a phrase means, or one object for each of several phrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    """One target for each phrase: the query that answers it best, then what lies where that was."""

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
        """Take the best query of each phrase, later what is where it was; see TaskHead.

        The published rule looks at each frame alone.
        """
        from x2sam_ros.engine.follow import followed
        from x2sam_ros.engine.select import one_per_label

        best = one_per_label(found, context.tracks, follow=False)
        if context.official_quirks:
            return best
        choices = []
        for choice in best:
            if choice.track is None:
                choices.append(choice)
            elif (kept := followed(found, context.tracks[choice.track], choice.class_index)) is not None:
                choices.append(replace(kept, track=choice.track))
        return choices


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer the head under its task's name."""
    return {"refseg": partial(PhraseHead, "refseg", TEMPLATES)}
