"""``x2sam segment`` as it is typed, with the nano weights: every task, every kind of input, every mistake.

Nothing here depends on how well the weights do.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.replay.commands import HEIGHT, WIDTH, Run, nano, program_runner, write_scene
from x2sam_ros.checkpoint import load
from x2sam_ros.model.x2sam import X2SAM

NUM = 5


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a picture, a folder of pictures, a video and odd pictures of one generated scene."""
    folder = tmp_path_factory.mktemp("inputs")
    clip = write_scene(folder, NUM)
    frames = [frame[:, :, ::-1] for frame in clip.frames]
    (folder / "pictures").mkdir()
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"pictures/{index}.png"), frame)
    cv2.imwrite(str(folder / "mask.png"), 255 * (clip.labels[0] == 1).astype(np.uint8))
    cv2.imwrite(str(folder / "dot.png"), frames[0][:1, :1])
    alpha = np.dstack([frames[0], np.full((HEIGHT, WIDTH), 9, np.uint8)])
    cv2.imwrite(str(folder / "alpha16.png"), alpha.astype(np.uint16) * 257)
    cv2.imwrite(str(folder / "large.jpg"), cv2.resize(frames[0], (4000, 3000)))
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture
def run(inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the program in the folder of inputs; give exit code, output, errors."""
    monkeypatch.setattr(load, "load_model", nano)
    monkeypatch.chdir(inputs)
    return program_runner(monkeypatch, capfd, "segment")


def check(folder: Path, size: tuple[int, int], frames: int = 1) -> dict[str, Any]:
    """Compare the parts of a folder of results with one another."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert {file.name for file in folder.iterdir()} == set(results["files"])
    coco = COCO(folder / "results.json")
    assert [(image["height"], image["width"]) for image in results["images"]] == [size] * frames
    for image in results["images"]:
        labels = cv2.imread(str(folder / image["labels"]), cv2.IMREAD_UNCHANGED)
        assert labels.shape == size and labels.dtype == np.uint16
        assert cv2.imread(str(folder / image["overlay"])).shape == (*size, 3)
        masks = {a["track_id"]: coco.annToMask(a) for a in coco.imgToAnns[image["id"]]}
        assert set(np.unique(labels)) - {0} <= set(masks)
        assert (np.stack([np.zeros(size), *masks.values()]).any(axis=0) == (labels > 0)).all()
        for annotation in coco.imgToAnns[image["id"]]:
            mask = masks[annotation["track_id"]]
            own = cv2.imread(str(folder / annotation["file_name"]), cv2.IMREAD_UNCHANGED)
            assert ((own == 255) == (mask == 1)).all() and (labels[labels == annotation["track_id"]] > 0).all()
            assert annotation["area"] == mask.sum() > 0
    return results


TASKS = {
    "refseg": ["--text", "the red circle"],
    "several phrases": ["--text", "the red circle", "--text", "the star"],
    "grefseg": ["--text", "the red ones", "--task", "grefseg"],
    "reaseg": ["--text", "what would roll?", "--task", "reaseg"],
    "genseg": ["--classes", "circle, star", "--stuff", "background"],
    "ovseg": ["--classes", "circle, star", "--task", "ovseg"],
    "gcgseg": ["--caption", "--max-tokens", "9"],
    "chat": ["--text", "how many circles are there?", "--task", "chat", "--max-tokens", "9"],
    "intseg": ["--click", "60,50", "--point", "5,5,0"],
    "box": ["--box", "20,20,80,70"],
    "mask": ["--mask", "mask.png"],
    "vgdseg": ["--point", "60,50", "--box", "20,20,80,70", "--mask", "mask.png"],
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_on_a_picture(run: Run, tmp_path: Path, task: str) -> None:
    out = tmp_path / "deep" / "out"
    code, printed, errors = run("picture.png", "--out", out, *TASKS[task], "--score-threshold", "0.01")
    assert (code, errors) == (0, "")
    results = check(out, (HEIGHT, WIDTH))
    found = {annotation["track_id"] for annotation in results["annotations"]}
    assert set(results["groundings"][0]["target_ids"]) >= found
    assert all(f"#{i}" in printed for i in found)
    words = results["groundings"][0]
    text = words["response"] or words["query"]
    assert all(text[phrase["start"] : phrase["end"]] == phrase["text"] for phrase in words["phrases"])
    assert ("semantic" in results["images"][0]) == (task in ("genseg", "ovseg", "several phrases"))
    assert (f"on 1 image, written to {out / 'results.json'}") in printed


@pytest.mark.parametrize("mode", ["stream", "clip", "image"])
@pytest.mark.parametrize("source", ["clip.mp4", "pictures"])
def test_recordings_have_a_row_for_each_frame(run: Run, tmp_path: Path, source: str, mode: str) -> None:
    arguments = ("--classes", "circle, star, square", "--mode", mode, "--clip-length", 2)
    code, printed, errors = run(source, "--out", tmp_path / "out", *arguments)
    assert (code, errors) == (0, "")
    results = check(tmp_path / "out", (HEIGHT, WIDTH), NUM)
    assert [image["frame_index"] for image in results["images"]] == list(range(NUM))
    given = {"stream": [1], "clip": [1, 3, 5], "image": [1, 2, 3, 4, 5]}[mode]
    assert [g["image_id"] for g in results["groundings"] if g["status"] != "removed"][: len(given)] == given
    if source == "pictures":
        assert [image["file_name"] for image in results["images"]] == [f"{index}.png" for index in range(NUM)]
    video = tmp_path / "out" / "overlay.mp4"
    assert video.exists() == (mode != "image")
    if video.exists():
        assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == NUM
    assert f"on {NUM} images" in printed


@pytest.mark.parametrize(
    ("name", "size"), [("dot.png", (1, 1)), ("alpha16.png", (96, 128)), ("large.jpg", (3000, 4000))]
)
def test_odd_pictures(run: Run, tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    code, _, errors = run(name, "--out", tmp_path / "out", "--text", "the star", "--score-threshold", "0")
    assert (code, errors) == (0, "")
    assert len(check(tmp_path / "out", size)["annotations"]) <= 1


def test_nothing_found_is_no_mistake(run: Run, tmp_path: Path) -> None:
    code, printed, errors = run("picture.png", "--out", tmp_path, "--text", "the star", "--score-threshold", "1")
    assert (code, errors) == (0, "")
    results = check(tmp_path, (HEIGHT, WIDTH))
    assert results["annotations"] == [] and results["groundings"][0]["status"] == "no_target"
    assert "nothing in the image fits the prompt" in printed and "nothing found on 1 image" in printed


def test_pictures_that_cannot_be_read_are_said_and_left_out(run: Run, inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "a.png").write_bytes((inputs / "picture.png").read_bytes())
    (folder / "b.png").write_text("no picture")
    code, printed, _ = run(folder, "--out", tmp_path / "out", "--text", "the star", "--mode", "image")
    assert code == 0
    assert "warning: image 1 left out: " in printed
    check(tmp_path / "out", (HEIGHT, WIDTH))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png", "--text", "a"], "none.png does not exist"),
        (["text.png", "--text", "a"], "text.png: no usable image"),
        (["picture.png"], "nothing to look for"),
        (["picture.png", "--text", "a", "--caption"], "--text and --caption are 2 prompts"),
        (["picture.png", "--text", "a", "--task", "fly"], "unknown task head 'fly'"),
        (["picture.png", "--click", "500,5"], "click at (500, 5) is outside the image of 128x96"),
        (["picture.png", "--box", "200,200,300,300"], "is outside the image of 128x96"),
        (["alpha16.png", "--mask", "dot.png"], "mask prompt is 1x1, the image 128x96"),
        (["picture.png", "--text", "a", "--mode", "fast"], "mode is 'fast', expected one of"),
        (["clip.mp4", "--text", "a", "--clip-length", "0"], "clip_length is 0"),
        (["picture.png", "--text", "a", "--score-threshold", "2"], "score_threshold is 2"),
        (["picture.png", "--text", "a", "--device", "tpu"], "tpu"),
        (["picture.png", "--text", "a", "--preset", "nano", "--checkpoint", "x"], "give one of them"),
        (["pictures", "--text", "a", "--out", "pictures/out"], "lies in it"),
        (["picture.png", "--text", "a", "--out", "{full}"], "is not empty; give another folder, or --force"),
        (["picture.png", "--text", "a", "--out", "mask.png"], "mask.png is a file"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    run: Run, inputs: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("keep")
    before = sorted(inputs.rglob("*"))
    arguments = [argument.format(full=tmp_path / "full") for argument in arguments]
    code, printed, errors = run(*arguments, *([] if "--out" in arguments else ["--out", tmp_path / "out"]))
    (error,) = errors.splitlines()
    assert (code, printed) == (2, "")
    assert error.startswith("error: ") and message in error and len(error) < 500
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["full", "mine.txt"]
    assert sorted(inputs.rglob("*")) == before


def test_an_error_of_the_model_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken: X2SAM = copy.deepcopy(nano("nano", "cpu", "float32", "exact"))
    for parameter in broken.segmentor.decoder.parameters():
        parameter.fill_(float("nan"))
    monkeypatch.setattr(load, "load_model", lambda *_: broken)
    code, printed, errors = run("clip.mp4", "--out", tmp_path / "out", "--text", "the star")
    assert (code, printed) == (2, "")
    assert "NaN" in errors and len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()
