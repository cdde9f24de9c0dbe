"""Where steelyard keeps what it can make again."""

import os
from pathlib import Path


def folder() -> Path:
    """``steelyard`` in the user's cache folder, which ``XDG_CACHE_HOME`` names."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steelyard"
