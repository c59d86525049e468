"""The folder of a run: states that are whole or not there, a log without what is done again."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from x2sam_ros.errors import CheckpointError
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
    with pytest.raises(CheckpointError, match="cannot save the state of step 2 .*No space left.*step-00000001; "):
        folder.save(2, write)
    assert seen == ["state", "partial-00000002"] and names(tmp_path) == ["step-00000001"]
    assert folder.save(2, write).name == "step-00000002"


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
