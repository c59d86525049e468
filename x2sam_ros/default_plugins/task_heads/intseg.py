"""intseg: the object of an image that a click, box or mask points at."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from x2sam_ros.default_plugins.task_heads.objseg import TEMPLATES, RegionHead
from x2sam_ros.engine.task_head import ReadContext, TaskHeadFactory
from x2sam_ros.hookspecs import hookimpl

if TYPE_CHECKING:
    from x2sam_ros.engine.select import Candidates, Choice


class InteractiveHead(RegionHead):
    """As objseg, but for the published rule, which knows images only."""

    def _published(self, found: Candidates, context: ReadContext) -> Choice:
        """Choose the query that overlaps the prompt's mask best."""
        from x2sam_ros.engine.published import prompted_query

        return prompted_query(found, context.regions[0].mask, context.score_threshold)


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer the head under its task's name."""
    return {"intseg": partial(InteractiveHead, "intseg", TEMPLATES)}
