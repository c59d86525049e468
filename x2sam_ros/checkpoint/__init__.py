"""Checkpoints: the published layout, this project's folders, the built-in nano weights."""
