"""genseg and ovseg: every instance of every class of a list, with stuff as one target for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from x2sam_ros.engine.task_head import ConversationRequest, ReadContext, TaskHeadFactory, wrong_prompt
from x2sam_ros.hookspecs import hookimpl
from x2sam_ros.model.template import OFFICIAL_ANSWER, SHORT_ANSWER, Template
from x2sam_ros.types import ClassListPrompt, Prompt

if TYPE_CHECKING:
    from x2sam_ros.engine.select import Candidates, Choice

TEMPLATES = {
    "official": Template(
        "Could you create segmentation masks for this {media} according to the specified categories: {phrases}? "
        "Please create the segmentation masks.",
        OFFICIAL_ANSWER,
    ),
    "short": Template("Classes {phrases}.", SHORT_ANSWER),
}


@dataclass(frozen=True)
class ClassListHead:
    """Every confident query is a target; with stuff the targets do not overlap."""

    task: str
    templates: Mapping[str, Template]

    def request(self, prompt: Prompt) -> ConversationRequest:
        """Ask for every class; see TaskHead."""
        if not isinstance(prompt, ClassListPrompt):
            raise wrong_prompt(self.task, "a class list", prompt)
        stuff = tuple(prompt.classes.index(name) for name in prompt.stuff)
        return ConversationRequest(phrases=prompt.classes, labels=prompt.classes, stuff=stuff)

    def read(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        """Take every instance, or every segment where the list has stuff; see TaskHead."""
        from x2sam_ros.engine.select import continue_tracks

        choices = self._segments(found, context) if context.stuff else self._instances(found, context)
        return continue_tracks(choices, context.tracks, context.stuff)

    def _instances(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        """Take one query for each object; the published rule lists pairs of query and class, overlapping or not."""
        from x2sam_ros.engine.postprocess import instance_list
        from x2sam_ros.engine.select import instances

        if context.official_quirks:
            return instance_list(found, context.score_threshold)
        return instances(found, context.score_threshold, context.tracks)

    def _segments(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        """Divide the picture; the published rule gives every pixel to someone, and a lone object all of them."""
        from x2sam_ros.engine.postprocess import fused, panoptic
        from x2sam_ros.engine.published import panoptic_pieces

        if context.official_quirks:
            pieces = fused(panoptic_pieces(found, context.score_threshold), context.stuff)
            return sorted(pieces, key=lambda piece: -piece.score)
        return panoptic(found, context.stuff, context.score_threshold, context.tracks)


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer the head under the names of both tasks."""
    return {task: partial(ClassListHead, task, TEMPLATES) for task in ("genseg", "ovseg")}
