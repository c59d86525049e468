"""From queries to masks, labels and ids with ``official_quirks``, against the published evaluation's results."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from tests.shared_data import PARITY
from x2sam_ros.engine.postprocess import instance_list, label_map, semantic_map
from x2sam_ros.engine.published import GEOMETRY_WEIGHT, followed_query, panoptic_clip
from x2sam_ros.engine.region import Region
from x2sam_ros.engine.select import Candidates, Choice
from x2sam_ros.engine.task_head import HISTORY, ReadContext, Track, checked_read
from x2sam_ros.plugins import installed_plugins

SCORE_TOLERANCE = 1e-5
OBJECT, NOTHING = 1, 255
"""Values of the published maps of one object."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One fixture: the queries of each picture or frame, and what is expected of them."""

    kind: str
    is_video: bool
    data: dict[str, Tensor]
    args: dict[str, Any]
    frames: list[dict[str, Any]]

    def sizes(self, name: str) -> list[Size]:
        """Return ``image_sizes`` or ``scaled_sizes``, one per picture or frame."""
        rows = self.args[name][0] if self.is_video else self.args[name]
        return [(int(height), int(width)) for height, width in rows]

    @property
    def raw(self) -> list[Candidates]:
        logits = zip(self.data["in.class_queries_logits"], self.data["in.masks_queries_logits"])
        return [Candidates.read(classes, masks) for classes, masks in logits]

    @property
    def found(self) -> list[Candidates]:
        """The queries at each picture's size."""
        sizes = zip(self.raw, self.sizes("image_sizes"), self.sizes("scaled_sizes"))
        return [raw.resized(image_size, valid_size) for raw, image_size, valid_size in sizes]

    @property
    def mask_odds(self) -> float:
        threshold = self.args.get("mask_threshold", 0.5)
        return math.log(threshold / (1 - threshold))

    def expected_map(self, frame: int) -> Tensor:
        return self.data[f"out.{frame}.segmentation"]

    def prompt_mask(self, frame: int) -> Tensor:
        """Return the prompt masks at the frame's size, (N, H, W), which the fixture holds too."""
        height, width = self.sizes("scaled_sizes")[frame]
        planes = self.data["in.vprompt_masks"][None, :, :height, :width].float()
        resized = F.interpolate(planes, size=self.sizes("image_sizes")[frame], mode="nearest")[0]
        assert torch.equal(resized, self.data[f"out.{frame}.vprompt_masks"].float())
        return resized


@cache
def case(name: str) -> Case:
    match = re.fullmatch(r"post_(img|vid)_([a-z]+).*", name)
    assert match, f"{name} is no fixture of post-processing"
    meta = json.loads((PARITY / name / "meta.json").read_text())
    data = load_file(PARITY / name / "data.safetensors")
    return Case(match[2], match[1] == "vid", data, meta["args"], meta["frames"])


def fixtures(*kinds: str) -> Any:
    names = sorted(
        folder.name for folder in PARITY.glob("post_*") if folder.is_dir() and case(folder.name).kind in kinds
    )
    skipped = pytest.param("", marks=pytest.mark.skip(reason=f"no post_* fixture of {kinds} in {PARITY}"))
    return pytest.mark.parametrize("name", names or [skipped])


def test_every_fixture_is_compared() -> None:
    kinds = {case(folder.name).kind for folder in PARITY.glob("post_*") if folder.is_dir()}
    compared = {"refseg", "reaseg", "grefseg", "gcgseg", "intseg", "objseg", "vgdseg"}
    assert kinds <= compared | {"semantic", "instance", "panoptic"}


def read(case: Case, found: Candidates, **context: Any) -> Sequence[Choice]:
    labels = tuple(str(index) for index in range(found.probs.shape[1]))
    head = installed_plugins().task_head(case.kind)()
    threshold = {"score_threshold": case.args["threshold"]} if "threshold" in case.args else {}
    return checked_read(head, found, ReadContext(labels, official_quirks=True, **threshold, **context))


def assert_score(found: float, expected: float) -> None:
    assert found == pytest.approx(expected, abs=SCORE_TOLERANCE)


def assert_one_object(case: Case, frame: int, choice: Choice) -> None:
    shifted = replace(choice, logits=choice.logits - case.mask_odds)
    painted = label_map([shifted], [OBJECT], case.sizes("image_sizes")[frame], background=NOTHING)
    assert torch.equal(painted, case.expected_map(frame).int())
    assert_score(choice.score, case.frames[frame]["segments_info"]["score"])


@fixtures("refseg", "reaseg", "grefseg")
def test_referring(name: str) -> None:
    fixture = case(name)
    for frame, found in enumerate(fixture.found):
        (choice,) = read(fixture, found)
        assert_one_object(fixture, frame, choice)


@fixtures("gcgseg")
def test_captions(name: str) -> None:
    fixture = case(name)
    for frame, found in enumerate(fixture.found):
        choices = read(fixture, found)
        expected = fixture.frames[frame]["segments_info"]
        assert [choice.class_index for choice in choices] == [segment["category_id"] for segment in expected]
        ids = [segment["id"] for segment in expected]
        size = fixture.sizes("image_sizes")[frame]
        assert torch.equal(label_map(choices, ids, size, background=NOTHING), fixture.expected_map(frame))
        for choice, segment in zip(choices, expected):
            assert_score(choice.score, segment["score"])


def region(mask: Tensor) -> Region:
    return Region(mask.numpy(), np.zeros((0, 2)), np.zeros(0, int), shape=mask.numpy())


@fixtures("intseg")
def test_one_region_of_an_image(name: str) -> None:
    fixture = case(name)
    for frame, found in enumerate(fixture.found):
        (choice,) = read(fixture, found, regions=(region(fixture.prompt_mask(frame)[0] > 0),))
        assert choice.class_index == fixture.frames[frame]["segments_info"]["category_id"]
        assert_one_object(fixture, frame, choice)


@fixtures("objseg")
def test_one_object_of_a_video(name: str) -> None:
    fixture, history = case(name), []
    threshold = fixture.args.get("threshold", 0.5)
    weight, memory = fixture.args.get("alpha", GEOMETRY_WEIGHT), fixture.args.get("memory_size", HISTORY)
    for frame, found in enumerate(fixture.found):
        anchor = fixture.prompt_mask(frame)[0] == 255
        choice = followed_query(found, anchor, history, threshold, weight)
        assert_one_object(fixture, frame, choice)
        if (weight, memory) == (GEOMETRY_WEIGHT, HISTORY) and not anchor.any():
            # the head is given the mask, and must not use it: the published program looks for other values
            pointed = region(fixture.prompt_mask(frame)[0] > 0)
            tracks = (Track(0, history[-1][0], tuple(history)),) if history else ()
            (chosen,) = read(fixture, found, regions=(pointed,), prompted=frame == 0, tracks=tracks)
            assert (chosen.query, chosen.score) == (choice.query, choice.score)
        if choice.score > threshold:
            history = [*history, (choice.logits > fixture.mask_odds, choice.score)][-memory:]


@fixtures("instance", "vgdseg")
def test_instances_as_a_set(name: str) -> None:
    fixture, args = case(name), case(name).args
    classes = None
    things = args["thing_contiguous_ids"] if fixture.kind == "instance" else None
    for frame, found in enumerate(fixture.found):
        if args.get("return_contiguous_labels"):
            sampled = args["sampled_labels"][0 if fixture.is_video else frame]
            classes = [args["dataset_ids"].index(label) for label in sampled]
        listed = instance_list(found, args["threshold"], things, classes, official_quirks=True)
        tensors = {
            key: fixture.data[f"out.{frame}.instances.{key}"] for key in ("pred_classes", "pred_masks", "scores")
        }
        assert_same_instances(
            [(choice.class_index, choice.mask, choice.score) for choice in listed],
            list(zip(tensors["pred_classes"].tolist(), tensors["pred_masks"] > 0, tensors["scores"].tolist())),
        )
        seen = [choice for choice in listed if choice.mask.any()]
        assert_painted_instances(fixture, frame, seen)
        if fixture.kind == "vgdseg":
            chosen = read(fixture, found)
            assert sorted((c.query, c.score) for c in chosen) == sorted((c.query, c.score) for c in seen)


Instance = tuple[int, Tensor, float]


def assert_same_instances(found: list[Instance], expected: list[Instance]) -> None:
    def key(instance: Instance) -> tuple[int, bytes]:
        return int(instance[0]), instance[1].numpy().tobytes()

    found, expected = sorted(found, key=key), sorted(expected, key=key)
    assert [key(instance) for instance in found] == [key(instance) for instance in expected]
    for (_, _, score), (_, _, wanted) in zip(found, expected):
        assert_score(score, wanted)


def assert_painted_instances(fixture: Case, frame: int, seen: list[Choice]) -> None:
    """Compare the map, painted in the order of the fixture's segments, which is unspecified."""
    segments, ordered = fixture.frames[frame]["segments_info"], []
    left = list(range(len(seen)))
    for segment in segments:
        same = [row for row in left if seen[row].class_index == segment["label_id"]]
        row = min(same, key=lambda row: abs(seen[row].score - segment["score"]))
        left.remove(row)
        ordered.append(seen[row])
        assert_score(seen[row].score, segment["score"])
    size = fixture.sizes("image_sizes")[frame]
    if "segmentation_rle_per_id" not in fixture.frames[frame]:
        painted = label_map(ordered, [segment["id"] for segment in segments], size, background=NOTHING)
        assert torch.equal(painted, fixture.expected_map(frame))
        return
    painted = label_map(ordered, [segment["id"] for segment in segments], size, background=-1)
    values = painted.unique().tolist()
    runs = fixture.frames[frame]["segmentation_rle_per_id"]
    assert len(values) == len(runs)
    for value, run in zip(values, runs):
        assert torch.equal(painted == value, unpacked(run, size))


def unpacked(runs: Sequence[int], size: Size) -> Tensor:
    """Return the mask of (first, length) pairs, counted from 1 row after row."""
    mask = torch.zeros(size[0] * size[1], dtype=torch.bool)
    for first, length in zip(runs[::2], runs[1::2]):
        mask[first - 1 : first - 1 + length] = True
    return mask.view(size)


@fixtures("semantic")
def test_semantic_maps(name: str) -> None:
    fixture = case(name)
    for frame, found in enumerate(fixture.found):
        assert torch.equal(semantic_map(found), fixture.expected_map(frame).long())


@fixtures("panoptic")
def test_panoptic_maps_and_ids(name: str) -> None:
    fixture, args = case(name), case(name).args
    stuff, threshold = args["stuff_contiguous_ids"], args["threshold"]
    sizes, valid = fixture.sizes("image_sizes"), fixture.sizes("scaled_sizes")
    clips = [slice(None)] if fixture.is_video else [slice(i, i + 1) for i in range(len(sizes))]
    odds = args.get("mask_threshold", 0.5)
    frames = [f for c in clips for f in panoptic_clip(fixture.raw[c], sizes[c], stuff, threshold, valid[c], odds)]
    assert len(frames) == len(fixture.frames)
    for index, (frame, expected) in enumerate(zip(frames, fixture.frames)):
        assert torch.equal(frame.ids, fixture.expected_map(index).int())
        rows = [
            (value, piece.class_index, piece.class_index not in stuff, int(piece.mask.sum()))
            for value, piece in zip(frame.segment_ids, frame.segments)
        ]
        wanted = expected["segments_info"]
        assert rows == [(s["id"], s["category_id"], s["isthing"], s["area"]) for s in wanted]
        for piece, segment in zip(frame.segments, wanted):
            assert_score(piece.score, segment["score"])
