"""Files of predictions: whole, or refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.unit.evaluation.made_sequences import answered, columns
from x2sam_ros.errors import TruthError
from x2sam_ros.evaluation.predictions import read_predictions, rle_of, write_predictions

MASK = columns(0, 2)


def test_predictions_go_through_a_file(tmp_path: Path) -> None:
    path, said = tmp_path / "clip.json.gz", answered([{1: MASK}, None, {}])
    write_predictions(said, path)
    assert read_predictions(path) == said
    assert (said.frames[0].mask(said.frames[0].masks[0]) == MASK).all()


@pytest.mark.parametrize("rle", ["", "~~~~", "\\u00e9", rle_of(columns(0, 2, (3, 6))), rle_of(columns(0, 2, (40, 60)))])
def test_run_lengths_of_other_pixels_are_refused_with_the_first_case(tmp_path: Path, rle: str) -> None:
    path = tmp_path / "clip.json.gz"
    write_predictions(answered([{1: MASK}]), path)
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace(rle_of(MASK), rle).encode()))
    with pytest.raises(TruthError, match="json.gz .*target 1 on frame 0: run lengths .*6x4.*remove it"):
        read_predictions(path)


@pytest.mark.parametrize("data", [b"", b"text", gzip.compress(b"[]"), gzip.compress(b'{"format": "other"}')])
def test_damaged_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "clip.json.gz"
    path.write_bytes(data)
    with pytest.raises(TruthError, match="holds no predictions"):
        read_predictions(path)
