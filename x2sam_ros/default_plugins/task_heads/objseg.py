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
    """One target: the object under the region, and no other that looks alike."""

    task: str
    templates: Mapping[str, Template]

    def request(self, prompt: Prompt) -> ConversationRequest:
        """Ask about the region; see TaskHead."""
        if not isinstance(prompt, (PointPrompt, BoxPrompt, MaskPrompt)):
            raise wrong_prompt(self.task, "points, a box or a mask", prompt)
        return ConversationRequest(num_regions=1, labels=("",))

    def read(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        """Take the object that the region points at, later the one that is where it should be; see TaskHead."""
        from x2sam_ros.engine.follow import followed, pointed_at

        track = context.tracks[0] if context.tracks else None
        if context.official_quirks:
            choice: Choice | None = self._published(found, context)
        else:
            choice = followed(found, track) if track else pointed_at(found, context.regions[0])
        return [] if choice is None else [replace(choice, track=0 if track else None)]

    def _published(self, found: Candidates, context: ReadContext) -> Choice:
        """Choose as the published evaluation, whose prompt mask is always empty: it looks for 255 where 1 is set."""
        from x2sam_ros.engine.published import followed_query

        history = context.tracks[0].history if context.tracks else ()
        return followed_query(found, None, history, context.score_threshold)


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer the head under its task's name."""
    return {"objseg": partial(RegionHead, "objseg", TEMPLATES)}
