"""The exception tree. Every message says what failed, got and expected, and what to do next."""

from __future__ import annotations

import unicodedata


class X2SamError(Exception):
    """Base of every error a user can cause or fix; the CLI prints it in one line and exits with 2."""


class ConfigError(X2SamError, ValueError):
    """A parameter, preset or option is unknown, out of range or contradicts another."""


class PromptError(X2SamError, ValueError):
    """A prompt cannot be carried out: empty text, click outside the image, unknown target."""


class FrameError(X2SamError, ValueError):
    """A camera frame is unusable: zero size, unknown encoding, a step smaller than the row."""


class LateFrameError(FrameError):
    """A camera frame is older than the newest, or of another camera: it is left out, and the stream goes on."""


class SpaceError(X2SamError, ValueError):
    """A calibration, a depth image or a transform is unusable, or does not fit the image."""


class BagError(X2SamError):
    """A bag or another input is missing, truncated, empty, or lacks the topic asked for."""


class TruthError(X2SamError):
    """Ground truth is missing, damaged, of another layout, or does not fit the images it belongs to."""


class ResultsError(X2SamError):
    """A results file is missing, damaged or of another format, or two of them have nothing to compare."""


class CheckpointError(X2SamError):
    """A checkpoint is missing, corrupt, of another layout or of another size."""


class TrainingError(X2SamError):
    """Training cannot go on: a loss that is no number, sources that give too little."""


class SavedSessionError(X2SamError):
    """A saved session is missing, damaged, or belongs to another model or configuration."""


class NodeError(X2SamError):
    """A running node is not there, not active, cannot be heard, or ended."""


class PluginError(X2SamError):
    """A plugin is unknown, failed to load, or registered a hook that does not exist."""


class ModelError(X2SamError, RuntimeError):
    """The network got tensors it was not built for."""


def plain(text: str) -> str:
    """Return text that cannot command a terminal: what is no character to see becomes a replacement character."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(char)[0] == "C" else char for char in text)


def told(error: BaseException) -> str:
    """Return what a foreign exception says, with its type, in one short line, even where saying it fails."""
    try:
        said = str(error)
    except Exception as worse:  # a third party's, too
        said = type(worse).__name__
    return " ".join(f"{type(error).__name__}: {said:.200}".split())


def described(error: Exception) -> str:
    """Return what went wrong: our own errors in their own words, others as ``told``."""
    return str(error) if isinstance(error, X2SamError) else told(error)
