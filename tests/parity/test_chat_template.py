"""The words around every prompt and answer, against the reference's chat template."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from tests.shared_data import parity_folder
from x2sam_ros.model.conversation import ConversationBuilder, Media
from x2sam_ros.model.generation import STOP_TOKENS
from x2sam_ros.model.template import Template
from x2sam_ros.model.tokenizer import Tokenizer, load_tokenizer

ASK = Template("{text}", None)


@pytest.fixture(scope="module")
def pieces() -> dict[str, Any]:
    templates: dict[str, Any] = json.loads((parity_folder("prompts") / "templates.json").read_text())
    return templates


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    folder = parity_folder("tiny_full")
    token_ids: dict[str, int] = json.loads((folder / "config.json").read_text())["token_ids"]
    return load_tokenizer(folder / "tokenizer", token_ids)


@pytest.fixture(scope="module")
def builder(tokenizer: Tokenizer) -> ConversationBuilder:
    return ConversationBuilder(tokenizer)


def test_a_question_is_put_as_the_reference_puts_it(
    pieces: dict[str, Any], tokenizer: Tokenizer, builder: ConversationBuilder
) -> None:
    """The published configurations give no system text, so there is no turn of that kind."""
    instruction = pieces["chat_template"]["INSTRUCTION"]
    asked = builder.build(ASK, None, text="What is this?")
    assert tuple(asked.input_ids.tolist()) == tokenizer.encode_template(instruction.format(input="What is this?"))
    # a picture is a token in the reference's text, and its features' placeholders in the prompt
    start, end = pieces["image_token"].split("<image>")
    shown = builder.build(ASK, Media(2), text="What is this?")
    words = tokenizer.decode(shown.input_ids.tolist())
    assert words == instruction.format(input=f"{start}{end}What is this?")
    assert pieces["video_token"].split("<video>") == [start, end]
    clip = tokenizer.decode(builder.build(ASK, Media(2, 2), text="What is this?").input_ids.tolist())
    stamps = "".join(f"<{second} seconds>{start}{end}" for second in ("1.0", "2.0"))
    assert clip == instruction.format(input=f"{stamps}What is this?")


def test_a_region_is_marked_as_the_reference_marks_it(
    pieces: dict[str, Any], tokenizer: Tokenizer, builder: ConversationBuilder
) -> None:
    asked = builder.build(Template("Segment {phrases}.", None), None, regions=2)
    marked = ", ".join([pieces["region_phrase"].replace("<region>", "")] * 2)
    assert f"Segment {marked}." in tokenizer.decode(asked.input_ids.tolist())


def test_turns_follow_each_other_as_in_the_reference(
    pieces: dict[str, Any], tokenizer: Tokenizer, builder: ConversationBuilder
) -> None:
    chat = pieces["chat_template"]
    assert chat["SUFFIX_AS_EOS"]
    expected: list[int] = []
    for question, answer in (("What is this?", "A bed."), ("Where?", "There.")):
        expected += tokenizer.encode_template(chat["INSTRUCTION"].format(input=question))
        expected += tokenizer.encode_template(answer + chat["SUFFIX"])
        expected += tokenizer.encode_template(chat["SEP"])
    for ending in (chat["SUFFIX"] + chat["SEP"], chat["SUFFIX"], ""):  # an answer as given, as written, and cut
        first = builder.answered(
            builder.build(ASK, None, text="What is this?"), tokenizer.encode_template("A bed." + ending)
        )
        second = builder.follow_up(first, "Where?")
        whole = builder.answered(second, tokenizer.encode_template("There." + chat["SUFFIX"] + chat["SEP"]))
        np.testing.assert_array_equal(whole.input_ids, expected)


def test_answers_end_at_the_references_stop_words(pieces: dict[str, Any]) -> None:
    assert set(STOP_TOKENS) == set(pieces["chat_template"]["STOP_WORDS"])


def test_every_question_gives_the_tokens_of_the_finished_sentence(
    pieces: dict[str, Any], tokenizer: Tokenizer, builder: ConversationBuilder
) -> None:
    lists = {f"{task} {name}": texts for task, kinds in pieces["tasks"].items() for name, texts in kinds.items()}
    questions = {name: texts for name, texts in lists.items() if "QUESTIONS" in name}
    assert questions
    for name, texts in questions.items():
        for text in texts:
            slot = re.search(r"\{(categories|phrase|sent|regions)\}", text)
            found = {} if slot is None else {"phrases": ["red circle", "What is it?"]}
            built = builder.build(Template(re.sub(r"\{\w+\}", "{phrases}", text), None), None, **found)
            said = re.sub(r"\{\w+\}", "<p>red circle</p>, <p>What is it?</p>", text)
            expected = tokenizer.encode_template(pieces["chat_template"]["INSTRUCTION"].format(input=said))
            assert tuple(built.input_ids.tolist()) == expected, f"{name}: {text}"
