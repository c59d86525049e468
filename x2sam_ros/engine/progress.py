"""How a prompt gets on, told to whoever watches it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from x2sam_ros.errors import told
from x2sam_ros.types import Progress, PromptStage

Watch = Callable[[Progress], None]
"""What is called with the progress of a prompt, on the thread that makes it."""

_log = logging.getLogger(__name__)


class Watcher:
    """Tells one listener about one prompt. A listener that raises is told no more, and harms nothing.

    Args:
        prompt_id: which prompt.
        watch: the listener.
    """

    def __init__(self, prompt_id: str, watch: Watch) -> None:
        self._prompt_id = prompt_id
        self._watch: Watch | None = watch

    def tell(self, stage: PromptStage, response: str = "") -> None:
        """Call the listener."""
        if self._watch is None:
            return
        try:
            self._watch(Progress(self._prompt_id, stage, response))
        except Exception as error:  # somebody else's code
            self._watch = None
            _log.warning("what watches prompt '%s' failed and is told no more: %s", self._prompt_id, told(error))


def hearing(tell: Callable[[PromptStage, str], None]) -> Callable[[str], None]:
    """Return what takes an answer piece by piece and tells all that was said so far."""
    said: list[str] = []

    def hear(piece: str) -> None:
        said.append(piece)
        tell(PromptStage.ANSWERING, "".join(said))

    return hear
