"""Metrics of descriptions whose phrases have masks (GCG): are the masks right, and are the words?"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.mask_ap import Detection, MaskAP, TrueMask, coco_rle
from x2sam_ros.evaluation.metrics.metric import Scores
from x2sam_ros.evaluation.metrics.track_ap import Tube

FloatArray = npt.NDArray[np.float64]

MATCH_IOU = 0.5
"""Overlap from which the masks of two phrases may be the same thing."""

MATCH_TEXT = 0.5
"""Similarity from which two phrases may mean the same thing."""

_ANY_OVERLAP = float(np.finfo(np.float64).tiny)
_ARTICLES = ("a", "an", "the")


def token_overlap(one: str, other: str) -> float:
    """Compare two phrases by the words they share: 2 * shared / (words of one + words of the other), 0 to 1.

    Case, punctuation and articles do not count; 1 where neither has a word. The official evaluator compares mean
    embeddings of bert-base-uncased by their cosine, which needs that model: give such a function to
    ``GroundedMasks`` to get its numbers.
    """
    counts = [
        Counter(word for word in re.findall(r"\w+", text.lower()) if word not in _ARTICLES) for text in (one, other)
    ]
    num_words = sum(counts[0].values()) + sum(counts[1].values())
    return 2 * sum((counts[0] & counts[1]).values()) / num_words if num_words else 1.0


def match_phrases(
    iou: FloatArray,
    similarity: FloatArray,
    *,
    iou_threshold: float = MATCH_IOU,
    text_threshold: float = MATCH_TEXT,
    official_quirks: bool = False,
) -> list[tuple[int, int]]:
    """Pair true and predicted phrases one to one, again and again the two whose masks overlap most.

    Args:
        iou: float (G, P), of the masks.
        similarity: float (G, P), of the words.
        iou_threshold: least overlap of a pair.
        text_threshold: least similarity of a pair.
        official_quirks: end at the first pair whose words differ too much, where the right thing is to leave that pair
            out and to go on.

    Returns:
        (true, predicted) pairs, best first.
    """
    left = iou.copy() if official_quirks else np.where(similarity >= text_threshold, iou, -1.0)
    pairs: list[tuple[int, int]] = []
    while left.size:
        true, predicted = (int(index) for index in np.unravel_index(np.argmax(left), left.shape))
        if left[true, predicted] < iou_threshold or similarity[true, predicted] < text_threshold:
            break
        pairs.append((true, predicted))
        left[true, :] = left[:, predicted] = -1.0
    return pairs


@dataclass(frozen=True)
class Phrase:
    """A phrase of a description with its masks.

    Args:
        text: the words.
        size: (height, width) of all masks.
        rles: one for each annotated frame, as ``PredictedMask.rle``; None where it has no pixel.
        score: 0 to 1, of a predicted one.
    """

    text: str
    size: tuple[int, int]
    rles: tuple[str | None, ...]
    score: float = 1.0


class GroundedMasks:
    """Are the masks of the phrases right: mean IoU, recall and average precision.

    ``gcg_miou``: on each frame, masks are paired one to one, again and again the two that overlap most; the mean IoU
    of the pairs and, as 0, of every phrase without a partner, then the mean over frames on which anything is or was
    answered. ``gcg_recall``: share of the true phrases that ``match_phrases`` finds by masks over all frames and
    words. ``gcg_ap``, ``gcg_ap50`` and so on: ``MaskAP`` of the masks of all phrases as one class.

    Args:
        similarity: compares two phrases, 0 to 1.
        official_quirks: count as X2SAM's evaluator does. Its mean IoU leaves out phrases without a partner, takes
            frames with nothing on them as 0, and leaves out images for which nothing was answered; its recall ends at
            the first pair whose words differ; on clips its AP counts the second phrase of an answer only, and of each
            frame no more masks than the truth, or the answer, has.

    Source: Rasheed et al., CVPR 2024, "GLaMM", section 5; the quirks are those of X2SAM's evaluators.
    """

    def __init__(self, similarity: Callable[[str, str], float] = token_overlap, official_quirks: bool = False) -> None:
        self._similarity, self._official_quirks = similarity, official_quirks
        self._masks = MaskAP()
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self._masks.reset()
        self._iou, self._num_frames, self._num_matched, self._num_phrases = 0.0, 0, 0, 0

    def update(self, sample: str, predicted: Sequence[Phrase], truths: Sequence[Phrase]) -> None:
        """Add one image or clip.

        Args:
            sample: a name that no other sample has.
            predicted: the phrases of the answer, in its order.
            truths: the phrases of the ground truth.

        Raises:
            FrameError: the sample was added before, or its phrases differ in length or in size.
        """
        kinds = {(phrase.size, len(phrase.rles)) for phrase in (*predicted, *truths)}
        if len(kinds) > 1:
            raise FrameError(f"{sample}: phrases have one size and one length, got (size, frames) {sorted(kinds)}")
        if not kinds:
            return
        ((size, num_frames),) = kinds
        if self._official_quirks and num_frames == 1 and not _shown(predicted, 0):
            return
        for index in range(num_frames):
            self._add_frame(f"{sample}/{index:06d}", size, _shown(predicted, index), _shown(truths, index), num_frames)
        tubes, true_tubes = ([Tube(phrase.rles, size) for phrase in some] for some in (predicted, truths))
        iou = np.array([[true.iou(own) for own in tubes] for true in true_tubes]).reshape(len(truths), len(predicted))
        texts = [[self._similarity(true.text, own.text) for own in predicted] for true in truths]
        pairs = match_phrases(iou, np.array(texts).reshape(iou.shape), official_quirks=self._official_quirks)
        self._num_matched += len(pairs)
        self._num_phrases += len(truths)

    def _add_frame(
        self,
        name: str,
        size: tuple[int, int],
        own: list[tuple[int, float, str]],
        true: list[tuple[int, float, str]],
        num_frames: int,
    ) -> None:
        iou = np.zeros((len(true), len(own)))
        if iou.size:
            rles = [[coco_rle(rle, size) for *_, rle in masks] for masks in (true, own)]
            iou[:] = coco_mask.iou(*rles, [False] * len(own))
        pairs = match_phrases(iou, np.ones_like(iou), iou_threshold=_ANY_OVERLAP)
        num_alone = 0 if self._official_quirks else len(true) + len(own) - 2 * len(pairs)
        if own or true or self._official_quirks:
            self._iou += sum(float(iou[pair]) for pair in pairs) / max(len(pairs) + num_alone, 1)
            self._num_frames += 1
        if self._official_quirks and num_frames > 1:
            num_kept = min(len(own), len(true))
            own, true = [mask for mask in own[:num_kept] if mask[0] == 1], true[:num_kept]
        detections = [Detection(1, score, rle) for _, score, rle in own]
        self._masks.update(name, size, detections, [TrueMask(1, rle) for *_, rle in true])

    def compute(self) -> Scores:
        """Return ``gcg_miou``, ``gcg_recall`` and ``gcg_`` with the names of ``MaskAP``."""
        return {
            "gcg_miou": self._iou / self._num_frames if self._num_frames else float("nan"),
            "gcg_recall": self._num_matched / self._num_phrases if self._num_phrases else float("nan"),
            **{f"gcg_{name}": value for name, value in self._masks.compute().items()},
        }

    def merge(self, other: GroundedMasks) -> None:
        """Add all samples of another one.

        Raises:
            FrameError: both have a sample of one name.
        """
        self._masks.merge(other._masks)
        self._iou += other._iou
        self._num_frames += other._num_frames
        self._num_matched += other._num_matched
        self._num_phrases += other._num_phrases

    def state(self) -> dict[str, Any]:
        """Return sums, counts and the state of the average precision."""
        counts = [self._iou, self._num_frames, self._num_matched, self._num_phrases]
        return {"counts": counts, "masks": self._masks.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned."""
        self._iou, self._num_frames, self._num_matched, self._num_phrases = state["counts"]
        self._masks.restore(state["masks"])


def _shown(phrases: Sequence[Phrase], index: int) -> list[tuple[int, float, str]]:
    """Return position, score and mask of the phrases that have a pixel on a frame."""
    return [(place, phrase.score, rle) for place, phrase in enumerate(phrases) if (rle := phrase.rles[index])]


class CaptionText:
    """Are the words of the descriptions right: METEOR, 0 to 1, and CIDEr, 0 to 10, by pycocoevalcap.

    Both are NaN where pycocoevalcap or Java is missing; ``notes`` says what to install. CIDEr weighs words by how rare
    they are among all references: over a single sample it is 0.

    Source: Banerjee and Lavie, ACL 2005 workshop (METEOR); Vedantam et al., CVPR 2015 (CIDEr).
    """

    def __init__(self) -> None:
        self._captions: dict[str, list[Any]] = {}
        self.notes: tuple[str, ...] = ()
        """What kept the last ``compute`` from measuring."""

    def update(self, sample: str, caption: str, references: Sequence[str]) -> None:
        """Add one answer with the descriptions that it should be like.

        Raises:
            FrameError: the sample was added before, or it has no reference.
        """
        if sample in self._captions or not references:
            raise FrameError(f"'{sample}' {'has no reference' if not references else 'is counted already'}")
        self._captions[sample] = [caption, list(references)]

    def compute(self) -> Scores:
        """Return ``meteor`` and ``cider``. This starts Java, for seconds: ask once, over all samples."""
        self.notes = missing_tools() if self._captions else ()
        if self._captions and not self.notes:
            try:
                return _language_scores(dict(sorted(self._captions.items())))
            except (ImportError, OSError, ValueError) as error:
                self.notes = (_advice(error),)
        return {"meteor": float("nan"), "cider": float("nan")}

    def reset(self) -> None:
        """Forget all samples."""
        self._captions.clear()

    def merge(self, other: CaptionText) -> None:
        """Add all samples of another one.

        Raises:
            FrameError: both have a sample of one name.
        """
        for sample, (caption, references) in other._captions.items():
            self.update(sample, caption, references)

    def state(self) -> dict[str, Any]:
        """Return the texts by sample."""
        return dict(self._captions)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned."""
        self._captions = dict(state)


def missing_tools() -> tuple[str, ...]:
    """Say what is missing here to measure METEOR and CIDEr, as ``CaptionText.notes`` does, without starting them."""
    if shutil.which("java") is None:
        return (_advice("there is no java to be found"),)
    if importlib.util.find_spec("pycocoevalcap") is None:
        return (_advice("there is no pycocoevalcap"),)
    return ()


def _advice(reason: object) -> str:
    return (
        f"no METEOR and CIDEr: {reason}; pip install pycocoevalcap==1.2, install a Java runtime "
        "(apt install default-jre-headless), and see that the package's folder can be written to"
    )


def _language_scores(captions: Mapping[str, list[Any]]) -> Scores:
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    def words(texts: Mapping[str, Sequence[str]]) -> Any:
        clean = {key: [{"caption": " ".join(t.replace("|||", " ").split())} for t in its] for key, its in texts.items()}
        found = PTBTokenizer().tokenize(clean)
        if found.keys() != clean.keys():
            raise ValueError("java did not divide the texts into words")
        return found

    references = words({sample: its for sample, (_, its) in captions.items()})
    answers = words({sample: [caption] for sample, (caption, _) in captions.items()})
    meteor = Meteor()
    try:
        scores = {"meteor": float(meteor.compute_score(references, answers)[0])}
    finally:
        if meteor.lock.locked():  # what failed half way kept it, and would wait for it for ever when it is deleted
            meteor.lock.release()
    return {**scores, "cider": float(Cider().compute_score(references, answers)[0])}
