"""LLaVA-style chats."""

from __future__ import annotations

import json

import pytest

from tests.unit.truth import layouts
from x2sam_ros.errors import TruthError
from x2sam_ros.truth import files
from x2sam_ros.truth.chat import is_chat, open_chat

TALK = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]


@pytest.mark.parametrize("lines", [False, True])
def test_chats_name_their_media_and_turns(tmp_path, lines):
    path = layouts.write_chats(tmp_path, lines)
    assert is_chat(path)
    picture, clip, nothing = open_chat(path, tmp_path / "images").chats
    assert picture.turns == (("What is there?", "Noise."), ("Of what colour, <SEG>?", "Of all."))
    assert picture.image == tmp_path / "images/coco/1.jpg" and picture.video is None
    assert clip.video == tmp_path / "images/clip" and clip.turns == (("What is there?", "Noise."),)
    assert nothing.image is None and nothing.video is None


def test_records_that_cannot_be_used_are_named_and_left_out(tmp_path):
    wrong = [
        {"id": "x"},
        {"id": "x", "conversations": TALK[:1]},
        {"id": "x", "conversations": [{"from": "robot", "value": "Beep."}]},
        {"id": "x", "conversations": [TALK[0], {"from": "gpt", "value": " "}]},
        {"id": "x", "image": ["a.jpg", "b.jpg"], "conversations": TALK},
        {"id": "x", "image": "a.jpg", "video": "b", "conversations": TALK},
        {"id": "x", "images": ["a.jpg"], "conversations": [{"from": "human", "value": "<image>\nWhat?"}, TALK[1]]},
    ]
    layouts.write_json(tmp_path / "chats.json", [*wrong, {"id": "y", "conversations": [TALK[1], *TALK]}])
    found = open_chat(tmp_path / "chats.json")
    assert [chat.turns for chat in found.chats] == [(("What?", "That."),)], "an answer to nothing is left out"
    assert len(found.problems) == len(wrong)
    for number, words in enumerate(
        ("another structure", "no question", "'robot' speaks", "empty", "2 pictures", "a video", "names no file")
    ):
        assert f"record {number}" in found.problems[number] and words in found.problems[number]
    layouts.write_json(tmp_path / "none.json", wrong)
    with pytest.raises(TruthError, match="record 0 has another structure"):
        open_chat(tmp_path / "none.json")


def test_no_file_stays_in_memory(tmp_path):
    path = layouts.write_chats(tmp_path)
    assert is_chat(path) and files._parsed.cache_info().currsize == 1, "it is not read twice"
    assert len(open_chat(path).chats) == 3 and files._parsed.cache_info().currsize == 0


def test_a_half_written_file_is_refused(tmp_path):
    path = layouts.write_chats(tmp_path, lines=True)
    path.write_text(path.read_text()[:-9])
    with pytest.raises(TruthError, match="chats.jsonl cannot be read"):
        open_chat(path)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"conversations": []}))
    assert not is_chat(other)
