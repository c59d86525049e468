"""Where each tensor comes from is decided on names and sizes: everything is accounted for, or named in an error."""

from __future__ import annotations

import pytest
import torch

from tests.published import HEAD, UNUSED, WRAPPER, base_model, default_export, full_file, small_model, wrapped
from x2sam_ros.checkpoint.load import weight_infos
from x2sam_ros.checkpoint.names import is_published, official_name, our_name, takes_lora
from x2sam_ros.checkpoint.plan import REPLACED, Part, check_is_export, needs_base, plan_conversion
from x2sam_ros.checkpoint.source import TensorInfo
from x2sam_ros.errors import CheckpointError

Infos = dict[str, TensorInfo]
PROJECTION = "language.text.layers.0.mlp.up_proj.weight"
LORA_A = wrapped(PROJECTION).removesuffix(".weight") + ".lora_A.default.weight"
EMBEDDING = wrapped("language.text.embed_tokens.weight")


def infos(table: dict[str, torch.Tensor]) -> Infos:
    return {name: TensorInfo.of(value) for name, value in table.items()}


@pytest.fixture
def expected() -> Infos:
    return weight_infos(small_model(), torch.float32)


@pytest.fixture
def export() -> Infos:
    return infos(default_export(small_model()))


@pytest.fixture
def base() -> Infos:
    return infos(base_model(small_model()))


def test_the_default_export_and_its_base_are_accounted_for(expected: Infos, export: Infos, base: Infos) -> None:
    plan = plan_conversion(expected, export, base)
    adapted = sum(map(takes_lora, expected))
    assert plan.entries.keys() == expected.keys()
    assert plan.merged == adapted and plan.copied == len(expected) - adapted
    assert sum(plan.used("export").values()) == len(export)
    assert sum(plan.used("base").values()) == len(base)
    assert plan.used("export")["merged"] == 2 * adapted and plan.used("base")["merged"] == adapted
    assert set(plan.dropped) >= {Part("export", WRAPPER + HEAD), Part("export", UNUSED)}
    assert plan.dropped[Part("base", "model.language_model.embed_tokens.weight")] == REPLACED
    assert plan.entries["language.text.embed_tokens.weight"].weight.origin == "export"


def test_the_full_file_needs_no_base(expected: Infos) -> None:
    model = small_model()
    full = infos(full_file(model, default_export(model)))
    assert not needs_base(full)
    plan = plan_conversion(expected, full)
    assert plan.merged == sum(map(takes_lora, expected))
    assert sum(plan.used("export").values()) == len(full)
    assert plan.used("base") == {"copied": 0, "merged": 0, "dropped": 0}


def test_a_file_that_is_merged_already_is_copied(expected: Infos) -> None:
    plan = plan_conversion(expected, {official_name(name): info for name, info in expected.items()})
    assert plan.merged == 0 and plan.copied == len(expected)


def test_without_a_base_what_is_missing_is_named(expected: Infos, export: Infos) -> None:
    assert needs_base(export)
    with pytest.raises(CheckpointError, match=r"missing language\.(.*; missing language\.){9}\S+ and \d+ more"):
        plan_conversion(expected, export)


def change(table: Infos, name: str, shape: tuple[int, ...] | None, dtype: torch.dtype = torch.float32) -> Infos:
    """Return the table with another size for a tensor, or without it."""
    changed = {key: info for key, info in table.items() if key != name}
    return changed if shape is None else {**changed, name: TensorInfo(shape, dtype)}


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("bg_embeds.weight", None, "missing bg_embeds.weight"),
        ("bg_embeds.weight", (2, 64), r"bg_embeds.weight is \(2, 64\), expected \(1, 64\)"),
        (LORA_A, None, r"missing language.text.layers.0.mlp.up_proj.lora_A"),
        (LORA_A, (3, 96), r"LoRA factors of language.text.layers.0.mlp.up_proj.weight are \(3, 96\) and"),
        (LORA_A, (2, 95), "LoRA factors of"),
        (LORA_A, (2,), "LoRA factors of"),
        (LORA_A.replace("layers.0", "layers.99"), (2, 96), r"unknown vlm.*layers\.99"),
        (LORA_A.replace("up_proj", "q_norm"), (2, 96), r"unknown vlm.*q_norm"),
        ("segmentor.novel.weight", (1,), "unknown segmentor.novel.weight"),
        (EMBEDDING, None, "missing language.text.embed_tokens.weight"),
        (EMBEDDING, (3, 96), r"embed_tokens.weight is \(3, 96\), expected"),
        (wrapped("language.visual.merger.norm.weight"), None, "missing language.visual.merger.norm.weight"),
        ("model.visual.merger.norm.weight", (64,), "are the same tensor"),
    ],
)
def test_a_wrong_export_is_an_error(
    expected: Infos, export: Infos, base: Infos, name: str, shape: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        plan_conversion(expected, change(export, name, shape), base)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float8_e4m3fn, torch.bool])
def test_types_that_are_no_weights_are_an_error(
    expected: Infos, export: Infos, base: Infos, dtype: torch.dtype
) -> None:
    changed = change(export, "bg_embeds.weight", (1, 64), dtype)
    with pytest.raises(CheckpointError, match=f"bg_embeds.weight is {dtype}"):
        plan_conversion(expected, changed, base)


def test_a_wrong_base_is_an_error(expected: Infos, export: Infos, base: Infos) -> None:
    with pytest.raises(CheckpointError, match="unknown model.language_model.novel in the base model"):
        plan_conversion(expected, export, change(base, "model.language_model.novel", (1,)))
    weight = official_name(PROJECTION).removeprefix("vlm.")
    with pytest.raises(CheckpointError, match=rf"{PROJECTION} is \(5, 5\), expected") as caught:
        plan_conversion(expected, export, change(base, weight, (5, 5)), "the network of a test")
    assert "the network of a test" in str(caught.value)
    with pytest.raises(CheckpointError, match=f"missing {PROJECTION}"):
        plan_conversion(expected, export, change(base, weight, None))


def test_a_base_weight_without_any_factor_is_no_adapted_model(expected: Infos, export: Infos, base: Infos) -> None:
    bare = {name: info for name, info in export.items() if ".lora_" not in name}
    with pytest.raises(CheckpointError, match=r"missing language\.text\.layers\.0.*lora_A"):
        plan_conversion(expected, bare, base)


def test_more_rows_than_the_vocabulary_are_cut(expected: Infos, export: Infos, base: Infos) -> None:
    rows, width = expected["language.text.embed_tokens.weight"].shape
    plan = plan_conversion(expected, change(export, EMBEDDING, (rows + 5, width)), base)
    assert plan.entries["language.text.embed_tokens.weight"].info.shape == (rows, width)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["language.text.layers.0.mlp.up_proj.weight"], "not in the published layout: unknown language"),
        ([f"novel.{i}" for i in range(14)], r"unknown novel\.0;.*novel\.9 and 4 more"),
        (["segmentor.no_memory_embedding", "bg_embeds.weight"], "no language side"),
        (["model.language_model.norm.weight", "lm_head.weight"], "no segmentor"),
    ],
)
def test_what_is_no_export_is_told_apart(names: list[str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_is_export(names, "it")


def test_names_of_the_published_layout() -> None:
    assert our_name("vlm.base_model.model.model.language_model.norm.weight") == "language.final_norm.weight"
    assert our_name("vlm.model.visual.pos_embed.weight") == "language.visual.pos_embed.weight"
    assert our_name("model.visual.merger.norm.bias") == "language.visual.merger.norm.bias"
    assert our_name("vlm.base_model.model.lm_head.weight") is None
    assert our_name("something.else") == "something.else" and not is_published("something.else")
    for name in small_model().state_dict():
        assert our_name(official_name(name)) == our_name(wrapped(name)) == name
        assert is_published(official_name(name)) and is_published(wrapped(name))
