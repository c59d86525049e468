"""``x2sam chat``: ask about a picture or a recording; what the answers point at is coloured and drawn."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from x2sam_ros.cli import options
from x2sam_ros.cli.printing import coloured, target_table
from x2sam_ros.config import CLIP_LENGTH, EngineConfig, NodeConfig
from x2sam_ros.errors import BagError, PromptError, X2SamError, plain

if TYPE_CHECKING:
    from rich.console import Console

    from x2sam_ros.engine.chat import ChatSession, ChatTurn
    from x2sam_ros.types import Frame, Prompt

HELP = """\
Type a question, or one of these:
  /describe       describe the picture and point at what is named
  /segment WORDS  point at what the words mean
  /click X Y      point at what lies there, pixels of the first image
  /reset          forget what was said
  /help           say this
  /quit           end; so does the end of the input
Ctrl-C stops an answer."""


def chat(
    input_path: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A picture, a video, a folder of pictures or a bag.")
    ],
    ask: Annotated[
        list[str] | None, typer.Option(help="Ask this and end. Repeatable; commands such as /describe are understood.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the overlays, made when there is one.")] = Path("x2sam_chat"),
    frames: Annotated[int, typer.Option(help="Most frames of a recording to look at.")] = CLIP_LENGTH,
    topic: options.Topic = None,
    max_answer_tokens: options.MaxAnswerTokens = EngineConfig.max_answer_tokens,
    preset: options.Preset = None,
    checkpoint: options.Checkpoint = None,
    device: options.Device = NodeConfig.device,
    dtype: options.Dtype = NodeConfig.dtype,
    weights: options.Weights = NodeConfig.weights,
    score_threshold: options.ScoreThreshold = EngineConfig.score_threshold,
) -> None:
    """Chat about a picture or a recording.

    Questions are typed, or come from a pipe, one a line. The picture is read once, and earlier answers are remembered.
    Phrases that an answer points at are printed in the colour of their mask in the overlay, a numbered picture in the
    folder; of a recording it shows all frames that were looked at. A question that cannot be answered is said in one
    line; from a pipe or --ask it makes the exit code 2.
    """
    from rich.console import Console

    from x2sam_ros.bag.source import read_sample

    name = options.model_name(preset, checkpoint)
    if out.exists() and not out.is_dir():
        raise BagError(f"--out {out} is a file; give a folder for the overlays")
    shown = read_sample(input_path, frames, topic)
    config = EngineConfig(score_threshold=score_threshold, max_answer_tokens=max_answer_tokens)
    session = _open_session((name, device, dtype, weights), shown, config)
    console = Console(highlight=False, soft_wrap=True)
    talk = _Talk(session, shown, console, out, input_path.resolve().stem)
    if not talk.hold(ask or _typed(console)) and (ask or not sys.stdin.isatty()):
        raise typer.Exit(2)


def _open_session(model: tuple[str, str, str, str], frames: tuple[Frame, ...], config: EngineConfig) -> ChatSession:
    """Load the model, late, so that every other mistake is found before these seconds are spent."""
    from x2sam_ros.checkpoint.load import load_model
    from x2sam_ros.engine.chat import ChatSession

    network = load_model(*model)
    # a picture can hold no more targets than the network has queries
    config = replace(config, max_targets=network.config.segmentor.decoder.num_queries)
    return ChatSession(network, frames, config)


def _typed(console: Console) -> Iterator[str]:
    """Yield the lines of the standard input; on a terminal Ctrl-C empties the line."""
    is_terminal = sys.stdin.isatty()
    with contextlib.suppress(AttributeError):  # what is no Unicode is then a mistake in one line
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    if is_terminal:
        with contextlib.suppress(ImportError):  # its import gives input() its arrow keys
            import readline  # noqa: F401
        console.print(HELP, markup=False)
    while True:
        try:
            line = input("> " if is_terminal else "")
        except EOFError:
            return
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            console.print()
            continue
        if not is_terminal:
            console.print(f"> {plain(line)}", markup=False)
        yield line


class _Interrupt:
    """While it is entered, the first Ctrl-C is only noted; a second one is as usual."""

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> _Interrupt:
        self._usual = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._usual)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True


@dataclass
class _Talk:
    """A conversation on a console.

    Args:
        session: answers.
        frames: what it is about.
        console: where answers are printed.
        out: folder for overlays.
        name: what their names begin with.
    """

    session: ChatSession
    frames: tuple[Frame, ...]
    console: Console
    out: Path
    name: str

    def hold(self, lines: Iterable[str]) -> bool:
        """Answer line after line; return whether all could be carried out."""
        well = True
        for line in lines:
            words, _, rest = line.strip().partition(" ")
            if words == "/quit":
                break
            if words == "/help":
                self.console.print(HELP, markup=False)
            elif words == "/reset":
                self.session.reset()
            elif words:
                try:
                    self._answer(self._prompt(words, rest) if words.startswith("/") else line)
                except X2SamError as error:
                    well = False
                    typer.echo(plain(f"error: {' '.join(str(error).split())}"), err=True)
        return well

    def _prompt(self, command: str, rest: str) -> Prompt:
        """Read a command that asks something."""
        from x2sam_ros.bag.one_prompt import read_prompt

        if command == "/describe":
            return read_prompt(caption=True)
        if command == "/segment":
            return read_prompt(texts=[rest])
        if command == "/click":
            return read_prompt(clicks=[",".join(rest.replace(",", " ").split())], still=len(self.frames) == 1)
        raise PromptError(f"there is no command {command!r:.40}; /help lists them")

    def _answer(self, question: str | Prompt) -> None:
        """Print an answer while it is written, then with its colours; draw what it points at."""
        from rich.live import Live
        from rich.text import Text

        text = Text(overflow="fold", no_wrap=False)
        # erased in the end, when the colours are known; nothing of it is written to a pipe
        live = Live(text, console=self.console, auto_refresh=False, transient=True)
        with live, _Interrupt() as interrupt:

            def show(piece: str) -> None:
                live.update(text.append(plain(piece)), refresh=True)

            turn = self.session.ask(question, on_text=show, cancelled=lambda: interrupt.came)
        if turn.grounding.response or turn.grounding.phrases:
            self.console.print(coloured(turn.grounding))
        if turn.grounding.message:
            self.console.print(plain(turn.grounding.message), markup=False, style="dim")
        if turn.grounding.target_ids:
            self._draw(turn)

    def _draw(self, turn: ChatTurn) -> None:
        """Write the overlay and list the targets."""
        from x2sam_ros.bag.coco import write_image
        from x2sam_ros.bag.replay import ReplayReport
        from x2sam_ros.visualise import contact_sheet, draw_overlay

        report = ReplayReport()
        for result in turn.results:
            report.add(result)
        self.console.print(target_table(report.targets.values(), report.frames))
        images = [draw_overlay(frame.image, result) for frame, result in zip(self.frames, turn.results)]
        captions = [f"{frame.stamp_ns / 1e9:.2f} s" for frame in self.frames]
        self.out.mkdir(parents=True, exist_ok=True)
        number = 1
        while (path := self.out / f"{self.name}_{number:03d}.png").exists():
            number += 1
        write_image(path, images[0] if len(images) == 1 else contact_sheet(images, captions))
        self.console.print(f"wrote {path}", markup=False)
