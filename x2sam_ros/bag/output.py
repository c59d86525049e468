"""Files that appear when they are whole: written under another name, moved into place at the end."""

from __future__ import annotations

import os
from pathlib import Path

from x2sam_ros.errors import BagError, ConfigError


class PendingFile:
    """A file to be written at ``part`` and moved to ``path`` by ``commit``; an existing one is replaced only then.

    Args:
        path: where the file goes.
        suffix: what the name must end in.

    Raises:
        ConfigError: another suffix.
        BagError: the file could not be written there.
    """

    def __init__(self, path: str | Path, suffix: str) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != suffix:
            raise ConfigError(f"output file is {self.path}, expected a name that ends in {suffix}")
        folder = self.path.absolute().parent
        if not folder.is_dir():
            raise BagError(f"{self.path} cannot be written: there is no folder {folder}; create it first")
        if self.path.is_dir():
            raise BagError(f"{self.path} cannot be written: it is a folder; give a file name")
        # The suffix stays last: OpenCV chooses the container by it.
        self.part = self.path.with_name(f".{self.path.stem}.part{suffix}")
        try:
            self.part.touch()
        except OSError as error:
            raise BagError(f"{self.path} cannot be written: {error.strerror}; choose another place") from error

    def commit(self) -> None:
        """Move the finished file into place."""
        os.replace(self.part, self.path)

    def discard(self) -> None:
        """Remove what was written."""
        self.part.unlink(missing_ok=True)
