"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from x2sam_ros.errors import ResultsError
from x2sam_ros.evaluation import whole_file
from x2sam_ros.evaluation.whole_file import write_whole


def test_an_older_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    for content in (b"old", b"new, and longer"):
        write_whole(file, content)
        assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


def test_what_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "page.html"
    file.write_bytes(b"old")

    def full(path: Path, data: bytes) -> None:
        with path.open("wb") as stream:
            stream.write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_file.Path, "write_bytes", full)
    with pytest.raises(ResultsError, match=f"{file} cannot be written: OSError: .*No space left"):
        write_whole(file, b"new")
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("place", ["missing/page.html", "file/page.html"])
def test_a_folder_that_is_none_is_said(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ResultsError, match="page.html cannot be written"):
        write_whole(tmp_path / place, b"new")
