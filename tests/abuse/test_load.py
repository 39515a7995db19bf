"""The small form of the load campaign: fewer calls, the same questions."""

import sys

import pytest

from facealign_lite import zoo
from facealign_lite.data.tensors import read_tensors

from . import load, parts

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc, and other systems do not fork")


@linux
def test_files_of_weights_leave_nothing_behind(tmp_path):
    """safetensors' own reader keeps 40 kB of each file that it opened; 200 times that would be 8 MB."""
    path = zoo.FOLDER / "msm.safetensors"
    for _ in range(20):
        read_tensors(path)
    before = load.resident()
    for _ in range(200):
        read_tensors(path)
    assert load.resident() - before < 4


@linux
@pytest.mark.parametrize("name, count", [("align", 120), ("all_aligned", 10), ("tracked", 80)])
def test_memory_stays_flat(name, count):
    figures = parts.keep("short", "load", name, lambda: {
        "align": load.aligned, "all_aligned": load.all_aligned, "tracked": load.tracked}[name](count))["figures"]
    assert figures["grown_mb"] < load.FLAT
    assert figures["found"] >= 0.9 * count


def test_threads_find_the_same():
    figures = parts.keep("short", "load", "threads", lambda: load.threads(16))["figures"]
    assert figures["hung"] == figures["different"] == 0


@linux
def test_processes_that_are_forked_after_use_find_the_same():
    """Those that are started afresh are part of the long form: each loads torch anew."""
    figures = parts.keep("short", "load", "fork", lambda: load.processes("fork", 8))["figures"]
    assert figures["hung"] == figures["different"] == 0
