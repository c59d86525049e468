"""Strategies of hypothesis for ROS messages of any type, and for bytes that are nearly such messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from x2sam_ros.ros.interface import message_type

_FLOATS = {"float": 32, "double": 64, "float32": 32, "float64": 64}
_ARRAY = re.compile(r"(?:sequence<(?P<items>.+?)(?:, \d+)?>|(?P<item>.+)\[(?P<count>\d+)\])")

INTERESTING = (0, 1, 2, 7, 255, 1000, 2**31 - 1, 2**31, 2**32 - 1)
"""Numbers that lengths, sizes and kinds are replaced by."""

Known = Mapping[str, st.SearchStrategy[Any]]
"""Strategies of fields, by "Message.field"."""


def values(type_name: str, known: Known) -> st.SearchStrategy[Any]:
    """Make values of a field's type, as ``get_fields_and_field_types`` names it."""
    array = _ARRAY.fullmatch(type_name)
    if array is not None:
        items, count = values(array["items"] or array["item"], known), array["count"]
        return st.lists(items, min_size=int(count or 0), max_size=int(count or 4))
    if type_name in _FLOATS:
        return st.floats(width=_FLOATS[type_name]) | st.integers(-5, 200).map(float)
    if type_name == "boolean":
        return st.booleans()
    if type_name.startswith("string"):
        return st.text(st.characters(codec="utf-8"), max_size=8)
    if type_name == "octet":
        return st.binary(min_size=1, max_size=1)
    if "/" in type_name:
        package, name = type_name.split("/")
        return messages(message_type(f"{package}/msg/{name}"), known)
    limits = np.iinfo(type_name)
    return st.integers(0, min(limits.max, 300)) | st.integers(limits.min, limits.max)


def messages(kind: type[Any], known: Known) -> st.SearchStrategy[Any]:
    """Make messages of a class."""
    fields = kind.get_fields_and_field_types()
    chosen = {name: known.get(f"{kind.__name__}.{name}", values(of, known)) for name, of in fields.items()}
    return st.builds(kind, **chosen)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut, change or extend a serialised message."""
    how = draw(st.sampled_from(("cut", "byte", "word", "word", "insert", "order", "noise")))
    place = draw(st.integers(0, max(0, min(len(data) - 1, 300))))
    if how == "cut":
        return data[:place]
    if how == "byte":
        return data[:place] + draw(st.binary(min_size=1, max_size=1)) + data[place + 1 :]
    if how == "word":
        place -= place % 4
        return data[:place] + draw(st.sampled_from(INTERESTING)).to_bytes(4, "little") + data[place + 4 :]
    if how == "insert":
        return data[:place] + draw(st.binary(min_size=1, max_size=9)) + data[place:]
    if how == "order":
        return draw(st.binary(min_size=4, max_size=4)) + data[4:]
    return draw(st.binary(max_size=64))
