"""One notebook run twice at once; the rest of what is done to a book takes minutes and is part of the long form."""

from . import pages, parts


def test_a_notebook_that_is_run_twice_at_once_is_kept_whole(tmp_path):
    figures = parts.keep("short", "faults", "notebook", lambda: pages.notebook_at_once(1, tmp_path))["figures"]
    assert figures["survived"] == figures["tried"] == 1, figures["told"]
