from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.unit.truth.layouts import write_bag
from x2sam_ros.bag.mcap_file import McapFile, image_fields
from x2sam_ros.bag.messages import header_fields
from x2sam_ros.bag.source import Problems
from x2sam_ros.bag.storage import McapStorage, Topic
from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.errors import ConfigError, TruthError
from x2sam_ros.training.data.sources import SourceConfig
from x2sam_ros.training.finetune import (
    BAG,
    FinetuneConfig,
    bag_sources,
    finetune,
    finetune_recipe,
    knows_scenes,
    rehearsal_sources,
    rehearsal_streams,
)
from x2sam_ros.training.rehearsal import AS_BEFORE, REHEARSED
from x2sam_ros.training.scenes import generate_clip
from x2sam_ros.truth.open import open_dataset

FRAMES, SIZE = 10, 96
STAMPS = [50_000_000 * (index + 1) for index in range(FRAMES)]
USUAL = FinetuneConfig()
TINY = FinetuneConfig(steps=6, batch=2, frames=2, max_stride=2, rehearsal=0.0, bf16=False, workers=0)


def write_scene_bag(
    path: Path,
    seed: int = 3,
    named: bool = True,
    damaged: Collection[int] = (),
    names: tuple[str, ...] = (),
    size: int = SIZE,
) -> Path:
    """Write a generated clip as a bag with label images, its objects named by colour and shape, or by ``names``.

    Of damaged images half of the pixels are missing.
    """
    clip = generate_clip(seed, FRAMES, size, size)
    called = {number: f"{one.colour} {one.shape}" for number, one in enumerate(clip.objects, 1)}
    called |= dict(zip(called, names))
    topics = {"/camera/image_raw": "sensor_msgs/msg/Image", "/ground_truth/label_image": "sensor_msgs/msg/Image"}
    if named:
        topics["/ground_truth/label_info"] = "x2sam_ros/msg/LabelInfo"
    with McapFile(path, topics) as bag:
        for number, (stamp, image, labels) in enumerate(zip(STAMPS, clip.frames, clip.labels)):
            header = header_fields(stamp, "camera")
            said = {"height": size, "width": size, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * size}
            data = image.reshape(-1)[: image.size // (2 if number in damaged else 1)]
            bag.add("/camera/image_raw", stamp, {"header": header, **said, "data": data})
            fields = image_fields(stamp, "camera", "mono8", np.ascontiguousarray(labels.astype(np.uint8)))
            bag.add("/ground_truth/label_image", stamp, fields)
            if named and stamp == STAMPS[0]:
                values = np.array(list(called), np.uint32)
                info = {"header": header, "values": values, "labels": list(called.values())}
                bag.add("/ground_truth/label_info", stamp, info)
    return path


def asked(*bags: Path, config: FinetuneConfig = USUAL) -> list[SourceConfig]:
    """Return what is asked about bags in which every image can be used."""
    problems = Problems()
    found = bag_sources(bags, config, problems)
    assert problems.count == 0
    return found


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_what_a_bag_is_asked(tmp_path):
    named, unnamed = write_scene_bag(tmp_path / "named.mcap"), write_scene_bag(tmp_path / "plain.mcap", named=False)
    sources = asked(named, unnamed)
    assert [source.name for source in sources] == [
        *(f"1 named {task} {kind}" for task in ("objseg", "genseg", "refseg") for kind in ("pictures", "clips")),
        *(f"2 plain objseg {kind}" for kind in ("pictures", "clips")),
    ]
    assert {source.span for source in sources} == {(0.0, 0.8)}
    assert {(source.frames, source.batch) for source in sources} == {(1, 8), (4, 2)}
    pictures = asked(unnamed, config=FinetuneConfig(frames=9))  # of which no clip is long enough
    assert [source.frames for source in pictures] == [1]


def test_bags_that_cannot_be_learnt_from_are_refused(tmp_path):
    bag = write_scene_bag(tmp_path / "a.mcap")
    with pytest.raises(ConfigError, match="a bag is given twice"):
        asked(bag, tmp_path / "." / "a.mcap")
    with pytest.raises(ConfigError, match="a bag is given twice: .*a.mcap and .* share recordings"):
        asked(tmp_path, bag)
    with pytest.raises(TruthError, match="too few annotated images to train on"):
        asked(bag, config=FinetuneConfig(held_out=0.99))
    with pytest.raises(TruthError, match="no topic with label images"):
        camera = tmp_path / "camera.mcap"
        write_bag(camera, STAMPS[:4], np.zeros((4, 24, 40), np.uint8), topic="/robot/front")
        asked(camera)
    for values, said in (
        ({"steps": 0}, "steps is 0"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"rehearsal": -0.5}, "rehearsal"),
        ({"workers": -1}, "workers is -1, expected at least 0"),
        ({"seed": -1}, "seed is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ):
        with pytest.raises(ConfigError, match=said):
            FinetuneConfig(**values)


def test_recipe_rests_what_sees_and_adapts_what_reads():
    model = load_model("nano")
    recipe = finetune_recipe(model, FinetuneConfig())
    assert recipe.lora is not None and not recipe.activation_checkpointing and recipe.loss.points == 0
    assert recipe.factor("segmentor.encoder.stem.weight") == recipe.factor("language.text.embed_tokens.weight") == 0
    assert recipe.factor("segmentor.memory_encoder.any.weight") == 1
    whole = finetune_recipe(model, FinetuneConfig(lora=False))
    assert whole.lora is None and whole.factor("language.text.layers.0.mlp.up_proj.weight") == 1
    assert whole.factor("language.visual.blocks.0.attn.qkv.weight") == 0


def test_a_bag_is_learnt_from_and_the_weights_are_a_checkpoint(tmp_path):
    bag, out = write_scene_bag(tmp_path / "a.mcap"), tmp_path / "run"
    ledger = finetune("nano", asked(bag, config=TINY), out, TINY, quiet(), cpu=True)
    assert sum(account.steps for account in ledger.accounts.values()) == TINY.steps
    assert all(name.startswith("1 a ") for name in ledger.accounts)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert len(rows) == TINY.steps and all(np.isfinite(row["loss"]) for row in rows)
    learnt, start = load_model(out / "weights").state_dict(), load_model("nano").state_dict()
    assert list(learnt) == list(start)
    changed = {name for name in start if not torch.equal(start[name], learnt[name])}
    assert not any(name.startswith(("segmentor.encoder.", "language.visual.")) for name in changed)
    assert any(name.startswith("segmentor.pixel_decoder.") for name in changed)
    assert any(name.startswith("language.text.layers.") and "_proj" in name for name in changed)
    assert "language.text.embed_tokens.weight" not in changed
    with pytest.raises(ConfigError, match="learning_rate"):  # other settings are another run
        finetune(
            "nano",
            asked(bag, config=TINY),
            out,
            FinetuneConfig(**{**vars(TINY), "learning_rate": 1e-3}),
            quiet(),
            cpu=True,
        )


def test_what_is_rehearsed(tmp_path):
    other, model = write_scene_bag(tmp_path / "other.mcap", seed=5), load_model("nano")
    strange = load_model("nano")
    strange.config = replace(model.config, preset="release")
    for network, paths, expected in (
        (model, [], [(REHEARSED, 0.5)]),
        (model, [other], [(REHEARSED, 0.25), (REHEARSED, 0.25)]),
        (strange, [], [(AS_BEFORE, 0.5)]),
        (strange, [other], [(REHEARSED, 0.5)]),
    ):
        config = FinetuneConfig(workers=0)
        streams = rehearsal_streams(network, rehearsal_sources(paths, config), config, quiet())
        assert [(stream.mark, stream.share) for stream in streams] == expected
    (source,) = rehearsal_sources([other], FinetuneConfig())
    assert (source.span, source.sequences) == ((0.0, 0.8), (0.0, 1.0))
    folder = tmp_path / "several"
    folder.mkdir()
    for seed in range(5):
        write_scene_bag(folder / f"{seed}.mcap", seed)
    (source,) = rehearsal_sources([folder], FinetuneConfig())
    assert (source.span, source.sequences) == ((0.0, 1.0), (0.0, 0.8))
    assert knows_scenes("nano")
    with pytest.raises(ConfigError, match="what is rehearsed is given twice"):
        rehearsal_sources([other, other], FinetuneConfig())
    with pytest.raises(TruthError, match="does not exist"):
        rehearsal_sources([tmp_path / "nothing"], FinetuneConfig())


def test_each_process_rehearses_samples_of_its_own(tmp_path):
    config, model = FinetuneConfig(workers=0, batch=2), load_model("nano")
    rehearsed = rehearsal_sources([write_scene_bag(tmp_path / "other.mcap", seed=5)], config)
    each = [rehearsal_streams(model, rehearsed, config, quiet(), rank, world=2) for rank in (0, 1)]
    for streams in zip(*each):
        names = [next(iter(stream.sources)).names for stream in streams]
        assert names[0] != names[1]


def test_rehearsed_batches_come_between_and_a_stopped_run_goes_on(tmp_path):
    bag, other = write_scene_bag(tmp_path / "a.mcap"), write_scene_bag(tmp_path / "other.mcap", seed=5)
    config = replace(TINY, steps=4, rehearsal=0.5)
    rehearsed = rehearsal_sources([other], config)
    ledger = finetune("nano", asked(bag, config=TINY), tmp_path / "run", config, quiet(), cpu=True, rehearsed=rehearsed)
    steps = {name.split(" ")[0]: 0 for name in ledger.accounts}
    for name, account in ledger.accounts.items():
        steps[name.split(" ")[0]] += account.steps
    assert steps == {"1": 4, "rehearsed:": 4}
    again = finetune("nano", asked(bag, config=TINY), tmp_path / "run", config, quiet(), cpu=True, rehearsed=rehearsed)
    assert again.total.steps == 8
    with pytest.raises(ConfigError, match="holds a run of another configuration"):
        finetune("nano", asked(bag, config=TINY), tmp_path / "run", config, quiet(), cpu=True)


def test_the_held_out_end_is_never_read(tmp_path):
    """With garbage in its end a bag teaches the same."""
    whole = write_scene_bag(tmp_path / "a.mcap")
    (sequence,) = open_dataset(whole, BAG).sequences
    from x2sam_ros.training.data.joint import JointSettings, JointSources

    model = load_model("nano")
    sources = JointSources(asked(whole, config=TINY), model.config, model.tokenizer, JointSettings(epochs=2, workers=0))
    held_out = list(sequence.frames())[round(0.8 * FRAMES) :]
    seen: set[int] = set()
    for source in sources.sources:
        for sample in source.samples:
            shown = sample.read(np.random.default_rng(0))
            for frame in shown.frames:
                for later in held_out:
                    assert not np.array_equal(frame, later.image)
            seen.add(len(shown.frames))
    assert seen == {1, 2}


def labelled(path: Path, labels: np.ndarray, names: dict[int, str] | None = None, camera: int = SIZE) -> Path:
    """Write a bag whose images show noise; labels are uint8 (T, H, W)."""
    topics = {"/camera/image_raw": "sensor_msgs/msg/Image", "/ground_truth/label_image": "sensor_msgs/msg/Image"}
    with McapFile(path, {**topics, "/ground_truth/label_info": "x2sam_ros/msg/LabelInfo"}) as bag:
        image = np.random.default_rng(0).integers(0, 255, (camera, camera, 3), np.uint8)
        for stamp in STAMPS:
            header = header_fields(stamp, "camera")
            said = {"height": camera, "width": camera, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * camera}
            bag.add("/camera/image_raw", stamp, {"header": header, **said, "data": image.reshape(-1)})
        for stamp, one in zip(STAMPS, labels):
            bag.add("/ground_truth/label_image", stamp, image_fields(stamp, "camera", "mono8", one))
        if names:
            info = {"values": np.array(list(names), np.uint32), "labels": list(names.values())}
            bag.add("/ground_truth/label_info", STAMPS[0], {"header": header_fields(STAMPS[0], "camera"), **info})
    return path


def test_labels_that_fit_nowhere_are_refused_before_anything_is_done(tmp_path):
    box = np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    box[:, 20:60, 20:60] = 1
    small = labelled(tmp_path / "small.mcap", box[:, :48, :48].copy())
    with pytest.raises(TruthError, match="48x48.*96x96|96x96.*48x48"):
        asked(small, config=TINY)
    strange = labelled(tmp_path / "strange.mcap", box * 7, {1: "cup"})
    with pytest.raises(TruthError, match="pixels have the value 7, which is none of those listed"):
        asked(strange, config=TINY)
    nothing = labelled(tmp_path / "nothing.mcap", box * 0, {1: "cup"})
    with pytest.raises(TruthError, match="no annotated image shows an object"):
        asked(nothing, config=TINY)
    dark = labelled(tmp_path / "dark.mcap", box * 0)
    with pytest.raises(TruthError, match="no annotated image shows an object"):
        asked(dark, config=TINY)
    one = labelled(tmp_path / "one.mcap", box[:1], {1: "cup"})
    assert {source.frames for source in asked(one, config=replace(TINY, held_out=0.0))} == {1}
    with pytest.raises(TruthError, match="too few annotated images to train on"):
        asked(one, config=replace(TINY, held_out=0.6))


def test_damaged_images_are_left_out_and_named(tmp_path):
    bag, problems = write_scene_bag(tmp_path / "a.mcap", damaged=(0, 5)), Problems()
    sources = bag_sources([bag], TINY, problems)
    assert problems.count == 1 and problems.messages[0].startswith("a: image 0 left out: "), "up to the first object"
    said = io.StringIO()
    finetune("nano", sources, tmp_path / "run", TINY, Console(file=said, width=200), cpu=True)
    assert re.search(r"source 1 a objseg \w+: a, clip \d, item 0: image [05] left out: image data has", said.getvalue())
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(rows) == TINY.steps
    lost = write_scene_bag(tmp_path / "lost.mcap", damaged=range(FRAMES))
    with pytest.raises(
        TruthError, match="no annotated image shows an object, of the 8 .*, and 8 cannot be used: image 0"
    ):
        bag_sources([lost], TINY, Problems())


def test_one_label_image_that_does_not_fit_is_left_out(tmp_path):
    labels = np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    labels[:, 20:60, 20:60] = 1
    labels[0, :5] = 7
    problems = Problems()
    assert bag_sources([labelled(tmp_path / "a.mcap", labels, {1: "cup"})], TINY, problems)
    assert problems.count == 1 and "a: image 0 left out: " in problems.messages[0] and "value 7" in problems.messages[0]


def test_a_bag_is_looked_through_once(tmp_path, monkeypatch):
    """However much is asked about it: its labels and stamps are read once, then only the images that are shown."""
    looks: Counter[str] = Counter()
    messages = McapStorage.messages

    def counted(self: McapStorage, topic: Topic, problems: Problems) -> Iterator[bytes]:
        looks[topic.name] += 1
        return messages(self, topic, problems)

    monkeypatch.setattr(McapStorage, "messages", counted)
    sources = asked(write_scene_bag(tmp_path / "a.mcap"), config=TINY)
    assert len(sources) == 6
    assert looks["/ground_truth/label_image"] == 1
    assert looks["/camera/image_raw"] == 3, "for a stamp that has a label, for all stamps, and for an object"
    looks.clear()
    ledger = finetune("nano", sources, tmp_path / "run", TINY, quiet(), cpu=True)
    assert looks["/ground_truth/label_image"] == 0
    assert looks["/camera/image_raw"] == sum(account.samples for account in ledger.accounts.values())


def test_a_bag_that_was_cut_off_is_learnt_from_as_far_as_it_goes(tmp_path):
    whole, cut = write_scene_bag(tmp_path / "whole.mcap", size=256).read_bytes(), tmp_path / "cut.mcap"
    cut.write_bytes(whole[: 2 * len(whole) // 3])
    problems = Problems()
    assert bag_sources([cut], TINY, problems)
    assert problems.messages == ["cut is damaged and ends early; what can be read of it is learnt from"]
