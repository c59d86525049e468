"""What a sample may be."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam_ros.errors import TruthError
from x2sam_ros.model.template import Template
from x2sam_ros.rle import encode_rle
from x2sam_ros.training.data.sample import Asked, Sample, Shown, Wanted
from x2sam_ros.types import Task

TEMPLATE = Template("Segment {phrases}.", "<SEG>.")
MASK = encode_rle(np.eye(4, 6, dtype=bool))
FRAMES = np.zeros((2, 4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "one of them only; got 0 phrases, 0 regions, 0 turns"),
        ({"phrases": ("a",), "regions": (MASK,)}, "got 1 phrases, 1 regions"),
        ({"phrases": ("a", " ")}, "1 of 2 phrases have no words"),
        ({"phrases": ("a",), "wanted": (Wanted(1, (MASK,)),)}, "answers phrase 1 of 1"),
        ({"phrases": ("a", "b"), "caption": "a b", "spans": ((2, 3), (0, 1))}, "spans in order"),
        ({"phrases": ("a",), "caption": "a b", "spans": ()}, "spans in order"),
    ],
)
def test_prompts_that_cannot_be_are_refused(said, message):
    with pytest.raises(TruthError, match=message):
        Asked(TEMPLATE, **said)


def test_masks_must_fit_the_frames():
    asked = Asked(TEMPLATE, ("a",), wanted=(Wanted(0, (MASK, MASK)),))
    shown = Shown(FRAMES, (asked,), (None, MASK))
    np.testing.assert_array_equal(shown.mask(MASK), np.eye(4, 6, dtype=bool))
    with pytest.raises(TruthError, match="do not fit 1 frames"):
        Shown(FRAMES[:1], (asked,))
    with pytest.raises(TruthError, match="24 pixels do not fit frames of 20"):
        Shown(FRAMES[:, :, :5], (asked,))
    with pytest.raises(TruthError, match="do not fit 2 frames"):
        Shown(FRAMES, (Asked(TEMPLATE, ("a",)),), (None,))
    with pytest.raises(TruthError, match="needs a prompt"):
        Shown(FRAMES, ())
    with pytest.raises(TruthError, match="uint8"):
        Shown(FRAMES.astype(float), (asked,))


def test_a_sample_names_its_source_and_length():
    with pytest.raises(TruthError, match="needs source, name and length"):
        Sample("", "a", Task.REFSEG, "image", 3, lambda draw: Shown(FRAMES, ()))
    with pytest.raises(TruthError, match="needs source, name and length"):
        Sample("s", "a", Task.REFSEG, "image", 0, lambda draw: Shown(FRAMES, ()))
