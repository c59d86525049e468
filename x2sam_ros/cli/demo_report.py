"""What `x2sam demo` shows in the end: scores against the ground truth, a recording, a video, a contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from x2sam_ros.cli.demo_scene import DemoScene
    from x2sam_ros.evaluation.metrics.masks import ClipScore
    from x2sam_ros.ros.recorder import Answer
    from x2sam_ros.types import Frame, FrameResult, Grounding

SHEET_CELLS = 12


@dataclass(frozen=True)
class DemoRun:
    """One run of the demo.

    Args:
        scene: what was played.
        stamps: published stamp of each frame of the scene, in order.
        answers: what came back.
        groundings: what became of the prompts.
    """

    scene: DemoScene
    stamps: list[int]
    answers: list[Answer]
    groundings: list[Grounding]

    def frame(self, answer: Answer) -> Frame:
        """The frame that an answer is about, with the stamp it was published with."""
        from x2sam_ros.types import Frame

        index = self.frame_number(answer.result)
        image = self.scene.clip.frames[index]
        return Frame(image, answer.result.stamp_ns, index, answer.result.frame_id, self.scene.bag.name)

    def frame_number(self, result: FrameResult) -> int:
        """Place in the scene of the frame that a result is about."""
        return self.stamps.index(result.stamp_ns)

    def grounding(self, word: str) -> Grounding | None:
        """The grounding of the prompt whose id, chosen by the node, begins with the word."""
        return next((item for item in self.groundings if item.prompt_id.startswith(f"{word}-")), None)


@dataclass(frozen=True)
class TargetScore:
    """How well one prompt's target was tracked; ``score`` is None when the prompt found nothing."""

    prompt: str
    outcome: str
    score: ClipScore | None


def score_targets(run: DemoRun) -> list[TargetScore]:
    """Score both prompts over the frames answered since they were carried out."""
    scene = run.scene
    clicked = scene.clip.objects[scene.click_object]
    click = f"click at {scene.click_px[0]},{scene.click_px[1]} ({clicked.colour} {clicked.shape})"
    prompts = (("text", f'"{scene.text}"', scene.text_object), ("click", click, scene.click_object))
    return [_score_target(run, prompt, run.grounding(word), truth) for word, prompt, truth in prompts]


def _score_target(run: DemoRun, prompt: str, grounding: Grounding | None, object_index: int) -> TargetScore:
    from x2sam_ros.evaluation.metrics.masks import score_clip

    if grounding is None:
        return TargetScore(prompt, "no answer", None)
    if not grounding.target_ids:
        return TargetScore(prompt, grounding.message or "nothing found", None)
    target_id = grounding.target_ids[0]
    results = [answer.result for answer in run.answers if answer.result.stamp_ns >= grounding.stamp_ns]
    if not results:
        return TargetScore(prompt, "no masks", None)
    predictions = (_mask_of(result, target_id) for result in results)
    truths = (run.scene.truth(run.frame_number(result), object_index) for result in results)
    return TargetScore(prompt, f"target {target_id}", score_clip(predictions, truths))


def _mask_of(result: FrameResult, target_id: int) -> npt.NDArray[np.bool_]:
    """Mask of a target in a result, empty when it is not among them."""
    return result.masks[result.target_ids == target_id].any(axis=0)


def write_files(run: DemoRun, folder: Path) -> list[Path]:
    """Write the recording, the overlay video and the contact sheet of a run with at least one answer."""
    import cv2

    from x2sam_ros.bag.media import OverlayVideo
    from x2sam_ros.bag.writer import ResultWriter
    from x2sam_ros.visualise import contact_sheet, draw_overlay

    recording, video, sheet = folder / "masks.mcap", folder / "overlay.mp4", folder / "contact_sheet.png"
    frames = [run.frame(answer) for answer in run.answers]
    with ResultWriter(recording, overlay=True) as writer, OverlayVideo(video) as drawn:
        for frame, answer in zip(frames, run.answers, strict=True):
            writer.write(frame, answer.result, answer.node_latency_ms, answer.frames_dropped)
            drawn.write(frame, answer.result, answer.node_latency_ms, answer.frames_dropped)
    count = min(SHEET_CELLS, len(frames))
    chosen = [round(i * (len(frames) - 1) / max(count - 1, 1)) for i in range(count)]
    images = [draw_overlay(frames[i].image, run.answers[i].result) for i in chosen]
    captions = [f"{(frames[i].stamp_ns - run.stamps[0]) / 1e9:.1f} s" for i in chosen]
    cv2.imwrite(str(sheet), contact_sheet(images, captions)[:, :, ::-1])
    return [recording, video, sheet]


def print_report(run: DemoRun, scores: list[TargetScore]) -> None:
    """Print the table: what was sent and came back, how late, and how good it was."""
    import numpy as np
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    sent, received = len(run.stamps), len(run.answers)
    dropped = run.answers[-1].frames_dropped if run.answers else 0
    table = Table(title="x2sam demo", show_header=False)
    table.add_row("frames sent", str(sent))
    table.add_row("masks received", str(received))
    table.add_row("dropped by the node (a newer frame came)", str(dropped))
    table.add_row("lost on the way", str(max(sent - received - dropped, 0)))
    if run.answers:
        latencies = np.array([answer.latency_ms for answer in run.answers])
        table.add_row("median latency, stamp to receipt", f"{np.median(latencies):.0f} ms")
        table.add_row("p95 latency, stamp to receipt", f"{np.percentile(latencies, 95):.0f} ms")
    table.add_section()
    for item in scores:
        score = item.score
        measured = (
            "J&F -"
            if score is None
            else (f"J&F {score.jf_mean:.3f}  (J {score.j_mean:.3f}, F {score.f_mean:.3f}, {len(score.j)} frames)")
        )
        table.add_row(Text(f"{item.prompt}: {item.outcome}"), measured)
    Console().print(table)
