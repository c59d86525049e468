"""Score a model on held-out generated scenes, through the session that the node uses.

Images: mean IoU by kind of prompt, panoptic quality of lists with a background, and the share of answers in words that
say exactly what was expected. Clips: mean J of streaming, one prompt on the first visible frame, the prompted frame
included; J counts 1 where neither truth nor answer has a pixel. "Chance" is what guessing would get (task_cases.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from scene_cases import IMAGE_KINDS, clip_cases, image_cases
from tables import arguments, at_least, hardware_line, number, print_table, printed_into, progress
from task_cases import TASK_KINDS, task_cases

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.config import NodeConfig
from x2sam_ros.engine.session import Session
from x2sam_ros.evaluation.generated import Case, KindScore, StreamSession, evaluate
from x2sam_ros.evaluation.metrics.panoptic import PanopticScore

MASKS_HEADER = ("kind", "cases", "mean J", "std error", "chance", "absent: no target", "to reach")
PANOPTIC_HEADER = ("panoptic", "classes", "PQ", "SQ", "RQ", "PQ by chance")
WORDS_HEADER = ("kind", "cases", "exact", "std error", "chance: any answer", "chance: most frequent")
TO_REACH = {
    "colour": 0.80,
    "shape": 0.80,
    "colour_shape": 0.80,
    "size": 0.78,
    "combo": 0.78,
    "class_list": 0.80,
    "point": 0.75,
    "box": 0.75,
    "absent": 0.80,
    "vgdseg point": 0.75,
    "vgdseg box": 0.75,
    "plain, text": 0.75,
    "plain, point": 0.70,
    "plain, box": 0.70,
}
HARD_SCENES = ("distractors", "occlusion", "reentry", "twins")


def mask_rows(scores: Iterable[KindScore]) -> list[tuple[str, ...]]:
    """Return the rows of the kinds that are answered with masks, or with none."""
    return [
        (
            score.kind,
            str(score.num_cases),
            number(score.j_mean),
            number(score.j_error),
            number(score.chance),
            number(score.quiet_share),
            number(TO_REACH.get(score.kind, float("nan")), 2),
        )
        for score in scores
        if score.j_mean == score.j_mean or score.quiet_share == score.quiet_share
    ]


def word_rows(scores: Iterable[KindScore]) -> list[tuple[str, ...]]:
    """Return the rows of the kinds that are answered in words; the chance of a caption is that of its masks."""
    return [
        (
            score.kind,
            str(score.num_cases),
            number(score.exact_share),
            number(score.exact_error),
            number(score.chance if score.j_mean != score.j_mean else float("nan")),
            number(score.majority_share),
        )
        for score in scores
        if score.exact_share == score.exact_share
    ]


def panoptic_rows(score: PanopticScore, guess: PanopticScore) -> list[tuple[str, ...]]:
    """Return the rows of all classes, of things and of stuff."""
    parts = (("all", score.overall, guess.overall), ("things", score.things, guess.things))
    return [
        (name, str(own.num_classes), number(own.pq), number(own.sq), number(own.rq), number(chance.pq))
        for name, own, chance in (*parts, ("stuff", score.stuff, guess.stuff))
    ]


def print_images(scores: Iterable[KindScore], markdown: bool) -> None:
    """Print the tables of masks, of panoptic lists and of words."""
    order = (*IMAGE_KINDS, *TASK_KINDS)
    scores = sorted(scores, key=lambda score: order.index(score.kind))
    print_table("Held-out images, 640x480", MASKS_HEADER, mask_rows(scores), markdown)
    for score in scores:
        if score.panoptic is not None and score.panoptic_chance is not None:
            rows = panoptic_rows(score.panoptic, score.panoptic_chance)
            print_table(f"Held-out images, panoptic quality of {score.num_cases}", PANOPTIC_HEADER, rows, markdown)
    print_table("Held-out images, answers in words", WORDS_HEADER, word_rows(scores), markdown)


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
    parser = arguments(__doc__)
    parser.add_argument("--memory-policy", default=NodeConfig.memory_policy)
    parser.add_argument("--scenes", type=at_least(0), default=200, help="images of each kind; 0 leaves them out")
    parser.add_argument("--clips", type=at_least(0), default=50, help="clips of each kind; 0 leaves them out")
    parser.add_argument("--frames", type=at_least(1), default=40, help="length of the clips")
    options = parser.parse_args()
    markdown = options.markdown or bool(options.into)
    model = load_model(options.model, options.device)

    def open_session() -> StreamSession:
        return Session(model, memory_policy=options.memory_policy)

    with printed_into(options.into, "nano-scores"):
        print(f"{options.model}: {hardware_line(options.device)}")
        if options.scenes:
            images: Iterable[Case] = chain(image_cases(options.scenes), task_cases(options.scenes))
            total = options.scenes * (len(IMAGE_KINDS) + len(TASK_KINDS))
            print_images(evaluate(open_session, progress(images, "images", total)), markdown)
        if options.clips:
            clips = mask_rows(score_clips(open_session, options.clips, options.frames))
            title = f"Held-out clips of {options.frames} frames, streaming"
            print_table(title, MASKS_HEADER, clips, markdown)


if __name__ == "__main__":
    main()
