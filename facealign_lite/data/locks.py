"""One at a time: locks that die with their process."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:                                     # Windows: nobody is kept out
    fcntl = None


class Held(ValueError):
    """Somebody else is at work there; the text says which process."""


@contextlib.contextmanager
def hold(path: str | Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock ``path``, a file made here, while the block runs.

    The system holds it, and lets it go when the process ends, however it ends: a lock that a dead process left is
    nobody's. Within one process, too, only one block at a time has it.

    Args:
        wait: until the other is done, where there is one.

    Raises:
        Held: if another has it and ``wait`` is false.
        OSError: if the folder refuses.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(path, "a+", encoding="utf-8")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip() or "another process"
            file.close()
            raise Held(f"{path.parent} is held by {who}; wait for it, or take another folder") from None
        # its holder may have removed it between our opening and locking: then it is no longer the lock. Asked in one
        # question: a third may remove the next one between two
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
