"""Files that are either whole or not there."""

import errno
import glob
import os
import re
import secrets
import stat
from pathlib import Path

NAME = 40                               # letters of a name that its unfinished file has, too


def write_atomic(path: str | Path, payload: bytes) -> None:
    """Write ``payload`` to ``path`` so that a crash or a full disk leaves the old file, never half of a new one.

    A link is followed: what it points to is written, and it stays a link. A file that was there keeps its permissions.

    Raises:
        OSError: if the folder or the disk refuses, or something is there that is no file (a folder, a device, a pipe);
            the message names ``path``.
    """
    path, temporary = Path(path), None
    try:
        target = Path(os.path.realpath(path))
        mode = _mode(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name[:NAME]}.{secrets.token_hex(8)}")
        with open(temporary, "xb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())     # the bytes must be on disk before the name is
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException as error:      # Ctrl-C too leaves nothing behind
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
        raise


def sweep(path: str | Path) -> None:
    """Take away the unfinished files that killed writers of ``path`` left; for whoever alone may write it now."""
    path = Path(path)
    if len(path.name) > NAME:           # cut short, it may be another's
        return
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if re.fullmatch(r"[0-9a-f]{16}", left.name[len(path.name) + 2:]):
            left.unlink(missing_ok=True)


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two paths name one file, through links, or would where capitals do not count; it need not be there."""
    one, other = os.fsdecode(one), os.fsdecode(other)      # numbers would be taken for open files
    try:
        if os.path.samefile(one, other):
            return True
    except OSError:                     # at least one is not there
        pass
    return os.path.realpath(one).casefold() == os.path.realpath(other).casefold()


def _mode(path: Path) -> int | None:
    """Permissions of the file that is there; None if there is none."""
    try:
        found = path.lstat().st_mode    # lstat: what is still a link points to itself
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        raise OSError(errno.EISDIR if stat.S_ISDIR(found) else errno.EINVAL, "it is there and is no ordinary file")
    return stat.S_IMODE(found)
