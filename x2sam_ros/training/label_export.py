"""Masks that a node or a replay published, with their pictures, to be corrected by a person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from x2sam_ros.bag.coco import write_image
from x2sam_ros.bag.interfaces import message_types
from x2sam_ros.bag.messages import MASK_ARRAY_TYPE, read_tracked_mask_array
from x2sam_ros.bag.source import FrameSource, Problems
from x2sam_ros.bag.storage import Storage, Topic, open_storage
from x2sam_ros.errors import TruthError, told
from x2sam_ros.rle import encode_rle
from x2sam_ros.training.labelling import (
    IMAGES_FOLDER,
    Mark,
    MarkedImage,
    check_size,
    image_name,
    is_another_picture,
)
from x2sam_ros.types import FrameResult

UNNAMED = "object"
"""What a target is called that was pointed at and has no name."""


class _Pass:
    """What was published on one pass over a recording: masks by stamp, and the last name of each object."""

    def __init__(self) -> None:
        self.images: dict[int, MarkedImage] = {}
        self.names: dict[int, str] = {}

    def add(self, result: FrameResult) -> None:
        self.names |= {int(i): label or UNNAMED for i, label in zip(result.target_ids, result.labels)}
        seen = [row for row in range(len(result.masks)) if result.masks[row].any()]
        marks = [Mark(result.labels[row], encode_rle(result.masks[row]), int(result.target_ids[row])) for row in seen]
        self.images[result.stamp_ns] = MarkedImage("", result.image_size, tuple(marks))

    @property
    def num_marked(self) -> int:
        """Number of images that show something."""
        return sum(bool(image.marks) for image in self.images.values())

    def named(self) -> dict[int, MarkedImage]:
        return {
            stamp: replace(image, marks=tuple(replace(mark, label=self.names[mark.object_id]) for mark in image.marks))
            for stamp, image in self.images.items()
        }


def read_published(path: Path, problems: Problems, mask_topic: str | None = None) -> dict[int, MarkedImage]:
    """Read the masks that a node or a replay published, by the stamps of their images.

    Targets without a mask on an image are not marked there. An object has the name that it had last. Of messages with
    one stamp that follow one another the last one counts. Where an earlier stamp comes again the recording was played
    once more, and numbers may mean other objects: the pass that has most images with masks counts.

    Args:
        path: bag with TrackedMaskArray messages.
        problems: counts messages that are damaged or repeat another one, and passes, which are left out.
        mask_topic: which of them; None takes the only topic that has any.

    Raises:
        BagError: no bag, or damaged from its start.
        TruthError: no such topic, several, not one message that can be read, or masks of two cameras of one stamp.
    """
    if not path.exists():
        raise TruthError(f"{path} does not exist; give the bag that holds the masks that were published")
    storage = open_storage(path)
    topic = _mask_topic(storage, path, mask_topic)
    passes, cameras, before = [_Pass()], dict[int, str](), None
    for number, data in enumerate(storage.messages(topic, problems)):
        where = f"{path}: message {number} of {topic.name}"
        try:
            result = read_tracked_mask_array(message_types().deserialize_cdr(data, topic.msgtype))
        except Exception as error:  # generated code over damaged bytes fails in any way
            problems.add(f"{where} left out: it is damaged ({told(error)})")
            continue
        stamp, camera = result.stamp_ns, cameras.setdefault(result.stamp_ns, result.frame_id)
        if camera != result.frame_id:
            raise TruthError(
                f"{where} is of {result.frame_id!r:.80} and has the stamp of an earlier one of {camera!r:.80}, {stamp} "
                "ns, so that nobody can tell which image it belongs to; record the masks of each camera on a topic of "
                "its own"
            )
        if stamp == before:
            problems.add(f"{where} has the stamp of the one before it, {stamp} ns, which is left out")
        elif stamp in passes[-1].images:
            passes.append(_Pass())
        passes[-1].add(result)
        before = stamp
    best = max(passes, key=lambda one: one.num_marked)
    if not best.images:
        reason = problems.messages[0] if problems.messages else "it has no message"
        raise TruthError(f"{path}: no masks on {topic.name}: {reason}; give another recording of them")
    if len(passes) > 1:
        problems.add(
            f"{path}: the stamps on {topic.name} begin anew {len(passes) - 1} times, as when a recording is looped; of "
            f"{len(passes)} passes number {passes.index(best) + 1}, which has most images with masks, is taken"
        )
    return best.named()


def _mask_topic(storage: Storage, path: Path, wanted: str | None) -> Topic:
    topics = [topic for topic in storage.topics if topic.msgtype == MASK_ARRAY_TYPE and topic.num_messages != 0]
    if not topics:
        raise TruthError(
            f"{path} has no masks: no topic of type {MASK_ARRAY_TYPE}; give the bag that a replay wrote, or a "
            "recording of the node's ~/masks"
        )
    chosen = [topic for topic in topics if wanted is None or topic.name.lstrip("/") == wanted.lstrip("/")]
    if len(chosen) != 1:
        listed = ", ".join(sorted(topic.name for topic in topics))
        asked = "which topic has the masks?" if wanted is None else f"there are no masks on {wanted!r:.80};"
        raise TruthError(f"{path}: {asked} choose one of those that have any: {listed}")
    return chosen[0]


def export_images(source: FrameSource, published: dict[int, MarkedImage], folder: Path) -> list[MarkedImage]:
    """Write the pictures of a recording that have published masks, and return them with their masks.

    A picture that comes again is left out. Where two pictures have one stamp both are, since nobody can tell which of
    them the masks are of. Either is a problem of the source.

    Args:
        source: the recording; its stride says how many pictures a person gets to correct.
        published: what was published about it, by stamp.
        folder: gets the pictures in ``IMAGES_FOLDER``.

    Raises:
        BagError: not one image could be read.
        TruthError: no image has masks and a stamp of its own, or masks have another size than their image.
    """
    (folder / IMAGES_FOLDER).mkdir(parents=True, exist_ok=True)
    images: dict[int, MarkedImage] = {}
    seen: dict[int, bytes] = {}
    first = None
    for frame in source:
        stamp = frame.stamp_ns
        first = stamp if first is None else first
        image = published.get(stamp)
        if image is None:
            continue
        check_size(image.size, frame, source.name)
        is_repeat = stamp in seen
        if is_another_picture(frame, seen):
            source.problems.add(
                f"image {frame.frame_index} and an earlier one left out: both have the stamp {stamp} ns"
            )
            if twin := images.pop(stamp, None):
                (folder / IMAGES_FOLDER / twin.name).unlink()
        elif is_repeat:
            source.problems.add(f"image {frame.frame_index} left out: it is an earlier one again, of {stamp} ns")
        else:
            images[stamp] = replace(image, name=image_name(len(seen) - 1, stamp))
            write_image(folder / IMAGES_FOLDER / images[stamp].name, frame.image)
    if seen and not images:
        raise TruthError(
            f"{source.name}: each image with masks has the stamp of another one, so that nobody can tell which of them "
            "the masks are of; record images with stamps of their own"
        )
    if not images:
        raise TruthError(
            f"{source.name}: none of its images has masks; the first stamps are {first} and "
            f"{next(iter(published), None)} ns; give the masks that were published about this recording"
        )
    return list(images.values())
