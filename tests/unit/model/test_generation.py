"""Answers written token by token: equal to one pass, streamed whole, bounded, asked on without reading twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.model.networks import nano, nano_tokenizer
from x2sam_ros.errors import ConfigError, ModelError, PromptError
from x2sam_ros.model.config import preset
from x2sam_ros.model.conversation import Conversation, Media
from x2sam_ros.model.generation import Generated
from x2sam_ros.model.language import VisionFeatures
from x2sam_ros.model.template import Template
from x2sam_ros.model.x2sam import X2SAM

REFER = Template("Segment {phrases}.", "It is <SEG>.")
FIND = Template("Segment {phrases}.", None)
ASK = Template("{text}", None)
CLOSE = 1e-4


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> X2SAM:
    return nano()


def look(model: X2SAM, seed: int = 0, steps: int = 1) -> tuple[Media, VisionFeatures]:
    """Return a picture of noise, or a clip of that many frame pairs, as the language model sees it."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.tensor([[steps, 4, 6]])
    patches = torch.randn(int(grid.prod()), model.config.language.vision.patch_dim, generator=generator)
    with torch.no_grad():
        vision = model.language.encode_image(patches, grid)
    return Media(vision.counts[0] // steps, None if steps == 1 else steps), vision


@contextmanager
def counted(model: X2SAM) -> Iterator[list[int]]:
    """Yield a list that gains the number of tokens of each pass of the language model."""
    passes: list[int] = []
    hook = model.language.text.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        yield passes
    finally:
        hook.remove()


def dictate(model: X2SAM, answer: str | tuple[int, ...]) -> Callable[[Tensor], int]:
    """Return a choice of tokens that spells out an answer, and after it the end of the turn."""
    ids = model.tokenizer.encode_template(answer) if isinstance(answer, str) else answer
    given = iter([*ids, model.tokenizer.control_ids["<|im_end|>"]])
    return lambda logits: next(given)


def say(model: X2SAM, answer: str, template: Template = FIND, **options: Any) -> Generated:
    media, vision = look(model)
    slots: dict[str, Any] = {"text": "What is it?"} if "{text}" in template.question else {"phrases": ["cup", "red"]}
    conversation = model.conversations.build(template, media, **slots)
    return model.generate(conversation, vision, choose=dictate(model, answer), **options)


@pytest.mark.parametrize("steps", [1, 3], ids=["picture", "clip"])
def test_written_token_by_token_equals_one_pass(model: X2SAM, steps: int) -> None:
    media, vision = look(model, steps=steps)
    conversation = model.conversations.build(ASK, media, text="What is it?")
    generated = model.generate(conversation, vision, max_new_tokens=12, stop_tokens=())
    assert generated.finish == "length" and len(generated.conversation.answer_ids) == 12

    ids: list[int] = []
    for _ in range(12):  # the slow way: the whole conversation again for each token
        hidden = model.states([model.conversations.answered(conversation, ids)], vision)
        ids.append(int(model.language.logits(hidden[0, -1])[: len(model.tokenizer)].argmax()))
    assert generated.conversation.answer_ids == tuple(ids)
    assert (generated.hidden - hidden).abs().max() < CLOSE


def test_rows_of_the_embedding_without_a_token_are_never_chosen(model: X2SAM) -> None:
    seen: list[int] = []

    def choose(logits: Tensor) -> int:
        seen.append(len(logits))
        return int(logits.argmax())

    media, vision = look(model)
    model.generate(model.conversations.build(ASK, media, text="?"), vision, choose=choose, max_new_tokens=1)
    assert seen == [len(model.tokenizer)] and len(model.tokenizer) < model.config.language.text.vocab_size


@pytest.mark.parametrize("stop", ["<|im_end|>", "<|endoftext|>"])
def test_a_stop_token_ends_the_answer(model: X2SAM, stop: str) -> None:
    generated = say(model, f"It is <SEG>.{stop} red")
    assert generated.finish == "stop"
    assert generated.answer.text == "It is ."
    assert model.tokenizer.decode(generated.conversation.answer_ids) == f"It is <SEG>.{stop}"
    assert generated.hidden.shape[1] == len(generated.conversation.input_ids) - 1
    other = say(model, f"It is{stop} red<SEG>", stop_tokens=("<SEG>",))
    assert other.answer.text == "It is red"


def test_an_answer_is_cut_at_the_limit(model: X2SAM) -> None:
    for limit in (1, 3):
        cut = say(model, "It is a red circle", max_new_tokens=limit)
        assert cut.finish == "length" and len(cut.conversation.answer_ids) == limit
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        say(model, "red", max_new_tokens=0)
    with pytest.raises(ConfigError, match="unknown stop tokens"):
        say(model, "red", stop_tokens=("<stop>",))


def test_the_caller_can_end_an_answer(model: X2SAM) -> None:
    for tokens in (0, 1, 4):
        polls = iter([False] * tokens + [True])
        generated = say(model, "It is a red circle", cancelled=lambda: next(polls))  # noqa: B023
        assert generated.finish == "cancelled"
        assert len(generated.conversation.answer_ids) == tokens
        assert generated.condition(model) is None


def small(max_positions: int) -> X2SAM:
    config = preset("nano")
    text = replace(config.language.text, max_position_embeddings=max_positions)
    torch.manual_seed(0)
    return X2SAM(replace(config, language=replace(config.language, text=text)), nano_tokenizer()).eval()


def test_an_answer_ends_where_the_positions_do() -> None:
    media, vision = look(nano())
    length = len(nano().conversations.build(ASK, media, text="Hm").input_ids)
    model = small(length + 2)
    conversation = model.conversations.build(ASK, media, text="Hm")
    generated = model.generate(conversation, vision, choose=dictate(model, "It is a red circle"))
    assert generated.finish == "length" and len(generated.conversation.answer_ids) == 2
    longer = model.conversations.follow_up(generated.conversation, "And?")
    with pytest.raises(PromptError, match=f"{len(longer.input_ids)} tokens.* at most {length + 2}"):
        model.generate(longer, prefix=generated.prefix)


def test_too_many_classes_are_refused(model: X2SAM) -> None:
    media, vision = look(model)
    limit = model.config.language.text.max_position_embeddings
    classes = [f"a large red circle number {index}" for index in range(limit // 6)]
    conversation = model.conversations.build(REFER, media, phrases=classes)
    message = f"{len(conversation.input_ids)} tokens.* at most {limit}; ask with fewer classes"
    with pytest.raises(PromptError, match=message):
        model.understand(conversation, vision)
    with pytest.raises(PromptError, match=message):
        model.understand(conversation, prefix=model.prefix(media, vision))
    assert model.understand(model.conversations.build(REFER, media, phrases=classes[:50]), vision).num_phrases == 50


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It is a red circle.", "It is a red circle."),
        (" a  b ", "a b"),
        ("caf\u00e9 \u8d64\u3044\u5186", "caf\u00e9 \u8d64\u3044\u5186"),
        ("<p>\U0001f7e5</p>\u3000\U0001f7e5", "\U0001f7e5 \U0001f7e5"),
    ],
)
def test_text_comes_in_whole_characters(model: X2SAM, text: str, words: str) -> None:
    media, vision = look(model)
    pieces: list[str] = []
    generated = model.generate(
        model.conversations.build(ASK, media, text="What is it?"),
        vision,
        choose=dictate(model, text),
        on_text=pieces.append,
    )
    assert "".join(pieces) == generated.answer.text == words
    assert len(generated.conversation.answer_ids) > len(pieces)  # a character is several tokens, a marker is silent
    assert len(pieces) > 1 and "" not in pieces
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_whatever_is_written_nothing_said_is_taken_back(model: X2SAM) -> None:
    generator = np.random.default_rng(0)
    media, vision = look(model)
    prompt = model.conversations.build(ASK, media, text="What is it?")
    control = [*model.tokenizer.control_ids.values()]
    halves = model.tokenizer.encode_plain("\u00e9\u8d64\u3000\U0001f7e5\u0416 \n\t a b\N{REPLACEMENT CHARACTER}")
    for _ in range(20):
        ids = tuple(int(token) for token in generator.choice([*halves * 3, *control], 40))
        pieces: list[str] = []
        written = model.generate(
            prompt, vision, choose=dictate(model, ids), on_text=pieces.append, stop_tokens=(), max_new_tokens=40
        )
        assert "".join(pieces) == written.answer.text == model.conversations.read_answer(ids).text


# answer as written, where it is cut (None: it ends by itself), phrases that steer the masks (None: no masks)
ANSWERS = [
    ("It is <SEG>.", None, 2),
    ("<p>a man</p> <SEG>.", None, 1),
    ("<p>a man</p>, <p>a bed</p>, <p>a dog</p> <SEG>.", None, 3),
    ("<SEG> <p>a man</p> <SEG>", None, 1),
    ("<p>a man <SEG>", None, 2),
    ("<p>a <p>man</p></p> <SEG>", None, 1),
    ("<p></p> <SEG>", None, 2),
    ("Nothing.", None, None),
    ("", None, None),
    ("<p>a man</p>", None, None),
    ("<SEG>", 1, None),
    ("<SEG><p>red</p>", -1, 2),
]


@pytest.mark.parametrize(("answer", "cut", "phrases"), ANSWERS)
def test_what_an_answer_asks_for(model: X2SAM, answer: str, cut: int | None, phrases: int | None) -> None:
    length = len(model.tokenizer.encode_template(answer))
    limit = {None: 256, -1: length}.get(cut, cut)
    generated = say(model, answer, max_new_tokens=limit)
    assert generated.finish == ("stop" if cut is None else "length")
    condition = generated.condition(model)
    if phrases is None:
        assert condition is None
        return
    assert condition is not None and condition.num_phrases == phrases
    assert len(generated.answer.phrases) in (0, phrases)
    if cut is None:  # the same as a pass over the finished conversation
        vision = look(model)[1]
        whole = model.understand(generated.conversation, vision)
        for key, tensor in vars(whole).items():
            assert torch.allclose(getattr(condition, key).float(), tensor.float(), atol=CLOSE), key


def test_no_phrase_anywhere_steers_nothing(model: X2SAM) -> None:
    generated = say(model, "It is <SEG>.", ASK)
    assert generated.answer.num_seg == 1
    assert generated.condition(model) is None
    with pytest.raises(ModelError, match="names no phrase"):
        model.understand(generated.conversation, look(model)[1])


def test_the_last_seg_steers(model: X2SAM) -> None:
    generated = say(model, "<p>a</p> <SEG> and <p>b</p> <SEG>.")
    condition = generated.condition(model)
    assert condition is not None
    where = np.flatnonzero(generated.conversation.seg_ids == 0)
    assert len(where) == 2
    expected = model.mlm_projector(generated.hidden[:, int(where[-1])])
    assert torch.allclose(condition.seg_embeds[:, 0], expected, atol=CLOSE)


def test_an_answered_conversation_is_not_continued(model: X2SAM) -> None:
    media, vision = look(model)
    with pytest.raises(PromptError, match="already has its answer"):
        model.generate(model.conversations.build(REFER, media, phrases=["cup"]), vision)


@pytest.mark.parametrize("steps", [1, 2], ids=["picture", "clip"])
def test_a_picture_is_read_once_for_all_prompts(model: X2SAM, steps: int) -> None:
    media, vision = look(model, steps=steps)
    prompts = [model.conversations.build(REFER, media, phrases=[p]) for p in ("cup", "a large red circle", "square")]
    slow = [model.understand(prompt, vision) for prompt in prompts]
    with counted(model) as passes:
        prefix = model.prefix(media, vision)
        fast = [model.understand(prompt, vision, prefix=prefix) for prompt in prompts]
        again = model.understand(prompts[0], prefix=prefix)
    opening = len(model.conversations.opening(media).input_ids)
    assert passes == [opening, *(len(p.input_ids) - opening for p in (*prompts, prompts[0]))]
    for one, other in zip([*slow, slow[0]], [*fast, again]):
        for key, tensor in vars(one).items():
            assert torch.allclose(tensor.float(), getattr(other, key).float(), atol=CLOSE), key
    text = model.config.language.text
    keys_values = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    assert prefix.nbytes == opening * 4 * (text.hidden_size + keys_values)


def test_prompts_on_one_picture_in_one_pass(model: X2SAM) -> None:
    media, vision = look(model)
    prompts = [model.conversations.build(REFER, media, phrases=[p]) for p in ("cup", "a large red circle", "square")]
    prefix = model.prefix(media, vision)
    together = model.understand_all(prompts, prefix=prefix)
    for row, prompt in enumerate(prompts):
        alone = model.understand(prompt, vision)
        assert torch.allclose(together.cond_embeds[row], alone.cond_embeds[0], atol=CLOSE)
        assert torch.allclose(together.seg_embeds[row], alone.seg_embeds[0], atol=CLOSE)
        tokens = together.token_embeds[row, together.token_mask[row]]
        assert torch.allclose(tokens, alone.token_embeds[0], atol=CLOSE)


def test_a_prefix_never_changes(model: X2SAM) -> None:
    media, vision = look(model)
    prefix = model.prefix(media, vision)
    before = [tensor.clone() for pair in prefix.keys_values for tensor in pair]
    asked = [model.conversations.build(ASK, media, text=text) for text in ("What?", "How many red circles?")]
    first = [model.generate(c, prefix=prefix, max_new_tokens=6).hidden for c in asked]
    second = [model.generate(c, prefix=prefix, max_new_tokens=6).hidden for c in reversed(asked)]
    assert torch.equal(first[0], second[1]) and torch.equal(first[1], second[0])
    assert all(map(torch.equal, before, (tensor for pair in prefix.keys_values for tensor in pair)))


def test_regions_after_a_prefix(model: X2SAM) -> None:
    media, vision = look(model)
    region = model.config.region
    tokens = torch.randn(2, region.tokens_per_region, model.config.language.text.hidden_size)
    conversation = model.conversations.build(REFER, media, regions=2)
    slow = model.understand(conversation, vision, tokens)
    prefix = model.prefix(media, vision)
    assert torch.allclose(
        model.understand(conversation, vision, tokens, prefix).cond_embeds, slow.cond_embeds, atol=CLOSE
    )
    written = model.generate(
        replace_answer(conversation), None, tokens, prefix, choose=dictate(model, "It is <SEG>.")
    ).condition(model)
    assert written is not None and torch.allclose(written.cond_embeds, slow.cond_embeds, atol=CLOSE)
    with pytest.raises(ModelError, match="region tokens"):
        model.understand(conversation, vision, None, prefix)


def replace_answer(conversation: Conversation) -> Conversation:
    """Return the prompt alone."""
    ids = (conversation.input_ids, conversation.cond_ids, conversation.seg_ids)
    start = conversation.answer_start
    return Conversation(*(values[:start] for values in ids), start)


@pytest.mark.parametrize("finish", ["stop", "length", "cancelled"])
def test_a_chat_reads_each_token_once(model: X2SAM, finish: str) -> None:
    media, vision = look(model)
    options: dict[str, Any] = {"length": {"max_new_tokens": 3}, "cancelled": {"cancelled": cancel_after(2)}}.get(
        finish, {}
    )
    first = model.conversations.build(ASK, media, text="What is it?")
    with counted(model) as passes:
        turn = model.generate(first, vision, choose=dictate(model, "A red circle."), **options)
        assert turn.finish == finish
        second = model.conversations.follow_up(turn.conversation, "Where is it?")
        fast = model.generate(second, prefix=turn.prefix, choose=dictate(model, "<p>It</p> <SEG>."))
    assert sum(passes) == fast.hidden.shape[1] == len(fast.conversation.input_ids) - 1
    slow = model.generate(second, vision, choose=dictate(model, "<p>It</p> <SEG>."))
    assert (fast.hidden - slow.hidden).abs().max() < CLOSE
    conditions = fast.condition(model), slow.condition(model)
    assert conditions[0] is not None and conditions[1] is not None
    assert torch.allclose(conditions[0].cond_embeds, conditions[1].cond_embeds, atol=CLOSE)
    assert fast.prefix.vision is vision


def cancel_after(tokens: int) -> Callable[[], bool]:
    polls = iter([False] * tokens + [True])
    return lambda: next(polls)


def test_an_answer_ended_before_it_began_can_be_asked_for_again(model: X2SAM) -> None:
    media, vision = look(model)
    prompt = model.conversations.build(ASK, media, text="What is it?")
    nothing = model.generate(prompt, vision, cancelled=lambda: True)
    assert nothing.answer.text == "" and nothing.finish == "cancelled"
    with counted(model) as passes:
        later = model.generate(prompt, prefix=nothing.prefix, max_new_tokens=4, stop_tokens=())
    assert passes == [1, 1, 1]
    whole = model.generate(prompt, vision, max_new_tokens=4, stop_tokens=())
    assert later.conversation.answer_ids == whole.conversation.answer_ids


def test_a_prefix_of_something_else_is_refused(model: X2SAM) -> None:
    media, vision = look(model)
    other_media, other = look(model, seed=1)
    conversation = model.conversations.build(REFER, media, phrases=["cup"])
    prefix = model.prefix(other_media, other)
    with pytest.raises(ModelError, match="another picture"):
        model.understand(conversation, vision, prefix=prefix)
    clip, frames = look(model, steps=2)
    with pytest.raises(ModelError, match="does not begin"):
        model.understand(conversation, prefix=model.prefix(clip, frames))
    with pytest.raises(ModelError, match="does not begin"):
        model.understand(model.conversations.build(REFER, None, phrases=["cup"]), prefix=prefix)


def test_a_chat_about_nothing_seen(model: X2SAM) -> None:
    prompt = model.conversations.build(ASK, None, text="Hello?")
    turn = model.generate(prompt, choose=dictate(model, "Yes."))
    assert turn.answer.text == "Yes." and turn.prefix.vision is None
    follow_up = model.conversations.follow_up(turn.conversation, "Sure?")
    fast, slow = (
        model.generate(follow_up, prefix=prefix, choose=dictate(model, "Yes.")).hidden for prefix in (turn.prefix, None)
    )
    assert (fast - slow).abs().max() < CLOSE
