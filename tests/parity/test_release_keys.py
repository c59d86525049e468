"""The published release's tensor list, name by name and size by size: planned, merged and loaded on the meta device."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.shared_data import PARITY
from x2sam_ros.checkpoint.load import weight_infos
from x2sam_ros.checkpoint.merge import PlannedValues
from x2sam_ros.checkpoint.names import DROPPED, EMBEDDING, bare_name, our_name, takes_lora
from x2sam_ros.checkpoint.official_config import RELEASE_LORA_SCALE, config_from_official, lora_scale
from x2sam_ros.checkpoint.plan import REPLACED, Plan, check_is_export, needs_base, plan_conversion
from x2sam_ros.checkpoint.source import TensorInfo
from x2sam_ros.errors import CheckpointError
from x2sam_ros.model.config import preset
from x2sam_ros.model.tokenizer import train_tokenizer
from x2sam_ros.model.x2sam import X2SAM

KEYS = PARITY / "release_keys"
Infos = dict[str, TensorInfo]

pytestmark = pytest.mark.skipif(not KEYS.is_dir(), reason=f"no release_keys in {PARITY}; set X2SAM_PARITY")


@cache
def network() -> X2SAM:
    with torch.device("meta"):
        return X2SAM(preset("release"), train_tokenizer(["any"], 300))


@cache
def rows() -> dict[str, tuple[TensorInfo, set[str]]]:
    """Return size and flags of each row of the list, as a file in half precision would have it."""
    table = {}
    for line in (KEYS / "keys.txt").read_text().splitlines():
        name, shape, flags = line.split()
        table[name] = TensorInfo(tuple(map(int, shape.split("x"))), torch.bfloat16), set(flags.split(","))
    return table


def full() -> Infos:
    return {name: info for name, (info, _) in rows().items()}


def released() -> Infos:
    return {name: info for name, (info, flags) in rows().items() if "released" in flags}


def base_model() -> Infos:
    """Return the base model's tensors: the list's own, less X2SAM's additions, with the longer vocabulary."""
    wrapped = {bare_name(name): info for name, info in full().items() if name.startswith("vlm.") and "lora" not in name}
    official = json.loads((KEYS / "assumed_configs.json").read_text())["qwen3_vl_4b_instruct"]["text_config"]
    table = TensorInfo((official["vocab_size"], official["hidden_size"]), torch.bfloat16)
    return {**wrapped, "model.language_model.embed_tokens.weight": table, "lm_head.weight": table}


def summary() -> dict[str, int]:
    counts: dict[str, int] = json.loads((KEYS / "summary.json").read_text())
    return counts


def plans() -> dict[str, tuple[Plan, Infos, Infos]]:
    expected = weight_infos(network(), torch.bfloat16)
    return {
        "full": (plan_conversion(expected, full()), full(), {}),
        "default": (plan_conversion(expected, released(), base_model()), released(), base_model()),
    }


def test_the_list_is_whole() -> None:
    assert len(full()) == summary()["full_tensors"]
    assert len(released()) == summary()["released_tensors"]
    for names in (full(), released()):
        check_is_export(names, "the release")
    assert not needs_base(full()) and needs_base(released())


@pytest.mark.parametrize("layout", ["full", "default"])
def test_every_tensor_has_its_place(layout: str) -> None:
    plan, export, base = plans()[layout]
    expected = network().state_dict()
    assert plan.entries.keys() == expected.keys()
    accounted = [part for entry in plan.entries.values() for part in (entry.weight, *(entry.factors or ()))]
    accounted += list(plan.dropped)
    assert len(accounted) == len(set(accounted)), "no published tensor is used twice"
    for origin, names in (("export", export), ("base", base)):
        assert {part.name for part in accounted if part.origin == origin} == names.keys()
    adapted = sum(map(takes_lora, expected))
    assert plan.merged == adapted == sum("lora_A" in name for name in full())
    reasons = [reason for part, reason in plan.dropped.items() if part.origin == "export"]
    assert sorted(reasons) == sorted(DROPPED.values())


def test_the_default_export_replaces_what_was_trained() -> None:
    plan, _, _ = plans()["default"]
    trained = {bare_name(name) for name, (_, flags) in rows().items() if "trained" in flags and "lora" not in name}
    for name, entry in plan.entries.items():
        assert (entry.weight.origin == "export") == (bare_name(entry.weight.name) in trained), name
    replaced = {part.name for part, reason in plan.dropped.items() if reason == REPLACED}
    assert replaced == {name for name in base_model() if name in trained} - {"lm_head.weight"}
    assert plan.entries[EMBEDDING].weight.origin == "export"


class MetaSource:
    """Tensors of the right size and no values, read like a file's."""

    def __init__(self, infos: Infos) -> None:
        self.infos = infos

    def read(self, name: str) -> torch.Tensor:
        return torch.empty(self.infos[name].shape, dtype=self.infos[name].dtype, device="meta")


@pytest.mark.parametrize("layout", ["full", "default"])
def test_the_release_is_merged_and_loaded_on_the_meta_device(layout: str) -> None:
    plan, export, base = plans()[layout]
    sources = {"export": MetaSource(export), "base": MetaSource(base)}
    values = PlannedValues(plan, sources, RELEASE_LORA_SCALE)  # type: ignore[arg-type]
    state = {name: values.tensor(entry).to(entry.info.dtype) for name, entry in plan.entries.items()}
    model = network()
    model.load_state_dict(state, assign=True)
    assert {name: TensorInfo.of(value) for name, value in model.state_dict().items()} == {
        name: entry.info for name, entry in plan.entries.items()
    }


def test_one_name_less_or_more_is_noticed() -> None:
    expected = weight_infos(network(), torch.bfloat16)
    silent = {name for name in full() if our_name(name) is None}
    for name in list(full())[::97]:
        if name in silent:
            continue
        rest = {other: info for other, info in full().items() if other != name}
        with pytest.raises(CheckpointError, match="missing"):
            plan_conversion(expected, rest)
    extra = {f"segmentor.novel.{i}": TensorInfo((1,), torch.bfloat16) for i in range(12)}
    with pytest.raises(CheckpointError, match=r"unknown segmentor\.novel\.0;.*novel\.9 and 2 more"):
        plan_conversion(expected, {**full(), **extra})


def test_the_preset_is_the_published_configuration() -> None:
    official = json.loads((KEYS / "assumed_configs.json").read_text())
    ids = json.loads((KEYS / "summary.json").read_text())["special_token_ids"]
    language = {"qwen3_vl": official["qwen3_vl_4b_instruct"], "len_tokenizer": max(ids.values()) + 1}
    segmentor = {
        "sam2": official["sam2.1_hiera_large_with_x2sam_overrides"],
        "mask2former": official["mask2former_swin_large_coco_panoptic_with_x2sam_overrides"],
    }
    assert replace(config_from_official(language, segmentor), preset="release") == preset("release")


def test_the_scale_is_the_published_one() -> None:
    lora = json.loads((KEYS / "summary.json").read_text())["lora"]
    assert lora_scale({"lora": {"r": lora["r"], "lora_alpha": lora["alpha"]}}) == RELEASE_LORA_SCALE
    assert lora["scaling"] == RELEASE_LORA_SCALE
