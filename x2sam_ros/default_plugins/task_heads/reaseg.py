"""reaseg: the object that a question is about, such as "What keeps the rain off?"."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from x2sam_ros.default_plugins.task_heads.refseg import SHORT, PhraseHead
from x2sam_ros.engine.task_head import TaskHeadFactory
from x2sam_ros.hookspecs import hookimpl
from x2sam_ros.model.template import OFFICIAL_ANSWER, Template

TEMPLATES = {
    "official": Template("{phrases} Please output the corresponding segmentation mask.", OFFICIAL_ANSWER),
    "short": SHORT,
}


@hookimpl
def x2sam_task_heads() -> Mapping[str, TaskHeadFactory]:
    """Offer the head under its task's name."""
    return {"reaseg": partial(PhraseHead, "reaseg", TEMPLATES)}
