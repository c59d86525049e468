"""A saved session is read into one that runs: it goes on as the saved one would have; a failed read costs nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.unit.engine.saved_sessions import BEFORE, follow, prompts, stream, trained
from tests.unit.engine.sessions import click, run, same, session, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.errors import SavedSessionError


@pytest.mark.parametrize("reset", [False, True])
def test_in_the_middle_of_a_stream_it_goes_on_to_the_bit(reset: bool, tmp_path: Path) -> None:
    given, asked = stream(), prompts()
    saved, results = follow(trained(), given[:BEFORE], asked["text"], asked["click"])
    assert results[-1].masks.any()
    saved.save(tmp_path / "session")
    live, _ = follow(trained(), given[:BEFORE], asked["classes"])
    state = live.read(tmp_path / "session")
    assert state.target_ids == {1, 2} and live.prompt_ids == ("classes",)
    if reset:
        live.reset()
    live.resume(state)
    assert live.prompt_ids == ("text", "click") and live.target_ids == (1, 2)
    live.save(tmp_path / "again")
    expected = run(saved, given[BEFORE:], {})
    assert all(map(same, run(live, given[BEFORE:], {}), expected))
    anew = Session.load(tmp_path / "again", trained())
    fresh = [replace(frame, frame_index=index) for index, frame in enumerate(given[BEFORE:])]
    for result, wanted in zip(run(anew, fresh, {}), expected):
        assert np.array_equal(result.masks, wanted.masks), "saved before its first frame it has the same gaps"


def test_what_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    given = frames(4)
    saved = session()
    run(saved, given[:2], {0: [text("a"), click("b")]})
    saved.save(tmp_path / "session")
    (tmp_path / "damaged").write_bytes((tmp_path / "session").read_bytes()[:-9])
    small = Session(nano(), EngineConfig(score_threshold=0.0, max_targets=1))
    undisturbed = Session(nano(), EngineConfig(score_threshold=0.0, max_targets=1))
    for of in (small, undisturbed):
        run(of, given[:2], {0: [click("own")]})
    for name, said in (("session", "at most 1 may be followed"), ("damaged", "damaged"), ("absent", "cannot read")):
        with pytest.raises(SavedSessionError, match=said):
            small.read(tmp_path / name)
    assert all(map(same, run(small, given[2:], {}), run(undisturbed, given[2:], {})))
