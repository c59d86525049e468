"""What a task head is: how prompts of one task become a question, and how targets are read from its answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from x2sam_ros.config import EngineConfig
from x2sam_ros.errors import PluginError, PromptError, X2SamError, told
from x2sam_ros.model.template import Template
from x2sam_ros.types import Prompt

if TYPE_CHECKING:
    from torch import Tensor

    from x2sam_ros.engine.region import Region
    from x2sam_ros.engine.select import Candidates, Choice


@dataclass(frozen=True)
class ConversationRequest:
    """What fills the slots of the task's template.

    Args:
        phrases: what to look for, plain text; empty when the prompt is a region or a question.
        num_regions: how many regions the question refers to.
        text: the user's words for ``{text}``.
        labels: a name for each phrase or region; empty where the answer names what it found.
        stuff: which of the labels are stuff, such as sky: one segment however many pieces it has.
        wants_masks: whether an answer that points at nothing leaves the prompt unfulfilled.
        template: instead of the task's, where the prompt is a question of its own.
    """

    phrases: tuple[str, ...] = ()
    num_regions: int = 0
    text: str = ""
    labels: tuple[str, ...] = ()
    stuff: tuple[int, ...] = ()
    wants_masks: bool = True
    template: Template | None = None


@dataclass(frozen=True)
class Track:
    """What a head may know of a target found on earlier frames.

    Args:
        class_index: the label it answers.
        mask: bool (h, w), where it was last seen.
        history: its newest masks with their scores, oldest first, at most ``HISTORY``.
        missed: frames since then on which it was not found.
        drift: how far it should have moved since then, right and down, in shares of the image's width and height.
        threshold: confidence from which it counts as seen, which is less for one that is tracked.
        extent: the largest share of the image that its newest masks covered; 0 where that is not known.
        has_rivals: whether something else looked like it while it was seen.
    """

    class_index: int
    mask: Tensor
    history: tuple[tuple[Tensor, float], ...] = ()
    missed: int = 0
    drift: tuple[float, float] = (0.0, 0.0)
    threshold: float = EngineConfig.score_threshold
    extent: float = 0.0
    has_rivals: bool = True


HISTORY = 4
"""Earlier masks of a target that a head may look at (the published object segmentation uses four)."""


@dataclass(frozen=True)
class ReadContext:
    """What a head reads one frame's queries with.

    Args:
        labels, stuff: as requested, or as the answer named them.
        regions: the prompt's regions, one per label; () for words.
        prompted: whether this is the frame the prompt was given on.
        tracks: the prompt's targets so far.
        score_threshold: confidence below which nothing counts as found.
        official_quirks: whether to do exactly as the published evaluation does, mistakes included.
    """

    labels: tuple[str, ...]
    stuff: tuple[int, ...] = ()
    regions: tuple[Region, ...] = ()
    prompted: bool = True
    tracks: tuple[Track, ...] = ()
    score_threshold: float = EngineConfig.score_threshold
    official_quirks: bool = False


class TaskHead(Protocol):
    """Carries one task from prompt to targets. Holds neither state nor weights."""

    @property
    def task(self) -> str:
        """The task it serves: the name it is registered under."""
        ...

    @property
    def templates(self) -> Mapping[str, Template]:
        """The wording for each of ``TEMPLATE_SETS`` that knows the task."""
        ...

    def request(self, prompt: Prompt) -> ConversationRequest:
        """Turn a prompt into a request.

        Raises:
            PromptError: the task does not take this kind of prompt.
        """
        ...

    def read(self, found: Candidates, context: ReadContext) -> Sequence[Choice]:
        """Read the targets of one frame, the surest first.

        A choice below ``score_threshold``, or below the ``threshold`` of the track it continues, or without a pixel
        says how unsure the head is of a target that is not seen; it makes no new target. A head that lists what it
        finds should list weak choices where they continue a track. With ``official_quirks`` every choice counts.

        Args:
            found: the prompt's queries, at stride 4 or at any other size, with one column for each label.
            context: what was asked and what was found before.

        Returns:
            Choices, each with the track it continues, or None for a new target.
        """
        ...


TaskHeadFactory = Callable[[], TaskHead]
"""What a plugin offers under a task's name: builds the head."""


def checked_read(head: TaskHead, found: Candidates, context: ReadContext) -> tuple[Choice, ...]:
    """Let a head read one frame and check its answer.

    Args:
        head: the head; it may come from a third party and return anything.
        found: the prompt's queries.
        context: what was asked and what was found before.

    Raises:
        PluginError: the head raised something; or a choice names a label or a track that does not exist, or its mask
            has another size than ``found``.
    """
    import torch  # here, so that `x2sam --help` need not wait for it

    try:
        answer = head.read(found, context)
    except (X2SamError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a third party raises has a name
        raise PluginError(f"task head '{head.task}' raised {told(error)}; report it to the head's author") from error
    size, labels, tracks = found.mask_logits.shape[1:], len(context.labels), len(context.tracks)
    try:
        choices = tuple(answer)
        valid = all(
            0 <= choice.class_index < labels
            and (choice.track is None or 0 <= choice.track < tracks)
            and choice.logits.shape == size
            for choice in choices
        )
    except (TypeError, AttributeError):
        valid = False
    if not valid:
        got = " ".join(repr(answer).split())
        raise PluginError(
            f"task head '{head.task}' read {got:.200}, expected choices of {labels} labels and {tracks} tracks "
            f"with masks of {tuple(size)}; report it to the head's author"
        )
    return choices


def wrong_prompt(task: str, expected: str, prompt: Prompt) -> PromptError:
    """Return the error for a prompt of a kind that a task does not take."""
    return PromptError(f"task {task} takes {expected}, got a {type(prompt).__name__}; change the task or the prompt")
