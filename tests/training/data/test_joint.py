"""Sources joined: one stream, the same for every worker and after every interruption."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.training.test_samples import equal
from tests.unit.model.networks import nano_tokenizer
from tests.unit.truth import layouts
from x2sam_ros.bag.source import MAX_KEPT_PROBLEMS
from x2sam_ros.errors import ConfigError, TruthError
from x2sam_ros.model.config import preset
from x2sam_ros.training.data.joint import JointSettings, JointSources
from x2sam_ros.training.data.sources import SourceConfig

SETTINGS = JointSettings(seed=5, epochs=2, parts={"image": 1, "video": 2}, balance=0.0, workers=0)


def configs(root: Path) -> list[SourceConfig]:
    """Pictures with classes, expressions, clips with objects, and chats."""
    layouts.write_coco_panoptic(root / "panoptic")
    layouts.write_refcoco(root / "refer")
    layouts.write_davis(root / "davis")
    chats = layouts.write_chats(root / "chat")
    return [
        SourceConfig(str(root / "panoptic"), "panoptic", batch=2),
        SourceConfig(str(root / "refer"), "refer", split="train", prompts=2),
        SourceConfig(str(root / "davis"), "davis", frames=2, weight=2.0),
        SourceConfig(str(chats), "chat", media=str(root / "chat/images")),
    ]


def joined(listed: list[SourceConfig], settings: JointSettings = SETTINGS, **rest: int) -> JointSources:
    return JointSources(listed, preset("nano"), nano_tokenizer(), settings, **rest)


def test_batches_are_of_one_source_and_steps_follow_one_another(tmp_path):
    sources = joined(configs(tmp_path))
    found = list(sources)
    assert len(found) == len(sources) and sources.state() == {"position": len(sources)}
    order = [batch.source for batch in found]
    assert set(order) == {"panoptic", "refer", "davis", "chat"}
    clips = [index for index, name in enumerate(order) if name == "davis"]
    assert clips[1::2] == [index + 1 for index in clips[::2]] and sources.parts_of("davis") == 2
    for batch in found:
        assert len(batch.names) == batch.batch.pixel_values.shape[1] == (2 if batch.source == "panoptic" else 1)
        assert batch.share_phrases == (batch.source == "refer")
        assert len(batch.batch.conversations) == {"refer": 2, "panoptic": 2, "davis": 1, "chat": 0}[batch.source]
        assert len(batch.batch.texts) == (batch.source == "chat")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, workers):
    listed = configs(tmp_path)
    whole = list(joined(listed))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    for stop in (1, len(whole) // 2 + 1):
        first = joined(listed, replace(SETTINGS, workers=workers))
        stream = iter(first)
        for _ in range(stop):
            next(stream)
        state = json.loads(json.dumps(first.state()))
        later = joined(listed, replace(SETTINGS, workers=workers))
        later.restore(state)
        rest = list(later)
        assert len(rest) == len(whole) - stop
        for one, other in zip(rest, whole[stop:]):
            assert (one.source, one.names) == (other.source, other.names) and equal(one.batch, other.batch)
    assert torch.equal(before, torch.get_rng_state()), "nothing is drawn from the global generator"


def test_epochs_ask_differently(tmp_path):
    listed = configs(tmp_path)[:1]
    found = list(joined(listed, replace(SETTINGS, epochs=4, canonical_share=0.2)))
    assert len({str(batch.batch.conversations[0].input_ids.tolist()) for batch in found}) > 1


def test_processes_get_the_same_source_at_the_same_time(tmp_path):
    listed = configs(tmp_path)
    plans = [[batch.source for batch in joined(listed, rank=rank, world=2)] for rank in (0, 1)]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_replaced_and_named(tmp_path, workers):
    listed = configs(tmp_path)[:1]
    (tmp_path / "panoptic/val2017/000001.jpg").write_bytes(b"no picture")
    sources = joined(listed, replace(SETTINGS, workers=workers))
    for batch in sources:
        assert {name.split(",")[0] for name in batch.names} == {"000002"}
        assert all(said.startswith("source panoptic: 000001, clip 0, item 0: ") for said in batch.problems)
        assert batch.problems
    (tmp_path / "panoptic/val2017/000002.jpg").unlink()
    message = "10 samples of a source in a row could not be read, the last one: source panoptic: .* more tries than 10"
    with pytest.raises(TruthError, match=message) as caught:
        list(joined(listed, replace(SETTINGS, workers=workers)))
    assert "\n" not in str(caught.value), "no traceback of a worker"


def test_many_neighbours_that_cannot_be_read_stop_nothing(tmp_path):
    """Half of a disc is lost: what is left takes its place, the same after an interruption."""
    layouts.write_reasonseg(tmp_path)
    for number in range(20):
        for suffix in (".jpg", ".json"):
            shutil.copy(tmp_path / f"val/a{suffix}", tmp_path / f"val/{number:02}{suffix}")
        if number < 12:
            (tmp_path / f"val/{number:02}.jpg").write_bytes(b"no picture")
    config = [SourceConfig(str(tmp_path), "photographs", batch=4)]
    whole = list(joined(config))
    assert any(batch.problems for batch in whole)
    names = [name.split(",")[0] for batch in whole for name in batch.names]
    assert {*names} == {"a", *(f"{number:02}" for number in range(12, 20))}, "not the next one alone"
    later = joined(config, replace(SETTINGS, tries=30))
    later.restore({"position": 7})
    assert [(batch.names, batch.problems) for batch in later] == [(b.names, b.problems) for b in whole[7:]]


def test_what_was_left_out_of_a_sample_is_told_with_its_batch(tmp_path):
    layouts.write_coco_instances(tmp_path)
    file = tmp_path / "annotations/instances_val2017.json"
    file.write_text(file.read_text().replace(json.dumps([layouts.BOX]), "[]"))
    for batch in joined([SourceConfig(str(tmp_path), "pictures", batch=2)]):
        (name,) = (name for name in batch.names if name.startswith("000007"))
        assert [said.split(";")[0] for said in batch.problems] == [
            f"source pictures: {name}: empty masks left out: 1, the first is of object 1"
        ]


def test_a_source_that_is_gone_is_named(tmp_path):
    with pytest.raises(TruthError, match="nowhere does not exist"):
        joined([SourceConfig(str(tmp_path / "nowhere"))])
    with pytest.raises(ConfigError, match="names of their own, got panoptic, panoptic"):
        joined(configs(tmp_path)[:1] * 2)


def test_the_description_tells_other_data_from_the_same_elsewhere(tmp_path):
    one = joined(configs(tmp_path / "a"))
    about = json.loads(json.dumps(one.describe()))
    assert about == json.loads(json.dumps(joined(configs(tmp_path / "b"), replace(SETTINGS, workers=2)).describe()))
    assert about != json.loads(json.dumps(joined(configs(tmp_path / "c"), replace(SETTINGS, seed=6)).describe()))
    listed = configs(tmp_path / "d")
    file = tmp_path / "d/refer/grefs(unc).json"
    file.write_text(file.read_text().replace("a whale", "the whale"))
    (number,) = [key for key, said in about["sources"].items() if said["name"] == "refer"]
    assert about["sources"][number] != joined(listed).describe()["sources"][number]
    assert about != json.loads(json.dumps(joined(configs(tmp_path / "e")[::-1]).describe())), "in another order"


def test_what_was_left_out_is_told(tmp_path):
    listed = configs(tmp_path)[2:3]
    sources = joined(listed)
    for number in range(25):
        sources.sources[0].problems.add(f"source davis: sequence {number} left out")
    console = Console(file=io.StringIO(), width=80)
    sources.tell(console)
    told = console.file.getvalue().splitlines()
    assert told[0] == "source davis: sequence 0 left out"
    assert told[-1] == f"source davis: {25 - MAX_KEPT_PROBLEMS} more like these" and len(told) == MAX_KEPT_PROBLEMS + 1
