"""The folder of a run: states that are whole or not there, a log without what is done again."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as sharded
from safetensors import SafetensorError

from tests.training.test_joint import files_of_at_most
from x2sam_ros.errors import CheckpointError, ConfigError
from x2sam_ros.training.run_folder import RunFolder


def write(folder: Path) -> None:
    (folder / "state").write_text("whole")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_state_has_its_name_once_the_disk_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that turns out to be full only when it is to hold everything leaves the state before."""
    folder, flush = RunFolder(tmp_path), os.fsync
    folder.save(1, write)
    seen = []

    def full(descriptor: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        if len(seen) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    told = "cannot save the state of step 2 .*No space left.*step-00000001; .* MiB are free: make room and run"
    with pytest.raises(CheckpointError, match=told):
        folder.save(2, write)
    assert seen == ["state", "partial-00000002"] and names(tmp_path) == ["step-00000001"]
    assert folder.save(2, write).name == "step-00000002"


def write_whole(folder: Path) -> None:
    torch.save(torch.zeros(1 << 20), folder / "state.pt")


def write_shards(folder: Path) -> None:
    sharded.save({"weight": torch.zeros(1 << 20)}, checkpoint_id=folder, no_dist=True)


@pytest.mark.parametrize("writes", [write_whole, write_shards])
def test_a_full_disk_is_told_alike_whoever_writes(tmp_path: Path, writes: Callable[[Path], None]) -> None:
    folder = RunFolder(tmp_path)
    folder.save(1, write)
    with files_of_at_most(1 << 20), pytest.raises(CheckpointError) as caught:
        folder.save(2, writes)
    message = str(caught.value)
    assert "state of step 2" in message and "RuntimeError: [enforce fail" in message and "Traceback" not in message
    assert f"the last good state is {tmp_path / 'step-00000001'}; " in message and "MiB are free: make room" in message
    assert names(tmp_path) == ["step-00000001"]


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (RuntimeError("sizes do not match"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (SafetensorError("Error while serializing: header too large"), False),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
    ],
)
def test_only_a_full_disk_is_told_as_one(tmp_path: Path, error: Exception, is_full: bool) -> None:
    with pytest.raises(CheckpointError) as caught, RunFolder(tmp_path).writing("write"):
        raise error
    assert str(error) in str(caught.value) and "there is no state yet" in str(caught.value)
    assert ("MiB are free: make room and run the same command again" in str(caught.value)) == is_full
    assert ("; mend that and run the same command again" in str(caught.value)) != is_full


def test_a_sharded_state_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    told = f"cannot resume from {tmp_path}: AssertionError: .*; delete that folder"
    with pytest.raises(CheckpointError, match=told), RunFolder(tmp_path).resuming(tmp_path):
        sharded.load({"weight": torch.zeros(1)}, checkpoint_id=tmp_path, no_dist=True)


def test_the_run_of_an_older_version_is_refused_and_stays(tmp_path: Path) -> None:
    for name in ("state.pt", "log.jsonl"):
        (tmp_path / name).write_text("old")
    with pytest.raises(ConfigError, match=r"holds the run of an older version \(state.pt, .*another folder \(--out\)"):
        RunFolder(tmp_path).check({"seed": 0})
    assert names(tmp_path) == ["log.jsonl", "state.pt"] and (tmp_path / "log.jsonl").read_text() == "old"


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_state_that_another_process_cannot_write_is_none(tmp_path: Path, fails_at: int) -> None:
    said = []

    def agree(well: bool) -> bool:
        said.append(well)
        return well and len(said) != fails_at

    folder = RunFolder(tmp_path, main=False, agree=agree)
    with pytest.raises(CheckpointError, match="another process could not save the state of step 3 in"):
        folder.save(3, write)
    assert len(said) == fails_at and names(tmp_path) == []


def test_all_processes_hear_of_a_state_that_cannot_be_written(tmp_path: Path) -> None:
    said = []

    def agree(well: bool) -> bool:
        said.append(well)
        return well

    def fail(folder: Path) -> None:
        raise OSError("broken")

    with pytest.raises(CheckpointError, match="broken"):
        RunFolder(tmp_path, agree=agree).save(3, fail)
    assert said == [False] and names(tmp_path) == []


def test_a_state_is_saved_once_and_few_stay(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 10):
        folder.save(step, write, keep=2)
    (tmp_path / "partial-00000011").mkdir()
    assert folder.save(10, lambda there: pytest.fail("it is there")) == folder.states[-1]
    folder.save(12, write, keep=2)
    assert names(tmp_path) == ["step-00000010", "step-00000012"]


def test_what_is_done_again_leaves_the_log(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (1, 2, 3):
        folder.note({"step": step})
    with folder.log.open("a") as file:
        file.write('{"step"')
    folder.cut_log(2)
    assert [json.loads(line) for line in folder.log.read_text().splitlines()] == [{"step": 1}, {"step": 2}]
    folder.cut_log(0)
    assert folder.log.read_text() == ""
