"""objseg: the object of a video that a click, box or mask points at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from x2sam_ros.engine.task_head import ConversationRequest, ReadContext, TaskHeadFactory, wrong_prompt
from x2sam_ros.hookspecs import hookimpl
from x2sam_ros.model.template import OFFICIAL_ANSWER, SHORT_ANSWER, Template
from x2sam_ros.types import BoxPrompt, MaskPrompt, PointPrompt, Prompt

if TYPE_CHECKING:
    from x2sam_ros.engine.select import Candidates, Choice

TEMPLATES = {
    "official": Template(
        "Could you create segmentation masks for this {media} according to the specified regions: {phrases}? "
        "Please create the segmentation masks.",
        OFFICIAL_ANSWER,
    ),
    "short": Template("Regions {phrases}.", SHORT_ANSWER),
}


@dataclass(frozen=True)
class RegionHead:
    """One target for each region: the object under it, and no other that looks alike."""

    task: str
    templates: Mapping[str, Template]

    def request(self, prompt: Prompt) -> ConversationRequest:
        """Ask about the region; see TaskHead."""
        if not isinstance(prompt, (PointPrompt, BoxPrompt, MaskPrompt)):
            raise wrong_prompt(self.task, "points, a box or a mask", prompt)
        return ConversationRequest(num_regions=1, labels=("",))

    def read(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        """Take what each region points at, later what is where that should be; see TaskHead.

        The published rule knows one region.
        """
        from x2sam_ros.engine.claims import one_instance_each

        if context.official_quirks:
            return [replace(self._published(found, context), track=0 if context.tracks else None)]
        return one_instance_each(found, context)

    def _published(self, found: Candidates, context: ReadContext) -> Choice:
        """Choose as the published evaluation, whose prompt mask is always empty: it looks for 255 where 1 is set."""
        from x2sam_ros.engine.published import followed_query

        history = context.tracks[0].history if context.tracks else ()
        return followed_query(found, None, history, context.score_threshold)


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer the head under its task's name."""
    return {"objseg": partial(RegionHead, "objseg", TEMPLATES)}
