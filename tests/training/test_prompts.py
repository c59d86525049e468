"""Prompts of every task: what they ask for is what the labels show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from tests.unit.model.networks import nano_tokenizer
from x2sam_ros.model.conversation import Conversation, ConversationBuilder, Media
from x2sam_ros.training.prompts import PROMPT_ODDS, TEXT_ODDS, PromptMaker, PromptSample, marked
from x2sam_ros.training.samples import FIRST_TRAINING_SEED
from x2sam_ros.training.scenes import Clip, caption, generate_clip

Draw = Callable[[Clip, np.random.Generator, Media], PromptSample | None]
PICTURE, VIDEO = Media(tokens_per_step=12), Media(tokens_per_step=12, steps=2)


def maker() -> PromptMaker:
    return PromptMaker(ConversationBuilder(nano_tokenizer()), "short")


def clips(count: int, frames: int = 1) -> list[Clip]:
    kinds = ("plain", "twins", "distractors")
    return [generate_clip(FIRST_TRAINING_SEED + i, frames, 96, 128, kind=kinds[i % len(kinds)]) for i in range(count)]


def words(conversation: Conversation) -> str:
    return nano_tokenizer().decode(conversation.input_ids.tolist())


def phrases(conversation: Conversation) -> list[str]:
    text = words(conversation)
    return [part.split("</p>")[0] for part in text.split("<p>")[1:]]


def test_classes_name_phrases_of_their_conversation() -> None:
    rng = np.random.default_rng(0)
    for clip in clips(12):
        for sample in maker().prompts(clip, rng, 12, PICTURE):
            assert len(sample.classes) == len(clip.objects)
            named = [*sample.classes, sample.stuff]
            assert min(named) >= -1 and max(named) < sample.conversation.num_phrases
            assert (sample.conversation.seg_ids == 0).sum() == 1
            if sample.regions:
                assert len(sample.regions) == sample.conversation.num_phrases
                for index, region in enumerate(sample.regions):
                    wanted = np.isin(clip.labels[0], [k + 1 for k, c in enumerate(sample.classes) if c == index])
                    assert (region & wanted).sum() > 0
            if sample.stuff >= 0:
                assert phrases(sample.conversation)[sample.stuff] == "background"


def test_colours_and_shapes_in_the_words_are_those_of_the_objects() -> None:
    rng, checked = np.random.default_rng(1), 0
    for clip in clips(20):
        for sample in maker().prompts(clip, rng, 10, PICTURE):
            for index, phrase in enumerate(phrases(sample.conversation)):
                for k, label in enumerate(sample.classes):
                    o = clip.objects[k]
                    if label != index or " the " in phrase[4:]:
                        continue  # a relation names another object too
                    for value, options in (
                        (o.colour, ("red", "green", "blue")),
                        (o.shape, ("circle", "square", "star")),
                    ):
                        said = [word for word in options if word in phrase.split()]
                        assert not said or said == [value], (phrase, o)
                        checked += bool(said)
    assert checked > 50


def test_every_kind_is_drawn_about_as_often_as_asked() -> None:
    made: Counter[str] = Counter()

    class Counting(PromptMaker):
        def __init__(self) -> None:
            super().__init__(ConversationBuilder(nano_tokenizer()), "short")
            self._kinds = {kind: self._counted(kind) for kind in self._kinds}

        def _counted(self, kind: str) -> Draw:
            draw = self._kinds[kind]

            def counted(clip: Clip, rng: np.random.Generator, media: Media) -> PromptSample | None:
                sample = draw(clip, rng, media)
                made[kind] += sample is not None
                return sample

            return counted

    rng, counting = np.random.default_rng(2), Counting()
    for clip in clips(30):
        counting.prompts(clip, rng, 20, PICTURE)
    assert set(made) == set(PROMPT_ODDS)
    for kind, odds in PROMPT_ODDS.items():
        assert 0.4 * odds < made[kind] / made.total() < 1.8 * odds, kind


def test_questions_have_short_answers_and_captions_marked_phrases() -> None:
    rng, seen = np.random.default_rng(3), Counter[str]()
    for clip in clips(15):
        for conversation in maker().texts(clip, rng, 6, PICTURE):
            answer = nano_tokenizer().decode(conversation.answer_ids)
            if "Describe" in words(conversation):
                described = caption(clip, rng)
                assert described is not None and answer == f"{marked(described)}<|im_end|>"
                seen["caption"] += 1
            else:
                assert answer.endswith(".<|im_end|>") and " " not in answer.split(".")[0]
                assert "?" in words(conversation) and conversation.num_phrases == 0
                seen["question"] += 1
    assert seen["caption"] / seen.total() == pytest.approx(TEXT_ODDS["caption"], abs=0.12)


def test_motion_is_asked_for_only_where_a_clip_is_shown() -> None:
    moving = ("moving", "moves", "going")
    found = {}
    for media in (PICTURE, VIDEO):
        rng = np.random.default_rng(4)
        texts = [words(s.conversation) for clip in clips(20, 4) for s in maker().prompts(clip, rng, 8, media)]
        found[media] = sum(any(word in text for word in moving) for text in texts)
    assert found[PICTURE] == 0 and found[VIDEO] > 5
