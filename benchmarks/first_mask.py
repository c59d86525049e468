"""Time a prompt on a new picture, from the call to the first mask or the last word, by task.

640x480 generated images; each time a fresh session, whose first frame carries the prompt. "Language" is the language
model's pass over picture and prompt, with every word it writes; "masks" is the rest of the step: encoding the picture,
the mask decoder and all around it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scene_cases import JpegCamera
from tables import arguments, hardware_line, number, print_table, printed_into

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.engine.session import Session
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.scenes.vocabulary import COLOURS, SHAPES
from x2sam_ros.types import CaptionPrompt, ClassListPrompt, Prompt, Task, TextPrompt

WARM_UP = 3
"""Repetitions that are not timed."""

LIST_LENGTH = 10
GOAL_MS = 500


def prompts(camera: JpegCamera) -> dict[str, Callable[[int], Prompt]]:
    """Return what is timed: a name, and the prompt for a frame."""
    item = camera.clip.objects[0]
    names = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)[:LIST_LENGTH]
    return {
        "refseg": lambda frame: TextPrompt(text=f"the {item.colour} {item.shape}"),
        f"genseg, {LIST_LENGTH} classes": lambda frame: ClassListPrompt(classes=names),
        "objseg, click": lambda frame: camera.click(frame, frame),
        "gcgseg": lambda frame: CaptionPrompt(),
        "chat": lambda frame: TextPrompt(text="how many objects are there?", task=Task.CHAT),
    }


def measure(model: X2SAM, camera: JpegCamera, make_prompt: Callable[[int], Prompt], repetitions: int) -> list[str]:
    """Time a prompt.

    Returns:
        Repetitions; p50 and p95 of all, and p50 of language and of masks, in milliseconds.
    """
    timed = []
    for index in range(WARM_UP + repetitions):
        session = Session(model)
        session.submit(make_prompt(index))
        spent = session.step(camera.frame(index)).timings_ms
        timed.append((spent["total"], spent["language"], spent["total"] - spent["language"]))
    total, language, masks = np.array(timed[WARM_UP:]).T
    columns = (np.median(total), np.percentile(total, 95), np.median(language), np.median(masks))
    return [str(repetitions), *(number(float(value), 1) for value in columns)]


def main() -> None:
    """Measure every prompt and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--repetitions", type=int, default=60, help="timed repetitions of each prompt")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, camera = load_model(options.model, options.device), JpegCamera()
    with printed_into(options.into, "first-mask"):
        print(f"{options.model}: {hardware_line(options.device)}")
        rows = [
            (name, *measure(model, camera, make_prompt, options.repetitions))
            for name, make_prompt in prompts(camera).items()
        ]
        header = ("prompt", "times", "p50 ms", "p95 ms", "language p50", "masks p50")
        title = f"A prompt on a new 640x480 picture, up to its first mask or last word; goal {GOAL_MS} ms"
        print_table(title, header, rows, options.markdown or bool(options.into))


if __name__ == "__main__":
    main()
