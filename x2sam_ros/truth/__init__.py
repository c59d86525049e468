"""Ground truth: one small reader for each layout, behind one interface."""
