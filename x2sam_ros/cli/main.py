"""The ``x2sam`` program. A command is a file of this folder with a function of the same name."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer

import x2sam_ros
from x2sam_ros import cli
from x2sam_ros.errors import X2SamError, plain

EXIT_BAD_INPUT = 2
"""Exit code of every error that the user can mend."""

_EXTRAS = {"accelerate": "training", "peft": "training"}
"""Optional package -> the extra of setup.cfg that it comes with."""


def build_app() -> typer.Typer:
    """Build the program from the files in this folder."""
    app = typer.Typer(
        name="x2sam",
        help="Find, segment and track what you name, click or box in a camera stream.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for module in sorted(pkgutil.iter_modules(cli.__path__), key=lambda module: module.name):
        command = getattr(importlib.import_module(f"{cli.__name__}.{module.name}"), module.name, None)
        if module.name != "main" and callable(command):
            app.command(module.name.replace("_", "-"))(command)
    return app


def main() -> None:
    """Run the program: a known error is one line on stderr and exit code 2."""
    try:
        build_app()()
    except X2SamError as error:
        _fail(" ".join(str(error).split()))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        _fail(f"this command needs {package}; in the repository: pip install '.[{_EXTRAS[package]}]'")
    except OSError as error:
        _fail(f"{error.filename or 'file'}: {error.strerror or error}")


def _fail(message: str) -> None:
    sys.stderr.write(f"error: {plain(message)}\n")
    raise SystemExit(EXIT_BAD_INPUT)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"x2sam {x2sam_ros.__version__}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(False, "--version", is_eager=True, callback=_print_version, help="Say the version."),
) -> None:
    """Find, segment and track what you name, click or box in a camera stream."""


if __name__ == "__main__":
    main()
