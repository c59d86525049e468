"""The project's own message definitions, found wherever the package is installed, as a rosbags typestore."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from x2sam_ros.errors import BagError

_PACKAGE = "x2sam_ros"


def interface_definitions() -> dict[str, str]:
    """Read the .msg files: text by type name ("x2sam_ros/msg/TrackedMask").

    They lie in msg/ of the repository, in ``x2sam_ros/interfaces`` of a pip installation, or in the share folder
    of a ROS workspace.

    Raises:
        BagError: none of these places has them.
    """
    package = Path(__file__).resolve().parents[1]
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    places = [
        package.parent / "msg",
        package / "interfaces",
        *(prefix / "share" / _PACKAGE / "msg" for prefix in prefixes),
    ]
    for place in places:
        if (place / "TrackedMaskArray.msg").is_file():
            files = sorted(place.glob("*.msg"))
            return {f"{_PACKAGE}/msg/{file.stem}": file.read_text(encoding="utf-8") for file in files}
    looked = ", ".join(map(str, places))
    raise BagError(f"message definitions of {_PACKAGE} not found in {looked}; install the package again")


@cache
def message_types() -> Typestore:
    """Build a typestore of ROS 2's standard messages and the project's own."""
    typestore = get_typestore(Stores.LATEST)
    for name, text in interface_definitions().items():
        typestore.register(get_types_from_msg(text, name))
    return typestore
