"""What holds for all tests."""

from __future__ import annotations


def pytest_make_parametrize_id(val: object) -> str | None:
    """Call bytes by their number: what is packed may hold the time, and a test is called the same in every process."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None
