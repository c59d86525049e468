"""How a prompt gets on is told while it waits, is read and is answered: inline, beside, and asked with others."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from tests.unit.engine.sessions import click, make_say, only, session, text
from tests.unit.model.networks import frames, nano
from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.progress import Watch
from x2sam_ros.engine.session import Session
from x2sam_ros.model import generation
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import CaptionPrompt, GroundingStatus, Progress, PromptStage, Task, TextPrompt

PATIENCE_S = 60.0
WAITING, GROUNDING, ANSWERING = PromptStage
QUESTION = TextPrompt("why", text="what is there", task=Task.CHAT)


def stages(told: list[Progress]) -> list[PromptStage]:
    """Return the stages without repetitions."""
    return [item.stage for at, item in enumerate(told) if not at or told[at - 1].stage is not item.stage]


@pytest.mark.parametrize("lane", ["inline", "beside"])
def test_an_answer_is_told_as_it_grows_and_then_whole(lane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_say(monkeypatch, "a red thing on grass")
    told: list[tuple[Progress, str]] = []
    stream = frames(2)
    with session(language_lane=lane) as of:
        of.submit(QUESTION, watch=lambda item: told.append((item, threading.current_thread().name)))
        assert [item for item, _ in told] == [Progress("why", WAITING)]
        result = of.step(stream[0])
        if lane == "beside":
            assert of.wait(PATIENCE_S)
            result = of.step(stream[1])
    items = [item for item, _ in told]
    assert stages(items) == [WAITING, GROUNDING, ANSWERING]
    said = [item.response for item in items if item.stage is ANSWERING]
    assert len(said) > 2 and all(b.startswith(a) and b != a for a, b in itertools.pairwise(said))
    assert said[-1] == only(result).response == "a red thing on grass"
    own = {name for item, name in told if item.stage is not WAITING}
    assert own == ({"x2sam-language"} if lane == "beside" else {threading.current_thread().name})


def test_a_prompt_ahead_of_its_image_waits_and_one_with_a_fixed_answer_is_only_read() -> None:
    told: list[Progress] = []
    stream, of = frames(4), session()
    of.submit(click(stamp_ns=stream[2].stamp_ns), watch=told.append)
    of.step(stream[0])
    assert stages(told) == [WAITING]
    of.step(stream[2])
    assert stages(told) == [WAITING, GROUNDING] and {item.response for item in told} == {""}


def test_prompts_of_one_conversation_are_each_told_and_unwatched_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, list[Progress]] = {"a": [], "b": []}
    of = session(conversations="merged")
    of.submit(text("a", "the red circle"), watch=told["a"].append)
    of.submit(text("quiet", "the green star"))
    of.submit(text("b", "the blue square"), watch=told["b"].append)
    of.step(frames(1)[0])
    assert len(of.conversations) == 1
    for prompt_id, items in told.items():
        assert stages(items) == [WAITING, GROUNDING] and {item.prompt_id for item in items} == {prompt_id}


@pytest.mark.parametrize("lane", ["inline", "beside"])
def test_a_listener_that_raises_is_told_no_more_and_harms_nothing(
    lane: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_say(monkeypatch, "a red thing on grass")
    calls: list[Progress] = []

    def broken(item: Progress) -> None:
        calls.append(item)
        if item.stage is ANSWERING:
            raise RuntimeError("full")

    with session(language_lane=lane) as of:
        of.submit(QUESTION, watch=broken)
        result = of.step(frames(1)[0])
        if lane == "beside":
            assert of.wait(PATIENCE_S)
            result = of.step(frames(2)[1])
    assert only(result).response == "a red thing on grass"
    assert stages(calls) == [WAITING, GROUNDING, ANSWERING] and sum(c.stage is ANSWERING for c in calls) == 1
    assert "'why' failed and is told no more: RuntimeError: full" in caplog.text


def test_a_prompt_that_is_asked_again_on_another_stream_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Progress] = []
    stream = frames(3)
    reached, go = threading.Event(), threading.Event()

    def watch(item: Progress) -> None:
        told.append(item)
        if item.stage is GROUNDING and not reached.is_set():
            reached.set()
            assert go.wait(PATIENCE_S)

    with session(language_lane="beside", clock_jump_ms=100.0) as of:
        of.step(stream[2])
        of.submit(text(), watch=watch)
        of.step(frames(4)[3])
        assert reached.wait(PATIENCE_S)
        of.step(stream[0])  # the clock has stepped back
        assert stages(told) == [WAITING, GROUNDING, WAITING]
        go.set()
        assert of.wait(PATIENCE_S)
        assert only(of.step(stream[1])).status is GroundingStatus.OK
    assert stages(told) == [WAITING, GROUNDING, WAITING, GROUNDING]


class Slow:
    """Lets the language model say one thing for ever, a token at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, token_s: float) -> None:
        token, self.tokens = nano().tokenizer.encode_template(" red")[0], 0

        def choose(logits: object) -> int:
            self.tokens += 1
            time.sleep(token_s)
            return token

        def generate(model: X2SAM, *args: object, **options: object) -> generation.Generated:
            return generation.generate(model, *args, choose=choose, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(X2SAM, "generate", generate)


@pytest.mark.parametrize("call_off", ["remove_prompt", "reset", "close"])
def test_beside_a_prompt_is_called_off_between_two_tokens(call_off: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, 0.02)
    told: list[Progress] = []
    answering = threading.Event()
    watch: Watch = lambda item: (told.append(item), item.stage is ANSWERING and answering.set())[0]  # noqa: E731
    of = Session(nano(), EngineConfig(language_lane="beside", max_answer_tokens=500))
    of.submit(CaptionPrompt("describe"), watch=watch)
    of.step(frames(1)[0])
    assert answering.wait(PATIENCE_S)
    if call_off == "remove_prompt":
        assert of.remove_prompt("describe") == ()
    else:
        getattr(of, call_off)()
    heard, tokens = len(told), slow.tokens
    assert of.wait(1.0), "ten seconds of tokens were left"
    assert slow.tokens <= tokens + 1 and len(told) <= heard + 1
    assert of.step(frames(2)[1]).groundings == ()
    of.close()
