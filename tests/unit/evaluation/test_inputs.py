"""Inputs: bags given one by one count together, names stay unique, and a bad bag is one bad sequence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.evaluation.tiny_bags import write_bag
from x2sam_ros.errors import ConfigError, TruthError
from x2sam_ros.evaluation import inputs
from x2sam_ros.evaluation.inputs import chosen, open_inputs
from x2sam_ros.truth.dataset import Category, Dataset
from x2sam_ros.truth.open import open_dataset


def test_several_bags_are_one_data_set_with_unique_names_and_a_place_for_the_bad_one(tmp_path: Path) -> None:
    paths = [write_bag(tmp_path / "a" / "run"), write_bag(tmp_path / "b" / "run"), tmp_path / "bad.mcap"]
    paths[2].write_bytes(b"no bag")
    (found,) = open_inputs(paths, None, stride=1)
    names = [sequence.name for sequence in found.dataset.sequences]
    assert found.dataset.name == "3 bags" and found.layout == "bag" and len(set(names)) == 3
    assert names[0].endswith("a/run") and names[1].endswith("b/run")
    source = found.dataset.sequences[1].frames()
    assert found.dataset.sequences[1].truth(next(iter(source))) is not None
    with pytest.raises(TruthError, match="bad"):
        found.dataset.sequences[2].frames()
    (other,) = open_inputs(paths[:2], None, stride=1)
    assert other.dataset.name == "2 bags"
    with pytest.raises(TruthError, match="none of its 2 sequences"):
        bad = tmp_path / "worse.mcap"
        bad.write_bytes(b"")
        open_inputs([paths[2], bad], None)


def test_one_bag_keeps_its_name_and_inputs_are_given_once(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "run")
    (found,) = open_inputs([bag], None)
    assert found.dataset.name.startswith("run") and found.paths == (str(bag),)
    with pytest.raises(ConfigError, match="given twice"):
        open_inputs([bag, tmp_path / "." / "run"], None)


def test_bags_whose_labels_differ_are_apart_and_any_of_them_is_opened_again_with_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_bag(tmp_path / name) for name in "abcd"]

    def opened(path: Path, layout: str, **options: object) -> Dataset:
        categories = (Category(1, "cup"),) if path.name in "cd" else ()
        return replace(open_dataset(path, layout), categories=categories, fingerprint=path.name)

    monkeypatch.setattr(inputs, "open_dataset", opened)
    cups = open_inputs(paths, None)[1]
    assert [item.dataset.name for item in open_inputs(paths, None)] == ["a, b", "c, d"]
    again = open_inputs([Path(path) for path in cups.paths], cups.layout, **cups.options)
    assert cups.dataset.fingerprint in {item.dataset.fingerprint for item in again}


def test_sequences_are_chosen_by_name_and_number(tmp_path: Path) -> None:
    found = open_inputs([write_bag(tmp_path / name) for name in "abc"], None)
    assert [s.name for s in chosen(found, (), 2)[0].dataset.sequences] == ["a", "b"]
    assert [s.name for s in chosen(found, ("c",), None)[0].dataset.sequences] == ["c"]
    with pytest.raises(TruthError, match="no input has a sequence 'x'; there are 3: a, b, c"):
        chosen(found, ("a", "x"), None)
    with pytest.raises(ConfigError, match="limit is 0"):
        chosen(found, (), 0)
