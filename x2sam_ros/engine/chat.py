"""A conversation about one picture or clip: question after question, with masks of what the answers point at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from x2sam_ros.config import EngineConfig, NodeConfig
from x2sam_ros.engine.clip import stack_frames
from x2sam_ros.engine.grounding import Grounder, Picture, Question, View
from x2sam_ros.engine.memory_policy import open_policy
from x2sam_ros.engine.reply import grounding_of
from x2sam_ros.engine.session import MAX_CLIP_FRAMES, Session
from x2sam_ros.engine.track import Group
from x2sam_ros.engine.tracker import arithmetic, encode_frame
from x2sam_ros.errors import FrameError, PromptError
from x2sam_ros.model.generation import Finish, Generated
from x2sam_ros.model.language import Prefix
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import Frame, FrameResult, Grounding, Prompt, Task, TextPrompt


@dataclass(frozen=True)
class ChatTurn:
    """One answer.

    Args:
        grounding: the answer in words, its phrases with their targets, and what is wrong with it.
        results: the masks on every frame of the conversation; () where the answer points at nothing.
        finish: why the answer ended.
    """

    grounding: Grounding
    results: tuple[FrameResult, ...]
    finish: Finish


class ChatSession:
    """Ask about a picture or a clip. The language model reads it once, and remembers its answers.

    Target ids start at 1 with every turn. One conversation belongs to one thread; several may share a model.

    Args:
        model: the network.
        frames: one picture, or a clip.
        config: thresholds and caps.

    Raises:
        FrameError: there is no frame, there are too many, they have different sizes, or they cannot be used.
    """

    @torch.inference_mode()
    def __init__(self, model: X2SAM, frames: Sequence[Frame], config: EngineConfig | None = None) -> None:
        if not 1 <= len(frames) <= MAX_CLIP_FRAMES:
            raise FrameError(f"a conversation is about 1 to {MAX_CLIP_FRAMES} frames, got {len(frames)}")
        self._model, self._frames = model, tuple(frames)
        self._config = EngineConfig() if config is None else config
        policy = open_policy(NodeConfig.memory_policy, self._config)
        self._grounder = Grounder(model, policy, self._config)
        shown = frames[0].image if len(frames) == 1 else stack_frames(frames)
        with arithmetic(model, self._config):
            # of several prompts, so that what they begin with is kept
            self._picture = Picture(model, shown, num_prompts=2)
        self._last: Generated | None = None

    @cached_property
    def _view(self) -> View:
        """The first frame, on which clicks, boxes and masks lie."""
        first = self._frames[0]
        return View(first.size, encode_frame(self._model, first.image, self._config), self._picture)

    def reset(self) -> None:
        """Forget what was said."""
        self._last = None

    @torch.inference_mode()
    def ask(
        self,
        question: str | Prompt,
        on_text: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> ChatTurn:
        """Ask the next question.

        Args:
            question: plain words, or any prompt. What the language model answers in its own words joins the
                conversation; a prompt whose answer is fixed, such as a click, is about the picture alone.
            on_text: called with each new piece of the answer.
            cancelled: asked before each token; True ends the answer there. What it points at by then is segmented.

        Raises:
            PromptError: the prompt cannot be carried out, or the conversation has become too long.
            PluginError: there is no such task, or its head gave an invalid answer.
            ConfigError: the task cannot be put into the words the model was trained with.
        """
        prompt = TextPrompt(text=question, task=Task.CHAT) if isinstance(question, str) else question
        finish: Finish = "stop"
        with arithmetic(self._model, self._config):
            asked = self._grounder.ask(prompt, self._view)
            if asked.conversation.answer_ids:
                opened = self._grounder.ground(asked, self._picture)
            else:
                generated = self._generate(asked, on_text, cancelled)
                opened, self._last, finish = self._grounder.answered(asked, generated), generated, generated.finish
        if not isinstance(opened, Group):
            grounding = grounding_of(prompt, self._frames[0], opened.status, opened.message, reply=opened)
            return ChatTurn(grounding, (), finish)
        session = Session(self._model, self._config, in_order=True)
        session.begin(opened)
        results = tuple(session.step(frame) for frame in self._frames)
        return ChatTurn(results[0].groundings[0], results, finish)

    def _going_on(self, asked: Question) -> tuple[Question, Prefix | None]:
        """Put a question behind what was said so far, and return what of it was read.

        A question that marks phrases begins anew, and so does one that is not in the user's words: the description of a
        picture does not depend on what was said of it.
        """
        if self._last is None or asked.request.phrases or asked.request.num_regions or not asked.request.text:
            return asked, self._picture.prefix
        template = asked.request.template or asked.head.templates[self._model.config.language.templates]
        words = template.question.replace("{media}", self._picture.media.name).replace("{text}", asked.request.text)
        conversation = self._model.conversations.follow_up(self._last.conversation, words)
        return replace(asked, conversation=conversation), self._last.prefix

    def _generate(
        self, asked: Question, on_text: Callable[[str], None] | None, cancelled: Callable[[], bool] | None
    ) -> Generated:
        asked, prefix = self._going_on(asked)
        try:
            return self._model.generate(
                asked.conversation,
                region_tokens=asked.tokens,
                prefix=prefix,
                max_new_tokens=self._config.max_answer_tokens,
                on_text=on_text,
                cancelled=cancelled,
            )
        except PromptError as error:
            if self._last is None:
                raise
            raise PromptError(f"{error}; what was said before counts too, a reset forgets it") from error
