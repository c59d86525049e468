"""Names of classes as one says them."""

from __future__ import annotations

import time

import pytest

from x2sam_ros.truth.dataset import Category
from x2sam_ros.truth.spoken import spoken

LISTED = ["sky-other-merged", "potted-plant", "Traffic  light_", "bat (animal)", "furniture-stuff", "No. 7"]


@pytest.mark.parametrize(
    ("official_quirks", "said"),
    [
        (False, ["sky", "potted plant", "Traffic light", "bat (animal)", "furniture", "No. 7"]),
        (True, ["sky other", "potted plant", "traffic light", "bat", "furniture", "no 7"]),
    ],
)
def test_names_are_said_without_what_nobody_says(official_quirks: bool, said: list[str]) -> None:
    categories = [Category(number * 7, name) for number, name in enumerate(LISTED)]
    assert spoken(categories, official_quirks) == {number * 7: name for number, name in enumerate(said)}


def test_names_that_would_be_the_same_stay_as_they_are_listed() -> None:
    names = ["water-other", "water", "tv_monitor", "-merged"]
    assert [*spoken(Category(*row) for row in enumerate(names)).values()] == [
        "water-other",
        "water",
        "tv monitor",
        "-merged",
    ]
    bats = ["bat (animal)", "bat (sports)", "Cat", "cat"]
    assert [*spoken(map(Category, range(4), bats), official_quirks=True).values()] == bats


def test_long_lists_take_no_time() -> None:
    many = [Category(number, f"class_{number}") for number in range(30_000)]
    started = time.perf_counter()
    assert spoken(many)[29_999] == "class 29999"
    assert time.perf_counter() - started < 5, "comparing each with each takes far longer"
