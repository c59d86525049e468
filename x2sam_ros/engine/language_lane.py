"""The language lane: prompts are understood, begin on the frame they refer to, and catch up with the stream.

``Opener`` does the work and never raises. A session calls it inline, or lets a ``LanguageLane`` do so in a thread of
its own. Groups in here belong to the lane alone until they are handed over; the session's are never touched.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.fleet import Turns
from x2sam_ros.engine.frame_buffer import FrameBuffer, Kept
from x2sam_ros.engine.grounding import Grounder, Picture, Question, View
from x2sam_ros.engine.joining import Join, ask_together
from x2sam_ros.engine.progress import Watcher, hearing
from x2sam_ros.engine.reply import Reply
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.engine.tracker import Seen, Tracker, arithmetic
from x2sam_ros.errors import described
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import BoolArray, PointPrompt, Prompt, PromptStage, Uint8Array

IDLE_S = 5.0
"""How long the lane's thread waits for more work before it ends; the next prompt starts another."""


@dataclass(eq=False)
class Job:
    """One prompt to be carried out.

    Args:
        prompt: what is asked, with the stamp of its frame.
        at: its frame.
        clip: what the language model is shown in place of the frame.
        clicks: earlier clicks of the target being refined.
        current: bool (H, W), that target's mask on the frame.
        target: that target, a copy.
        reserves: whether it may bring new targets, for which it holds a place.
        is_quiet: whether no user waits for it: words that are asked again.
        cancelled: set when nobody wants the answer any more.
        watcher: is told how it gets on, until then.
    """

    prompt: Prompt
    at: Kept
    clip: Uint8Array | None = None
    clicks: PointPrompt | None = None
    current: BoolArray | None = None
    target: Target | None = None
    reserves: bool = False
    is_quiet: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    watcher: Watcher | None = None

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody wants the answer any more."""
        return self.cancelled.is_set()

    @property
    def is_watched(self) -> bool:
        """Whether somebody is told how it gets on."""
        return self.watcher is not None

    def tell(self, stage: PromptStage, response: str = "") -> None:
        """Tell whoever watches it."""
        if self.watcher is not None and not self.is_cancelled:
            self.watcher.tell(stage, response)

    def cancel(self) -> None:
        """Call it off."""
        self.cancelled.set()


@dataclass(eq=False)
class Opened:
    """What became of a job.

    Args:
        job: the prompt, or those that were asked together.
        answer: its group, new targets with ids below 0; the words where it points at nothing; or why it is rejected.
        found: its targets as they were on the frame on which it found some.
    """

    job: Job | Join
    answer: Group | Reply | str
    found: tuple[Target, ...] = ()


class Pictures:
    """A frame, and the pictures that the prompts on it show to the language model, each read once.

    Args:
        model: the network.
        seen: the frame.
        clips: what each prompt shows; None for the frame itself.
    """

    def __init__(self, model: X2SAM, seen: Seen, clips: Sequence[Uint8Array | None]) -> None:
        self._model, self.seen, self._clips = model, seen, clips
        self._pictures: dict[int, Picture] = {}

    def view(self, clip: Uint8Array | None) -> View:
        """Return what a prompt is about.

        Raises:
            FrameError: the picture is too elongated.
        """
        if id(clip) not in self._pictures:
            sharing = sum(other is clip for other in self._clips)
            shown, features = (self.seen.frame.image, self.seen.native) if clip is None else (clip, None)
            self._pictures[id(clip)] = Picture(self._model, shown, sharing, features)
        return View(self.seen.frame.size, self.seen.native, self._pictures[id(clip)])


class Opener:
    """Carries prompts out: understands each, begins its group on its frame, leads it to the newest one.

    Args:
        model: the network.
        config: how many frames a new group is led through.
        grounder: runs the language pass.
        buffer: the stream's newest frames.
    """

    def __init__(self, model: X2SAM, config: EngineConfig, grounder: Grounder, buffer: FrameBuffer) -> None:
        self._model, self._config, self._grounder, self._buffer = model, config, grounder, buffer
        self._tracker = Tracker(model, config, may_compile=False)

    def understand(self, job: Job, pictures: Pictures) -> Group | Reply:
        """Run the language pass of one prompt; a target that is refined moves into the group.

        Raises:
            PromptError, PluginError, ConfigError, FrameError: it cannot be carried out.
        """
        job.tell(PromptStage.GROUNDING)
        view = pictures.view(job.clip)
        asked = self._grounder.ask(job.prompt, view, job.clicks, job.current)
        on_text = hearing(job.tell) if job.is_watched else None
        answer = self._grounder.ground(asked, view.picture, lambda: job.is_cancelled, on_text)
        if isinstance(answer, Group) and job.target is not None:
            answer.targets[job.target.target_id] = replace(job.target)
            answer.name(answer.targets[job.target.target_id], 0)
        return answer

    @torch.inference_mode()
    def run(
        self, jobs: Sequence[Job | Join], until: Kept | None = None, pictures: Pictures | None = None
    ) -> list[Opened]:
        """Carry out the prompts of one frame; cancelled ones are left out.

        Args:
            jobs: prompts with the same frame.
            until: the frame that the session is about to segment, which it leads the groups through itself; None leads
                them to the buffer's newest, while others arrive.
            pictures: the frame, where it is encoded already.
        """
        opened: list[Opened] = []
        with arithmetic(self._model, self._config):
            try:
                if pictures is None:
                    seen = self._tracker.encode(jobs[0].at.frame)
                    pictures = Pictures(self._model, seen, [job.clip for job in jobs])
                opened += self._understand_all(jobs, pictures)
                self._lead([item for item in opened if isinstance(item.answer, Group)], pictures.seen, until)
            except Exception as error:  # whatever happens, each prompt gets its answer
                done = [item for item in opened if not isinstance(item.answer, Group)]
                failed = _unanswered(jobs, done)
                opened = [*done, *(Opened(job, describe(error)) for job in failed)]
        return [item for item in opened if not item.job.is_cancelled]

    def _understand_all(self, jobs: Sequence[Job | Join], pictures: Pictures) -> Iterator[Opened]:
        for job in jobs:
            if job.is_cancelled:
                continue
            try:
                if isinstance(job, Join):
                    yield from self._understand_together(job, pictures.view(None))
                    continue
                yield Opened(job, self.understand(job, pictures))
            except Exception as error:  # one prompt's failure is not another's
                yield Opened(job, describe(error))

    def _understand_together(self, join: Join, view: View) -> Iterator[Opened]:
        """Run one language pass for several prompts; where they do not go together, one for each by itself."""
        asked: list[tuple[Job, Question]] = []
        for job in join.jobs:
            try:
                if not job.is_cancelled:
                    asked.append((job, self._grounder.ask(job.prompt, view, job.clicks, job.current)))
            except Exception as error:  # a click beside the image spoils no other prompt
                yield Opened(join.alone(job), describe(error))
        parts = [(replace(join, jobs=[job for job, _ in asked]), [question for _, question in asked])] if asked else []
        while parts:
            part, questions = parts.pop(0)
            try:
                part.tell(PromptStage.GROUNDING)
                yield Opened(part, ask_together(part, questions, self._grounder, view, lambda: join.is_cancelled))
            except Exception as error:
                if len(part.jobs) + len(part.stays) > 1:
                    parts += [(part.alone(job), [question]) for job, question in asked]
                else:
                    yield Opened(part, describe(error))

    def _lead(self, begun: Sequence[Opened], seen: Seen, until: Kept | None) -> None:
        """Begin groups on their frame and advance them through frames that have come since."""
        if not begun:
            return
        groups = {id(item): item.answer for item in begun if isinstance(item.answer, Group)}
        self._tracker.begin(seen, list(groups.values()), self._admit)
        at, left = begun[0].job.at, self._config.catch_up_frames
        for group in groups.values():
            group.at = at.number
        while True:
            for item in begun:
                item.found = item.found or _seen_targets(groups[id(item)])
            alive = [groups[id(item)] for item in begun if not item.job.is_cancelled]
            alive = [group for group in alive if group.is_alive(self._config)]
            missing = self._buffer.since(at)
            if until is not None:
                missing = tuple(kept for kept in missing if kept.number < until.number)
            if not alive or not left or len(missing) <= (until is None):
                return
            # beside, frames arrive while others are caught up with, so that some are left for those
            take = min(len(missing), left if until is not None else (left + 1) // 2)
            at, left = spread(missing, take)[0], left - 1
            self._tracker.advance(self._tracker.encode(at.frame), alive, self._admit)
            for group in alive:
                group.at = at.number

    def _admit(self, group: Group) -> int | None:
        """Return an id below 0, which the session replaces by one of its own."""
        full = sum(target_id < 0 for target_id in group.targets) >= self._config.max_targets
        return None if full else min(0, *group.targets) - 1 if group.targets else -1


def spread(frames: Sequence[Kept], take: int) -> list[Kept]:
    """Return ``take`` of the frames, evenly spread, the last one among them."""
    return [frames[(index + 1) * len(frames) // take - 1] for index in range(take)]


def _unanswered(jobs: Sequence[Job | Join], done: Sequence[Opened]) -> list[Job | Join]:
    """Return the jobs without an answer, and of those that were asked together the ones that are."""
    answered = {id(job) for item in done for job in (item.job.jobs if isinstance(item.job, Join) else [item.job])}
    left: list[Job | Join] = []
    for job in jobs:
        if isinstance(job, Join):
            mine = [other for other in job.jobs if id(other) not in answered]
            left += [replace(job, jobs=mine)] if mine else []
        elif id(job) not in answered:
            left.append(job)
    return left


def _seen_targets(group: Group) -> tuple[Target, ...]:
    return tuple(replace(target) for target in group.targets.values() if target.logits is not None)


def describe(error: Exception) -> str:
    """Return why a prompt could not be carried out, in words for the person who gave it."""
    if isinstance(error, torch.OutOfMemoryError):
        return "there is no GPU memory left to carry it out; remove a target or lower max_targets"
    return described(error)


class LanguageLane:
    """One thread that carries out prompts beside the frames. Handing over and taking over never wait for it.

    On a GPU it has a stream of its own. On a CPU it works when it has the turn, on ``language_threads``; frames use the
    others while any lane works that shares the turns (``sharing``). The thread ends when nothing was asked for
    ``IDLE_S``.

    Args:
        run: carries out the prompts of one frame; see ``Opener.run``.
        device: where the model is.
        config: ``language_threads``.
        turns: whose turn it is, of lanes that share a CPU.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job | Join]], list[Opened]],
        device: torch.device,
        config: EngineConfig,
        turns: Turns,
    ) -> None:
        self._run, self._device, self._config, self._turns = run, device, config, turns
        self._given_away = 0
        self._changed = threading.Condition()
        self._batches: deque[tuple[Job | Join, ...]] = deque()  # jobs of all: at most max_pending_prompts
        self._finished: list[Opened] = []  # likewise
        self._working = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, jobs: Sequence[Job | Join]) -> None:
        """Queue the prompts of one frame."""
        with self._changed:
            self._batches.append(tuple(jobs))
            self._closed = False
            if self._thread is None:
                threads = torch.get_num_threads() + self._given_away
                self._thread = threading.Thread(target=self._work, args=(threads,), name="x2sam-language", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def take(self) -> list[Opened]:
        """Return what was finished since the last call; never waits."""
        with self._changed:
            finished, self._finished = self._finished, []
        if self._device.type == "cuda":
            for item in finished:
                for tensor in item.answer.tensors if isinstance(item.answer, Group) else ():
                    tensor.record_stream(torch.cuda.current_stream(self._device))
        return finished

    @property
    def is_busy(self) -> bool:
        """Whether prompts are being carried out, or wait for it."""
        return self._working or bool(self._batches)

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is left to do; False where that took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.is_busy, timeout_s)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Forget what is queued and end the thread, after the frame or token at hand; False if that took longer."""
        with self._changed:
            for batch in self._batches:
                for job in batch:
                    job.cancel()
            self._batches.clear()
            self._closed, thread = True, self._thread
            self._changed.notify_all()
        self._turns.recall()
        if thread is not None:
            thread.join(timeout_s)
        self._finished.clear()
        return thread is None or not thread.is_alive()

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Leave the lane that has the turn its CPU threads for the duration of the block, if any has."""
        mine = torch.get_num_threads()
        if self._device.type != "cpu" or not (self.is_busy or self._turns.is_taken) or mine == 1:
            yield
            return
        left = max(1, mine - self._config.language_threads)
        self._given_away = mine - left
        torch.set_num_threads(left)
        try:
            yield
        finally:
            torch.set_num_threads(mine)
            self._given_away = 0

    def _work(self, process_threads: int) -> None:
        on_gpu = self._device.type == "cuda"
        stream = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]
        if not on_gpu:
            limit_threads(self._config.language_threads, process_threads)
        while (batch := self._next()) is not None:
            try:
                if stream is None:
                    with self._turns.turn(given_up=lambda: self._closed):
                        opened = [] if self._closed else self._run(batch)
                else:
                    with torch.cuda.stream(stream):
                        opened = self._run(batch)
                        stream.synchronize()
            except Exception as error:  # the thread outlives whatever happens
                opened = [Opened(job, describe(error)) for job in batch]
            with self._changed:
                self._working = False
                if not self._closed:
                    self._finished += opened
                self._changed.notify_all()
            del batch, opened  # while it waits the thread holds nothing

    def _next(self) -> tuple[Job | Join, ...] | None:
        """Wait for work; None when the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._batches), IDLE_S)
            if self._closed or not self._batches:
                self._thread = None
                return None
            self._working = True
            return self._batches.popleft()


def limit_threads(threads: int, process_threads: int) -> None:
    """Let the calling thread use so many CPU threads, and those that have yet to begin ``process_threads``."""
    torch.get_num_threads()  # the first call in a thread sets its number to that of the process
    torch.set_num_threads(min(threads, process_threads))
    # that holds for the calling thread, and for threads that have yet to begin: those get theirs again
    restore = threading.Thread(target=torch.set_num_threads, args=(process_threads,))
    restore.start()
    restore.join()
