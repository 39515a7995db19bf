"""Locks: one at a time, whatever the others do to the file."""

import os

import pytest

from facealign_lite.data import locks
from facealign_lite.data.locks import Held, hold

pytestmark = pytest.mark.skipif(locks.fcntl is None, reason="no locks on this system")


def test_one_at_a_time_and_then_the_next(tmp_path):
    with hold(tmp_path / "lock"):
        with pytest.raises(Held, match=f"process {os.getpid()}"), hold(tmp_path / "lock"):
            pass
    with hold(tmp_path / "lock"):
        pass
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("others", [lambda path: path.unlink(), lambda path: (path.unlink(), path.touch())],
                         ids=["gone", "another"])
def test_a_lock_that_is_removed_as_it_is_taken_is_taken_anew(tmp_path, monkeypatch, others):
    """The holder before removes its file between our opening it and our looking, or a third has made another."""
    path, asked = tmp_path / "lock", []

    def fstat(number, true=os.fstat):
        asked.append(number)
        if len(asked) == 1:
            others(path)
        return true(number)
    monkeypatch.setattr(locks.os, "fstat", fstat)
    with hold(path), pytest.raises(Held), hold(path):
        pass
    assert len(asked) >= 2
