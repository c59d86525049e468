"""Which camera a prompt is for, and what is said where that cannot be known."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from x2sam_ros.errors import PromptError
from x2sam_ros.ros.requests import Remove, RemovePrompt, Reset, Submit, cameras_of
from x2sam_ros.types import TextPrompt


@dataclass
class Known:
    target_ids: tuple[int, ...] = ()
    prompt_ids: tuple[str, ...] = ()


ONE = {"/camera": Known((1,), ("a",))}
TWO = {"/front": Known((1, 4), ("a",)), "/rear": Known((2,), ("b",))}


def add(prompt_id: str = "new", camera: str = "", target_id: int | None = None) -> Submit:
    return Submit(TextPrompt(prompt_id, text="cup", target_id=target_id), camera)


def test_one_camera_need_not_be_named() -> None:
    for request in (add(), add("a"), add(camera="/camera"), add(target_id=9), Remove("x", 9), Reset("x")):
        assert cameras_of(request, ONE) == ("/camera",), "whether there is such a target the session says"


def test_a_new_prompt_names_its_camera_where_there_are_several() -> None:
    assert cameras_of(add(camera="/rear"), TWO) == ("/rear",)
    with pytest.raises(PromptError, match="no camera is named, and there are several; name one of: /front, /rear"):
        cameras_of(add(), TWO)


@pytest.mark.parametrize("camera", ["/other", "front", "/front ", "/front/compressed", "\x00", "x" * 9_999])
def test_an_unknown_camera_is_refused_with_the_known_names(camera: str) -> None:
    for request in (add(camera=camera), Remove("x", 1, camera), RemovePrompt("a", camera), Reset("x", camera)):
        with pytest.raises(PromptError, match="there is no camera .*; name one of: /front, /rear"):
            cameras_of(request, TWO)
    with pytest.raises(PromptError, match="leave camera empty, or say /camera"):
        cameras_of(add(camera=camera), ONE)


def test_a_target_says_which_camera_is_meant() -> None:
    assert cameras_of(Remove("x", 4), TWO) == ("/front",)
    assert cameras_of(Remove("x", 2, "/rear"), TWO) == ("/rear",)
    assert cameras_of(add(target_id=2), TWO) == ("/rear",)
    with pytest.raises(PromptError, match="target 2 is on camera '/rear', not on '/front'"):
        cameras_of(add(target_id=2, camera="/front"), TWO)
    for request in (Remove("x", 3), add(target_id=3), add(target_id=3, camera="/rear")):
        with pytest.raises(PromptError, match="there is no target 3; targets: 1, 2, 4"):
            cameras_of(request, TWO)


def test_a_prompt_id_is_used_once_on_all_cameras() -> None:
    with pytest.raises(PromptError, match="prompt id 'a' is taken on camera '/front'"):
        cameras_of(add("a", "/rear"), TWO)
    assert cameras_of(add("a", "/front"), TWO) == ("/front",), "the session says so itself"


def test_a_reset_and_a_prompt_to_be_removed_may_be_for_any() -> None:
    assert cameras_of(Reset("x"), TWO) == ("/front", "/rear") == cameras_of(RemovePrompt("b"), TWO)
    assert cameras_of(Reset("x", "/rear"), TWO) == ("/rear",)
