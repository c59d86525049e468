"""The node as a child process, in a ROS graph that nobody else on this machine is in."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from x2sam_ros.errors import NodeError

STOP_TIMEOUT_S = 5.0
LOG_TAIL_LINES = 15
SHIPPED_NODE = ("-m", "x2sam_ros.ros.node")
FIRST_DOMAIN, NUM_DOMAINS = 30, 70
"""ROS domains to choose from: above what people set by hand, below where ports meet those of the system."""


_MOST_PROCESSES = 10
"""Processes of a domain that are looked for."""


class NodeProcess(NamedTuple):
    """The running node and the file it logs to."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def log_tail(self) -> str:
        """Return the end of the log, below a heading."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"; the end of {self.log}:", *lines])


def check_rclpy() -> None:
    """Raise NodeError where rclpy is not installed."""
    if importlib.util.find_spec("rclpy") is None:
        raise NodeError("rclpy is not installed here; run it by scripts/with-env, or source a ROS 2 distribution first")


def choose_graph() -> None:
    """Set the environment, of this process and of those it starts, to a ROS graph of its own on this machine.

    Raises:
        NodeError: rclpy is not installed.
    """
    check_rclpy()
    domains = (FIRST_DOMAIN + (os.getpid() + number) % NUM_DOMAINS for number in range(NUM_DOMAINS))
    os.environ["ROS_DOMAIN_ID"] = str(next(filter(is_free, domains), FIRST_DOMAIN))
    if os.environ.get("ROS_DISTRO") == "humble":
        os.environ["ROS_LOCALHOST_ONLY"] = "1"
    else:
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


def is_free(domain: int) -> bool:
    """Tell whether no process of this machine is in a domain, by the ports that DDSI gives to its first ones."""
    with contextlib.ExitStack() as stack:
        for number in range(_MOST_PROCESSES):
            probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            try:
                probe.bind(("", 7410 + 250 * domain + 2 * number))
            except OSError:
                return False
    return True


def make_room_for_images() -> None:
    """Let Fast DDS, here and in the processes that are started, have shared memory for raw images (config/fastdds.xml).

    It must be done before rclpy is initialised. A profile that the user has chosen stays.
    """
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    places = [Path(__file__).parents[2], *(Path(prefix) / "share/x2sam_ros" for prefix in prefixes)]
    found = next((file for place in places if (file := place / "config/fastdds.xml").is_file()), None)
    if found is not None:
        for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):  # to Jazzy, and since Kilted
            os.environ.setdefault(name, str(found))


@contextlib.contextmanager
def run_node(
    folder: Path, parameters: Mapping[str, str], command: Sequence[str] = SHIPPED_NODE
) -> Iterator[NodeProcess]:
    """Start a node; end it as Ctrl-C would, also where this process is told to end.

    Args:
        folder: gets what it says as node.log.
        parameters: ROS parameters by name; those without a value are left out.
        command: arguments of Python.
    """
    words = [sys.executable, *command, "--ros-args"]
    for name, value in parameters.items():
        # An empty text has no spelling on the command line; it is the default anyway.
        words += ["-p", f"{name}:={value}"] if value else []
    log = folder / "node.log"
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with log.open("w") as output:
            process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
            try:
                yield NodeProcess(process, log)
            finally:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
