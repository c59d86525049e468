"""Score the second and third question of a chat about one picture, and a question right after its description.

Pictures about which fewer questions can be asked are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from pieces import mean_and_error
from scene_cases import HEIGHT, HELD_OUT_SEED, WIDTH
from tables import arguments, at_least, hardware_line, number, print_table, printed_into, progress

from x2sam_ros.checkpoint.load import load_model
from x2sam_ros.engine.chat import ChatSession
from x2sam_ros.evaluation.generated import same_words
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.training.scenes import Clip, Question, generate_clip, questions
from x2sam_ros.types import CaptionPrompt, Frame

QUESTIONS = 3
HEADER = ("asked", "chats", "exact", "std error")


def pictures() -> Iterator[tuple[Clip, list[Question]]]:
    """Yield held-out pictures, each with the questions that are asked about it."""
    for seed in itertools.count(HELD_OUT_SEED):
        clip, rng = generate_clip(seed, 1, HEIGHT, WIDTH), np.random.default_rng(seed)
        known = questions(clip, rng)
        if len(known) >= QUESTIONS:
            yield clip, [known[row] for row in rng.choice(len(known), QUESTIONS, replace=False)]


def right(model: X2SAM, clip: Clip, asked: list[Question]) -> list[bool]:
    """Return whether each question of a chat is answered to the word, then whether one after a description is."""
    chat = ChatSession(model, [Frame(clip.frames[0], 0)])
    found = [same_words(chat.ask(one.text).grounding.response, one.answer) for one in asked]
    chat.reset()
    chat.ask(CaptionPrompt())
    return [*found, same_words(chat.ask(asked[0].text).grounding.response, asked[0].answer)]


def rows(answers: Iterator[list[bool]]) -> list[tuple[str, ...]]:
    """Return a row for each place in a chat."""
    names = [*(f"question {place + 1}" for place in range(QUESTIONS)), "question 1 after a description"]
    return [(name, str(len(of)), *map(number, mean_and_error(of))) for name, of in zip(names, zip(*answers))]


def main() -> None:
    """Ask, and print the table."""
    parser = arguments(__doc__)
    parser.add_argument("--chats", type=at_least(2), default=100, help="pictures that are talked about")
    options = parser.parse_args()
    model = load_model(options.model, options.device)
    shown = progress(itertools.islice(pictures(), options.chats), "chats", options.chats)
    with printed_into(options.into, "further-questions"):
        print(f"{options.model}: {hardware_line(options.device)}")
        found = rows(right(model, *one) for one in shown)
        print_table(
            "Questions of one chat about a held-out image", HEADER, found, options.markdown or bool(options.into)
        )


if __name__ == "__main__":
    main()
