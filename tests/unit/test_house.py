"""House rules that a reader feels: files of at most 500 lines, function bodies of at most 60."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("x2sam_ros", "tests", "benchmarks", "plugins", "scripts", "launch", "docs")
MAX_FILE_LINES = 500
MAX_BODY_LINES = 60

TOO_LONG: frozenset[str] = frozenset()
"""Functions excused from the limit, as "path::name". This set only shrinks."""


def sources() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "build" not in path.parts)


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines from the first statement after the docstring to the last."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_file_and_its_bodies_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    functions = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    name = str(path.relative_to(ROOT))
    long = {f"{name}::{node.name}": body_lines(node) for node in functions if body_lines(node) > MAX_BODY_LINES}
    assert not {key: lines for key, lines in long.items() if key not in TOO_LONG}


def test_excuses_are_still_needed() -> None:
    needed = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and body_lines(node) > MAX_BODY_LINES:
                needed.add(f"{path.relative_to(ROOT)}::{node.name}")
    assert needed >= TOO_LONG


def test_every_package_file_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources()
        if "x2sam_ros" in path.parts and path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent, f"no module docstring: {silent}"
