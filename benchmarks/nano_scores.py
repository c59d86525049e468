"""Score a model on held-out generated scenes, through the session that the node uses.

Images: mean IoU by kind of prompt. Clips: mean J of streaming, one prompt on the first visible frame, the
prompted frame included; J counts 1 where neither truth nor answer has a pixel.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from scene_cases import IMAGE_KINDS, clip_cases, image_cases
from tables import hardware_line, number, print_table, progress

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.generated import Case, KindScore, StreamSession, evaluate

HEADER = ("kind", "cases", "mean J", "std error", "absent: no target", "to reach")
TO_REACH = {
    "colour": 0.80,
    "shape": 0.80,
    "colour_shape": 0.80,
    "class_list": 0.80,
    "size": 0.70,
    "point": 0.75,
    "box": 0.75,
    "absent": 0.80,
    "plain, text": 0.75,
    "plain, point": 0.70,
    "plain, box": 0.70,
}
HARD_SCENES = ("distractors", "occlusion", "reentry", "twins")


def rows_of(scores: Iterable[KindScore]) -> list[tuple[str, ...]]:
    """Return the table's rows."""
    return [
        (
            score.kind,
            str(score.num_cases),
            number(score.j_mean),
            number(score.j_error),
            number(score.quiet_share),
            number(TO_REACH.get(score.kind, float("nan")), 2),
        )
        for score in scores
    ]


def clip_kinds() -> list[tuple[str, str]]:
    """Return (scene, prompt) pairs; twins look alike, so no text of colour and shape tells them apart."""
    pairs = [("plain", prompt) for prompt in ("text", "point", "box")]
    return pairs + [(s, p) for s in HARD_SCENES for p in ("text", "point") if (s, p) != ("twins", "text")]


def score_clips(open_session: Callable[[], StreamSession], count: int, num_frames: int) -> list[KindScore]:
    """Score every pair of `clip_kinds`."""
    found: list[KindScore] = []
    for scene, prompt in clip_kinds():
        cases = progress(clip_cases(scene, prompt, count, num_frames), f"{scene}, {prompt}", count)
        found += evaluate(open_session, cases)
    return found


def main() -> None:
    """Run the evaluation and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="preset or checkpoint folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-policy", default="fifo")
    parser.add_argument("--scenes", type=int, default=200, help="images of each kind; 0 leaves them out")
    parser.add_argument("--clips", type=int, default=50, help="clips of each kind; 0 leaves them out")
    parser.add_argument("--frames", type=int, default=40, help="length of the clips")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    options = parser.parse_args()
    model = load_model(options.model, options.device)

    def open_session() -> StreamSession:
        return Session(model, memory_policy=options.memory_policy)

    print(f"{options.model}: {hardware_line(options.device)}")
    if options.scenes:
        images: Iterable[Case] = image_cases(options.scenes)
        scores = evaluate(open_session, progress(images, "images", options.scenes * len(IMAGE_KINDS)))
        ordered = sorted(scores, key=lambda score: IMAGE_KINDS.index(score.kind))
        print_table("Held-out images, 640x480", HEADER, rows_of(ordered), options.markdown)
    if options.clips:
        clips = score_clips(open_session, options.clips, options.frames)
        print_table(f"Held-out clips of {options.frames} frames, streaming", HEADER, rows_of(clips), options.markdown)


if __name__ == "__main__":
    main()
