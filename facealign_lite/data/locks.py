"""One process at a time in a folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:                                     # Windows: nobody is kept out
    fcntl = None


@contextlib.contextmanager
def hold(path: str | Path) -> Iterator[None]:
    """Hold the lock ``path``, an empty file made here, until the block ends or the process dies, however it dies.

    Raises:
        ValueError: if another process (or this one) holds it; the message says which.
        OSError: if the folder refuses.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(path, "a+")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
            file.close()                                # its holder removed it between our opening and locking
        except OSError:
            file.seek(0)
            who = file.read().strip() or "another process"
            file.close()
            raise ValueError(f"{path.parent} is in use by process {who}; wait for it, or take another folder") from None
    try:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
