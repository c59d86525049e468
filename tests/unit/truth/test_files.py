"""What readers of files share."""

from __future__ import annotations

from pathlib import Path

from x2sam_ros.truth.files import overlap


def test_paths_overlap_where_one_is_in_the_other(tmp_path: Path) -> None:
    bag = tmp_path / "a.mcap"
    bag.touch()
    assert overlap([tmp_path / "b.mcap", tmp_path], [bag]) == (tmp_path, bag)
    assert overlap([bag], [tmp_path / "b", tmp_path / "c" / ".."]) == (bag, tmp_path / "c" / "..")
    assert overlap([tmp_path / "a"], [bag]) is None
