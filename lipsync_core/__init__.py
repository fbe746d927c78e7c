"""LipSync: give a talking video or a portrait a new voice track, and the mouth speaks it."""

__version__ = "0.1.0"

from .dub import Dubbed, dub
from .errors import LipSyncError
from .types import Settings

__all__ = ["Dubbed", "LipSyncError", "Settings", "__version__", "dub"]
