"""The small form of the faults campaign; ``python -m tests.abuse.soak faults`` is the long one."""

import os
import re

import pytest

from . import faults, parts


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", faults.PARTS)
def test_nothing_is_lost(name, tmp_path):
    run, _, few = faults.PARTS[name]
    figures = parts.keep("short", "faults", name, lambda: run(few, tmp_path))["figures"]
    assert figures["survived"] == figures["tried"] > 0, "\n".join(figures["told"])


def test_the_second_is_told_who_is_at_work(tmp_path):
    assert re.search(rf"held by process {os.getpid()} on {re.escape(os.uname().nodename)}", faults.held(tmp_path))
