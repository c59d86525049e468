"""How a checkpoint is asked before and after it was trained."""

from __future__ import annotations

import pytest

from tests.unit.evaluation.made_sequences import MadeSequence, columns
from x2sam_ros.errors import TruthError
from x2sam_ros.evaluation.before_after import NAMED_PROMPTS, UNNAMED_PROMPTS, usual_prompts
from x2sam_ros.truth.dataset import Category, Dataset, Expression, Kind, Sequence, TrueObject
from x2sam_ros.truth.sequences import FailedSequence

CUPS = (TrueObject(1, 7), TrueObject(2, 7))
SEEN = [{1: columns(0, 1), 2: columns(1, 2)}]


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ((MadeSequence(SEEN, CUPS),), UNNAMED_PROMPTS),
        ((MadeSequence(SEEN, CUPS), MadeSequence(SEEN, CUPS[:1])), NAMED_PROMPTS),
        ((MadeSequence(SEEN, CUPS, (Expression("a", "the left cup", (1,)),)),), NAMED_PROMPTS),
        ((FailedSequence("clip", TruthError("damaged")),), UNNAMED_PROMPTS),
    ],
)
def test_words_are_asked_for_where_they_name_one_object(sequences: tuple[Sequence, ...], expected: object) -> None:
    assert usual_prompts(Dataset("bags", Kind.OBJECTS, sequences, (Category(7, "cup"),))) == expected
