"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from x2sam_ros.errors import ResultsError, told


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; it appears when it is whole, and an older one stays until then.

    Raises:
        ResultsError: it cannot be written; an older one is as it was, and nothing is left beside it.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise ResultsError(f"{path} cannot be written: {told(error)}; give a folder with room to write to") from error
