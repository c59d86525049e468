"""Training from scratch on generated scenes: generator, batches, losses, loop."""
