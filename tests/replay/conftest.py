"""Bags written for the occasion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from tests.replay.recordings import IMAGE, START_NS, STEP_NS, TYPES


@pytest.fixture
def write_bag(tmp_path: Path) -> Callable[..., Path]:
    """Write ``{topic: [message or raw bytes]}`` as a rosbag2 folder."""

    def write(topics: dict[str, list[Any]], name: str = "bag", storage: str = "mcap", **options: Any) -> Path:
        folder = tmp_path / name
        writer = Writer(folder, version=9, storage_plugin=StoragePlugin[storage.upper()])
        for option, values in options.items():
            getattr(writer, option)(*values)
        with writer:
            for topic, messages in topics.items():
                raw = [m for m in messages if not isinstance(m, bytes)]
                msgtype = raw[0].__msgtype__ if raw else IMAGE
                connection = writer.add_connection(topic, msgtype, typestore=TYPES)
                for index, message in enumerate(messages):
                    data = message if isinstance(message, bytes) else TYPES.serialize_cdr(message, msgtype)
                    # Recorded later than taken: stamps must come from the headers.
                    writer.write(connection, START_NS + index * STEP_NS + 7_000_000, data)
        return folder

    return write
