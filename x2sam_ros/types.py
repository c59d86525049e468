"""Frozen values that cross rooms: frames, prompts, results. NumPy only, validated on construction."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from x2sam_ros.errors import FrameError, PromptError

BoolArray = npt.NDArray[np.bool_]
Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]

MAX_TEXT_CHARS = 2_000
"""Longest prompt text accepted, in characters; a cap, since the language pass is quadratic in it."""

MAX_CLASSES = 500
"""Most classes of one list."""

MAX_CLASS_LIST_CHARS = 50_000
"""Longest class list accepted, characters of all names together: ``MAX_CLASSES`` names of 100 each."""

MAX_CLICKS = 64
"""Most clicks of one prompt, and most that are remembered of a target."""

MAX_REGIONS = 64
"""Most regions of one prompt."""

MAX_IMAGE_PIXELS = 50_000_000
"""Largest image accepted, in pixels: 8K video has 33 million; of a larger one the masks alone would take gigabytes."""


class Task(str, Enum):
    """The tasks of X2SAM (paper section 3); the value is the name used in messages and configuration."""

    CHAT = "chat"
    GENSEG = "genseg"
    OVSEG = "ovseg"
    REFSEG = "refseg"
    GREFSEG = "grefseg"
    REASEG = "reaseg"
    GCGSEG = "gcgseg"
    INTSEG = "intseg"
    OBJSEG = "objseg"
    VGDSEG = "vgdseg"


class TargetState(IntEnum):
    """How sure the session is of a target; the numbers are those of TrackedMask.msg."""

    TENTATIVE = 0
    TRACKED = 1
    OCCLUDED = 2
    LOST = 3


class GroundingStatus(IntEnum):
    """How a prompt ended; the numbers are those of Grounding.msg."""

    OK = 0
    NO_TARGET = 1
    REJECTED = 2
    REMOVED = 3


@dataclass(frozen=True)
class Frame:
    """One camera image.

    Args:
        image: uint8 (H, W, 3), RGB.
        stamp_ns: the header's stamp in nanoseconds, copied, never invented.
        frame_index: order in the stream, from 0.
        frame_id: TF coordinate frame of the header.
        source: topic or file the image came from.

    Raises:
        FrameError: the image is not a non-empty uint8 (H, W, 3) array.
    """

    image: Uint8Array
    stamp_ns: int
    frame_index: int = 0
    frame_id: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        shape, dtype = np.shape(self.image), getattr(self.image, "dtype", type(self.image))
        if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
            raise FrameError(f"frame image must be uint8 (H, W, 3) RGB, got {dtype} {shape}")
        if 0 in shape:
            raise FrameError(f"frame image has no pixels: {shape[1]}x{shape[0]}; check the camera driver")
        if shape[0] * shape[1] > MAX_IMAGE_PIXELS:
            raise FrameError(f"frame image of {shape[1]}x{shape[0]} exceeds {MAX_IMAGE_PIXELS} pixels")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.image.shape[0]), int(self.image.shape[1])


@dataclass(frozen=True)
class PromptBase:
    """What all prompts share.

    Args:
        prompt_id: the caller's name for this prompt; unique within a session.
        target_id: existing target to refine, or None to add a new one.
        stamp_ns: stamp of the image the prompt refers to; None means the next frame (in the node, the newest answered).
        task: what kind of answer is wanted: a ``Task``, or the name of a task that a plugin offers.
    """

    prompt_id: str = ""
    target_id: int | None = None
    stamp_ns: int | None = None
    task: Task | str = field(default=Task.REFSEG, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.task, str) or not self.task:
            raise PromptError(f"task must be a name such as 'refseg', got {self.task!r:.80}")
        if self.task in Task._value2member_map_:
            object.__setattr__(self, "task", Task(self.task))

    @property
    def task_name(self) -> str:
        """The task's name, whether it is one of ours or a plugin's."""
        return self.task.value if isinstance(self.task, Task) else self.task


def _clean_text(text: str, what: str) -> str:
    if not isinstance(text, str) or all(unicodedata.category(character)[0] in "CZ" for character in text):
        raise PromptError(f"{what} is empty; type what to look for, for example 'the red cup'")
    if len(text) > MAX_TEXT_CHARS:
        raise PromptError(f"{what} has {len(text)} characters, at most {MAX_TEXT_CHARS} are accepted; shorten it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"{what} is not valid Unicode at character {error.start}; give it as UTF-8") from error
    return " ".join(text.split())


def _numbers(values: Any, what: str) -> FloatArray:
    """Return ``values`` as an array of its own, float64, all finite."""
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PromptError(f"{what} must be numbers in equally long rows, got {values!r:.80}") from error
    if not np.isfinite(numbers).all():
        raise PromptError(f"{what} hold a value that is not a number or not finite: {numbers.tolist()!s:.80}")
    return numbers


@dataclass(frozen=True)
class TextPrompt(PromptBase):
    """A referring phrase ("the cup next to the kettle") or a question. Control tokens in it are plain text."""

    text: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "text", _clean_text(self.text, "prompt text"))


@dataclass(frozen=True)
class CaptionPrompt(PromptBase):
    """A request to describe the image; the phrases of the answer become targets."""

    task: Task | str = field(default=Task.GCGSEG, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_adds(self, "a caption")


@dataclass(frozen=True)
class ClassListPrompt(PromptBase):
    """Every instance of every named class becomes a target.

    Args:
        classes: what to look for.
        stuff: those of the classes that are no countable things, such as sky: one target however many pieces it has.
            With any, the masks of the prompt's targets never overlap (a panoptic list).
    """

    classes: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()
    task: Task | str = field(default=Task.GENSEG, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        names, stuff = _class_names(self.classes, "class list"), _class_names(self.stuff, "stuff list")
        if not names:
            raise PromptError("class list is empty; name at least one class")
        strangers = [name for name in stuff if name not in names]
        if strangers:
            raise PromptError(f"stuff names {strangers[0]!r:.80}, which is none of the classes; add it to them")
        object.__setattr__(self, "classes", names)
        object.__setattr__(self, "stuff", stuff)


def _class_names(names: tuple[str, ...], what: str) -> tuple[str, ...]:
    if isinstance(names, str):
        raise PromptError(f"{what} must be a tuple of names, got the text {names!r:.80}")
    if len(names) > MAX_CLASSES:
        raise PromptError(
            f"{what} names {len(names)} classes, at most {MAX_CLASSES} are accepted; split it into several prompts"
        )
    clean = tuple(_clean_text(name, "class name") for name in names)
    total = sum(map(len, clean))
    if total > MAX_CLASS_LIST_CHARS:
        raise PromptError(f"{what} has {total} characters, at most {MAX_CLASS_LIST_CHARS} are accepted; shorten names")
    repeated = [name for name in clean if clean.count(name) > 1]
    if repeated:
        raise PromptError(f"{what} names a class twice: {', '.join(repeated):.80}; name each once")
    return clean


def _check_adds(prompt: PromptBase, what: str) -> None:
    if prompt.target_id is not None:
        raise PromptError(f"{what} adds targets and cannot refine target {prompt.target_id}; leave target_id away")


@dataclass(frozen=True)
class PointPrompt(PromptBase):
    """Clicks on one object.

    Args:
        points_px: float (K, 2), x right and y down, in pixels of the image.
        point_labels: int (K,), 1 on the object, 0 not on it.
    """

    points_px: FloatArray = field(default_factory=lambda: np.zeros((0, 2)))
    point_labels: IntArray | None = None
    task: Task | str = field(default=Task.OBJSEG, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        points = _numbers(self.points_px, "click coordinates")
        if points.size % 2 or points.ndim > 2:
            raise PromptError(f"clicks must be x, y pairs, shape (K, 2), got shape {points.shape}")
        points = points.reshape(-1, 2)
        labels = np.ones(len(points)) if self.point_labels is None else _numbers(self.point_labels, "click labels")
        if len(points) == 0 or labels.shape != (len(points),):
            raise PromptError(f"click prompt needs one label per point, got {len(points)} points, {labels.size} labels")
        if len(points) > MAX_CLICKS:
            raise PromptError(f"click prompt has {len(points)} points, at most {MAX_CLICKS}; draw a mask instead")
        if not np.isin(labels, (0, 1)).all():
            raise PromptError(f"click labels are 1 (on the object) or 0 (not), got {labels.tolist()}")
        if self.target_id is None and not labels.any():
            raise PromptError("a new target needs at least one positive click (label 1)")
        object.__setattr__(self, "points_px", points)
        object.__setattr__(self, "point_labels", labels.astype(np.int64))


@dataclass(frozen=True)
class BoxPrompt(PromptBase):
    """A box around one object: ``box_px`` is float (4,): x1, y1, x2, y2 in pixels, x1 < x2, y1 < y2."""

    box_px: FloatArray = field(default_factory=lambda: np.zeros(0))
    task: Task | str = field(default=Task.OBJSEG, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        box = _numbers(self.box_px, "box corners").reshape(-1)
        if box.shape != (4,):
            raise PromptError(f"box must be four numbers x1, y1, x2, y2, got {box.size}: {box.tolist()!s:.80}")
        if box[0] >= box[2] or box[1] >= box[3]:
            raise PromptError(f"box is empty: x1, y1, x2, y2 = {box.tolist()} needs x1 < x2 and y1 < y2")
        object.__setattr__(self, "box_px", box)


@dataclass(frozen=True)
class MaskPrompt(PromptBase):
    """A drawn region (mask or scribble): ``mask`` is bool (H, W) at the image's size."""

    mask: BoolArray = field(default_factory=lambda: np.zeros((0, 0), bool))
    task: Task | str = field(default=Task.OBJSEG, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        mask = np.asarray(self.mask)
        if mask.ndim != 2:
            raise PromptError(f"mask prompt must be (H, W), got shape {mask.shape}")
        mask = np.nan_to_num(mask).astype(bool)
        if not mask.any():
            raise PromptError("mask prompt has no pixel set; draw on the object")
        object.__setattr__(self, "mask", mask)


RegionPrompt = PointPrompt | BoxPrompt | MaskPrompt


@dataclass(frozen=True)
class RegionsPrompt(PromptBase):
    """Several regions at once: everything that looks like one of them becomes a target.

    Args:
        regions: clicks, boxes and masks; what they say of id, target, stamp and task is not read.
        labels: a name for each region, or none at all.
    """

    regions: tuple[RegionPrompt, ...] = ()
    labels: tuple[str, ...] = ()
    task: Task | str = field(default=Task.VGDSEG, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_adds(self, "a prompt of several regions")
        regions = tuple(self.regions)
        if not 1 <= len(regions) <= MAX_REGIONS:
            raise PromptError(f"prompt has {len(regions)} regions, expected 1 to {MAX_REGIONS}")
        for region in regions:
            if not isinstance(region, RegionPrompt):
                raise PromptError(f"a region must be points, a box or a mask, got {type(region).__name__}")
            _check_adds(region, "one of several regions")
        if isinstance(self.labels, str) or len(self.labels) not in (0, len(regions)):
            raise PromptError(f"{len(regions)} regions need as many labels or none, got {self.labels!r:.80}")
        object.__setattr__(self, "regions", regions)
        object.__setattr__(self, "labels", tuple(_clean_text(label, "region label") for label in self.labels))


Prompt = TextPrompt | CaptionPrompt | ClassListPrompt | PointPrompt | BoxPrompt | MaskPrompt | RegionsPrompt


@dataclass(frozen=True)
class Phrase:
    """A phrase of a grounding: ``text == response[start:end]`` or, without a response, of the query."""

    text: str
    start: int
    end: int
    target_ids: tuple[int, ...] = ()
    score: float = 0.0


@dataclass(frozen=True)
class Grounding:
    """What became of a prompt."""

    prompt_id: str
    status: GroundingStatus
    query: str = ""
    response: str = ""
    phrases: tuple[Phrase, ...] = ()
    target_ids: tuple[int, ...] = ()
    message: str = ""
    stamp_ns: int = 0


class PromptStage(IntEnum):
    """How far a prompt has come; the numbers are those of Follow.action, which has one more for the first mask."""

    WAITING = 0
    GROUNDING = 1
    ANSWERING = 2


@dataclass(frozen=True)
class Progress:
    """How a prompt gets on.

    Args:
        prompt_id: which one.
        stage: it waits for its image, or for prompts that came earlier; the language model reads it; or answers it.
        response: the answer so far.
    """

    prompt_id: str
    stage: PromptStage
    response: str = ""


@dataclass(frozen=True)
class TargetInfo:
    """One target, as lists name it; where it is in an image is a row of a ``FrameResult``.

    Args:
        target_id: stable for its life.
        label: what it is called.
        prompt_id: the prompt that it is the answer to; '' for one without an id.
        state: how sure the session is of it.
        last_seen_ns: stamp of the newest frame on which it was seen.
    """

    target_id: int
    label: str
    prompt_id: str
    state: TargetState
    last_seen_ns: int


@dataclass(frozen=True)
class FrameResult:
    """The targets of one frame. Row i of every array is one target; N may be 0.

    Args:
        stamp_ns, frame_index, frame_id: copied from the frame.
        image_size: (height, width) in pixels.
        masks: bool (N, H, W).
        scores: float32 (N,), 0 to 1.
        labels: N names.
        target_ids: int64 (N,), stable for the life of a target.
        states: N TargetState.
        groundings: what became of the prompts carried out on this frame.
        timings_ms: wall time by stage, milliseconds.
    """

    stamp_ns: int
    frame_index: int
    frame_id: str
    image_size: tuple[int, int]
    masks: BoolArray
    scores: npt.NDArray[np.float32]
    labels: tuple[str, ...]
    target_ids: npt.NDArray[np.int64]
    states: tuple[TargetState, ...]
    groundings: tuple[Grounding, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.target_ids)
        if self.masks.shape != (n, *self.image_size) or self.masks.dtype != np.bool_:
            raise FrameError(f"masks must be bool {(n, *self.image_size)}, got {self.masks.dtype} {self.masks.shape}")
        if not len(self.scores) == len(self.labels) == len(self.states) == n:
            raise FrameError(f"scores, labels and states must each have {n} rows")
        if len(set(self.target_ids.tolist())) != n:
            raise FrameError(f"target ids repeat: {self.target_ids.tolist()}")
