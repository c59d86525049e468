"""Checkpoint folders: what is saved loads again bit by bit, mapped from the file; what is damaged gives one line."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.published import small_model
from x2sam_ros.checkpoint.load import build_skeleton, cast_weights, load_model, save_model, weight_infos, weights_sha256
from x2sam_ros.checkpoint.source import TensorInfo
from x2sam_ros.errors import CheckpointError, ConfigError
from x2sam_ros.model.config import preset
from x2sam_ros.model.int8 import Int8Linear
from x2sam_ros.model.tokenizer import train_tokenizer
from x2sam_ros.model.x2sam import X2SAM


@pytest.fixture
def model() -> X2SAM:
    return small_model()


@pytest.fixture
def saved(model: X2SAM, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def folder(saved: Path) -> Path:
    """A checkpoint whose files may be changed: without the manifest that would notice."""
    (saved / "manifest.json").unlink()
    return saved


def test_saved_model_loads_equal(model: X2SAM, saved: Path) -> None:
    for loaded in (load_model(saved), X2SAM.from_pretrained(saved), X2SAM.from_pretrained(str(saved), torch.float32)):
        assert loaded.config == model.config
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        for name, buffer in model.named_buffers():
            assert torch.equal(dict(loaded.named_buffers())[name], buffer), name
        assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
        assert loaded.tokenizer.encode_plain("red cup") == model.tokenizer.encode_plain("red cup")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_type_is_saved_and_loaded_bit_by_bit(model: X2SAM, saved: Path, tmp_path: Path, dtype) -> None:
    cast = load_model(saved, dtype=dtype)
    assert cast.bg_embeds.weight.dtype == dtype
    save_model(cast, tmp_path / "again")
    again = load_model(tmp_path / "again", dtype=str(dtype).removeprefix("torch."), verify=True)
    for name, value in cast.state_dict().items():
        other = again.state_dict()[name]
        assert other.dtype == value.dtype, name
        assert torch.equal(other.reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8)), name


def test_half_precision_keeps_rotary_frequencies(model: X2SAM, saved: Path) -> None:
    loaded = load_model(saved, dtype="bfloat16")
    assert torch.equal(loaded.language.text.rotary_emb.inv_freq, model.language.text.rotary_emb.inv_freq)


def test_planned_types_are_those_of_cast_weights(saved: Path) -> None:
    loaded = load_model(saved)
    planned = weight_infos(loaded, torch.float16)
    cast_weights(loaded, torch.float16)
    assert planned == {name: TensorInfo.of(value) for name, value in loaded.state_dict().items()}


def test_weights_are_mapped_and_the_file_may_be_replaced(saved: Path, model: X2SAM) -> None:
    loaded = load_model(saved)
    assert str(saved / "model.safetensors") in Path("/proc/self/maps").read_text()
    before = loaded.bg_embeds.weight.clone()
    size = os.path.getsize(saved / "model.safetensors")
    with torch.no_grad():
        loaded.bg_embeds.weight.add_(1)  # a copy of the page, the file stays
    assert torch.equal(load_model(saved, verify=True).bg_embeds.weight, before)
    save_model(loaded, saved)
    assert os.path.getsize(saved / "model.safetensors") == size
    assert torch.equal(load_model(saved, verify=True).bg_embeds.weight, before + 1)


def test_a_skeleton_has_sizes_but_no_values(model: X2SAM) -> None:
    elsewhere: list[nn.Module] = []

    class Tokens(type(model.tokenizer)):  # type: ignore[misc]
        def __len__(self) -> int:  # asked for while the network is built
            worker = threading.Thread(target=lambda: elsewhere.append(nn.Linear(2, 2)))
            worker.start()
            worker.join()
            return super().__len__()

    tokenizer = Tokens(model.tokenizer._plain, model.tokenizer.control_ids)
    skeleton = build_skeleton(model.config, tokenizer, "a test")
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    assert not any(buffer.is_meta for buffer in skeleton.buffers())
    assert elsewhere and not any(p.is_meta for module in elsewhere for p in module.parameters())
    assert not nn.Linear(2, 2).weight.is_meta


def test_the_release_is_built_without_memory() -> None:
    skeleton = build_skeleton(preset("release"), train_tokenizer(["any"], 300), "the release")
    assert sum(p.numel() for p in skeleton.parameters()) > 4.7e9
    assert sum(b.nbytes for b in skeleton.buffers()) < 1e6


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


def test_unknown_names(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no checkpoint 'zzz'.*nano, release.*no folder /.*zzz.*owner/name"):
        load_model("zzz")
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load_model(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="convert"):
        load_model("release")
    with pytest.raises(ConfigError, match="dtype"):
        load_model(saved, dtype="int8")
    with pytest.raises(ConfigError, match="dtype"):
        X2SAM.from_pretrained(saved, dtype=torch.int8)
    with pytest.raises(ConfigError, match="device"):
        load_model(saved, device="toaster")
    with pytest.raises(ConfigError, match="use cpu"):
        load_model(saved, device="meta")


def test_int8_weights_are_close_and_exact_ones_the_same(model: X2SAM, saved: Path, tmp_path: Path) -> None:
    segmentor = model.config.segmentor
    memory = replace(segmentor.memory, attention_feedforward=2**16 // segmentor.memory.attention_hidden)
    wide = X2SAM(replace(model.config, segmentor=replace(segmentor, memory=memory)), model.tokenizer)
    save_model(wide, tmp_path / "wide")
    rounded = load_model(tmp_path / "wide", weights="int8")
    layers = [name for name, layer in rounded.named_modules() if isinstance(layer, Int8Linear)]
    assert len(layers) == 2 * memory.attention_layers and all("memory_attention" in name for name in layers)
    assert rounded.identity and not any(p.requires_grad for p in rounded.parameters())
    for name in layers:
        layer, exact = rounded.get_submodule(name), wide.get_submodule(name)
        x = torch.randn(10, layer.in_features)
        assert (layer(x) - exact(x)).abs().max() < 0.05 * exact(x).abs().max()
    with pytest.raises(ConfigError, match="a model with int8 weights is not saved"):
        save_model(rounded, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    same = X2SAM.from_pretrained(saved, weights="int8").state_dict()  # nothing in it is large enough
    assert same.keys() == model.state_dict().keys()
    assert all(torch.equal(same[name], value) for name, value in model.state_dict().items())


def test_int8_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for options, message in (
        ({"weights": "int3"}, "'int3', expected one of exact, int8"),
        ({"weights": "int8", "dtype": "bfloat16"}, "are for float32"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_model(tmp_path / "absent", **options)


def test_published_files_are_sent_to_the_converter(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(1)}, file)
    for given in (file, tmp_path):
        with pytest.raises(CheckpointError, match=f"run 'x2sam convert {given} FOLDER'"):
            load_model(given)


def test_the_manifest_notices_what_changed(saved: Path) -> None:
    load_model(saved, verify=True)
    flip_a_bit(saved)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_model(saved, verify=True)
    with (saved / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has \d+ bytes, manifest\.json says"):
        load_model(saved)
    lose_weights(saved)
    with pytest.raises(CheckpointError, match="lacks model.safetensors"):
        load_model(saved)
    (saved / "manifest.json").write_text('{"files": {"a": {}}}')
    with pytest.raises(CheckpointError, match="cannot read .*manifest.json"):
        load_model(saved)
    (saved / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
        load_model(saved, verify=True)


def test_weights_are_known_by_their_sum_with_or_without_a_manifest(saved: Path, tmp_path: Path) -> None:
    expected = hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    assert weights_sha256(saved) == expected
    (saved / "manifest.json").unlink()
    assert weights_sha256(saved) == expected != weights_sha256("nano")
    lose_weights(saved)
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        weights_sha256(saved)
    with pytest.raises(CheckpointError, match="nowhere"):
        weights_sha256(tmp_path / "nowhere")


def test_a_copy_of_the_shipped_weights_is_what_ships(tmp_path: Path) -> None:
    shipped = load_model("nano")
    save_model(shipped, tmp_path / "copy")
    copy = load_model(tmp_path / "copy")
    assert all(torch.equal(a, b) for a, b in zip(shipped.state_dict().values(), copy.state_dict().values()))
