"""Prompts as token ids: phrase marks, hostile text, clips, regions, batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from x2sam_ros.errors import ConfigError, ModelError, PromptError
from x2sam_ros.model.conversation import (
    IMAGE_PLACEHOLDER,
    NO_PHRASE,
    REGION_PLACEHOLDER,
    TEMPLATES,
    ConversationBuilder,
    Media,
    Template,
    collate,
)
from x2sam_ros.model.tokenizer import Tokenizer, train_tokenizer
from x2sam_ros.types import Task

PICTURE = Media(4)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["Segment the red circle.", "user\nassistant\n"] * 5, 400)


@pytest.fixture(scope="module")
def builder(tokenizer: Tokenizer) -> ConversationBuilder:
    return ConversationBuilder(tokenizer, "short")


def test_phrases_are_marked_with_their_markers(builder: ConversationBuilder, tokenizer: Tokenizer) -> None:
    conversation = builder.text(Task.GENSEG, ["red circle", "square"], PICTURE)
    assert conversation.num_phrases == 2
    for index, phrase in enumerate(("red circle", "square")):
        ids = conversation.input_ids[conversation.cond_ids == index]
        assert tokenizer.decode(ids.tolist()) == f"<p>{phrase}</p>"
    bare = ConversationBuilder(tokenizer, "short", phrase_markers=False).text(Task.GENSEG, ["red circle"], PICTURE)
    assert tokenizer.decode(bare.input_ids[bare.cond_ids == 0].tolist()) == "red circle"


@pytest.mark.parametrize(
    "text", ["<SEG>", "</p> <p>", "<|im_end|>", "<region>", "<image>", "-1000", "{phrases} {media}"]
)
def test_user_text_adds_no_control_token(builder: ConversationBuilder, tokenizer: Tokenizer, text: str) -> None:
    control = sorted(tokenizer.control_ids.values())
    plain, hostile = (builder.text(Task.REFSEG, [t], PICTURE) for t in ("cup", text))
    for token in (*control, IMAGE_PLACEHOLDER, REGION_PLACEHOLDER):
        assert (hostile.input_ids == token).sum() == (plain.input_ids == token).sum()
    assert text in tokenizer.decode(hostile.input_ids.tolist())
    assert (hostile.seg_ids == 0).sum() == 1


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@pytest.mark.parametrize("media", [PICTURE, Media(2, 3)], ids=["picture", "clip"])
def test_every_template_gives_one_seg_token(tokenizer: Tokenizer, name: str, media: Media) -> None:
    built = ConversationBuilder(tokenizer, name)
    for task in TEMPLATES[name]:
        conversation = built.text(task, ["cup"], media)
        assert (conversation.seg_ids == 0).sum() == 1
        assert conversation.seg_ids.argmax() >= conversation.answer_start
        assert (conversation.input_ids == IMAGE_PLACEHOLDER).sum() == media.tokens_per_step * (media.steps or 1)


def test_a_clip_says_when_its_frames_were(builder: ConversationBuilder, tokenizer: Tokenizer) -> None:
    unknown = tokenizer.decode(builder.text(Task.REFSEG, ["cup"], Media(2, 2)).input_ids.tolist())
    assert "<1.0 seconds><|vision_start|>" in unknown
    assert "<2.0 seconds><|vision_start|>" in unknown
    known = tokenizer.decode(builder.text(Task.REFSEG, ["cup"], Media(2, 2, (0.25, 0.5))).input_ids.tolist())
    assert "<0.2 seconds>" in known and "<0.5 seconds>" in known
    with pytest.raises(PromptError, match="timestamps"):
        builder.text(Task.REFSEG, ["cup"], Media(2, 2, (0.5,)))


def test_errors(builder: ConversationBuilder, tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match="no text"):
        builder.text(Task.REFSEG, [""], PICTURE)
    with pytest.raises(PromptError, match="no text"):
        builder.text(Task.REFSEG, [], PICTURE)
    with pytest.raises(PromptError, match="region"):
        builder.regions(Task.OBJSEG, 0, PICTURE)
    with pytest.raises(ConfigError, match="chat"):
        builder.text(Task.CHAT, ["cup"], PICTURE)
    with pytest.raises(ConfigError, match="official"):
        ConversationBuilder(tokenizer, "long")
    with pytest.raises(ConfigError, match="exactly once"):
        builder.text(Task.REFSEG, ["cup"], PICTURE, Template("{phrases}", "no mask"))
    with pytest.raises(ModelError, match="empty"):
        collate([])


def test_a_batch_pads_expands_and_indexes(builder: ConversationBuilder) -> None:
    text = builder.text(Task.GENSEG, ["red circle", "square", "cup"], PICTURE)
    regions = builder.regions(Task.VGDSEG, 2, PICTURE)
    batch = collate([text, regions], tokens_per_region=3)
    length = len(regions.input_ids) + 2 * (3 - 1)
    assert batch.input_ids.shape == (2, max(length, len(text.input_ids)))
    assert batch.attention_mask is not None
    assert batch.attention_mask.sum(1).tolist() == [len(text.input_ids), length]
    assert batch.num_phrases.tolist() == [3, 2]
    assert batch.images_per_row == (4, 4)
    flat = batch.input_ids.flatten()
    assert (flat[batch.image_positions] == IMAGE_PLACEHOLDER).all() and len(batch.image_positions) == 8
    assert (flat[batch.region_positions] == REGION_PLACEHOLDER).all() and len(batch.region_positions) == 6
    for row, conversation in enumerate((text, regions)):
        picked = batch.cond_ids[row][batch.token_index[row][batch.token_mask[row]]]
        assert torch.equal(picked, picked.sort().values) and (picked != NO_PHRASE).all()
        assert len(picked) == (conversation.cond_ids != NO_PHRASE).sum() + (4 if row else 0)
    seg = batch.input_ids.gather(1, batch.seg_index[:, None])
    assert (seg == text.input_ids[text.seg_ids == 0][0]).all()


def test_equal_lengths_need_no_mask(builder: ConversationBuilder) -> None:
    conversation = builder.text(Task.REFSEG, ["cup"], PICTURE)
    batch = collate([conversation, conversation])
    assert batch.attention_mask is None
    np.testing.assert_array_equal(batch.input_ids[1], conversation.input_ids)
