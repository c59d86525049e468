"""Prompts of every task about a generated clip, with what each one means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from x2sam_ros.model.conversation import Conversation, ConversationBuilder, Media
from x2sam_ros.model.template import Template
from x2sam_ros.model.tokenizer import PHRASE_END, PHRASE_START, SEG_TOKEN
from x2sam_ros.plugins import TASK_HEADS, installed_plugins
from x2sam_ros.training.scenes import (
    Caption,
    Clip,
    absent_phrases,
    caption,
    class_list,
    panoptic_list,
    questions,
    reasoning_phrases,
    referring_phrases,
    region_prompt,
)
from x2sam_ros.training.scenes import vocabulary as words
from x2sam_ros.types import Task

PROMPT_ODDS = {
    "refer": 0.38,
    "absent": 0.09,
    "several": 0.05,
    "phrases": 0.05,
    "reason": 0.10,
    "classes": 0.09,
    "panoptic": 0.05,
    "region": 0.09,
    "regions": 0.04,
    "caption": 0.06,
}
"""How often a prompt for masks is of a kind; one that a clip has no words for is drawn again."""

CLICK_ODDS = {"region": 1.0}
"""The same where a network is taught by clicks alone."""

PHRASE_ODDS = {"colour": 0.17, "shape": 0.25, "colour_shape": 0.2, "size": 0.18, "position": 0.14, "combo": 0.06}
CLIP_PHRASE_ODDS = {**PHRASE_ODDS, "motion": 0.5}
"""How often a referring phrase is of a kind; motion only where the language model is shown the clip."""

TEXT_ODDS = {"count": 0.16, "colour": 0.2, "shape": 0.16, "exists": 0.18, "caption": 0.3}
"""How often a prompt that asks for words only is of a kind."""

_REGION_ODDS = {"point": 0.5, "box": 0.4, "scribble": 0.05, "mask": 0.05}
_MIN_PIXELS = 24

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PromptSample:
    """One prompt and its truth.

    Args:
        conversation: question and answer.
        classes: for each object of the clip, the phrase it answers or -1.
        regions: bool (H, W) each, the regions it points at.
        stuff: the phrase that means the background, or -1.
        remembered: whether the words fit several objects, so that only a memory tells which one is meant.
    """

    conversation: Conversation
    classes: tuple[int, ...]
    regions: tuple[Mask, ...] = ()
    stuff: int = -1
    remembered: bool = False


def task_templates(wording: str) -> dict[str, Template]:
    """Return the templates of all task heads that have this wording, by task."""
    plugins = installed_plugins()
    heads = {name: plugins.task_head(name)() for name in plugins.names(TASK_HEADS)}
    return {name: head.templates[wording] for name, head in heads.items() if wording in head.templates}


class PromptMaker:
    """Draw prompts about clips, worded as the task heads word them.

    Args:
        builder: puts prompts into tokens.
        templates: name of the wording.
        odds: how often a prompt for masks is of a kind.
    """

    def __init__(
        self, builder: ConversationBuilder, templates: str, odds: Mapping[str, float] = MappingProxyType(PROMPT_ODDS)
    ) -> None:
        self._builder, self._odds = builder, odds
        self._templates = task_templates(templates)
        self._kinds: dict[str, Callable[[Clip, np.random.Generator, Media], PromptSample | None]] = {
            "refer": self._refer,
            "absent": self._absent,
            "several": self._several,
            "phrases": self._phrases,
            "reason": self._reason,
            "classes": self._classes,
            "panoptic": self._panoptic,
            "region": self._region,
            "regions": self._regions,
            "caption": self._caption,
        }

    def prompts(self, clip: Clip, rng: np.random.Generator, count: int, media: Media) -> list[PromptSample]:
        """Draw ``count`` prompts for masks; they are about the clip's first frame, motion apart."""
        kinds, odds = list(self._odds), np.array(list(self._odds.values()))
        samples: list[PromptSample] = []
        while len(samples) < count:
            sample = self._kinds[str(rng.choice(kinds, p=odds / odds.sum()))](clip, rng, media)
            if sample is not None:
                samples.append(sample)
        return samples

    def remembered(
        self, clip: Clip, rng: np.random.Generator, media: Media, nameless_share: float
    ) -> PromptSample | None:
        """Draw a prompt that means one object of the first frame by words that fit others too; None where none do.

        Args:
            clip: the clip.
            rng: chooses object and words.
            media: what the language model is shown.
            nameless_share: how often the words are those that fit everything, "the object".
        """
        seen = [k for k in range(len(clip.objects)) if (clip.labels[0] == k + 1).sum() > _MIN_PIXELS]
        looks = {k: (clip.objects[k].colour, clip.objects[k].shape) for k in seen}
        nameless = rng.random() < nameless_share
        options: list[tuple[int, str | None, str | None]] = []
        for k, look in looks.items():
            forms = [(None, None)] if nameless else [look, (look[0], None), (None, look[1])]
            for form in forms:
                fitting = [held for held in looks.values() if all(a in (None, b) for a, b in zip(form, held))]
                options += [(k, *form)] if len(fitting) > 1 else []
        alike = [option for option in options if None not in option]
        options = alike or options  # alike in everything: the hardest there is
        if not options:
            return None
        k, colour, shape = options[int(rng.integers(len(options)))]
        return self.of_object(clip, k, words.phrase(words.core(rng, colour, shape)), media)

    def of_object(self, clip: Clip, index: int, text: str, media: Media) -> PromptSample:
        """Return the prompt that means one object by words that fit others too."""
        return replace(self._named(Task.REFSEG, clip, media, [(text, (index,))]), remembered=True)

    def texts(self, clip: Clip, rng: np.random.Generator, count: int, media: Media) -> list[Conversation]:
        """Draw ``count`` questions that are answered in words alone."""
        asked: dict[str, list[tuple[str, str]]] = {}
        for question in questions(clip, rng):
            asked.setdefault(question.kind, []).append((question.text, question.answer))
        described = caption(clip, rng)
        kinds = [kind for kind in TEXT_ODDS if kind in asked or (kind == "caption" and described is not None)]
        odds = np.array([TEXT_ODDS[kind] for kind in kinds])
        drawn: list[Conversation] = []
        while len(drawn) < count:
            kind = str(rng.choice(kinds, p=odds / odds.sum()))
            if kind == "caption" and described is not None:
                drawn.append(self._builder.build(self._template(Task.GCGSEG), media, answer=marked(described)))
                continue
            text, answer = asked[kind][int(rng.integers(len(asked[kind])))]
            drawn.append(self._builder.build(self._template(Task.CHAT), media, text=text, answer=f"{answer}."))
        return drawn

    def _template(self, task: Task) -> Template:
        return self._templates[task.value]

    def _named(self, task: Task, clip: Clip, media: Media, phrases: list[tuple[str, tuple[int, ...]]]) -> PromptSample:
        """Return a prompt for one or several phrases, each with the objects it means."""
        classes = [-1] * len(clip.objects)
        for index, (_, meant) in enumerate(phrases):
            for k in meant:
                classes[k] = index
        conversation = self._builder.build(self._template(task), media, phrases=[text for text, _ in phrases])
        return PromptSample(conversation, tuple(classes))

    def _refer(self, clip: Clip, rng: np.random.Generator, media: Media) -> PromptSample | None:
        chosen = self._phrase(clip, rng, media)
        return None if chosen is None else self._named(Task.REFSEG, clip, media, [chosen])

    def _phrase(self, clip: Clip, rng: np.random.Generator, media: Media) -> tuple[str, tuple[int, ...]] | None:
        """Draw a phrase that means one object."""
        phrases: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
        for phrase in referring_phrases(clip, rng):
            phrases.setdefault(phrase.kind, []).append((phrase.text, phrase.object_indices))
        wanted = PHRASE_ODDS if media.steps is None else CLIP_PHRASE_ODDS
        kinds = [kind for kind in wanted if kind in phrases]
        if not kinds:
            return None
        odds = np.array([wanted[kind] for kind in kinds])
        options = phrases[str(rng.choice(kinds, p=odds / odds.sum()))]
        return options[int(rng.integers(len(options)))]

    def _absent(self, clip: Clip, rng: np.random.Generator, media: Media) -> PromptSample | None:
        absent = absent_phrases(clip, rng, 1)
        return self._named(Task.REFSEG, clip, media, [(absent[0].text, ())]) if absent else None

    def _several(self, clip: Clip, rng: np.random.Generator, media: Media) -> PromptSample | None:
        """Ask for everything of a shape or of a colour, be it one, several or none."""
        by_shape = rng.random() < 0.5
        own = [o.shape if by_shape else o.colour for o in clip.objects]
        name = words.pick(rng, tuple(own) if rng.random() < 0.85 else (words.SHAPES if by_shape else words.COLOURS))
        text = words.all_of(rng, None if by_shape else name, name if by_shape else None)
        meant = tuple(k for k, value in enumerate(own) if value == name)
        return self._named(Task.GREFSEG, clip, media, [(text, meant)])

    def _phrases(self, clip: Clip, rng: np.random.Generator, media: Media) -> PromptSample | None:
        """Ask for two or three phrases at once, sometimes with one that means nothing."""
        chosen: list[tuple[str, tuple[int, ...]]] = []
        for _ in range(int(rng.integers(2, 4))):
            phrase = self._phrase(clip, rng, media)
            if phrase is not None and not any(set(meant) & set(phrase[1]) for _, meant in chosen):
                chosen.append(phrase)
        if rng.random() < 0.3:
            chosen += [(phrase.text, ()) for phrase in absent_phrases(clip, rng, 1)]
        if len(chosen) < 2:
            return None
        order = rng.permutation(len(chosen))
        return self._named(Task.REFSEG, clip, media, [chosen[int(i)] for i in order])

    def _reason(self, clip: Clip, rng: np.random.Generator, media: Media) -> PromptSample | None:
        options = reasoning_phrases(clip, rng)
        if not options:
            return None
        phrase = options[int(rng.integers(len(options)))]
        return self._named(Task.REASEG, clip, media, [(phrase.text, phrase.object_indices)])

    def _classes(self, clip: Clip, rng: np.random.Generator, media: Media) -> PromptSample:
        listed = class_list(clip, rng, background_share=0.25)
        return self._listed(listed.names, listed.object_classes, listed.stuff, media)

    def _panoptic(self, clip: Clip, rng: np.random.Generator, media: Media) -> PromptSample:
        listed = panoptic_list(clip, rng)
        return self._listed(listed.names, listed.object_classes, listed.stuff, media)

    def _listed(
        self, names: tuple[str, ...], classes: tuple[int, ...], stuff: tuple[int, ...], media: Media
    ) -> PromptSample:
        conversation = self._builder.build(self._template(Task.GENSEG), media, phrases=names)
        return PromptSample(conversation, classes, stuff=stuff[0] if stuff else -1)

    def _region(self, clip: Clip, rng: np.random.Generator, media: Media) -> PromptSample | None:
        """Point at one object; in X2SAM that means its category, so look-alikes of the object are wanted too."""
        return self._pointed(Task.OBJSEG, clip, rng, media, 1)

    def _regions(self, clip: Clip, rng: np.random.Generator, media: Media) -> PromptSample | None:
        return self._pointed(Task.VGDSEG, clip, rng, media, int(rng.integers(2, 4)))

    def _pointed(
        self, task: Task, clip: Clip, rng: np.random.Generator, media: Media, count: int
    ) -> PromptSample | None:
        """Point at up to ``count`` objects of different looks."""
        visible = [k for k in range(len(clip.objects)) if (clip.labels[0] == k + 1).sum() > _MIN_PIXELS]
        looks = [(o.shape, o.colour) for o in clip.objects]
        chosen: list[int] = []
        for k in (visible[int(i)] for i in rng.permutation(len(visible))):
            if len(chosen) < count and looks[k] not in [looks[c] for c in chosen]:
                chosen.append(k)
        if not chosen or (count > 1 and len(chosen) < 2):
            return None
        kinds = rng.choice(list(_REGION_ODDS), len(chosen), p=list(_REGION_ODDS.values()))
        masks = tuple(region_prompt(clip, k, 0, rng, str(kind)).mask for k, kind in zip(chosen, kinds))
        classes = tuple(next((i for i, c in enumerate(chosen) if looks[c] == look), -1) for look in looks)
        return PromptSample(self._builder.build(self._template(task), media, regions=len(chosen)), classes, masks)

    def _caption(self, clip: Clip, rng: np.random.Generator, media: Media) -> PromptSample | None:
        described = caption(clip, rng)
        if described is None:
            return None
        classes = [-1] * len(clip.objects)
        for index, phrase in enumerate(described.phrases):
            for k in phrase.object_indices:
                classes[k] = index
        conversation = self._builder.build(self._template(Task.GCGSEG), media, answer=marked(described))
        return PromptSample(conversation, tuple(classes))


def marked(described: Caption) -> str:
    """Return a caption as the language model is to write it: phrases marked, and ``<SEG>`` at the end."""
    text, end = "", 0
    for phrase in described.phrases:
        inside = described.text[phrase.start : phrase.end]
        text += f"{described.text[end : phrase.start]}{PHRASE_START}{inside}{PHRASE_END}"
        end = phrase.end
    return f"{text}{described.text[end:]} {SEG_TOKEN}."
