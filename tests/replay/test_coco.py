"""The folder of results: as pycocotools reads it, as the pictures say it, and all or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from x2sam_ros.bag.coco import PANOPTIC_FILE, RESULTS_FILE, VIDEO_FILE, ResultFolder
from x2sam_ros.errors import BagError
from x2sam_ros.types import (
    ClassListPrompt,
    Frame,
    FrameResult,
    Grounding,
    GroundingStatus,
    Phrase,
    Prompt,
    TargetState,
    TextPrompt,
)

SIZE = (40, 60)
LISTED = ClassListPrompt(classes=("cup", "dog", "sky"), stuff=("sky",))
NAMED = TextPrompt(text="the cup")


def frame(source: str, index: int = 0) -> Frame:
    image = np.random.default_rng(index).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return Frame(image, index * 100, index, source=source)


def result(index: int = 0, ids: tuple[int, ...] = (1, 300, 7)) -> FrameResult:
    """A cup on a sky, a dog behind the sky altogether; the sky is the surest."""
    masks = np.zeros((3, *SIZE), bool)
    masks[0, 5:30, 5:30], masks[1, :20], masks[2, 2:4, 40:50] = True, True, True
    phrases = (Phrase("the cup", 0, 7, ids[:1], 0.5),)
    said = Grounding("prompt", GroundingStatus.OK, "the cup", "the cup é", phrases, ids, "so \x1b[2J")
    labels, states = ("cup", "sky", "dog"), (TargetState.TRACKED,) * 3
    scores = np.array([0.5, 0.9, 0.7], np.float32)
    return FrameResult(index * 100, index, "", SIZE, masks, scores, labels, np.array(ids), states, (said,))


def read(folder: Path, name: str = RESULTS_FILE) -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def pixels(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return image


def write(folder: Path, prompt: Prompt, *frames: Frame, **options: Any) -> dict[str, Any]:
    with ResultFolder(folder, prompt, {"description": "test"}, **options) as results:
        for one in frames:
            results.write(one, result(one.frame_index))
    return read(folder)


def test_pycocotools_reads_the_masks_that_were_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "out", NAMED, frame("/a/one.png"), frame("/a/two.jpg", 1))
    coco, wanted = COCO(tmp_path / "out" / RESULTS_FILE), result()
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["one.png", "two.jpg"]
    assert len(coco.getAnnIds()) == 6
    for image_id in coco.getImgIds():
        for row, annotation in enumerate(coco.loadAnns(coco.getAnnIds(image_id))):
            mask = wanted.masks[row]
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()
            x, y, width, height = annotation["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum() and mask[y].any() and mask[:, x].any()
            assert annotation["track_id"] == wanted.target_ids[row]
            assert annotation["score"] == pytest.approx(wanted.scores[row])
            assert coco.cats[annotation["category_id"]]["name"] == annotation["label"] == wanted.labels[row]
            own = pixels(tmp_path / "out" / annotation["file_name"])
            np.testing.assert_array_equal(own, 255 * mask.astype(np.uint8))


def test_label_picture_and_grounding(tmp_path: Path) -> None:
    results = write(tmp_path / "out", NAMED, frame("/a/one.png"))
    (image,), (said,) = results["images"], results["groundings"]
    labels = pixels(tmp_path / "out" / image["labels"])
    assert labels.dtype == np.uint16 and labels.shape == SIZE
    assert np.unique(labels).tolist() == [0, 1, 300]
    assert (labels[:20] == 300).all(), "the surest is on top"
    assert pixels(tmp_path / "out" / image["overlay"]).shape == (*SIZE, 3)
    assert (image["width"], image["height"]) == SIZE[::-1]
    assert (said["status"], said["response"], said["message"]) == ("ok", "the cup é", "so \x1b[2J")
    assert said["phrases"] == [{"text": "the cup", "start": 0, "end": 7, "target_ids": [1], "score": 0.5}]
    assert "semantic" not in image and not (tmp_path / "out" / PANOPTIC_FILE).exists()
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == set(results["files"])


def test_class_list_has_semantic_and_panoptic_maps(tmp_path: Path) -> None:
    results, labels = write(tmp_path / "out", LISTED, frame("/a/one.png")), None
    panoptic = read(tmp_path / "out", PANOPTIC_FILE)
    assert [(c["id"], c["name"], c["isthing"]) for c in panoptic["categories"]] == [
        (1, "cup", 1),
        (2, "dog", 1),
        (3, "sky", 0),
    ]
    (image,), (segments,) = results["images"], panoptic["annotations"]
    labels = pixels(tmp_path / "out" / image["labels"]).astype(int)
    red, green, blue = (pixels(tmp_path / "out" / segments["file_name"])[:, :, i].astype(int) for i in (2, 1, 0))
    np.testing.assert_array_equal(red + 256 * green + 65536 * blue, labels)
    assert {s["id"]: s["area"] for s in segments["segments_info"]} == {
        i: (labels == i).sum() for i in np.unique(labels) if i
    }
    semantic = pixels(tmp_path / "out" / image["semantic"])
    assert semantic.dtype == np.uint16
    for segment in segments["segments_info"]:
        assert (semantic[labels == segment["id"]] == segment["category_id"]).all()
    assert (semantic[labels == 0] == 0).all()


def test_pictures_of_one_name_and_frames_of_a_video_keep_files_of_their_own(tmp_path: Path) -> None:
    results = write(tmp_path / "same", NAMED, frame("/a/one.png"), frame("/a/one.jpg", 1))
    names = [image["labels"] for image in results["images"]] + [a["file_name"] for a in results["annotations"]]
    assert len(set(names)) == len(names) == 8
    frames = [frame("/a/clip.mp4", index) for index in range(3)]
    results = write(tmp_path / "video", NAMED, *frames, video=True)
    assert [image["frame_index"] for image in results["images"]] == [0, 1, 2]
    assert results["images"][2]["labels"] == "clip_000002_labels.png"
    assert cv2.VideoCapture(str(tmp_path / "video" / VIDEO_FILE)).get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert VIDEO_FILE in results["files"]


def test_names_of_targets_become_names_of_files(tmp_path: Path) -> None:
    labels = ("../../etc/passwd", "x" * 300, "object 3")
    odd = result(ids=(1, 2, 3))
    object.__setattr__(odd, "labels", labels)
    with ResultFolder(tmp_path / "out", NAMED, {}) as folder:
        folder.write(frame("/a/one.png"), odd)
    results = read(tmp_path / "out")
    names = [annotation["file_name"] for annotation in results["annotations"]]
    assert names == ["one_1_etc-passwd.png", f"one_2_{'x' * 40}.png", "one_3_object-3.png"]
    assert [category["name"] for category in results["categories"]] == [*labels[:2], "object"]


def test_an_error_leaves_nothing_and_an_interrupt_what_is_done(tmp_path: Path) -> None:
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), ResultFolder(tmp_path / "out", NAMED, {}, video=True) as folder:
            folder.write(frame("clip.mp4"), result())
            raise error
        assert (tmp_path / "out").exists() == (error is KeyboardInterrupt)
    assert len(read(tmp_path / "out")["images"]) == 1
    with pytest.raises(KeyboardInterrupt), ResultFolder(tmp_path / "none", NAMED, {}):
        raise KeyboardInterrupt
    assert not (tmp_path / "none").exists()


def test_a_folder_that_holds_something_is_left_alone_unless_forced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = write(out, LISTED, frame("/a/one.png"), frame("/a/two.png", 1))
    (out / "mine.txt").write_text("keep")
    with pytest.raises(BagError, match="is not empty; give another folder, or --force"):
        ResultFolder(out, NAMED, {})
    with pytest.raises(BagError, match="is a file"):
        ResultFolder(out / "mine.txt", NAMED, {})
    with pytest.raises(ValueError), ResultFolder(out, NAMED, {}, force=True) as folder:
        folder.write(frame("/a/three.png"), result())
        raise ValueError
    assert {file.name for file in out.iterdir()} == {*first["files"], "mine.txt"}
    second = write(out, NAMED, frame("/a/three.png"), force=True)
    assert {file.name for file in out.iterdir()} == {*second["files"], "mine.txt"}


def test_a_foreign_list_of_files_removes_nothing_elsewhere(tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside.txt"
    out.mkdir()
    outside.write_text("keep")
    for files in (["../outside.txt", str(outside), "..", "."], [7], {}, "text"):
        (out / RESULTS_FILE).write_text(json.dumps({"files": files}))
        write(out, NAMED, frame("/a/one.png"), force=True)
    assert outside.read_text() == "keep"


@pytest.mark.parametrize(("size", "drawn"), [((1, 1), (2, 2)), ((1, 9000), (2, 8190)), ((4, 6), (4, 6))])
def test_frames_of_any_size_become_a_video(tmp_path: Path, size: tuple[int, int], drawn: tuple[int, int]) -> None:
    frames = [Frame(np.zeros((*size, 3), np.uint8), index * 100, index, source="clip.mp4") for index in range(2)]
    empty = np.zeros((0, *size), bool), np.zeros(0, np.float32), (), np.zeros(0, np.int64), ()
    with ResultFolder(tmp_path, NAMED, {}, video=True) as folder:
        for index, one in enumerate(frames):
            folder.write(one, FrameResult(index * 100, index, "", size, *empty))
    video = cv2.VideoCapture(str(tmp_path / VIDEO_FILE))
    assert (video.get(cv2.CAP_PROP_FRAME_HEIGHT), video.get(cv2.CAP_PROP_FRAME_WIDTH)) == drawn
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 2
