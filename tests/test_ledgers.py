"""The ledgers name only what exists, and leave nothing out."""

import ast
import importlib
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest

from book import ledgers
from facealign_lite import records

ROOT = Path(__file__).resolve().parents[1]
EQUATIONS, CLAIMS = ledgers.read("equations"), ledgers.read("claims")
NUMBERED = {"ACE": ("acenet", 26), "TAB": ("tab", 6), "SCPAN": ("scpan", 21), "RHT": ("rht", 10), "MSM": ("msm", 12)}
# what a paper gives without a number: sections, figures, tables and algorithms
PARTS = {"ACE": ("S3.4", "S4", "F11"), "SCPAN": ("A1",), "MSM": ("T1", "T2", "F3", "A1", "A2")}
COMPUTED = [row for row in EQUATIONS if row["status"] != "open"]


@lru_cache
def functions_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def by_id(row):
    return row["id"]


def test_every_equation_and_part_has_its_row_and_no_other():
    assert sum(count for _, count in NUMBERED.values()) == 75
    wanted = [(f"{short}-{n}", paper) for short, (paper, count) in NUMBERED.items()
              for n in (*range(1, count + 1), *PARTS.get(short, ()))]
    assert [(row["id"], row["paper"]) for row in EQUATIONS] == wanted


def test_every_claim_has_its_row_and_no_other():
    assert [row["id"] for row in CLAIMS] == [f"C{n}" for n in range(1, 25)]
    assert {row["paper"] for row in CLAIMS} == set(ledgers.PAPERS)


@pytest.mark.parametrize("row", EQUATIONS, ids=by_id)
def test_an_equation_row_is_whole(row):
    assert set(row) == {"id", "paper", "says", "function", "tests", "status", "note"}
    assert row["status"] in ledgers.STATUSES and row["says"].strip() and "\n" not in row["says"]
    assert (row["status"] == "open") == (row["function"] is None) == (row["tests"] == [])
    if row["status"] in ("corrected", "chosen"):
        assert row["note"]


@pytest.mark.parametrize("row", COMPUTED, ids=by_id)
def test_the_function_exists_and_is_documented(row):
    module, name = row["function"].rsplit(".", 1)
    found = getattr(importlib.import_module(module), name)
    assert callable(found) and found.__doc__


@pytest.mark.parametrize("row", COMPUTED, ids=by_id)
def test_the_tests_exist(row):
    for test in row["tests"]:
        path, name = re.fullmatch(r"(tests/[\w/]+\.py)::(test_\w+)", test).groups()
        assert name in functions_in(ROOT / path), test


@pytest.mark.parametrize("row", CLAIMS, ids=by_id)
def test_a_verdict_rests_on_three_seeds_of_every_arm(row):
    assert set(row) == {"id", "paper", "claim", "figures", "records", "shows", "verdict", "why"}
    assert row["verdict"] in ledgers.VERDICTS and row["claim"].strip() and row["figures"].strip()
    assert (row["verdict"] == "open") == (row["records"] == []) == (row["shows"] == []) == (row["why"] is None)
    for arm in row["records"]:
        runs = records.read_seeds(arm)
        assert len({seed for run in runs for seed in run["seeds"]}) == len(runs) >= 3, arm
        assert len({str(run["budget"]) + run["data"] for run in runs}) == 1, arm
        assert all(row["shows"][0] in run["figures"] for run in runs)
    figures = {name for arm in row["records"] for run in records.read_seeds(arm) for name in run["figures"]}
    assert figures >= set(row["shows"]) and len(ledgers.measured(row)) == len(row["records"])


def test_figures_of_a_claim_are_computed_from_its_records(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "RESULTS", tmp_path)
    facts = {"what": "w", "data": "d", "seeds": [0], "budget": {}, "commit": "c", "device": "cpu", "seconds": 1.0}
    for seed, error in enumerate((0.01, 0.02, 0.03)):
        records.write_record(f"arm-{seed}", facts | {"figures": {"nme": error, "nme_chin": 0.1}}, tmp_path)
    records.write_record("arm-other-0", facts | {"figures": {"nme": 1}}, tmp_path)
    row = {"records": ["arm"], "shows": ["nme"]}
    assert ledgers.measured(row) == ["`results/arm`: 2.00 ± 1.00 (3 seeds)"]
    row = {"records": ["arm"], "shows": ["nme", "nme_chin"]}
    assert ledgers.measured(row) == ["`results/arm`: all 2.00 ± 1.00, chin 10.00 ± 0.00 (3 seeds)"]
    assert ledgers.spread([0.1], "nme_t_0.4", ["nme_t_0.4", "nme_t_0.6"]) == "0.4 10.00"


def test_the_pages_show_every_row():
    equations, claims = ledgers.equations_page(), ledgers.claims_page()
    for page, rows in ((equations, EQUATIONS), (claims, CLAIMS)):
        shown = Counter(re.findall(r"^\* - (\S+)$", page, re.MULTILINE))
        assert all(shown[row["id"]] == 1 for row in rows)
    for row in COMPUTED:
        assert row["function"].removeprefix("facealign_lite.") in equations
