"""What a method answered on one sequence: small enough to keep, exact enough to score, draw and export again."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from x2sam_ros.errors import FrameError, TruthError
from x2sam_ros.evaluation.whole_file import write_whole
from x2sam_ros.rle import Counts, decode_rle, encode_rle, from_coco, to_coco
from x2sam_ros.types import BoolArray

FORMAT = "x2sam-predictions-1"


@dataclass(frozen=True)
class GivenPrompt:
    """A prompt that was given, and what it means.

    Args:
        prompt_id: unique in the sequence.
        kind: text, point, scribble, box, mask, classes, regions or caption.
        frame_index: of the frame it was given on.
        object_ids: the true objects that it means, () where none is there.
        query: the words, or the class names joined by ", "; '' for a region.
        expression_id: of the expression it was made from; ''.
        status: name of the GroundingStatus it ended with, lower case; 'unanswered' where none came.
        response: what the model wrote.
        phrases: each phrase of the answer, with the ids of its targets.
    """

    prompt_id: str
    kind: str
    frame_index: int
    object_ids: tuple[int, ...]
    query: str = ""
    expression_id: str = ""
    status: str = "unanswered"
    response: str = ""
    phrases: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class PredictedMask:
    """One target on one frame.

    Args:
        target_id: stable for the target's life.
        prompt_id: the prompt that it answers.
        label: its class, phrase or name.
        score: 0 to 1.
        rle: the mask as pycocotools' compressed counts of the whole image, in ASCII.
    """

    target_id: int
    prompt_id: str
    label: str
    score: float
    rle: str


@dataclass(frozen=True)
class FramePrediction:
    """What was answered for one image.

    Args:
        frame_index, stamp_ns: of the image.
        size: (height, width) in pixels.
        masks: the targets that have a pixel.
        latency_ms: from the arrival of the image to its answer, wall time.
        published_ns: when the answer was there, on the clock of the stamps: the stamp plus what a robot waits. Equal to
            ``stamp_ns`` plus latency for a replay, and measured live.
        is_lost: whether no answer came at all (live only); then there is no mask.
        source: topic or file of the image, by which its ground truth is found.

    Raises:
        TruthError: a mask is damaged, or of more pixels than the image, or of fewer.
    """

    frame_index: int
    stamp_ns: int
    size: tuple[int, int]
    masks: tuple[PredictedMask, ...] = ()
    latency_ms: float = 0.0
    published_ns: int = 0
    is_lost: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        for predicted in self.masks:
            try:
                self._runs(predicted)
            except FrameError as error:
                raise TruthError(f"target {predicted.target_id} on frame {self.frame_index}: {error}") from error

    def mask(self, predicted: PredictedMask) -> BoolArray:
        """Decode one of its masks, bool (H, W)."""
        return decode_rle(self._runs(predicted), *self.size)

    def _runs(self, predicted: PredictedMask) -> Counts:
        return from_coco({"size": self.size, "counts": predicted.rle})


def rle_of(mask: BoolArray) -> str:
    """Encode a mask, bool (H, W), as ``PredictedMask.rle`` holds it."""
    counts: bytes = to_coco(encode_rle(mask), *mask.shape)["counts"]
    return counts.decode()


@dataclass(frozen=True)
class SequencePredictions:
    """What was answered on one sequence.

    Args:
        sequence: its name.
        prompts: what was given.
        frames: one for each image of the sequence that could be read, in order.
        wall_s: wall time of the whole sequence, decoding included, scoring not.
        problems: what went wrong on the way and did not end it.
    """

    sequence: str
    prompts: tuple[GivenPrompt, ...]
    frames: tuple[FramePrediction, ...]
    wall_s: float = 0.0
    problems: tuple[str, ...] = field(default=())


def write_predictions(predictions: SequencePredictions, path: Path) -> None:
    """Write them as gzipped JSON; the file appears when it is whole, and is the same for the same predictions.

    Raises:
        ResultsError: it cannot be written.
    """
    text = json.dumps({"format": FORMAT, **asdict(predictions)}, separators=(",", ":"))
    write_whole(path, gzip.compress(text.encode(), mtime=0))


def read_predictions(path: Path) -> SequencePredictions:
    """Read what ``write_predictions`` wrote.

    Raises:
        TruthError: the file is damaged or no such file.
    """
    try:
        said = json.loads(gzip.decompress(path.read_bytes()))
        if said.pop("format") != FORMAT:
            raise ValueError("another format")
        return _from_dict(said)
    except (OSError, EOFError, ValueError, TypeError, KeyError, TruthError) as error:
        raise TruthError(f"{path} holds no predictions ({error}); remove it, and they are made again") from error


def _from_dict(said: Mapping[str, Any]) -> SequencePredictions:
    prompts = tuple(
        GivenPrompt(
            **{
                **prompt,
                "object_ids": tuple(prompt["object_ids"]),
                "phrases": tuple((text, tuple(ids)) for text, ids in prompt["phrases"]),
            }
        )
        for prompt in said["prompts"]
    )
    frames = tuple(
        FramePrediction(
            **{
                **frame,
                "size": tuple(frame["size"]),
                "masks": tuple(PredictedMask(**mask) for mask in frame["masks"]),
            }
        )
        for frame in said["frames"]
    )
    return SequencePredictions(
        str(said["sequence"]), prompts, frames, float(said["wall_s"]), tuple(map(str, said["problems"]))
    )
