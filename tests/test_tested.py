"""The page "How this book is tested" says what is counted and recorded, and nothing else."""

import pytest

from book import tested
from facealign_lite import records

COMMON = {"what": "w", "data": "d", "seeds": [0], "budget": {}, "commit": "abc", "device": "cpu", "seconds": 90.0}
ABUSE = {"nme": {"tried": 1200, "answered": 200, "refused": 999, "faults": 1, "told": ["nme, number 3: KeyError"]},
         "png": {"tried": 800, "answered": 300, "refused": 500, "faults": 0, "told": []}}
FAULTS = {"training: full disk": {"tried": 50, "survived": 49, "told": ["files of at most 3 bytes: lost"]},
          "same numbers: training": {"tried": 30, "survived": 30, "told": []},
          "same numbers: threads": {"tried": 9, "survived": 9, "told": [], "largest_difference_px": 0.0012}}
LOAD = {"align": {"calls": 20000, "found": 19990, "grown_mb": 0.26, "resident_mb": 400.0, "first_ms": 21.2,
                  "last_ms": 21.6},
        "8 threads": {"calls": 400, "at_once": 8, "hung": 0, "different": 2}}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    return tmp_path


def test_what_has_not_been_run_is_said(results):
    assert tested.page().count("has not been run yet") == 3


def test_tables_are_the_records(results):
    for name, figures in (("abuse", ABUSE), ("faults", FAULTS), ("load", LOAD)):
        records.write_record(name, COMMON | {"figures": figures}, results)
    text = tested.page()
    assert ("Of 2,000 wrong calls of 2 doors, 500 gave a result, 1,499 gave an error that names the argument, and 1"
            " were faults" in text)
    assert "* - `nme`\n  - 1,200\n  - 200\n  - 999\n  - 1\n" in text and "nme, number 3: KeyError" in text
    assert "49 of 50 survived" in text and "files of at most 3 bytes: lost" in text
    assert "* - Training: full disk\n  - 50\n  - 49\n" in text
    assert "* - `align`\n  - 20,000\n  - 19,990\n  - 0.3 MB\n  - 21.2 ms\n  - 21.6 ms\n" in text
    assert "* - 8 threads\n  - 400\n  - 2\n  - 0\n" in text and "differed by 0.001 pixels" in text


def test_a_record_of_a_changed_tree_is_not_shown(results):
    records.write_record("load", COMMON | {"commit": "abc+", "figures": LOAD}, results)
    with pytest.raises(ValueError, match="changed tree"):
        tested.page()


def test_tests_are_counted(tmp_path, monkeypatch):
    (tmp_path / "test_a.py").write_text("@given(st.integers())\ndef test_one(x):\n    pass\n\n\n"
                                        "def helper():\n    pass\n\n\ndef test_gradient_of_it():\n    pass\n")
    (tmp_path / "abuse").mkdir()
    (tmp_path / "abuse" / "test_b.py").write_text("class A:\n    def test_two(self):\n        gradcheck()\n")
    monkeypatch.setattr(tested, "TESTS", tmp_path)
    counted = tested.count_tests()
    assert {kind: counted[kind] for kind in ("all", "invariants", "gradients", "abuse", "browser")} == {
        "all": 3, "invariants": 1, "gradients": 2, "abuse": 1, "browser": 0}


def test_every_package_has_a_licence():
    first, rest = tested.dependencies()
    assert {"torch", "numpy", "safetensors", "opencv-python-headless"} <= set(first) and "pytest" in rest
    assert not set(first) & set(rest)
    assert [name for name in (*first, *rest) if tested.licence(name) == "not said"] == []
