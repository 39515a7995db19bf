"""Files that are either whole or not there."""

import os
import tempfile
from pathlib import Path


def write_atomic(path: str | Path, payload: bytes) -> None:
    """Write ``payload`` to ``path`` so that a crash or a full disk leaves the old file, never half of a new one.

    Raises:
        OSError: if the folder or the disk refuses; the message names ``path``.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())     # the bytes must be on disk before the name is
        os.chmod(temporary, 0o644)      # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
