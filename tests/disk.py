"""A disk that is full for a while."""

import contextlib
import resource


@contextlib.contextmanager
def full_disk(room):
    """No file may grow beyond so many bytes: not even the one that pytest prints to, so leave it soon."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
