"""The converter, from files to files: every layout gives the same network, and what is wrong leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.published import (
    HEAD,
    WRAPPER,
    Table,
    base_model,
    default_export,
    full_file,
    merged,
    small_model,
    wrapped,
    write_folder,
)
from x2sam_ros.checkpoint import convert as convert_module
from x2sam_ros.checkpoint import source as source_module
from x2sam_ros.checkpoint.convert import convert_checkpoint
from x2sam_ros.checkpoint.export import export_official
from x2sam_ros.checkpoint.load import cast_weights, load_model
from x2sam_ros.checkpoint.official_config import RELEASE_LORA_SCALE
from x2sam_ros.checkpoint.settings import CONFIG_FILE
from x2sam_ros.checkpoint.source import open_source
from x2sam_ros.errors import CheckpointError, ConfigError
from x2sam_ros.model.x2sam import X2SAM


@pytest.fixture
def export() -> Table:
    torch.manual_seed(1)
    return default_export(small_model())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    torch.manual_seed(2)
    return write_folder(tmp_path / "base", base_model(small_model()))


@pytest.fixture
def source(tmp_path: Path, export: Table) -> Path:
    return write_folder(tmp_path / "export", export, small_model())


def assert_equal(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].dtype == value.dtype and torch.equal(state[name], value), name


def test_the_default_export_is_merged_into_its_base(tmp_path: Path, source: Path, base: Path, export: Table) -> None:
    report = convert_checkpoint(source, tmp_path / "ours", base)
    state = load_file(tmp_path / "ours" / "model.safetensors")
    assert_equal(state, merged(small_model(), export, RELEASE_LORA_SCALE))
    loaded = load_model(tmp_path / "ours", verify=True)
    assert_equal(loaded.state_dict(), state)
    assert loaded.config == small_model().config
    assert report.nbytes == sum(value.nbytes for value in state.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "export", "ours"]


def test_the_manifest_accounts_for_every_published_tensor(tmp_path: Path, source: Path, base: Path) -> None:
    report = convert_checkpoint(source, tmp_path / "ours", base, dtype="bfloat16")
    manifest = json.loads((tmp_path / "ours" / "manifest.json").read_text())
    assert set(manifest["files"]) == {"config.json", "model.safetensors", "tokenizer.json"}
    for origin, folder in (("export", source), ("base", base)):
        listed = manifest["published_tensors"][origin]
        assert sum(listed.values()) == len(open_source(folder).infos)
        file = manifest["sources"][origin]["model.safetensors"]
        assert file["bytes"] == (folder / "model.safetensors").stat().st_size and len(file["sha256"]) == 64
    reasons = {reason: len(names) for reason, names in manifest["dropped"].items()}
    assert sum(reasons.values()) == len(report.plan.dropped) and "tied to the embedding table" in reasons
    assert (manifest["dtype"], manifest["lora_scale"]) == ("bfloat16", RELEASE_LORA_SCALE)
    assert str(tmp_path) not in json.dumps(manifest), "no path of this machine"


@pytest.mark.parametrize("layout", ["bin", "pt", "pth", "wrapped", "old", "sharded", "pickled shards", "full", "file"])
def test_every_layout_gives_the_same_network(tmp_path: Path, base: Path, export: Table, layout: str) -> None:
    folder, model = tmp_path / layout, small_model()
    write_folder(folder, export, model)
    given = folder
    if layout in ("bin", "pt", "pth", "wrapped", "old"):
        (folder / "model.safetensors").unlink()
        table = {"state_dict": export} if layout == "wrapped" else export
        suffix = layout if layout in ("bin", "pt", "pth") else "pth"
        torch.save(table, folder / f"m.{suffix}", _use_new_zipfile_serialization=layout != "old")
    elif "shard" in layout:
        (folder / "model.safetensors").unlink()
        split_up(folder, export, "bin" if "pickled" in layout else "safetensors")
    elif layout == "full":
        write_folder(folder, full_file(model, export), model)
    else:
        given = folder / "model.safetensors"
    convert_checkpoint(given, tmp_path / "ours", base)
    state = load_file(tmp_path / "ours" / "model.safetensors")
    assert_equal(state, merged(model, export, RELEASE_LORA_SCALE))


def split_up(folder: Path, table: Table, kind: str) -> None:
    weights: dict[str, str] = {}
    names = sorted(table)
    for i in range(3):
        part = {name: table[name] for name in names[i::3]}
        file = f"model-{i + 1:05d}-of-00003.{kind}"
        weights |= dict.fromkeys(part, file)
        if kind == "bin":
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file)
    (folder / f"model.{kind}.index.json").write_text(json.dumps({"weight_map": weights}))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_merged_in_float32(
    tmp_path: Path, base: Path, export: Table, stored: torch.dtype
) -> None:
    half = {name: value.to(stored) if value.is_floating_point() else value for name, value in export.items()}
    convert_checkpoint(write_folder(tmp_path / "half", half, small_model()), tmp_path / "ours", base)
    state = load_file(tmp_path / "ours" / "model.safetensors")
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    expected = merged(small_model(), half, RELEASE_LORA_SCALE)
    name = "language.text.layers.0.mlp.up_proj.weight"
    assert torch.equal(state[name], expected[name])
    assert torch.equal(state["bg_embeds.weight"], half["bg_embeds.weight"].float())


def test_the_scale_of_the_factors_is_read(tmp_path: Path, source: Path, base: Path, export: Table) -> None:
    (source / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 1, "use_rslora": False}))
    convert_checkpoint(source, tmp_path / "ours", base)
    assert_equal(load_file(tmp_path / "ours" / "model.safetensors"), merged(small_model(), export, 0.5))
    (source / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 1, "use_rslora": True}))
    with pytest.raises(ConfigError, match="use_rslora"):
        convert_checkpoint(source, tmp_path / "again", base)


def test_buffers_and_batch_norms_keep_their_type(tmp_path: Path, source: Path, base: Path) -> None:
    convert_checkpoint(source, tmp_path / "ours", base, dtype=torch.float16)
    loaded = load_model(tmp_path / "ours", dtype=torch.float16)
    expected = small_model()
    for name, buffer in expected.named_buffers():
        assert torch.equal(dict(loaded.named_buffers())[name], buffer), name
    norms = [module for module in loaded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and all(norm.weight.dtype == torch.float32 for norm in norms)
    assert loaded.bg_embeds.weight.dtype == torch.float16


def copy_of(model: X2SAM, dtype: torch.dtype) -> X2SAM:
    twin = X2SAM(model.config, model.tokenizer)
    twin.load_state_dict(model.state_dict())
    cast_weights(twin, dtype)
    return twin.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_exported_and_imported_again_is_the_same_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    model = copy_of(small_model(), dtype)
    with torch.no_grad():
        model.bg_embeds.weight[0, :2] = torch.tensor([-0.0, 1e-7])
    export_official(model, tmp_path / "official")
    report = convert_checkpoint(tmp_path / "official", tmp_path / "ours", dtype=dtype, download=False)
    assert report.plan.merged == 0 and not report.plan.dropped
    loaded = load_model(tmp_path / "ours", dtype=dtype)
    assert loaded.config == model.config
    assert loaded.tokenizer.control_ids == model.tokenizer.control_ids
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert state[name].dtype == value.dtype, name
        assert (
            state[name].numpy(force=True).tobytes() == value.numpy(force=True).tobytes()
            if (dtype != torch.bfloat16)
            else torch.equal(state[name].reshape(-1).view(torch.uint8), value.reshape(-1).view(torch.uint8))
        ), name


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def test_memory_stays_far_below_the_size_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = small_model()
    text = replace(small.config.language.text, intermediate_size=40_000)
    large = X2SAM(replace(small.config, language=replace(small.config.language, text=text)), small.tokenizer)
    export = write_folder(tmp_path / "export", default_export(large), large)
    base = write_folder(tmp_path / "base", base_model(large))
    del large
    convert_checkpoint(export, tmp_path / "first", base)  # what is loaded once and stays is no part of it
    monkeypatch.setattr(source_module, "WINDOW_BYTES", 1 << 24)
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    before = peak_bytes()
    report = convert_checkpoint(export, tmp_path / "ours", base)
    grown = peak_bytes() - before
    assert report.nbytes > 150e6, "large enough to tell"
    assert grown < 0.6 * report.nbytes, f"{grown / 1e6:.0f} MB more for {report.nbytes / 1e6:.0f} MB of weights"


def test_progress_ends_at_the_total(tmp_path: Path, source: Path, base: Path) -> None:
    told: list[tuple[int, int]] = []
    convert_checkpoint(source, tmp_path / "ours", base, progress=lambda done, total: told.append((done, total)))
    dones, totals = zip(*told)
    assert dones[-1] == totals[0] == totals[-1] and list(dones) == sorted(dones)


def fails(tmp_path: Path, *args: object, match: str, **options: object) -> None:
    """Convert in vain: one line, and nothing is left behind."""
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=match) as caught:
        convert_checkpoint(args[0], tmp_path / "ours", *args[1:], **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_nan_and_infinity_are_counted_and_refused(tmp_path: Path, base: Path, export: Table) -> None:
    export["bg_embeds.weight"][0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    export[wrapped("language.visual.merger.norm.bias")][0] = float("nan")
    folder = write_folder(tmp_path / "export", export, small_model())
    fails(tmp_path, folder, base, match=r"4 values of 2 tensors are NaN or infinite: .*bg_embeds\.weight \(3\)")


def test_a_type_that_cannot_hold_a_value_is_refused(tmp_path: Path, base: Path, export: Table) -> None:
    export["bg_embeds.weight"][0, 0] = -70_000.0
    folder = write_folder(tmp_path / "export", export, small_model())
    message = r"float16 cannot hold the values of bg_embeds\.weight \(up to 7e\+04\); convert to bfloat16 or float32"
    fails(tmp_path, folder, base, match=message, dtype="float16")
    convert_checkpoint(folder, tmp_path / "ours", base, dtype="bfloat16")


def test_a_head_of_its_own_is_refused(tmp_path: Path, base: Path, export: Table) -> None:
    export[WRAPPER + HEAD] += 1
    folder = write_folder(tmp_path / "export", export, small_model())
    fails(tmp_path, folder, base, match="is not the embedding table")


def test_a_checkpoint_of_another_size_is_named(tmp_path: Path, source: Path, base: Path) -> None:
    table = json.loads((source / CONFIG_FILE).read_text())
    table["language"]["text"]["intermediate_size"] += 32
    (source / CONFIG_FILE).write_text(json.dumps(table))
    message = r"does not fit the network of config\.json of the export: .* is \(256, 96\), expected \(288, 96\)"
    fails(tmp_path, source, base, match=message)


def test_without_a_configuration_it_must_be_the_release(tmp_path: Path, source: Path, base: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        shutil.move(source / name, base / name)
    (base / CONFIG_FILE).unlink()
    fails(tmp_path, source, base, match=r"tokens, expected 151672 \(the release\)")


def test_a_missing_base_says_where_it_was_looked_for(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    cache = tmp_path / "cache" / "models--Qwen--Qwen3-VL-4B-Instruct"
    message = f"no base model Qwen/Qwen3-VL-4B-Instruct: looked in .*{cache}; downloading was not allowed; get it with"
    fails(tmp_path, source, match=message, download=False)
    fails(tmp_path, source, tmp_path / "absent", match=f"no base model at {tmp_path / 'absent'}")


def test_a_folder_with_nothing_in_it_is_no_base(tmp_path: Path, source: Path) -> None:
    (tmp_path / "bare").mkdir()
    fails(tmp_path, source, tmp_path / "bare", match=f"no checkpoint in {tmp_path / 'bare'}")


def test_the_tokenizer_may_be_the_bases(tmp_path: Path, source: Path, base: Path) -> None:
    shutil.move(source / "tokenizer.json", base / "tokenizer.json")
    convert_checkpoint(source, tmp_path / "ours", base)
    assert load_model(tmp_path / "ours").tokenizer.control_ids == small_model().tokenizer.control_ids
    (base / "tokenizer.json").unlink()
    shutil.rmtree(tmp_path / "ours")
    fails(tmp_path, source, base, match=f"no tokenizer in {source} or {base}")


def test_a_folder_of_checkpoints_means_the_one_with_a_language_side(tmp_path: Path, base: Path, export: Table) -> None:
    stages = tmp_path / "stages"
    masks = {name: value for name, value in export.items() if name.startswith(("segmentor.", "bg_embeds."))}
    write_folder(stages / "first", masks)
    fails(tmp_path, stages, base, match="no language side")
    write_folder(stages / "last", export, small_model())
    convert_checkpoint(stages, tmp_path / "ours", base)
    shutil.rmtree(tmp_path / "ours")
    write_folder(stages / "other", export, small_model())
    fails(tmp_path, stages, base, match=r"several checkpoints; pass one of .*first; .*last; .*other")


def test_what_exists_is_replaced_only_when_told(tmp_path: Path, source: Path, base: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    convert_checkpoint(source, ours, base)
    before = (ours / "manifest.json").read_bytes()
    fails(tmp_path, source, base, match="exists; give another folder, or --force")
    fails(tmp_path, source, tmp_path / "absent", match="no base model", force=True)
    assert (ours / "manifest.json").read_bytes() == before
    convert_checkpoint(source, ours, base, dtype="float16", force=True)
    assert (ours / "manifest.json").read_bytes() != before
    (ours / "thesis.tex").touch()
    fails(tmp_path, source, base, match=r"holds other files than a checkpoint's: thesis\.tex", force=True)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        convert_checkpoint(source, tmp_path / "file", base)


def test_a_full_disk_is_noticed_before_it_is_full(
    tmp_path: Path, source: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda path: usage)
    fails(tmp_path, source, base, match=r"has 0\.0 GB left; make room")


def test_an_interrupt_leaves_nothing(tmp_path: Path, source: Path, base: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(source, tmp_path / "ours", base, progress=stop)
    assert sorted(tmp_path.iterdir()) == before
