"""The language lane: prompts are understood, begin on the frame they refer to, and catch up with the stream.

``Opener`` does the work and never raises. A session calls it inline, or lets a ``LanguageLane`` do so in a thread of
its own. Groups in here belong to the lane alone until they are handed over; the session's are never touched.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch

from x2sam_ros.config import EngineConfig
from x2sam_ros.engine.frame_buffer import FrameBuffer, Kept
from x2sam_ros.engine.grounding import Grounder, Picture, View
from x2sam_ros.engine.reply import Reply
from x2sam_ros.engine.track import Group, Target
from x2sam_ros.engine.tracker import Seen, Tracker, arithmetic
from x2sam_ros.errors import X2SamError
from x2sam_ros.model.x2sam import X2SAM
from x2sam_ros.types import BoolArray, PointPrompt, Prompt, Uint8Array

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
        cancelled: set when nobody wants the answer any more.
    """

    prompt: Prompt
    at: Kept
    clip: Uint8Array | None = None
    clicks: PointPrompt | None = None
    current: BoolArray | None = None
    target: Target | None = None
    reserves: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class Opened:
    """What became of a job.

    Args:
        job: the prompt.
        answer: its group, new targets with ids below 0; the words where it points at nothing; or why it is rejected.
        found: its targets as they were on the frame on which it found some.
    """

    job: Job
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
        self._model, self._seen, self._clips = model, seen, clips
        self._pictures: dict[int, Picture] = {}

    def view(self, clip: Uint8Array | None) -> View:
        """Return what a prompt is about.

        Raises:
            FrameError: the picture is too elongated.
        """
        if id(clip) not in self._pictures:
            sharing = sum(other is clip for other in self._clips)
            shown, features = (self._seen.frame.image, self._seen.features) if clip is None else (clip, None)
            self._pictures[id(clip)] = Picture(self._model, shown, sharing, features)
        return View(self._seen.frame.size, self._seen.features, self._pictures[id(clip)])


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
        self._tracker = Tracker(model, config)

    def understand(self, job: Job, pictures: Pictures) -> Group | Reply:
        """Run the language pass of one prompt; a target that is refined moves into the group.

        Raises:
            PromptError, PluginError, ConfigError, FrameError: it cannot be carried out.
        """
        view = pictures.view(job.clip)
        asked = self._grounder.ask(job.prompt, view, job.clicks, job.current)
        answer = self._grounder.ground(asked, view.picture, job.cancelled.is_set)
        if isinstance(answer, Group) and job.target is not None:
            answer.targets[job.target.target_id] = replace(job.target)
            answer.name(answer.targets[job.target.target_id], 0)
        return answer

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job], until: Kept | None = None) -> list[Opened]:
        """Carry out the prompts of one frame; cancelled ones are left out.

        Args:
            jobs: prompts with the same frame.
            until: the frame that the session is about to segment, which it leads the groups through itself; None leads
                them to the buffer's newest, while others arrive.
        """
        opened: list[Opened] = []
        with arithmetic(self._model, self._config):
            try:
                seen = self._tracker.encode(jobs[0].at.frame)
                opened += self._understand_all(jobs, Pictures(self._model, seen, [job.clip for job in jobs]))
                self._lead([item for item in opened if isinstance(item.answer, Group)], seen, until)
            except Exception as error:  # whatever happens, each prompt gets its answer
                done = [item for item in opened if not isinstance(item.answer, Group)]
                failed = [job for job in jobs if all(item.job is not job for item in done)]
                opened = [*done, *(Opened(job, _describe(error)) for job in failed)]
        return [item for item in opened if not item.job.cancelled.is_set()]

    def _understand_all(self, jobs: Sequence[Job], pictures: Pictures) -> Iterator[Opened]:
        for job in jobs:
            if job.cancelled.is_set():
                continue
            try:
                yield Opened(job, self.understand(job, pictures))
            except Exception as error:  # one prompt's failure is not another's
                yield Opened(job, _describe(error))

    def _lead(self, begun: Sequence[Opened], seen: Seen, until: Kept | None) -> None:
        """Begin groups on their frame and advance them through frames that have come since."""
        if not begun:
            return
        groups = {id(item): item.answer for item in begun if isinstance(item.answer, Group)}
        self._tracker.begin(seen, list(groups.values()), self._admit)
        at, left = begun[0].job.at, self._config.catch_up_frames
        while True:
            for item in begun:
                item.found = item.found or _seen_targets(groups[id(item)])
            alive = [groups[id(item)] for item in begun if not item.job.cancelled.is_set()]
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

    def _admit(self, group: Group) -> int | None:
        """Return an id below 0, which the session replaces by one of its own."""
        full = len(group.targets) >= self._config.max_targets
        return None if full else min(0, *group.targets) - 1 if group.targets else -1


def spread(frames: Sequence[Kept], take: int) -> list[Kept]:
    """Return ``take`` of the frames, evenly spread, the last one among them."""
    return [frames[(index + 1) * len(frames) // take - 1] for index in range(take)]


def _seen_targets(group: Group) -> tuple[Target, ...]:
    return tuple(replace(target) for target in group.targets.values() if target.logits is not None)


def _describe(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "there is no GPU memory left to carry it out; remove a target or lower max_targets"
    return str(error) if isinstance(error, X2SamError) else f"{type(error).__name__}: {error}"


class LanguageLane:
    """One thread that carries out prompts beside the frames. Handing over and taking over never wait for it.

    On a GPU it has a stream of its own. On a CPU it uses ``language_threads``, and frames the others while it works
    (``sharing``). The thread ends when nothing was asked for ``IDLE_S``.

    Args:
        run: carries out the prompts of one frame; see ``Opener.run``.
        device: where the model is.
        config: ``language_threads``.
    """

    def __init__(
        self, run: Callable[[Sequence[Job]], list[Opened]], device: torch.device, config: EngineConfig
    ) -> None:
        self._run, self._device, self._config = run, device, config
        self._changed = threading.Condition()
        self._batches: deque[tuple[Job, ...]] = deque()  # jobs of all: at most max_pending_prompts
        self._finished: list[Opened] = []  # likewise
        self._working = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, jobs: Sequence[Job]) -> None:
        """Queue the prompts of one frame."""
        with self._changed:
            self._batches.append(tuple(jobs))
            self._closed = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="x2sam-language", daemon=True)
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
                    job.cancelled.set()
            self._batches.clear()
            self._closed, thread = True, self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout_s)
        self._finished.clear()
        return thread is None or not thread.is_alive()

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Leave the lane its CPU threads for the duration of the block, if it is busy."""
        mine = torch.get_num_threads()
        if self._device.type != "cpu" or not self.is_busy or mine == 1:
            yield
            return
        torch.set_num_threads(max(1, mine - self._config.language_threads))
        try:
            yield
        finally:
            torch.set_num_threads(mine)

    def _work(self) -> None:
        on_gpu = self._device.type == "cuda"
        stream = torch.cuda.Stream(self._device) if on_gpu else None  # type: ignore[no-untyped-call]
        if not on_gpu:
            limit_threads(self._config.language_threads)
        while (batch := self._next()) is not None:
            try:
                with torch.cuda.stream(stream) if stream is not None else nullcontext():
                    opened = self._run(batch)
                    if stream is not None:
                        stream.synchronize()
            except Exception as error:  # the thread outlives whatever happens
                opened = [Opened(job, _describe(error)) for job in batch]
            with self._changed:
                self._working = False
                if not self._closed:
                    self._finished += opened
                self._changed.notify_all()
            del batch, opened  # while it waits the thread holds nothing

    def _next(self) -> tuple[Job, ...] | None:
        """Wait for work; None when the thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._batches), IDLE_S)
            if self._closed or not self._batches:
                self._thread = None
                return None
            self._working = True
            return self._batches.popleft()


def limit_threads(threads: int) -> None:
    """Let the calling thread use so many CPU threads, and no other thread fewer."""
    process_wide = torch.get_num_threads()
    torch.set_num_threads(min(threads, process_wide))
    # the number holds for the calling thread, and for threads that have yet to begin: those get the old one again
    restore = threading.Thread(target=torch.set_num_threads, args=(process_wide,))
    restore.start()
    restore.join()
