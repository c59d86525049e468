"""What training cost and saw, counted for each source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from rich.table import Table
from rich.text import Text

from x2sam_ros.errors import plain

HELD_OUT = "held-out scores"
"""Account of the time that scoring takes."""

_HOUR = 3600.0


@dataclass
class Account:
    """What one source was given.

    Args:
        steps: steps of the optimiser.
        samples, frames: over all processes.
        device_seconds: time in steps, of all devices together.
        waiting_seconds: the part of it in which batches were waited for.
        processor_seconds: what processors worked in it for all training processes, those that read ahead left out; on
            a machine that is shared, the fairer measure.
    """

    steps: int = 0
    samples: int = 0
    frames: int = 0
    device_seconds: float = 0.0
    waiting_seconds: float = 0.0
    processor_seconds: float = 0.0


@dataclass
class Ledger:
    """The accounts of a run; resumed runs go on counting.

    Args:
        accounts: by source.
        device: what the hours are of, for example ``cpu``.
    """

    device: str
    accounts: dict[str, Account] = field(default_factory=dict)

    def add(
        self, source: str, samples: int, frames: int, seconds: float, waiting: float, worked: float, steps: int = 1
    ) -> None:
        """Count one step, or what is none."""
        account = self.accounts.setdefault(source, Account())
        account.steps += steps
        account.samples += samples
        account.frames += frames
        account.device_seconds += seconds
        account.waiting_seconds += waiting
        account.processor_seconds += worked

    @property
    def total(self) -> Account:
        """All sources together."""
        rows = [asdict(account) for account in self.accounts.values()]
        return Account(**{name: sum(row[name] for row in rows) for name in asdict(Account())})

    @property
    def waiting(self) -> float:
        """Share of the time in which batches were waited for, 0 to 1."""
        total = self.total
        return total.waiting_seconds / total.device_seconds if total.device_seconds else 0.0

    def state(self) -> dict[str, dict[str, float]]:
        """Return the accounts in values that JSON knows."""
        return {source: asdict(account) for source, account in self.accounts.items()}

    def restore(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Go on from accounts of an earlier run."""
        self.accounts = {source: Account(**account) for source, account in state.items()}  # type: ignore[arg-type]

    def table(self) -> Table:
        """Return what was counted, to be printed."""
        table = Table("source", "steps", "samples", "frames", f"{self.device} hours", "waiting")
        for source, account in [*sorted(self.accounts.items()), ("all", self.total)]:
            share = account.waiting_seconds / account.device_seconds if account.device_seconds else 0.0
            counts = (f"{count:,}" for count in (account.steps, account.samples, account.frames))
            table.add_row(Text(plain(source)), *counts, f"{account.device_seconds / _HOUR:.3f}", f"{share:.0%}")
        return table
