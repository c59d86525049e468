"""From samples to tensors: masks in their cells, prompts in tokens, and pictures of different sizes in one batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.model.networks import nano_tokenizer, new_nano
from x2sam_ros.config import TrainConfig
from x2sam_ros.errors import TruthError
from x2sam_ros.model.config import preset
from x2sam_ros.model.conversation import IMAGE_PLACEHOLDER, REGION_PLACEHOLDER
from x2sam_ros.model.template import Template
from x2sam_ros.rle import encode_rle
from x2sam_ros.training.data.collate import Preparer, collate_prepared
from x2sam_ros.training.data.sample import Asked, Shown, Wanted
from x2sam_ros.training.objective import batch_loss, batch_scores

NANO = preset("nano")
SEGMENT, DESCRIBE, CHAT = (
    Template("Segment {phrases}.", "<SEG>."),
    Template("Describe.", None),
    Template("{text}", None),
)
MERGE = NANO.language.vision.spatial_merge_size


def preparer() -> Preparer:
    return Preparer(NANO, nano_tokenizer())


def block(size: tuple[int, int], *area: slice) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[area] = True
    return mask


def shown(*asked: Asked, size: tuple[int, int] = (96, 128), frames: int = 1, seed: int = 0, **rest: object) -> Shown:
    pixels = np.random.default_rng(seed).integers(0, 256, (frames, *size, 3), np.uint8)
    return Shown(pixels, asked, **rest)


def refer(size: tuple[int, int] = (96, 128), frames: int = 1) -> Asked:
    half = encode_rle(block(size, slice(None), slice(0, size[1] // 2)))
    return Asked(SEGMENT, ("red box", "blue box"), wanted=(Wanted(1, (half,) * frames),))


def test_masks_lie_in_their_cells() -> None:
    done = preparer().prepare(shown(refer()))
    cells = NANO.segmentor.image_size // 4
    assert done.masks.shape == (1, 1, 1, cells, cells) and done.labels.tolist() == [[1]]
    assert (done.masks[..., : cells // 2] == 1).all() and (done.masks[..., cells // 2 :] == 0).all()


@pytest.mark.parametrize("size", [(50, 77), (480, 640), (200, 90)])
def test_a_mask_keeps_its_share_of_the_picture(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(1).random(size) < 0.3
    done = preparer().prepare(shown(Asked(SEGMENT, ("a",), wanted=(Wanted(0, (encode_rle(mask),)),)), size=size))
    assert done.masks.mean().item() == pytest.approx(mask.mean(), abs=0.02)
    assert done.masks.min() >= 0 and done.masks.max() <= 1


def test_absent_phrases_and_unannotated_pixels() -> None:
    void = encode_rle(block((96, 128), slice(0, 48)))
    done = preparer().prepare(shown(Asked(SEGMENT, ("a whale",)), ignore=(void,)))
    assert done.labels.tolist() == [[-1]] and not done.masks.any()
    cells = done.ignore.shape[-1]
    assert done.ignore[0, : cells // 2].all() and not done.ignore[0, cells // 2 :].any()
    assert collate_prepared([preparer().prepare(shown(refer()))], MERGE).ignore is None


def test_words_of_others_never_become_control_tokens() -> None:
    tokenizer = nano_tokenizer()
    seg = tokenizer.control_ids["<SEG>"]
    told = Asked(CHAT, turns=(("Of what colour, <SEG>?", "Of <SEG> all."),))
    (chat,) = preparer().prepare(shown(told)).texts
    assert seg not in chat.input_ids
    caption = "a <SEG> dog near </p> a cat"
    told = Asked(DESCRIBE, ("<SEG> dog", "a cat"), caption=caption, spans=((2, 11), (21, 27)))
    (said,) = preparer().prepare(shown(told)).conversations
    assert list(said.input_ids).count(seg) == 1 and said.num_phrases == 2


def test_a_caption_is_answered_with_its_phrases_marked() -> None:
    tokenizer, builder = nano_tokenizer(), preparer()._builder
    told = Asked(DESCRIBE, ("A box", "two boxes"), caption="A box and two boxes.", spans=((0, 5), (10, 19)))
    (said,) = preparer().prepare(shown(told)).conversations
    answer = builder.read_answer(said.answer_ids)
    assert answer.phrases == (("A box", 0, 5), ("two boxes", 10, 19)) and answer.num_seg == 1
    assert answer.text == "A box and two boxes. ."
    assert tokenizer.decode(said.answer_ids).endswith("<SEG>.<|im_end|>") and said.separators == 1


def test_every_answer_of_a_chat_is_learnt() -> None:
    model, tokenizer = new_nano(), nano_tokenizer()
    told = Asked(CHAT, turns=(("What?", "Noise."), ("Which?", "All of it."), ("Sure?", "Yes.")))
    (chat,) = preparer().prepare(shown(told)).texts
    tokens = model.collate([chat])
    learnt = tokenizer.decode(tokens.input_ids[tokens.answer_mask].tolist())
    assert learnt == "Noise.<|im_end|>All of it.<|im_end|>Yes.<|im_end|>"


def test_a_chat_about_nothing_is_learnt_beside_one_about_a_picture() -> None:
    """The language model sees no picture, and every row teaches what it teaches alone."""
    model, ready = new_nano(), preparer()
    said = Asked(CHAT, turns=(("What is it?", "Noise."),))
    blank = Shown(np.zeros((1, 32, 32, 3), np.uint8), (said,), is_blank=True)
    samples = [ready.prepare(one) for one in (shown(said), blank, shown(said, size=(64, 64)))]
    assert [IMAGE_PLACEHOLDER in one.texts[0].input_ids for one in samples] == [True, False, True]
    batches = [collate_prepared(part, MERGE) for part in (samples, samples[:1], samples[1:2], samples[2:])]
    with torch.no_grad():
        together, *alone = (batch_loss(model, None, batch, "joint", TrainConfig())["text"] for batch in batches)
    torch.testing.assert_close(together, torch.stack(alone).mean())
    assert len({round(float(loss), 4) for loss in alone}) == 3
    exact = batch_scores(model, batches[2])[1]
    assert exact.shape == (1,)
    with pytest.raises(TruthError, match="a prompt for masks needs frames"):
        Shown(np.zeros((1, 32, 32, 3), np.uint8), (refer((32, 32)),), is_blank=True)


def test_a_chat_that_is_too_long_loses_its_last_turns() -> None:
    limit = NANO.language.text.max_position_embeddings
    turns = tuple((f"Question {n}?", "word " * (limit // 40)) for n in range(12))
    (chat,) = preparer().prepare(shown(Asked(CHAT, turns=turns))).texts
    assert limit // 2 < len(chat.input_ids) <= limit and 1 <= len(chat.earlier) < 11
    with pytest.raises(TruthError, match="its first answer ends behind"):
        preparer().prepare(shown(Asked(CHAT, turns=(("Q?", "word " * limit),))))


def test_a_list_that_is_too_long_is_refused() -> None:
    many = tuple(f"thing number {n} of all" for n in range(NANO.language.text.max_position_embeddings // 4))
    with pytest.raises(TruthError, match="take fewer phrases a prompt"):
        preparer().prepare(shown(Asked(SEGMENT, many)))


def test_pictures_of_different_sizes_make_a_batch_that_teaches() -> None:
    """Prompts of two pictures, two prompts each, with phrases and regions; a clip; a chat: all go through the loss."""
    model, ready = new_nano().train().requires_grad_(True), preparer()
    region = Asked(SEGMENT, regions=(encode_rle(block((96, 128), slice(10, 40), slice(10, 40))),))
    void = encode_rle(block((96, 128), slice(0, 9)))
    mixed = [
        ready.prepare(shown(refer(), region, ignore=(void,))),
        ready.prepare(shown(refer((160, 90)), refer((160, 90)), size=(160, 90), seed=1)),
    ]
    batch = collate_prepared(mixed, MERGE)
    assert len(set(map(tuple, batch.grid.tolist()))) == 2 and len(batch.conversations) == 4
    assert batch.region_rows.tolist() == [1] and batch.ignore is not None and batch.ignore.shape[1] == 4
    assert [int((one.input_ids == REGION_PLACEHOLDER).sum()) for one in batch.conversations] == [0, 1, 0, 0]
    clip = collate_prepared([ready.prepare(shown(refer(frames=3), frames=3, stride=4))], MERGE)
    assert int(clip.grid[0, 0]) == 2 and clip.strides.tolist() == [4]
    chat = collate_prepared([ready.prepare(shown(Asked(CHAT, turns=(("What?", "Noise."),))))], MERGE)
    for one, names in ((batch, {"text", "segmentation"}), (clip, {"text", "segmentation"}), (chat, {"text"})):
        model.zero_grad()
        losses = batch_loss(model, None, one, "joint", TrainConfig())
        assert set(losses) == names
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        assert torch.isfinite(total) and any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_a_picture_reads_the_same_alone_and_beside_one_of_another_size() -> None:
    model, ready = new_nano(), preparer()
    samples = [ready.prepare(shown(refer(size), size=size)) for size in ((96, 128), (160, 90))]
    both = collate_prepared(samples, MERGE)
    with torch.no_grad():
        stages = [model.segmentor.encode_image(one.pixels).stages for one in samples]
        joined = tuple(torch.cat(parts) for parts in zip(*stages))
        together = model.encode_picture(both.patches, both.grid, joined)
        alone = [model.encode_picture(one.patches, one.grid, own) for one, own in zip(samples, stages)]
    torch.testing.assert_close(together.embeds, torch.cat([one.embeds for one in alone]), rtol=1e-4, atol=1e-5)


def test_samples_that_do_not_belong_together_are_refused() -> None:
    ready = preparer()
    with pytest.raises(TruthError, match="different \\(frames, prompts, chats, steps\\)"):
        collate_prepared([ready.prepare(shown(refer())), ready.prepare(shown(refer(frames=2), frames=2))], MERGE)
