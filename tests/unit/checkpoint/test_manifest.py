"""What a manifest notes of a checkpoint's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from x2sam_ros.checkpoint.manifest import MANIFEST_FILE, noted_sha256, sha256, write_manifest
from x2sam_ros.errors import CheckpointError


def test_the_noted_sum_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"x")
    assert noted_sha256(tmp_path, "weights") == "", "no manifest"
    write_manifest(tmp_path, ["weights"])
    assert noted_sha256(tmp_path, "weights") == sha256(tmp_path / "weights")
    assert noted_sha256(tmp_path, "tokenizer.json") == "", "not in it"
    (tmp_path / MANIFEST_FILE).write_text("[]")
    with pytest.raises(CheckpointError, match="cannot read .*manifest.json"):
        noted_sha256(tmp_path, "weights")
