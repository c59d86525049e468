"""Saved sessions: tracking goes on to the bit, what does not fit is refused, and files are replaced as a whole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.unit.engine.saved_sessions import BEFORE, contents, follow, prompts, rewrite, stream, trained
from tests.unit.engine.sessions import ScriptedHead, box, click, drawn, run, same, text, use_heads
from tests.unit.model.networks import frames, nano, nano_tokenizer, new_nano
from x2sam_ros.checkpoint.manifest import read_manifest
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.persistence import FORMAT, identity
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import PromptError, SavedSessionError
from x2sam_ros.model.config import preset
from x2sam_ros.model.int8 import quantise
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.plugins import MEMORY_POLICIES, installed_plugins
from x2sam_ros.types import ClassListPrompt, Frame, GroundingStatus, TargetState


def fresh(of: Sequence[Frame]) -> list[Frame]:
    """Return frames as a new process counts them."""
    return [replace(frame, frame_index=index) for index, frame in enumerate(of)]


def restarted(before: Session, path: Path, model: X2SAM, policy: str = "fifo", **options: Any) -> Session:
    before.save(path)
    after = Session.load(path, model, EngineConfig(**options), policy)
    assert after.left_out == ()
    return after


# ---- tracking goes on


@pytest.mark.parametrize(
    ("name", "stride"),
    [("text", 1), ("text", 3), ("click", 1), ("classes", 1), ("panoptic", 1), ("caption", 1), ("regions", 1)],
)
def test_tracking_goes_on_to_the_bit(name: str, stride: int, tmp_path: Path) -> None:
    given = stream(stride=stride)
    before, results = follow(trained(), given[:BEFORE], prompts()[name])
    assert results[-1].masks.any()
    after = restarted(before, tmp_path / "session", trained())
    assert after.target_ids == before.target_ids and after.nbytes == before.nbytes
    # a frame that was left out in front of the restart is not one behind it
    rest = [replace(frame, frame_index=index * stride + stride - 1) for index, frame in enumerate(given[BEFORE:])]
    for frame, restored in zip(given[BEFORE:], rest, strict=True):
        assert same(before.step(frame), after.step(restored))


@pytest.mark.parametrize("policy", installed_plugins().names(MEMORY_POLICIES))
def test_every_memory_policy_goes_on(policy: str, tmp_path: Path) -> None:
    """Records, merged entries, the write stride and the motion of boxes count frames from where they did."""
    options = {"score_threshold": 0.0, "num_maskmem": 2, "memory_stride": 2}
    given = [replace(frame, frame_index=1000 + frame.frame_index) for frame in frames(10)]
    before = Session(nano(), EngineConfig(**options), policy)
    run(before, given[:7], {0: [text(), click()]})
    after = restarted(before, tmp_path / "session", nano(), policy, **options)
    assert all(same(before.step(a), after.step(b)) for a, b in zip(given[7:], fresh(given[7:]), strict=True))
    before.save(tmp_path / "before")
    after.save(tmp_path / "after")
    one, other = (contents(tmp_path / name)[0] for name in ("before", "after"))
    sums = [{name: x for name, x in c["checksums"].items() if ".entries." in name} for c in (one, other)]
    assert sums[0] == sums[1] != {}
    for group, shifted in zip(one["groups"], other["groups"], strict=True):
        for record, moved in zip(group["records"], shifted["records"], strict=True):
            assert {**record, "frame_index": record["frame_index"] - 1007} == moved
        (target,), (same_target,) = group["targets"], shifted["targets"]
        assert target["motion"]["frame_index"] - 1007 == same_target["motion"]["frame_index"] == 2


def test_everything_at_once_and_what_comes_later(tmp_path: Path) -> None:
    given, asked = stream(), prompts()
    before, _ = follow(trained(), given[:BEFORE], *asked.values())
    after = restarted(before, tmp_path / "session", trained())
    later = replace(asked["text"], prompt_id="later")
    x, y = asked["click"].points_px[0]
    refined = click("refined", x, y, 0, target_id=2)
    results = []
    for session, rest in ((before, given[BEFORE:]), (after, fresh(given[BEFORE:]))):
        with pytest.raises(PromptError, match="prompt id 'text' is taken"):
            session.submit(asked["text"])
        ids = session.target_ids
        gone = session.remove_prompt("classes")
        assert gone and set(session.target_ids) == set(ids) - set(gone)
        results.append(run(session, rest, {0: [later], 1: [refined]}))
        assert max(session.target_ids) > max(ids), "ids are not given twice"
    assert all(map(same, *results))
    assert [[g.status for g in result.groundings] for result in results[1]] == [[GroundingStatus.OK]] * 2


def test_prompts_that_wait_are_not_saved_and_may_be_given_again(tmp_path: Path) -> None:
    before, _ = follow(nano(), frames(2), text("old"), score_threshold=0.0)
    before.submit(text("new"))
    after = restarted(before, tmp_path / "session", nano(), score_threshold=0.0)
    with pytest.raises(PromptError, match="prompt id 'old' is taken"):
        after.submit(text("old"))
    after.submit(text("new"))
    assert after.step(frames(1)[0]).target_ids.tolist() == [1, 2]


def test_a_class_list_that_still_looks_goes_on_looking(tmp_path: Path) -> None:
    given, options = frames(6), {"score_threshold": 1.0, "lost_frames": 4}
    before, _ = follow(nano(), given[:2], ClassListPrompt("list", classes=("cup",)), **options)
    after = restarted(before, tmp_path / "session", nano(), **options)
    results = [(before.step(a), after.step(b)) for a, b in zip(given[2:], fresh(given[2:]), strict=True)]
    assert all(same(a, b) for a, b in results)
    ends = [grounding for _, b in results for grounding in b.groundings]
    assert [(end.status, end.message[:22]) for end in ends] == [(GroundingStatus.REMOVED, "nothing in 4 images fi")]


def test_states_and_counters_survive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there, away = [(0, (4, 20, 4, 20), 0.9)], []
    use_heads(monkeypatch, ScriptedHead(there, there, away))
    before, results = follow(nano(), frames(4), ClassListPrompt("list", classes=("cup",)), lost_frames=3)
    assert results[-1].states == (TargetState.OCCLUDED,)
    before.save(tmp_path / "session")
    content, _ = contents(tmp_path / "session")
    (target,) = content["groups"][0]["targets"]
    assert (target["state"], target["missed_frames"]) == ({"class": "TargetState", "value": 2}, 2)
    assert target["seen_frames"] == 2 and target["logits"] is None and target["last_mask"] is not None


def test_a_session_without_targets(tmp_path: Path) -> None:
    before = Session(nano())
    assert restarted(before, tmp_path / "session", nano()).target_ids == ()
    before, _ = follow(nano(), frames(2), text(), score_threshold=0.0)
    before.remove(1)
    after = restarted(before, tmp_path / "session", nano(), score_threshold=0.0)
    after.submit(text("next"))
    assert after.step(frames(1)[0]).target_ids.tolist() == [2], "ids are not given twice"


def test_what_is_loaded_is_saved_again_as_it_was(tmp_path: Path) -> None:
    before, _ = follow(nano(), frames(4), text(), click(), box(), score_threshold=0.0)
    before.save(tmp_path / "a")
    Session.load(tmp_path / "a", nano()).save(tmp_path / "b")
    Session.load(tmp_path / "b", nano()).save(tmp_path / "c")
    (a, _), (b, tensors_b), (c, tensors_c) = (contents(tmp_path / name) for name in "abc")
    assert b == c and tensors_b.keys() == tensors_c.keys()
    assert all(torch.equal(tensors_b[name], tensors_c[name]) for name in tensors_b)
    indices = [[record["frame_index"] for record in part["groups"][0]["records"]] for part in (a, b)]
    assert indices == [[0, 1, 2, 3], [-4, -3, -2, -1]] and (a["frame_index"], b["frame_index"]) == (3, -1)


def test_a_snapshot_is_of_its_moment(tmp_path: Path) -> None:
    session, _ = follow(nano(), frames(3), text(), score_threshold=0.0)
    session.save(tmp_path / "now")
    snapshot = session.snapshot()
    run(session, frames(8)[3:], {1: [click()]})
    session.remove(1)
    snapshot.write(tmp_path / "later")
    assert contents(tmp_path / "now")[0] == contents(tmp_path / "later")[0]


@pytest.mark.slow
def test_another_process_goes_on(tmp_path: Path) -> None:
    given = stream()
    before, _ = follow(trained(), given[:BEFORE], prompts()["click"])
    before.save(tmp_path / "session")
    np.save(tmp_path / "frame.npy", given[BEFORE].image)
    code = """
import sys, numpy as np, torch
from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.engine.session import Session
from x2sam_ros.types import Frame
torch.set_num_threads(int(sys.argv[2]))
session = Session.load(sys.argv[1] + "/session", load_model("nano"))
result = session.step(Frame(np.load(sys.argv[1] + "/frame.npy"), 5, 0))
np.savez(sys.argv[1] + "/result.npz", masks=result.masks, scores=result.scores, ids=result.target_ids)
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.returncode == 0, done.stderr
    expected, found = before.step(given[BEFORE]), np.load(tmp_path / "result.npz")
    assert np.array_equal(found["masks"], expected.masks) and expected.masks.any()
    assert np.array_equal(found["scores"], expected.scores) and found["ids"].tolist() == expected.target_ids.tolist()


# ---- a file that does not fit


def fails(path: Path, model: X2SAM, config: EngineConfig | None = None, policy: str = "fifo") -> str:
    with pytest.raises(SavedSessionError) as raised:
        Session.load(path, model, config, policy)
    message = str(raised.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return the file of a session with a text, a click and a drawn target on random weights."""
    session, _ = follow(nano(), frames(3), text(), click(), drawn(), score_threshold=0.0)
    session.save(tmp_path / "session")
    return tmp_path / "session"


def test_other_weights(saved: Path) -> None:
    message = fails(saved, new_nano(1))
    first, second = (identity(net)[:20] for net in (nano(), new_nano(1)))
    assert f"was saved with checkpoint {first}, here it is {second}; load that checkpoint" in message


def test_the_identity_is_that_of_the_checkpoint_or_of_every_weight() -> None:
    folder = Path(sys.modules["x2sam_ros"].__file__ or "").parent / "checkpoint" / "nano"
    manifest = read_manifest(folder)
    assert manifest is not None and identity(trained()) == manifest["files"]["model.safetensors"]["sha256"]
    one, other = new_nano(), new_nano()
    assert identity(one) == identity(other) != identity(new_nano(1)) and len(identity(one)) == len("weights ") + 64
    last = list(other.parameters())[-1]
    last.data.view(-1)[-1] += 1e-3
    assert identity(one) != identity(other)


def test_a_network_of_other_sizes(saved: Path) -> None:
    config = preset("nano")
    segmentor = replace(config.segmentor, image_size=160, decoder=replace(config.segmentor.decoder, num_queries=9))
    other = X2SAM(replace(config, segmentor=segmentor), nano_tokenizer())
    message = fails(saved, other)
    assert "a network of other settings (image_size 128, here 160; decoder.num_queries 12, here 9)" in message


def test_weights_of_another_type(saved: Path) -> None:
    message = fails(saved, new_nano().to(torch.bfloat16))
    assert "checkpoint weights" in message
    rewrite(saved, lambda content, _: content.update(checkpoint=identity(new_nano().to(torch.bfloat16))))
    message = fails(saved, new_nano().to(torch.bfloat16))
    assert "weights in float32, here they are in bfloat16; load the model in that type" in message


def test_int8_weights(saved: Path, tmp_path: Path) -> None:
    rounded = new_nano()
    rounded.identity = identity(nano())  # as a checkpoint's has it, whatever its weights are loaded as
    rewrite(saved, lambda content, _: content.update(checkpoint=rounded.identity))
    quantise(rounded.segmentor, 1)
    assert "weights exact, here they are int8; load the model with those" in fails(saved, rounded)
    rewrite(saved, lambda content, _: content.pop("weights"))  # as releases before int8 wrote it
    assert "weights exact, here they are int8" in fails(saved, rounded)
    session, _ = follow(rounded, stream()[:BEFORE], prompts()["text"])
    session.save(tmp_path / "rounded.x2sam")
    Session.load(tmp_path / "rounded.x2sam", rounded)
    rewrite(tmp_path / "rounded.x2sam", lambda content, _: content.update(checkpoint=identity(nano())))
    assert "weights int8, here they are exact" in fails(tmp_path / "rounded.x2sam", nano())


def test_another_policy_another_capacity_fewer_targets(saved: Path) -> None:
    message = fails(saved, nano(), EngineConfig(num_maskmem=3))
    assert "memory policy 'fifo' of 5 frames, here it is 'fifo' of 3 frames; set memory_policy" in message
    rewrite(saved, lambda content, _: content["memory_policy"].update(name="elephant"))
    assert "memory policy 'elephant' of 5 frames, here it is 'fifo' of 5 frames" in fails(saved, nano())
    rewrite(saved, lambda content, _: content["memory_policy"].update(name="fifo"))
    message = fails(saved, nano(), EngineConfig(max_targets=2))
    assert "3 targets, at most 2 may be followed here; raise max_targets" in message
    assert len(Session.load(saved, nano(), EngineConfig(max_targets=3)).target_ids) == 3


def test_a_task_that_no_plugin_offers(saved: Path) -> None:
    rewrite(saved, lambda content, _: content["groups"][1].update(task="tea"))
    message = fails(saved, nano())
    assert "unknown task head 'tea'; available: chat" in message and "; install the plugin that offers it" in message


def test_other_files(saved: Path, tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "weights", {"version": "1"})
    assert "is no saved session; give a file that Session.save wrote" in fails(tmp_path / "weights", nano())
    save_file({}, tmp_path / "next", {"format": FORMAT, "version": "4"})
    assert "has version '4' of the format, expected '3'; use the release" in fails(tmp_path / "next", nano())
    (tmp_path / "pickled").write_bytes(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.")
    for name in ("empty", "pickled"):
        (tmp_path / name).open("ab").close()
        assert "is damaged: " in fails(tmp_path / name, nano())
    for path in (tmp_path / "none", tmp_path, tmp_path / "weights" / "inside"):
        assert "cannot read the saved session" in fails(path, nano())
    rewrite(saved, lambda content, _: content.pop("groups"))
    assert "is damaged: KeyError 'groups'; name another file, or give the prompts again" in fails(saved, nano())


# ---- replaced as a whole


class PowerCut(BaseException):
    """Nothing of the program runs after it."""


def cut_in(step: str, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def torn(path: Path, raw: bytes) -> None:
        with path.open("wb") as file:
            file.write(raw[: len(raw) // 2])
        raise error

    def broken(*args: Any) -> None:
        raise error

    {
        "write": lambda: monkeypatch.setattr(Path, "write_bytes", torn),
        "flush": lambda: monkeypatch.setattr(os, "fsync", broken),
        "rename": lambda: monkeypatch.setattr(os, "replace", broken),
    }[step]()


@pytest.mark.parametrize("step", ["write", "flush", "rename"])
def test_a_power_cut_leaves_the_old_file(saved: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = saved.read_bytes()
    session = Session.load(saved, nano(), EngineConfig(score_threshold=0.0))
    session.remove(1)
    with monkeypatch.context() as context:
        cut_in(step, context, PowerCut())
        with pytest.raises(PowerCut):
            session.save(saved)
    assert saved.read_bytes() == old and Session.load(saved, nano()).target_ids == (1, 2, 3)
    session.save(saved)
    assert Session.load(saved, nano()).target_ids == (2, 3)
    assert [path.name for path in saved.parent.iterdir()] == ["session"], "what the cut left is gone"


@pytest.mark.parametrize("step", ["write", "flush", "rename"])
def test_a_full_disk_leaves_the_old_file(saved: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = saved.read_bytes()
    with monkeypatch.context() as context:
        cut_in(step, context, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(SavedSessionError, match="session cannot be written: .*No space left.*; give another place"):
            Session(nano()).save(saved)
    assert saved.read_bytes() == old and [path.name for path in saved.parent.iterdir()] == ["session"]


def test_the_file_is_on_the_disk_before_it_has_its_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda number: (calls.append(os.readlink(f"/proc/self/fd/{number}")), fsync(number))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), rename(a, b)))
    Session(nano()).save(saved)
    assert calls == [str(saved.with_name(".session.part")), "rename", str(saved.parent)]


@pytest.mark.parametrize("name", ["no folder/session", ".", "a\0b", "n" * 300])
def test_places_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(SavedSessionError, match="cannot be written: .*; give another place"):
        Session(nano()).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_several_threads_write_one_file(saved: Path) -> None:
    snapshots = [Session(nano()).snapshot(), Session.load(saved, nano()).snapshot()]
    threads = [threading.Thread(target=snapshots[i % 2].write, args=[saved]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Session.load(saved, nano()).target_ids in ((), (1, 2, 3))
    assert [path.name for path in saved.parent.iterdir()] == ["session"]


def test_what_is_loaded_does_not_hold_the_file(saved: Path) -> None:
    session = Session.load(saved, nano(), EngineConfig(score_threshold=0.0))
    expected = Session.load(saved, nano(), EngineConfig(score_threshold=0.0)).step(frames(1)[0])
    saved.write_bytes(b"")
    assert same(session.step(frames(1)[0]), expected)
    assert str(saved) not in Path("/proc/self/maps").read_text()
