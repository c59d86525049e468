"""Starting from a smaller network: what it knew is kept, and what it cannot keep is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.unit.model.networks import nano_tokenizer, new_nano
from x2sam_ros.checkpoint.names import EMBEDDING
from x2sam_ros.errors import ConfigError
from x2sam_ros.model.config import X2SAMConfig, preset
from x2sam_ros.model.conversation import ConversationBuilder, Media
from x2sam_ros.model.template import Template
from x2sam_ros.model.tokenizer import train_tokenizer
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.grow import grow

PHRASE = Template("Segment {phrases}.", "<SEG>.")


def larger() -> X2SAMConfig:
    small = preset("nano")
    text = replace(small.language.text, num_hidden_layers=small.language.text.num_hidden_layers + 2)
    vision = replace(small.language.vision, depth=small.language.vision.depth + 1)
    return replace(small, language=replace(small.language, text=text, vision=vision))


def states(model: X2SAM) -> torch.Tensor:
    conversation = ConversationBuilder(model.tokenizer).build(PHRASE, Media(4), phrases=["the red circle"])
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(16, model.config.language.vision.patch_dim, generator=generator)
    vision = model.language.encode_image(patches, torch.tensor([[1, 4, 4]]))
    return model.language(model.collate([conversation]), vision)


@torch.no_grad()
def test_a_deeper_network_first_does_what_the_older_one_did() -> None:
    older = new_nano()
    torch.manual_seed(5)
    model = X2SAM(larger(), nano_tokenizer()).eval()
    assert not torch.allclose(states(model), states(older), atol=1e-2)
    grow(model, older)
    torch.testing.assert_close(states(model), states(older), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_features_of_the_mask_encoder_are_added_later_without_a_change() -> None:
    small = preset("nano")
    torch.manual_seed(6)
    older = X2SAM(replace(small, region=replace(small.region, picture_features=False)), nano_tokenizer()).eval()
    model = new_nano()
    patches, grid = torch.randn(16, small.language.vision.patch_dim), torch.tensor([[1, 4, 4]])
    stages = older.segmentor.encode_image(torch.randn(1, 3, 64, 64)).stages
    expected = older.encode_picture(patches, grid).embeds
    assert not torch.allclose(model.encode_picture(patches, grid, stages).embeds, expected, atol=1e-2)
    grow(model, older)
    assert torch.equal(model.encode_picture(patches, grid, stages).embeds, expected)


def test_new_words_start_as_the_mean_of_what_they_were_spelt_with() -> None:
    older = new_nano()
    words = train_tokenizer(["the zebra walks", "a zebra"] * 50, 400)
    model = X2SAM(preset("nano"), words)
    grow(model, older)
    table, old = model.state_dict()[EMBEDDING], older.state_dict()[EMBEDDING]
    (zebra,) = words.encode_plain(" zebra")
    spelt = list(older.tokenizer.encode_plain(" zebra"))
    assert len(spelt) > 1
    torch.testing.assert_close(table[zebra], old[spelt].mean(0))
    for token, number in words.control_ids.items():
        assert torch.equal(table[number], old[older.tokenizer.control_ids[token]]), token


def test_another_width_is_refused() -> None:
    small = preset("nano")
    wide = replace(small, segmentor=replace(small.segmentor, decoder=replace(small.segmentor.decoder, num_queries=20)))
    with pytest.raises(ConfigError, match=r"queries.*\(12, 64\).*\(20, 64\)"):
        grow(X2SAM(wide, nano_tokenizer()), new_nano())
