"""Wrong calls of a door, counted: how many were answered, how many refused, and what else happened."""

import contextlib
import resource
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .doors import COSTLY, DOORS, quiet

FINE = (ValueError, OSError, TypeError)
SECONDS = 20                    # of the processor that a call may take; pictures here are far below 4 megapixels
PATIENCE = 300                  # seconds after which a call that waits for something counts as hung
MEMORY = 2 * 2**30              # bytes that a call may ask for beyond what the process has
TOLD = 5                        # faults that are told in full


class TooSlow(BaseException):
    """A call has not ended in time."""


def cases(name: str, base: int) -> int:
    """Calls of a door: ``base``, or less of one that takes long."""
    return max(1, base // COSTLY.get(name, 1))


def campaign(name: str, count: int, folder: Path) -> dict[str, Any]:
    """``count`` wrong calls of the door of that name, each repeatable by its number."""
    draw = DOORS[name](folder)
    counts: dict[str, Any] = {"tried": count, "answered": 0, "refused": 0, "faults": 0, "told": []}
    for seed in range(count):
        rng, wrong, words = np.random.default_rng([zlib.crc32(name.encode()), seed]), None, None
        try:
            with quiet():
                call, words = draw(rng)
                with limited():
                    wrong = call()
            counts["answered"] += wrong is None
        except FINE:
            counts["refused"] += 1
        except TooSlow:
            wrong = f"no end in {SECONDS} seconds"
        except Exception as error:      # noqa: BLE001    the very thing that is looked for
            wrong = f"{type(error).__name__}: {error}"
        if wrong is not None:
            counts["faults"] += 1
            if len(counts["told"]) < TOLD:
                counts["told"].append(f"{name}, number {seed}: {wrong} for {_brief(words)}"[:1500])
    return counts


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """No more than ``SECONDS`` and ``MEMORY`` for the block."""
    def ring(*_: Any) -> None:
        raise TooSlow
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = [signal.signal(number, ring) for number in (signal.SIGALRM, signal.SIGPROF)]
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, 1.0)     # again and again: Python drops one in a destructor
    signal.setitimer(signal.ITIMER_PROF, SECONDS, 1.0)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    try:
        yield
    finally:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
        for number, handler in zip((signal.SIGALRM, signal.SIGPROF), before):
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _brief(words: Any) -> list[str]:
    words = words if isinstance(words, list) else [words]
    return [" ".join(f"{type(each).__name__} {getattr(each, 'dtype', '')} {each!r}".split())[:200] for each in words]
