"""Prompts that wait for their frame: which one a prompt refers to, and why one cannot be carried out any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.frame_buffer import FrameBuffer, Kept
from x2sam_ros.engine.progress import Watcher
from x2sam_ros.errors import PromptError
from x2sam_ros.types import CaptionPrompt, ClassListPrompt, Prompt, TextPrompt, Uint8Array

REMEMBERED_PROMPT_IDS = 1_024
"""Prompt ids a session remembers to tell a repeated one; older ids may be used again."""

_NS_PER_MS = 1e6


@dataclass(frozen=True, eq=False)
class Waiting:
    """A prompt that waits.

    Args:
        prompt: what is asked.
        clip: what the language model is to be shown in place of the frame.
        again: whether it was asked on an earlier stream of the session; it waits however long its frame takes.
        at: its frame, where that was found and something else had to be done first.
        watcher: is told how it gets on.
    """

    prompt: Prompt
    clip: Uint8Array | None = None
    again: bool = False
    at: Kept | None = None
    watcher: Watcher | None = None

    def asked_anew(self) -> Waiting:
        """Return it for another stream: words are asked at once, regions on the frame of their stamp."""
        words = isinstance(self.prompt, (TextPrompt, ClassListPrompt, CaptionPrompt))
        at_stamp = self.prompt.stamp_ns if self.at is None else self.at.frame.stamp_ns
        prompt = replace(self.prompt, stamp_ns=None if words else at_stamp)
        return replace(self, prompt=prompt, again=True, at=None)


class PromptQueue:
    """What was submitted and not yet begun, in order.

    Args:
        config: ``max_pending_prompts``, ``prompt_tolerance_ms`` and ``prompt_lead_ms``.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._waiting: deque[Waiting] = deque()  # at most max_pending_prompts, and those of an earlier stream's targets
        self._ids: deque[str] = deque(maxlen=REMEMBERED_PROMPT_IDS)

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._waiting)

    @property
    def used_ids(self) -> tuple[str, ...]:
        """Ids that may not be used again, oldest first."""
        return tuple(self._ids)

    def use_ids(self, prompt_ids: tuple[str, ...]) -> None:
        """Let ids count as used."""
        self._ids.extend(prompt_ids)

    def submit(
        self, prompt: Prompt, clip: Uint8Array | None, being_understood: int, watcher: Watcher | None = None
    ) -> None:
        """Append a prompt.

        Args:
            prompt, clip, watcher: what is asked, and who is told how it gets on.
            being_understood: prompts that the language lane has; they count as waiting.

        Raises:
            PromptError: its id is taken, or too many are waiting.
        """
        if prompt.prompt_id and prompt.prompt_id in self._ids:
            raise PromptError(f"prompt id '{prompt.prompt_id}' is taken; give every prompt an id of its own")
        waiting = len(self._waiting) + being_understood
        if waiting >= self._config.max_pending_prompts:
            raise PromptError(
                f"{waiting} prompts are waiting, at most {self._config.max_pending_prompts} may; "
                "send prompts more slowly, or check that images arrive"
            )
        if prompt.prompt_id:
            self._ids.append(prompt.prompt_id)
        self._waiting.append(Waiting(prompt, clip, watcher=watcher))

    def put_back(self, waiting: Waiting) -> None:
        """Append a prompt whose turn has not come; it keeps its place in the cap."""
        self._waiting.append(waiting)

    def drop(self, prompt_id: str) -> None:
        """Forget a prompt."""
        self._waiting = deque(item for item in self._waiting if item.prompt.prompt_id != prompt_id)

    def begin_anew(self) -> None:
        """Let what waits be asked on another stream."""
        self._waiting = deque(item.asked_anew() for item in self._waiting)

    def clear(self) -> None:
        """Forget everything, used ids too."""
        self._waiting.clear()
        self._ids.clear()

    def due(self, newest: Kept, buffer: FrameBuffer) -> tuple[list[tuple[Waiting, Kept]], list[tuple[Waiting, str]]]:
        """Take out the prompts whose frame is there.

        A prompt without a stamp refers to the newest frame. One with a stamp refers to the frame of that stamp, or to
        the nearest within ``prompt_tolerance_ms``. One that is ahead of the stream waits, up to ``prompt_lead_ms``.

        Args:
            newest: the frame that has just arrived.
            buffer: it and those before it.

        Returns:
            Prompts with their frames, and prompts that cannot be carried out with the reasons.
        """
        due: list[tuple[Waiting, Kept]] = []
        refused: list[tuple[Waiting, str]] = []
        waiting, self._waiting = self._waiting, deque()
        for item in waiting:
            if item.at is not None:
                due.append((item, item.at))
                continue
            stamp = item.prompt.stamp_ns
            ahead_ms = 0.0 if stamp is None else (stamp - newest.frame.stamp_ns) / _NS_PER_MS
            kept = newest if stamp is None else self._find(stamp, buffer)
            if ahead_ms > 0 and (item.again or ahead_ms <= self._config.prompt_lead_ms):
                self._waiting.append(item)
            elif ahead_ms > 0:
                refused.append((item, self._too_early(ahead_ms)))
            elif kept is None:
                refused.append((item, self._too_late(ahead_ms, buffer)))
            else:
                due.append((item, kept))
        return due, refused

    def _find(self, stamp_ns: int, buffer: FrameBuffer) -> Kept | None:
        return buffer.find(stamp_ns, int(self._config.prompt_tolerance_ms * _NS_PER_MS))

    def _too_early(self, ahead_ms: float) -> str:
        return (
            f"its stamp is {ahead_ms:.0f} ms ahead of the newest image, at most {self._config.prompt_lead_ms:.0f} ms "
            "are waited for; copy the stamp from the image, or raise prompt_lead_ms"
        )

    def _too_late(self, ahead_ms: float, buffer: FrameBuffer) -> str:
        oldest, newest = buffer.span_ns() or (0, 0)
        return (
            f"its image is {-ahead_ms:.0f} ms old and no longer there: {len(buffer)} images of the last "
            f"{(newest - oldest) / _NS_PER_MS:.0f} ms are kept, and none lies within "
            f"{self._config.prompt_tolerance_ms:.0f} ms of it; ask on a newer image, or raise buffer_frames"
        )
