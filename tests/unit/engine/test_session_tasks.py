"""Every task through the streaming session: what is asked, what is answered, what is followed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.engine.sessions import (
    ScriptedHead,
    box,
    classes,
    click,
    counted,
    drawn,
    make_say,
    only,
    rejected,
    run,
    same,
    session,
    text,
    use_heads,
)
from tests.unit.model.networks import frames, nano, nano_tokenizer
from x2sam_ros.config import EngineConfig
from x2sam_ros.default_plugins.task_heads.genseg import ClassListHead
from x2sam_ros.default_plugins.task_heads.vgdseg import RegionListHead
from x2sam_ros.engine.grounding import Grounder, Picture, View
from x2sam_ros.engine.memory_policy import open_policy
from x2sam_ros.engine.session import MAX_CLIP_FRAMES
from x2sam_ros.engine.task_head import ConversationRequest
from x2sam_ros.engine.track import Group
from x2sam_ros.engine.tracker import encode_frame
from x2sam_ros.errors import PluginError, PromptError
from x2sam_ros.model.config import preset
from x2sam_ros.model.template import Template
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import CaptionPrompt, ClassListPrompt, GroundingStatus, Prompt, RegionsPrompt, Task, TextPrompt

TOP, BOTTOM, ALL = (0, 16, 0, 32), (16, 32, 0, 32), (0, 32, 0, 32)
"""Halves of the image and all of it, for a scripted head."""

OK, NO_TARGET = GroundingStatus.OK, GroundingStatus.NO_TARGET
REJECTED, REMOVED = GroundingStatus.REJECTED, GroundingStatus.REMOVED


@pytest.mark.parametrize(
    "prompt",
    [
        text(task=Task.REFSEG),
        classes("phrases", "the red circle", "the star", task=Task.REFSEG),
        text(task=Task.GREFSEG),
        text(words="what would roll?", task=Task.REASEG),
        classes(task=Task.GENSEG),
        ClassListPrompt("panoptic", classes=("circle", "star", "sky"), stuff=("sky",)),
        classes(task=Task.OVSEG),
        click(task=Task.INTSEG),
        drawn(task=Task.OBJSEG),
        box(task=Task.VGDSEG),
        RegionsPrompt("regions", regions=(click(), box(), drawn()), labels=("a", "b", "a")),
    ],
    ids=lambda p: f"{p.task_name}-{p.prompt_id}",
)
def test_every_task_that_names_what_it_wants(prompt: Prompt) -> None:
    live = session()
    first, *later = run(live, frames(3), {0: [prompt]})
    grounding = only(first)
    assert grounding.status is OK and grounding.target_ids and grounding.response == "" == grounding.message
    assert set(grounding.target_ids) == set(first.target_ids.tolist())
    for result in (first, *later):
        assert set(first.target_ids.tolist()) <= set(result.target_ids.tolist())
    named = {target for phrase in grounding.phrases for target in phrase.target_ids}
    assert named in (set(), set(grounding.target_ids))
    for phrase in grounding.phrases:
        assert grounding.query[phrase.start : phrase.end] == phrase.text


def test_what_the_random_weights_say_is_no_accident() -> None:
    """Whatever they write, a caption ends in words and a status, never in an exception."""
    result = run(session(max_answer_tokens=12), frames(1), {0: [CaptionPrompt("c"), text("t", task=Task.CHAT)]})[0]
    caption, chat = result.groundings
    assert caption.status in (OK, NO_TARGET) and chat.status is OK
    assert caption.target_ids or caption.message


def test_a_question_is_answered_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    make_say(monkeypatch, "Two  circles.")
    live = session()
    grounding = only(run(live, frames(1), {0: [text("q", "how many?", task=Task.CHAT)]})[0])
    assert (grounding.status, grounding.response, grounding.message) == (OK, "Two circles.", "")
    assert grounding.query == "how many?" and not grounding.phrases and not grounding.target_ids
    assert live.target_ids == () and live.nbytes == 0


def test_a_question_needs_no_room_for_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    make_say(monkeypatch, "One.", "<p>One</p> <SEG>.")
    questions: list[Prompt] = [text("a", task=Task.CHAT), text("b", task=Task.CHAT), CaptionPrompt("c")]
    result = run(session(max_targets=1), frames(2), {0: [click()], 1: questions})[1]
    assert [g.status for g in result.groundings] == [OK, OK, REJECTED]
    assert [g.response for g in result.groundings] == ["One.", "One .", ""]
    assert [g.message.startswith("1 targets are followed") for g in result.groundings] == [False, True, True]


@pytest.mark.parametrize("prompt", [CaptionPrompt("c"), text("q", "what is there?", task=Task.CHAT)])
def test_the_phrases_of_an_answer_become_targets(monkeypatch: pytest.MonkeyPatch, prompt: Prompt) -> None:
    make_say(monkeypatch, "<p>A red circle</p> above <p>a star</p>: <SEG>.")
    results = run(session(), frames(3), {0: [prompt]})
    grounding = only(results[0])
    assert (grounding.status, grounding.message) == (OK, "")
    assert grounding.response == "A red circle above a star: ."
    assert [phrase.text for phrase in grounding.phrases] == ["A red circle", "a star"]
    for phrase in grounding.phrases:
        assert grounding.response[phrase.start : phrase.end] == phrase.text and len(phrase.target_ids) == 1
    assert results[0].labels == ("A red circle", "a star") and grounding.target_ids == (1, 2)
    assert results[2].target_ids.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ("A cup.", NO_TARGET, "the answer has no <SEG>, so it points at nothing, marks no phrase"),
        ("<p>A cup</p>.", NO_TARGET, "the answer has no <SEG>, so it points at nothing"),
        ("<SEG>", NO_TARGET, "the answer marks no phrase"),
        ("", NO_TARGET, "the answer has no <SEG>, so it points at nothing, marks no phrase"),
        (
            "<p>A cup <SEG>",
            NO_TARGET,
            "the answer has 1 <p> without </p> or without words, marks no phrase",
        ),
        ("A cup</p> <SEG>", NO_TARGET, "the answer has 1 </p> without <p>, marks no phrase"),
        ("<p></p> <SEG>", NO_TARGET, "the answer has 1 <p> without </p> or without words, marks no phrase"),
        ("<p>a <p>cup</p> <SEG>", OK, "the answer has 1 <p> without </p> or without words"),
        ("<p>A cup</p> <SEG> and <SEG>.", OK, "the answer has 2 <SEG>, of which the last counts"),
    ],
)
def test_answers_that_are_not_as_they_should_be(
    monkeypatch: pytest.MonkeyPatch, answer: str, status: GroundingStatus, message: str
) -> None:
    make_say(monkeypatch, answer)
    live = session()
    grounding = only(run(live, frames(1), {0: [CaptionPrompt("c")]})[0])
    assert (grounding.status, grounding.message) == (status, message)
    words = answer.replace("<SEG>", "").replace("<p>", "").replace("</p>", "")
    assert grounding.response.split() == words.split()
    assert bool(live.target_ids) == (status is OK)


@pytest.mark.parametrize("limit", range(1, 12))
def test_an_answer_that_is_cut_off(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Anywhere: in a phrase, at its end, at <SEG>, behind it."""
    make_say(monkeypatch, "<p>a cup</p> <SEG> x")
    result = run(session(max_answer_tokens=limit), frames(1), {0: [CaptionPrompt("c")]})[0]
    grounding = only(result)
    whole = len(nano_tokenizer().encode_template("<p>a cup</p> <SEG> x")) + 1
    assert ("cut off; raise max_answer_tokens" in grounding.message) == (limit < whole)
    assert bool(grounding.target_ids) == (grounding.status is OK)
    assert grounding.response == "a cup x"[: len(grounding.response)]


def test_a_class_list_that_finds_nothing_looks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    use_heads(monkeypatch, ScriptedHead([], [], [(1, TOP, 0.9)]))
    live = session(max_targets=1, lost_frames=5)
    results = run(live, frames(4), {0: [classes()], 1: [text()]})
    assert [g.status for result in results for g in result.groundings] == [NO_TARGET, REJECTED, OK]
    first, crowded, found = (g for result in results for g in result.groundings)
    assert first.message == "nothing in the image fits the prompt; it is looked for on the next 4 images"
    assert crowded.message.startswith("1 targets are followed, at most 1"), "who looks counts as one target"
    assert (found.prompt_id, found.target_ids, found.stamp_ns) == ("classes", (1,), results[2].stamp_ns)
    assert results[3].target_ids.tolist() == [1]
    live.remove(1)
    assert live.nbytes == 0, "what a person removed is not looked for again"


@pytest.mark.parametrize("lost_frames", [1, 2, 4])
def test_a_class_list_that_finds_nothing_gives_up(monkeypatch: pytest.MonkeyPatch, lost_frames: int) -> None:
    use_heads(monkeypatch, ScriptedHead([]))
    live = session(lost_frames=lost_frames)
    results = run(live, frames(lost_frames + 2), {0: [classes()]})
    statuses = [[g.status for g in result.groundings] for result in results]
    end = [] if lost_frames == 1 else [*[[]] * (lost_frames - 2), [REMOVED]]
    assert statuses == [[NO_TARGET], *end, [], []] and live.nbytes == 0
    messages = [g.message for result in results for g in result.groundings]
    assert ("looked for on the next" in messages[0]) == (lost_frames > 1)
    assert lost_frames == 1 or messages[-1] == f"nothing in {lost_frames} images fits the prompt"


def test_a_prompt_is_removed_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    use_heads(monkeypatch, ScriptedHead([]))
    live = session()
    run(live, frames(1), {0: [classes("looking"), text("found")]})
    live.submit(click("waiting"))
    assert live.remove_prompt("looking") == () and live.remove_prompt("waiting") == ()
    assert live.remove_prompt("found") == (1,) and live.nbytes == 0
    assert not live.step(frames(2)[1]).groundings
    for gone in ("looking", "waiting", "found", "never", ""):
        with pytest.raises(PromptError, match=f"no prompt '{gone}'"):
            live.remove_prompt(gone)


def test_a_panoptic_list_never_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [(0, ALL, 0.9), (1, TOP, 0.8), (1, (8, 24, 0, 32), 0.7)]
    overlaps = []
    for stuff in ((), ("a",)):
        use_heads(monkeypatch, ScriptedHead(seen))
        prompts: dict[int, list[Prompt]] = {0: [ClassListPrompt("c", classes=("a", "b"), stuff=stuff), click("beside")]}
        result = run(session(mask_threshold=0.01), frames(1, size=(90, 130)), prompts)[0]
        assert len(result.target_ids) == 4
        overlaps.append(int((result.masks[:3].sum(0) > 1).sum()))
        assert result.masks[:3].any(0).all()
    assert overlaps[0] > 0 and overlaps[1] == 0


def test_a_task_without_words_for_this_checkpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use_heads(monkeypatch, ClassListHead("genseg", {"other": Template("{phrases}", "<SEG>")}))
    message = rejected(run(session(), frames(1), {0: [classes()]})[0])
    assert message.startswith("task 'genseg' has no wording 'short'") and "it has: other" in message


def test_a_fixed_answer_without_seg_points_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    use_heads(monkeypatch, ScriptedHead([], template=Template("Classes {phrases}.", "Yes.")))
    grounding = only(run(session(), frames(1), {0: [classes()]})[0])
    assert grounding.status is NO_TARGET and grounding.message == "the answer has no <SEG>, so it points at nothing"


def test_a_head_that_breaks_its_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    use_heads(monkeypatch, ScriptedHead([(7, TOP, 0.9)]))
    with pytest.raises(PluginError, match="task head 'genseg' read"):
        run(session(), frames(1), {0: [classes("c", "a", "b")]})
    use_heads(monkeypatch, ScriptedHead([]))
    monkeypatch.setattr(ScriptedHead, "request", lambda self, prompt: ConversationRequest(phrases=prompt.classes))
    assert "named 0 labels for 2 phrases" in rejected(run(session(), frames(1), {0: [classes("c", "a", "b")]})[0])


def test_the_regions_of_one_prompt_find_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    use_heads(monkeypatch, ScriptedHead([(1, TOP, 0.9), (0, BOTTOM, 0.8), (1, BOTTOM, 0.7)], task="vgdseg"))
    monkeypatch.setattr(ScriptedHead, "request", RegionListHead.request)
    regions = (click(), box())
    for labels, names in (((), ("point", "box")), (("cup, red", "cup"), ("cup, red", "cup"))):
        grounding = only(run(session(), frames(1), {0: [RegionsPrompt("r", regions=regions, labels=labels)]})[0])
        assert grounding.query == ", ".join(names)
        assert [(p.text, p.target_ids) for p in grounding.phrases] == [(names[0], (2,)), (names[1], (1, 3))]
    out = RegionsPrompt("r", regions=(click(), click(x=500)))
    assert rejected(run(session(), frames(1), {0: [out]})[0]).startswith("click at (500, 30)")


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (96, 96), (33, 128), (1, 1)])
def test_a_padded_picture_is_cut_out_again(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    """The longer edge fills the square: maps reach the head, and masks the image, without what was padded."""
    config = preset("nano")
    segmentor = replace(config.segmentor, resize="longest")
    region = replace(config.region, picture_features=False)  # they need the squashed square
    model = X2SAM(replace(config, segmentor=segmentor, region=region), nano_tokenizer())
    model.load_state_dict({name: nano().state_dict()[name] for name in model.state_dict()})
    use_heads(monkeypatch, ScriptedHead([(0, TOP, 0.9), (1, BOTTOM, 0.9)]))
    result = run(session(model.eval().requires_grad_(False)), frames(1, size=size), {0: [classes("c", "a", "b")]})[0]
    if size[0] > 2:
        top, bottom = result.masks.mean((1, 2))
        assert top == pytest.approx(0.5, abs=0.1) and bottom == pytest.approx(0.5, abs=0.1)
        assert result.masks[0, 0].all() and result.masks[1, -1].all()
    else:
        assert only(result).status in (OK, NO_TARGET)


def test_official_quirks_read_maps_at_the_size_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    use_heads(monkeypatch, ScriptedHead([(0, TOP, 0.1)]))
    exact = run(session(official_quirks=True, score_threshold=0.5), frames(2, size=(128, 160)), {0: [classes()]})
    for result in exact:
        assert result.masks[0, :64].all() and not result.masks[0, 64:].any() and result.scores[0] == np.float32(0.1)
    plain = run(session(official_quirks=True), frames(2), {0: [text(), click()]})
    usual = run(session(), frames(2), {0: [text(), click()]})
    for a, b in zip(plain, usual):
        assert (a.masks == b.masks).mean() > 0.95
    wide = run(session(official_quirks=True), [*frames(1), *frames(2, size=(90, 320))[1:]], {0: [click()]})
    assert wide[1].masks.shape == (1, 90, 320)


def test_a_clip_is_shown_as_a_video(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    template = Template("In this {media}: {phrases}.", "<SEG>")
    use_heads(monkeypatch, ScriptedHead([(0, TOP, 0.9)], template=template))
    build = nano().conversations.build

    def remember(template: Template, media: object, **slots: object) -> object:
        asked.append(f"{media.name} {media.steps}")
        return build(template, media, **slots)

    monkeypatch.setattr(nano().conversations, "build", remember)
    clip, live = np.stack([frame.image for frame in frames(5)]), session()
    live.submit(classes("a"), clip)
    live.submit(classes("b"), clip)
    live.submit(classes("c"))
    live.submit(classes("d"), clip[:1])
    with counted(nano()) as counts:
        result = live.step(frames(1)[0])
    assert asked == ["video 3", "video 3", "image None", "video 1"]
    assert counts["picture tower"] == 3, "prompts about one clip share a look at it"
    assert [g.status for g in result.groundings] == [OK] * 4


def test_what_is_no_clip_is_refused() -> None:
    live, image = session(), frames(1)[0].image
    for clip in (image, image[None].astype(np.float32), image[None, :, :, :2], image[None][:0], "clip"):
        with pytest.raises(PromptError, match="clip must be uint8"):
            live.submit(text(), clip)
    with pytest.raises(PromptError, match=f"at most {MAX_CLIP_FRAMES} are accepted"):
        live.submit(text(), np.broadcast_to(image, (MAX_CLIP_FRAMES + 1, *image.shape)))
    live.submit(text(), np.zeros((3, 2, 600, 3), np.uint8))
    assert "too elongated" in rejected(live.step(frames(1)[0]))


def test_a_refinement_that_is_answered_in_words_leaves_the_target_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    make_say(monkeypatch, "Yes.")
    live = session()
    results = run(live, frames(3), {0: [click()], 1: [TextPrompt("q", text="is it red?", task=Task.CHAT, target_id=1)]})
    assert only(results[1]).response == "Yes." and live.target_ids == (1,)
    assert np.array_equal(results[2].masks, run(session(), frames(3), {0: [click()]})[2].masks)


@pytest.mark.parametrize("prompt", [text(), box()], ids=lambda p: p.prompt_id)
def test_a_prompt_that_is_understood_already_begins_with_the_next_frame(prompt: Prompt) -> None:
    model, config, frame = nano(), EngineConfig(score_threshold=0.0), frames(1)[0]
    grounder = Grounder(model, open_policy("fifo", config), config)
    picture = Picture(model, frame.image)
    asked = grounder.ask(prompt, View(frame.size, encode_frame(model, frame.image, config), picture))
    group = grounder.ground(asked, picture)
    assert isinstance(group, Group)
    live = session(max_targets=1)
    live.begin(group)
    with pytest.raises(PromptError, match="1 targets are followed, at most 1"):
        live.begin(group)
    assert all(same(a, b) for a, b in zip(run(live, frames(3), {}), run(session(), frames(3), {0: [prompt]})))
