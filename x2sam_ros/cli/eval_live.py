"""The running node that ``x2sam eval --live`` plays sequences into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from x2sam_ros.cli.node_process import (
    SHIPPED_NODE,
    NodeProcess,
    check_rclpy,
    choose_graph,
    make_room_for_images,
    run_node,
)
from x2sam_ros.errors import ConfigError, NodeError
from x2sam_ros.types import Frame, Prompt

if TYPE_CHECKING:
    from x2sam_ros.evaluation.live import LiveMethod
    from x2sam_ros.ros.live_player import Played

STARTED_NODE = "/x2sam_node"
START_TIMEOUT_S = 600.0
"""How long a node that was started, and has not ended, may load its model."""


@contextmanager
def open_live(
    folder: Path,
    parameters: Mapping[str, str],
    *,
    node: str | None = None,
    image_topic: str | None = None,
    rate: float = 1.0,
    command: Sequence[str] = SHIPPED_NODE,
) -> Iterator[LiveMethod]:
    """Start the shipped node in a ROS graph of its own, or find one that runs, and play into it.

    Args:
        folder: gets what a node that is started says, as node.log.
        parameters: of a node that is started, by name.
        node: full name of a node that runs already.
        image_topic: of the camera to be, where the node has several.
        rate: speed; 2.0 plays twice as fast.
        command: what is started, arguments of Python.

    Raises:
        ConfigError: parameters for a node that runs already, or a rate that is none.
        NodeError: there is no such node, it cannot be heard, or it ended.
    """
    if node is not None and parameters:
        raise ConfigError(f"{node} runs with its own parameters; leave away: {', '.join(parameters)}")
    check_rclpy()
    with ExitStack() as stack:
        started: NodeProcess | None = None
        if node is None:
            choose_graph()
            make_room_for_images()
            folder.mkdir(parents=True, exist_ok=True)
            started = stack.enter_context(run_node(folder, parameters, command))

        # these take their time, in which the node loads its model
        from x2sam_ros.evaluation.live import LiveMethod
        from x2sam_ros.ros.live_player import FIND_TIMEOUT_S, open_live_player

        def is_alive() -> bool:
            return started is None or started.is_alive

        def play(
            frames: Iterable[Frame], prompts: Mapping[int, Sequence[Prompt]], on_frame: Callable[[], None]
        ) -> Played:
            with _last_words(started):
                return player.play(frames, prompts, on_frame)

        timeout_s = FIND_TIMEOUT_S if started is None else START_TIMEOUT_S
        with _last_words(started):
            player = stack.enter_context(open_live_player(node or STARTED_NODE, image_topic, rate, is_alive, timeout_s))
        yield LiveMethod(play)


@contextmanager
def _last_words(started: NodeProcess | None) -> Iterator[None]:
    """Let an error about a node that was started have the end of its log."""
    try:
        yield
    except NodeError as error:
        if started is None:
            raise
        raise NodeError(f"{error}{started.log_tail()}") from error
