"""grefseg: all that a phrase means, as one target: several objects, one or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from x2sam_ros.default_plugins.task_heads.refseg import TEMPLATES, PhraseHead
from x2sam_ros.engine.task_head import ReadContext, TaskHeadFactory
from x2sam_ros.hookspecs import hookimpl

if TYPE_CHECKING:
    from x2sam_ros.engine.select import Candidates, Choice


class UnionHead(PhraseHead):
    """One target for each phrase: the union of the queries that answer it."""

    def read(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        """Join the queries of each phrase; see TaskHead. The published rule always finds something."""
        from x2sam_ros.engine.postprocess import union
        from x2sam_ros.engine.select import one_per_label

        threshold = 0.0 if context.official_quirks else context.score_threshold
        best = one_per_label(found, context.tracks, follow=False)
        return [replace(union(found, choice.class_index, threshold), track=choice.track) for choice in best]


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer the head under its task's name."""
    return {"grefseg": partial(UnionHead, "grefseg", TEMPLATES)}
