"""Average precision of masks as COCO defines it, by pycocotools' own matching and accumulation."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.cocoeval import COCOeval

from x2sam_ros.errors import FrameError
from x2sam_ros.evaluation.metrics.metric import Scores

NAMES = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
"""Average precision and recall, in the order of COCO's summary: over IoU 0.5 to 0.95, at 0.5 and 0.75, by size, and
with at most 1, 10 and 100 answers a class."""

MOST_ANSWERS = 100
"""Answers of one class on one image that count, the best scores first."""


@dataclass(frozen=True)
class Detection:
    """A predicted mask: its class, its score, and its pixels as ``PredictedMask.rle``."""

    category_id: int
    score: float
    rle: str


@dataclass(frozen=True)
class TrueMask:
    """A true mask; a crowd is neither to be found nor wrong."""

    category_id: int
    rle: str
    is_crowd: bool = False


@dataclass(frozen=True)
class Group:
    """The answers and the truths of one class on one sample: all that average precision needs of them.

    Args:
        category_id: the class.
        scores: of the answers, best first.
        areas: of the answers, in pixels.
        true_areas: of the truths, in pixels.
        crowds: which truths are crowds.
        ious: of each answer with each truth.
    """

    category_id: int
    scores: list[float]
    areas: list[float]
    true_areas: list[float]
    crowds: list[bool]
    ious: list[list[float]]


class _Evaluation(COCOeval):
    """COCO's evaluation of overlaps that are known already."""

    def __init__(self, samples: Iterable[Sequence[Group]], sizes: Sequence[float]) -> None:
        super().__init__(iouType="segm")
        small, large = sizes
        self.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
        self._known: dict[tuple[int, int], Group] = {}
        number = 0
        for image, groups in enumerate(samples):
            self.params.imgIds.append(image)
            for group in groups:
                self._known[image, group.category_id] = group
                for area, crowd in zip(group.true_areas, group.crowds):
                    number += 1
                    truth = {"id": number, "area": area, "iscrowd": crowd, "ignore": crowd}
                    self._gts[image, group.category_id].append(truth)
                for area, score in zip(group.areas, group.scores):
                    number += 1
                    self._dts[image, group.category_id].append({"id": number, "area": area, "score": score})
        self.params.catIds = sorted({category for _, category in self._known})

    def _prepare(self) -> None:
        """Read nothing: everything is there."""

    def computeIoU(self, imgId: int, catId: int) -> Any:
        group = self._known.get((imgId, catId))
        return np.array(group.ious) if group and group.scores and group.true_areas else []


class AveragePrecision:
    """Average precision and recall over any number of samples, images or clips, by ``Group``.

    Samples are taken in the order of their names, which decides between answers of equal score.
    """

    _sizes: ClassVar[tuple[float, float]]
    """Areas, in pixels, where medium begins and where large begins."""

    def __init__(self) -> None:
        self._samples: dict[str, list[Group]] = {}

    def add(self, sample: str, groups: list[Group]) -> None:
        """Add one sample.

        Raises:
            FrameError: one of that name is there already.
        """
        if sample in self._samples:
            raise FrameError(f"'{sample}' is counted already; give every sample a name of its own, each only once")
        self._samples[sample] = groups

    def compute(self) -> Scores:
        """Return the numbers by ``NAMES``; NaN where no truth has that class or size."""
        found = _Evaluation([self._samples[name] for name in sorted(self._samples)], self._sizes)
        if not found.params.catIds:
            return dict.fromkeys(NAMES, float("nan"))
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
            found.evaluate()
            found.accumulate()
            found.summarize()
        return {name: float(value) if value >= 0 else float("nan") for name, value in zip(NAMES, found.stats)}

    def reset(self) -> None:
        """Forget all samples."""
        self._samples.clear()

    def merge(self, other: AveragePrecision) -> None:
        """Add all samples of another one.

        Raises:
            FrameError: both have a sample of one name.
        """
        for sample, groups in other._samples.items():
            self.add(sample, groups)

    def state(self) -> dict[str, Any]:
        """Return overlaps, scores and areas by sample, as values JSON can hold."""
        return {sample: [vars(group) for group in groups] for sample, groups in self._samples.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state`` returned."""
        self._samples = {sample: [Group(**group) for group in groups] for sample, groups in state.items()}


def best_first(scores: Sequence[float]) -> npt.NDArray[np.intp]:
    """Return the positions of the answers that count, best first, those of equal score in their own order."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:MOST_ANSWERS]


class MaskAP(AveragePrecision):
    """Average precision of masks, image by image: AP, AP50, AP75, by size, and average recall.

    A mask's area is its number of pixels, of truths too, whatever a file says of them.

    Source: Lin et al., ECCV 2014, "Microsoft COCO"; the numbers are those of pycocotools' COCOeval.
    """

    _sizes = (32**2, 96**2)

    def update(
        self, image: str, size: tuple[int, int], detections: Sequence[Detection], truths: Sequence[TrueMask]
    ) -> None:
        """Add one image.

        Args:
            image: a name that no other image has.
            size: (height, width) of all masks.
            detections: what was answered, of all classes.
            truths: what is there, of all classes.

        Raises:
            FrameError: the image was added before.
        """
        groups = []
        for category_id in sorted({item.category_id for item in detections} | {item.category_id for item in truths}):
            own = [item for item in detections if item.category_id == category_id]
            own = [own[index] for index in best_first([item.score for item in own])]
            true = [item for item in truths if item.category_id == category_id]
            own_rles, true_rles = ([coco_rle(item.rle, size) for item in items] for items in (own, true))
            crowds = [item.is_crowd for item in true]
            ious = coco_mask.iou(own_rles, true_rles, crowds) if own and true else []
            groups.append(
                Group(
                    category_id,
                    scores=[float(item.score) for item in own],
                    areas=coco_mask.area(own_rles).tolist() if own else [],
                    true_areas=coco_mask.area(true_rles).tolist() if true else [],
                    crowds=crowds,
                    ious=np.asarray(ious).tolist(),
                )
            )
        self.add(image, groups)


def coco_rle(rle: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return a mask of ``size`` = (height, width) as pycocotools takes it."""
    return {"size": list(size), "counts": rle.encode()}
