"""Python's search for unreachable objects, kept away from records, of which none becomes so.

Every search goes through all objects there are: with ten thousand records in memory a tenth of the
time of a board was spent so.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unsearched() -> Iterator[None]:
    """No search within, for code that makes many objects and keeps all of them."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


@contextmanager
def set_aside() -> Iterator[None]:
    """Searches within leave out the objects there were before; within itself it does nothing."""
    if gc.get_freeze_count():
        yield
        return
    searching = gc.isenabled()
    gc.freeze()
    gc.enable()
    try:
        yield
    finally:
        gc.unfreeze()
        if not searching:
            gc.disable()
