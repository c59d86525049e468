"""The configuration of a session that runs."""

from __future__ import annotations

from x2sam_ros.config import EngineConfig


class LiveConfig(EngineConfig):
    """One object that all parts of a session hold and read anew each time, so that a change reaches all of them.

    Unlike the configurations that it is made from it is not frozen: it takes over the values of another one, which was
    checked when it was made, in one step, so that no thread ever sees half of them.
    """

    @classmethod
    def of(cls, config: EngineConfig) -> LiveConfig:
        """Return one that has the values of a configuration for now."""
        live = cls.__new__(cls)
        live.become(config)
        return live

    def become(self, config: EngineConfig) -> None:
        """Take over all values of another configuration."""
        vars(self).update(vars(config))
