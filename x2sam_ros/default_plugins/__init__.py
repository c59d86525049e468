"""The plugins a bare install needs, registered the way third parties' are."""
