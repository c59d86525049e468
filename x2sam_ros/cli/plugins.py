"""``x2sam plugins``: what is installed and what it offers."""

from __future__ import annotations

PIPED_WIDTH = 200
"""Columns when the output is no terminal, so that no name is cut in a file or a pipe."""


def plugins() -> None:
    """List the plugins: name, version, distribution, hooks and what they offer."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from x2sam_ros.plugins import load_plugins

    table = Table(title="x2sam_ros plugins")
    for heading in ("name", "version", "distribution", "hooks", "offers"):
        table.add_column(heading, overflow="fold")
    for plugin in load_plugins().plugins:
        hooks = "\n".join(plugin.hooks) or "-"
        offers = Text(f"not loaded: {plugin.error}", "red") if plugin.error else Text(", ".join(plugin.provides) or "-")
        table.add_row(Text(plugin.name), plugin.version, Text(plugin.distribution), hooks, offers)
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    console.print(table)
