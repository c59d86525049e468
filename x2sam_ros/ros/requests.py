"""What can be asked of the worker, and which camera it is for. No ROS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from x2sam_ros.errors import PromptError
from x2sam_ros.types import Grounding, GroundingStatus, Progress, Prompt, TargetInfo


@dataclass(frozen=True)
class Submit:
    """Add a target, or refine one.

    Args:
        prompt: what is asked.
        camera: as in a Prompt message: '' where it need not be said.
        watch: called with how it gets on, on any thread; see ``Session.submit``.
        follow: whether what it finds is followed; if not, it is forgotten with the answer.
    """

    prompt: Prompt
    camera: str = ""
    watch: Callable[[Progress], None] | None = field(default=None, compare=False)
    follow: bool = True

    @property
    def prompt_id(self) -> str:
        """The prompt's own id."""
        return self.prompt.prompt_id


@dataclass(frozen=True)
class Remove:
    """Forget one target."""

    prompt_id: str
    target_id: int
    camera: str = ""


@dataclass(frozen=True)
class RemovePrompt:
    """Forget a prompt that waits or still looks for something, and all the targets it found."""

    prompt_id: str
    camera: str = ""


@dataclass(frozen=True)
class Reset:
    """Forget everything, of every camera if none is named."""

    prompt_id: str
    camera: str = ""


@dataclass(frozen=True)
class Reject:
    """A prompt that could not be read: ``message`` says what was wrong with it."""

    prompt_id: str
    message: str


@dataclass(frozen=True)
class ListTargets:
    """Say what is followed, by every camera if none is named."""

    camera: str = ""


@dataclass(frozen=True)
class Enable:
    """Answer no frame and carry out no prompt from now on, for a reason, or go on."""

    enabled: bool
    reason: str = ""


@dataclass(frozen=True)
class SaveSession:
    """Write every session to its camera's file; the answer comes when that is done."""

    paths: Mapping[str, Path]


@dataclass(frozen=True)
class LoadSession:
    """Go on with what the files of the cameras have."""

    paths: Mapping[str, Path]


@dataclass(frozen=True)
class GiveUp:
    """Forget the prompts that somebody waits for, who are told the reason."""

    reason: str


Order = ListTargets | Enable | SaveSession | LoadSession | GiveUp
"""What is no prompt: the answer is an ``Answer`` and nobody else is told of it."""

Request = Submit | Remove | RemovePrompt | Reset | Reject | Order


@dataclass(frozen=True)
class Listing:
    """What a camera follows, and stamp and TF frame of its newest answered image, 0 and '' before the first."""

    camera: str
    targets: tuple[TargetInfo, ...]
    stamp_ns: int = 0
    frame_id: str = ""


@dataclass(frozen=True)
class Answer:
    """What became of an order.

    Args:
        success: whether it was carried out.
        message: why not, or what else there is to say.
        target_ids: what was saved or restored.
        listings: what was asked for.
    """

    success: bool
    message: str = ""
    target_ids: tuple[int, ...] = ()
    listings: tuple[Listing, ...] = ()


Outcome = Grounding | Answer


def has_succeeded(outcome: Outcome) -> bool:
    """Tell whether what was asked for was done."""
    if isinstance(outcome, Answer):
        return outcome.success
    # what is removed for another reason than that it was asked for has a message
    return outcome.status == GroundingStatus.OK or (outcome.status == GroundingStatus.REMOVED and not outcome.message)


class Known(Protocol):
    """What has to be known of a camera's session. No two sessions have the same target id."""

    @property
    def target_ids(self) -> tuple[int, ...]:
        """Ids of all its targets."""

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        """Ids that its prompts have used."""


def cameras_of(
    request: Submit | Remove | RemovePrompt | Reset | ListTargets, sessions: Mapping[str, Known]
) -> tuple[str, ...]:
    """Return the cameras that a request may be for.

    With one camera nothing has to be said. With several a target's id says which, and a new prompt has to name it.

    Args:
        request: what is asked.
        sessions: camera to its session, at least one.

    Returns:
        One camera. For a reset or a list those that are meant, for a prompt to be removed those that may know it.

    Raises:
        PromptError: there is no such camera or target, none is named, or a prompt id is taken on another camera.
    """
    if request.camera not in ("", *sessions):
        raise PromptError(f"there is no camera {request.camera!r:.200}; {_listed(sessions)}")
    meant = (request.camera,) if request.camera else tuple(sessions)
    if isinstance(request, (RemovePrompt, Reset, ListTargets)):
        return meant
    target_id = request.target_id if isinstance(request, Remove) else request.prompt.target_id
    if target_id is not None:
        meant = _with_target(target_id, meant, sessions)
    if len(meant) > 1:
        raise PromptError(f"no camera is named, and there are several; {_listed(sessions)}, or use the topics of one")
    if isinstance(request, Submit):
        for camera, session in sessions.items():
            if camera != meant[0] and request.prompt_id and request.prompt_id in session.prompt_ids:
                raise PromptError(
                    f"prompt id '{request.prompt_id}' is taken on camera '{camera}'; give every prompt an id of its own"
                )
    return meant


def _with_target(target_id: int, meant: tuple[str, ...], sessions: Mapping[str, Known]) -> tuple[str, ...]:
    """Return the camera of a target; where there is one camera it is left to the session to say what is wrong."""
    if len(sessions) == 1:
        return meant
    owner = next((camera for camera, session in sessions.items() if target_id in session.target_ids), None)
    if owner is None:
        known = sorted(known for session in sessions.values() for known in session.target_ids)
        raise PromptError(f"there is no target {target_id}; targets: {', '.join(map(str, known)) or 'none'}")
    if owner not in meant:
        raise PromptError(f"target {target_id} is on camera '{owner}', not on '{meant[0]}'; leave camera empty")
    return (owner,)


def _listed(cameras: Mapping[str, Known]) -> str:
    names = ", ".join(cameras)
    return f"name one of: {names}" if len(cameras) > 1 else f"leave camera empty, or say {names}"
