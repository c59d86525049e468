"""vgdseg: everything that looks like one of the regions pointed at."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from x2sam_ros.default_plugins.task_heads.genseg import ClassListHead
from x2sam_ros.default_plugins.task_heads.objseg import TEMPLATES
from x2sam_ros.engine.task_head import ConversationRequest, TaskHeadFactory, wrong_prompt
from x2sam_ros.hookspecs import hookimpl
from x2sam_ros.types import BoxPrompt, MaskPrompt, PointPrompt, Prompt, RegionsPrompt


class RegionListHead(ClassListHead):
    """Each region stands for a class, so every confident query is a target (category-level, as published)."""

    def request(self, prompt: Prompt) -> ConversationRequest:
        """Ask about every region; see TaskHead."""
        if isinstance(prompt, RegionsPrompt):
            count = len(prompt.regions)
            return ConversationRequest(num_regions=count, labels=prompt.labels or ("",) * count)
        if not isinstance(prompt, (PointPrompt, BoxPrompt, MaskPrompt)):
            raise wrong_prompt(self.task, "points, a box, a mask or several of them", prompt)
        return ConversationRequest(num_regions=1, labels=("",))


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer the head under its task's name."""
    return {"vgdseg": partial(RegionListHead, "vgdseg", TEMPLATES)}
