"""Threads of OpenCV and NumPy: one where pictures are small, and none that a forked process would wait for."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import cv2
from threadpoolctl import ThreadpoolController

_lock = threading.Lock()
_within, _threads = 0, 1          # callers inside ``one_thread``, and OpenCV's threads before the first came
_limit = None                     # of NumPy's matrix products, while somebody is inside


@cache
def _products() -> ThreadpoolController:
    """OpenBLAS, which NumPy and SciPy bring along; of none where theirs is another."""
    return ThreadpoolController().select(internal_api="openblas")


def _hold() -> None:
    global _threads, _limit
    _threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    _limit = _products().limit(limits=1)


def _let_go() -> None:
    global _limit
    cv2.setNumThreads(_threads)
    if _limit is not None:
        _limit.restore_original_limits()
        _limit = None


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV and NumPy work with one thread inside: on small pictures one process per core beats threads.

    NumPy's threads wait in a busy loop for the next matrix product: two processes of two threads rendered 33 faces a
    second on two cores, with one thread each they render 76.
    Both libraries have one number for the whole process. The last of several Python threads to leave puts back what
    the first one found.
    """
    global _within
    with _lock:
        if _within == 0:
            _hold()
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within = max(0, _within - 1)             # 0 already where a child was forked inside
            if _within == 0:
                _let_go()


# A fork copies OpenCV's list of threads and not the threads: a child that changes their number waits for them for
# ever. So they are sent home before every fork, and come back on both sides when OpenCV next wants them.
_before_fork = 1


def _send_home() -> None:
    global _before_fork
    _lock.acquire()               # or the child could inherit it locked
    _before_fork = cv2.getNumThreads()
    cv2.setNumThreads(1)


def _call_back() -> None:
    cv2.setNumThreads(_before_fork)
    _lock.release()


def _start_over() -> None:
    global _within
    _call_back()
    if _within:                   # by Python threads that did not come along
        _within = 0
        _let_go()


if hasattr(os, "register_at_fork"):                   # not on Windows, which has no fork
    os.register_at_fork(before=_send_home, after_in_parent=_call_back, after_in_child=_start_over)
