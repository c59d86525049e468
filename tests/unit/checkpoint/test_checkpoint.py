"""Checkpoint folders and the converter: round trips, LoRA arithmetic, and one-line errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from x2sam_ros.checkpoint.convert import convert_official, read_tensors
from x2sam_ros.checkpoint.load import load_model, save_model
from x2sam_ros.checkpoint.names import our_name
from x2sam_ros.errors import CheckpointError, ConfigError
from x2sam_ros.model.config import preset
from x2sam_ros.model.tokenizer import train_tokenizer
from x2sam_ros.model.x2sam import X2SAM

LORA = "vlm.base_model.model.model.language_model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def model() -> X2SAM:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["Segment the red circle."] * 3, 400)
    config = preset("nano")
    text = replace(config.language.text, vocab_size=len(tokenizer))
    return X2SAM(replace(config, language=replace(config.language, text=text)), tokenizer).eval()


@pytest.fixture
def folder(model: X2SAM, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "saved")
    return tmp_path / "saved"


def official(model: X2SAM) -> dict[str, Tensor]:
    """Return the model's tensors under their published names."""

    def name(ours: str) -> str:
        for prefix, theirs in (
            ("language.final_norm.", "model.language_model.norm."),
            ("language.text.", "model.language_model."),
            ("language.visual.", "model.visual."),
        ):
            if ours.startswith(prefix):
                return "vlm.base_model.model." + theirs + ours[len(prefix) :]
        return ours

    return {name(ours): tensor.clone() for ours, tensor in model.state_dict().items()}


def test_saved_model_loads_equal(model: X2SAM, folder: Path) -> None:
    loaded = load_model(folder)
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert loaded.tokenizer.encode_plain("red cup") == model.tokenizer.encode_plain("red cup")


def test_half_precision_keeps_rotary_frequencies(model: X2SAM, folder: Path) -> None:
    loaded = load_model(folder, dtype="bfloat16")
    assert loaded.bg_embeds.weight.dtype == torch.bfloat16
    assert torch.equal(loaded.language.text.rotary_emb.inv_freq, model.language.text.rotary_emb.inv_freq)


def test_converter_merges_lora_shrinks_the_table_and_drops_what_is_unused(model: X2SAM) -> None:
    tensors = official(model)
    weight = tensors.pop(f"{LORA}.weight")
    tensors[f"{LORA}.base_layer.weight"] = weight.half()
    a, b = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    tensors |= {f"{LORA}.lora_A.default.weight": a, f"{LORA}.lora_B.default.weight": b}
    table = "vlm.base_model.model.model.language_model.embed_tokens.weight"
    tensors[table] = torch.cat([tensors[table], torch.randn(7, tensors[table].shape[1])])
    tensors["vlm.base_model.model.lm_head.weight"] = torch.randn(3, 3)
    tensors["segmentor.shared_image_embedding.positional_embedding"] = torch.randn(2, 8)

    state = convert_official([tensors], model.config, model.tokenizer, lora_scale=0.5)
    merged = state.pop("language.text.layers.0.mlp.up_proj.weight")
    torch.testing.assert_close(merged, weight.half().float() + 0.5 * b @ a)
    for name, tensor in state.items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_later_sources_replace_earlier_ones(model: X2SAM) -> None:
    state = convert_official(
        [official(model), {"bg_embeds.weight": torch.ones_like(model.bg_embeds.weight)}],
        model.config,
        model.tokenizer,
        lora_scale=1.0,
        dtype=torch.float16,
    )
    assert (state["bg_embeds.weight"] == 1).all()
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}


def test_unknown_missing_and_misshaped_tensors_are_named(model: X2SAM) -> None:
    tensors = official(model)
    extra = {f"novel.{i}": torch.zeros(1) for i in range(14)}
    with pytest.raises(CheckpointError, match=r"unknown novel\.0.*novel\.9 and 4 more"):
        convert_official([{**tensors, **extra}], model.config, model.tokenizer, 1.0)
    with pytest.raises(CheckpointError, match=r"bg_embeds\.weight is \(2, 64\), expected \(1, 64\)"):
        convert_official([{**tensors, "bg_embeds.weight": torch.zeros(2, 64)}], model.config, model.tokenizer, 1.0)
    del tensors["bg_embeds.weight"]
    with pytest.raises(CheckpointError, match=r"missing bg_embeds\.weight"):
        convert_official([tensors], model.config, model.tokenizer, 1.0)
    with pytest.raises(CheckpointError, match="base vision-language model"):
        convert_official([{f"{LORA}.lora_A.default.weight": torch.zeros(2, 2)}], model.config, model.tokenizer, 1.0)


def test_release_layout_is_known() -> None:
    assert our_name("vlm.base_model.model.model.language_model.norm.weight") == "language.final_norm.weight"
    assert our_name("vlm.model.visual.pos_embed.weight") == "language.visual.pos_embed.weight"
    assert our_name("model.visual.merger.norm.bias") == "language.visual.merger.norm.bias"
    assert our_name("lm_head.weight") is None
    assert our_name("something.else") == "something.else"


def break_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5_000])


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"segmentor": ')


def change_size(folder: Path) -> None:
    data = json.loads((folder / "config.json").read_text())
    data["language"]["text"]["intermediate_size"] = 128
    (folder / "config.json").write_text(json.dumps(data))


def unknown_setting(folder: Path) -> None:
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**data, "novel": 1}))


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def flip_a_bit(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1_000] ^= 0x40
    path.write_bytes(content)


def forget_settings(folder: Path) -> None:
    """What remains is the release network, whose 16 GB must not be allocated to find out."""
    (folder / "config.json").write_text("{}")


@pytest.mark.parametrize(
    "damage",
    [break_weights, break_config, change_size, unknown_setting, lose_weights, flip_a_bit, forget_settings],
)
def test_damaged_folders_give_one_line(folder: Path, damage) -> None:
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        (("segmentor",), "image_size", "128"),
        (("segmentor",), "image_size", None),
        (("segmentor",), "image_size", 100),
        (("segmentor", "decoder"), "hidden", -4),
        (("segmentor", "decoder"), "hidden", 64.0),
        (("segmentor", "decoder"), "heads", 0),
        (("segmentor", "memory"), "downsampler_stride", 1),
        (("segmentor", "memory"), "feature_strides", [1, "2", 4]),
        (("language", "text"), "hidden_act", "novel"),
        (("language", "text"), "num_key_value_heads", 0),
        (("language", "text"), "mrope_section", [1, 1]),
        (("language", "text"), "vocab_size", 10**12),
        (("region",), "pooling_kernel", 0),
        (("region",), "region_stage", 9),
    ],
)
def test_nonsense_in_the_configuration_gives_one_line(
    folder: Path, section: tuple[str, ...], name: str, value: object
) -> None:
    data = json.loads((folder / "config.json").read_text())
    table = data
    for part in section:
        table = table[part]
    table[name] = value
    (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_unknown_names(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nano, release"):
        load_model("nanoo")
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load_model(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="convert"):
        load_model("release")
    with pytest.raises(ConfigError, match="dtype"):
        load_model(folder, dtype="int8")
    with pytest.raises(ConfigError, match="device"):
        load_model(folder, device="toaster")
    with pytest.raises(ConfigError, match="use cpu"):
        load_model(folder, device="meta")


class Evil:
    """Would run a command when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not run",)


def test_pickles_are_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "good.pth")
    assert torch.equal(read_tensors(tmp_path / "good.pth", prefix="a.")["a.weight"], torch.ones(2))
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="evil"):
        read_tensors(tmp_path / "evil.pth")
    assert "must not run" not in capsys.readouterr().out
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="empty"):
        read_tensors(tmp_path / "empty.pth")


def test_sharded_folders_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "model-2.safetensors")
    assert set(read_tensors(tmp_path)) == {"a", "b"}
