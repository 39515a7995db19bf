"""Worker processes that die: told by name."""

from collections.abc import Iterator
from contextlib import contextmanager

MOST_WORKERS = 256        # a slip of the finger must not start two thousand million processes


@contextmanager
def deaths_named() -> Iterator[None]:
    """For a block that takes batches from a torch ``DataLoader``, whose processes may die.

    Torch tells it at any moment, also between two batches. An exception within a process comes as it is.

    Raises:
        ChildProcessError: an OSError, if one dies: which one, and of what, where the system says so.
    """
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if not text.startswith("DataLoader worker (pid"):
            raise
        raise ChildProcessError(f"a process that fetches data has died: {text}; the system kills one where memory runs "
                                "out: take fewer workers then") from error
