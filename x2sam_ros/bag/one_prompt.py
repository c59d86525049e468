"""One prompt from the options of a command line, for commands that ask one thing of one input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from x2sam_ros.bag.prompt_options import read_schedule
from x2sam_ros.errors import PromptError
from x2sam_ros.plugins import installed_plugins
from x2sam_ros.types import (
    CaptionPrompt,
    ClassListPrompt,
    PointPrompt,
    Prompt,
    RegionPrompt,
    RegionsPrompt,
    Task,
    TextPrompt,
)

PROMPT_ID = "prompt"


def read_prompt(
    texts: Sequence[str] = (),
    classes: Sequence[str] = (),
    stuff: Sequence[str] = (),
    clicks: Sequence[str] = (),
    boxes: Sequence[str] = (),
    masks: Sequence[Path] = (),
    caption: bool = False,
    task: str | None = None,
    still: bool = True,
) -> Prompt:
    """Read the one prompt that options describe, and let the head of its task check it.

    Args:
        texts: phrases or a question; several phrases are one prompt with a target each.
        classes: lists of names, separated by commas.
        stuff: the same, of names that are no countable things; they need not be repeated in ``classes``.
        clicks: "x,y[,label]"; all are on one object, but for task vgdseg, to which each positive one is an example.
        boxes: "x1,y1,x2,y2".
        masks: images that are not black on the object.
        caption: ask for a description.
        task: name of the task; None takes the usual one for the kind of prompt.
        still: whether the input is one picture, for which clicks mean intseg, or not, for which they mean objseg.

    Raises:
        PromptError: no prompt, two prompts, an option that does not follow its syntax, or one the task does not take.
        PluginError: there is no such task.
    """
    given = {
        "--text": bool(texts),
        "--classes": bool(classes or stuff),
        "--click, --box or --mask": bool(clicks or boxes or masks),
        "--caption": caption,
    }
    kinds = [option for option, is_given in given.items() if is_given]
    if len(kinds) > 1:
        raise PromptError(f"{' and '.join(kinds)} are {len(kinds)} prompts; give one of them")
    if not kinds and task != Task.GCGSEG:
        raise PromptError(
            "nothing to look for; give one of --text, --classes, --click, --box, --mask and --caption"
            + (f" for task {task}" if task else "")
        )
    prompt: Prompt
    if texts:
        prompt = _of_texts(texts, task)
    elif classes or stuff:
        (listed,) = read_schedule(classes=[",".join(classes)] if classes else [], stuff=stuff)
        prompt = replace(listed.prompt, prompt_id=PROMPT_ID, task=task or Task.GENSEG)
    elif clicks or boxes or masks:
        prompt = _of_regions(clicks, boxes, masks, task, still)
    else:
        prompt = CaptionPrompt(PROMPT_ID, task=task or Task.GCGSEG)
    installed_plugins().task_head(prompt.task_name)().request(prompt)
    return prompt


def _of_texts(texts: Sequence[str], task: str | None) -> Prompt:
    if len(texts) == 1:
        return TextPrompt(PROMPT_ID, text=texts[0], task=task or Task.REFSEG)
    return ClassListPrompt(PROMPT_ID, classes=tuple(texts), task=task or Task.REFSEG)


def _of_regions(
    clicks: Sequence[str], boxes: Sequence[str], masks: Sequence[Path], task: str | None, still: bool
) -> Prompt:
    schedule = read_schedule(clicks=clicks, boxes=boxes, masks=masks)
    late = [item.origin for item in schedule if item.at_s]
    if late:
        raise PromptError(
            f"{late[0]} is to be given later; here the prompt is given with the first image, so leave @ away"
        )
    regions = tuple(item.prompt for item in schedule if isinstance(item.prompt, RegionPrompt))
    if task != Task.VGDSEG:
        regions = _on_one_object(regions)
    if len(regions) > 1:
        return RegionsPrompt(PROMPT_ID, regions=regions, task=task or Task.VGDSEG)
    return replace(regions[0], prompt_id=PROMPT_ID, task=task or (Task.INTSEG if still else Task.OBJSEG))


def _on_one_object(regions: tuple[RegionPrompt, ...]) -> tuple[RegionPrompt, ...]:
    """Make one prompt of several clicks, where there are only clicks."""
    clicks = [region for region in regions if isinstance(region, PointPrompt)]
    if len(clicks) < 2 or len(clicks) < len(regions):
        return regions
    labels = np.concatenate([np.asarray(click.point_labels) for click in clicks])
    return (replace(clicks[0], points_px=np.concatenate([click.points_px for click in clicks]), point_labels=labels),)
