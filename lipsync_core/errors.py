"""What can go wrong in a way that the user can mend. Each message is one line that says how."""

from __future__ import annotations


class LipSyncError(Exception):
    """Base of all errors meant for people; the command line prints the message and exits with 2."""


class MediaError(LipSyncError):
    """A file cannot be read, holds no usable picture or sound, or cannot be written."""


class FaceError(LipSyncError):
    """No usable face, or not the one that was asked for."""


class EngineError(LipSyncError):
    """An engine is unknown, not ready on this machine, or was asked for what it cannot do."""


class WeightsError(LipSyncError):
    """A weights file is absent, damaged, or not what its name says."""


class SettingsError(LipSyncError, ValueError):
    """A setting has a value that means nothing; the message names the ones that do."""
