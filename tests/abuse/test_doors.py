"""Every public door under wrong arguments: what comes out is an answer or a ValueError, an OSError or a TypeError.

An answer of NaN is none, unless NaN, or what squares to infinity, went in at a door that says it passes; nor is one of
another shape, one that takes more than ``fuzz.SECONDS`` or one that asks for more than ``fuzz.MEMORY``.
``python -m tests.abuse.soak`` makes the same calls by the thousand. A failure names the door and the number that
repeats it.
"""

import pytest

from . import parts
from .doors import DOORS, quiet
from .fuzz import campaign, cases

FEW = 25


@pytest.mark.parametrize("name", DOORS)
def test_a_door_answers_or_says_why_not(name, tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "wrong").mkdir()
    with quiet():
        assert DOORS[name](tmp_path / "good")(None)[0]() is None                # the good call is answered
    some = parts.keep("short", "abuse", name, lambda: campaign(name, cases(name, FEW), tmp_path / "wrong"))
    figures = some["figures"]
    assert not figures["faults"], "\n".join(figures["told"])
