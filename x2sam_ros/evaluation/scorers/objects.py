"""Scores objects that are followed and phrases that are found: one prompt is one answer, on every frame."""

from __future__ import annotations

import math

import numpy as np

from x2sam_ros.evaluation.metrics.identity import Overlaps
from x2sam_ros.evaluation.metrics.masks import boundary_accuracy, region_similarity
from x2sam_ros.evaluation.metrics.streaming import ObjectWatch
from x2sam_ros.evaluation.predictions import GivenPrompt
from x2sam_ros.evaluation.results import Curve
from x2sam_ros.evaluation.scorers.frames import Found, Job, ScoredFrame, overlaps
from x2sam_ros.truth.dataset import Kind

REGIONS = ("point", "scribble", "box", "mask")
"""Prompts that show an object: DAVIS's protocol is for these."""


class _Followed:
    """One prompt through the sequence."""

    def __init__(self, prompt: GivenPrompt, is_phrase: bool) -> None:
        self.prompt, self._is_phrase = prompt, is_phrase
        self.watch: ObjectWatch | None = None
        self.j: list[float | None] = []
        self.f: list[float | None] = []
        self.is_absent: list[bool] = []
        self.pixels = np.zeros(3, np.int64)
        """Of a phrase over all frames: of answer and truth in common, of the answer, of the truth."""

    def see(self, frame: ScoredFrame) -> None:
        """Score one frame; before the prompt or without annotation it does not count."""
        j = f = None
        absent = False
        if frame.index >= self.prompt.frame_index:
            raw = frame.raw_of_prompt(self.prompt.prompt_id)
            predicted = frame.kept(raw)
            truth = None if frame.truth is None else frame.true_mask(frame.truth, self.prompt.object_ids)
            if truth is not None:
                j, f = region_similarity(predicted, truth), boundary_accuracy(predicted, truth)
                absent = not truth.any()
                if self._is_phrase:
                    self.pixels += [np.count_nonzero(mask) for mask in (predicted & truth, predicted, truth)]
            answer = frame.prediction
            self.watch = self.watch or ObjectWatch(answer.stamp_ns)
            published_ns = None if answer.is_lost else answer.published_ns
            self.watch.see(answer.stamp_ns, published_ns, raw, truth, frame.ignore)
        self.j.append(j)
        self.f.append(f)
        self.is_absent.append(absent)

    def counted(self, without: tuple[int, ...] = ()) -> tuple[list[float], list[float]]:
        """Return J and F of the frames that count, less some."""
        kept = [(j, f) for index, (j, f) in enumerate(zip(self.j, self.f)) if index not in without]
        return [j for j, _ in kept if j is not None], [f for _, f in kept if f is not None]

    def curve(self, job: Job) -> Curve:
        """Return it for plots."""
        object_id = self.prompt.object_ids[0] if self.prompt.object_ids else 0
        category = job.category(object_id)
        name = self.prompt.query or (category.name if category else f"object {object_id}")
        return Curve(object_id, name, self.prompt.prompt_id, tuple(self.j), tuple(self.f), tuple(self.is_absent))


class _Identities:
    """Which target is which object; an object that several prompts ask for is followed by the first."""

    def __init__(self, prompts: tuple[GivenPrompt, ...]) -> None:
        self._asked: dict[int, int] = {}
        self._prompt_ids: set[str] = set()
        for prompt in prompts:
            if self._asked.keys().isdisjoint(prompt.object_ids):
                self._asked.update(dict.fromkeys(prompt.object_ids, prompt.frame_index))
                self._prompt_ids.add(prompt.prompt_id)
        self.overlaps: list[Overlaps] = []

    def see(self, frame: ScoredFrame) -> None:
        """Compare the targets of one frame with the objects that were asked for by then."""
        if frame.truth is None:
            return
        rles = frame.true_rles(frame.truth)
        true = {one: rle for one, rle in rles.items() if self._asked.get(one, math.inf) <= frame.index}
        own = {
            frame.masks[row].target_id: rle
            for row, rle in frame.rles().items()
            if frame.masks[row].prompt_id in self._prompt_ids
        }
        self.overlaps.append(Overlaps(tuple(true), tuple(own), overlaps(own.values(), true.values(), frame.size)))


def score_objects(job: Job) -> Found:
    """Score prompts that mean an object each, or phrases that mean one, several or none."""
    found = Found()
    is_referring = job.dataset.kind is Kind.REFERRING
    followed = [_Followed(prompt, is_referring) for prompt in job.prompts]
    identities = None if is_referring else _Identities(job.prompts)
    for frame in job.frames():
        for one in followed:
            one.see(frame)
        if identities is not None:
            identities.see(frame)
        values = [one.j[-1] for one in followed if one.j[-1] is not None]
        if values:
            found.frame_scores.append((frame.index, float(np.mean(values))))
    found.curves = tuple(one.curve(job) for one in followed)
    if is_referring:
        phrases = found.kept.make("phrases")
        for one in followed:
            if one.counted()[0]:
                phrases.add(*one.pixels.tolist())
    if job.is_clip or not is_referring:
        _add_followed(found, job, followed)
    if identities is not None:
        found.kept.make("identity").update(identities.overlaps)
    return found


def _add_followed(found: Found, job: Job, followed: list[_Followed]) -> None:
    """Add what objects are worth that are followed over time."""
    scores = found.kept.make("objects", official_quirks=job.official_quirks)
    davis, streaming = found.kept.make("davis"), found.kept.make("streaming")
    last = len(job.predictions.frames) - 1
    for one in followed:
        key = f"{job.sequence.name}/{one.prompt.prompt_id}"
        scores.update(key, *one.counted())
        if one.prompt.kind in REGIONS:
            davis.update(key, *one.counted(without=(one.prompt.frame_index, last)))
        if one.watch is not None:
            streaming.update(one.watch)
