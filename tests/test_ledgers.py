"""The ledgers name only what exists, and leave nothing out."""

import ast
import importlib
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from book import ledgers
from experiments import claims, verdict
from facealign_lite import records

ROOT = Path(__file__).resolve().parents[1]
EQUATIONS, CLAIMS = ledgers.read("equations"), ledgers.read("claims")
NUMBERED = {"ACE": ("acenet", 26), "TAB": ("tab", 6), "SCPAN": ("scpan", 21), "RHT": ("rht", 10), "MSM": ("msm", 12)}
# what a paper gives without a number: sections, figures, tables and algorithms
PARTS = {"ACE": ("S3.4", "S4", "F11"), "SCPAN": ("A1",), "MSM": ("T1", "T2", "T9", "F3", "F7", "S4C", "A1", "A2")}
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
    """Controls of ours follow the claim that they are about, with a letter behind its number."""
    ids = [re.fullmatch(r"C(\d+)([a-z]?)", row["id"]).groups() for row in CLAIMS]
    assert sorted(int(number) for number, letter in ids if not letter) == list(range(1, 30))
    assert len(ids) == len(set(ids))
    for paper in ledgers.PAPERS:
        own = [(int(number), letter) for (number, letter), row in zip(ids, CLAIMS) if row["paper"] == paper]
        assert own == sorted(own)
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


# claims whose arms are one network read in several ways, so that no seed makes a difference
READ_ONLY = {row["id"] for row in CLAIMS if not any(one.trained for one in claims.Comparison.of(row))}


@pytest.mark.parametrize("row", CLAIMS, ids=by_id)
def test_a_claim_rests_on_three_seeds_of_every_arm_and_on_no_typed_verdict(row):
    assert set(row) == {"id", "paper", "claim", "figures", "metric", "compare", "beside", "shows", "note"}
    assert row["claim"].strip() and row["figures"].strip() and row["compare"] and row["shows"]
    for arm in ledgers.arms(row):
        runs = records.read_seeds(arm, clean=True)
        assert len({seed for run in runs for seed in run["seeds"]}) == len(runs), arm
        assert len(runs) >= (1 if row["id"] in READ_ONLY else 3), arm
        assert len({str(run["budget"]) + run["data"] for run in runs}) == 1, arm
    figures = {name for arm in ledgers.arms(row) for run in records.read_seeds(arm) for name in run["figures"]}
    assert figures >= set(row["shows"]) and len(ledgers.measured(row)) == len(ledgers.arms(row))


@pytest.mark.parametrize("row", CLAIMS, ids=by_id)
def test_a_claim_is_judged_by_paired_seeds_at_the_lite_budget(row):
    found = claims.judge(row)
    assert [one.comparison for one in found] == claims.Comparison.of(row)
    assert all(one.strict.low <= one.verdict.low for one in found)
    assert all(one.verdict.faces >= 600 if row["id"] in READ_ONLY else one.verdict.seeds >= 3 for one in found)
    word, budget = claims.says(row)
    assert word in (verdict.HOLDS, verdict.FAILS, verdict.OPEN) and budget in claims.BUDGETS
    assert len(ledgers.compared(row)) == sum(len(claims.judge(row, budget)) for budget in claims.BUDGETS)


@pytest.mark.parametrize("row", CLAIMS, ids=by_id)
def test_the_papers_figures_of_a_comparison_are_among_those_that_are_told(row):
    told = set(re.findall(r"\d+\.\d+", row["figures"]))
    for one in row["compare"]:
        assert {f"{value:.2f}" for value in one.get("paper", [])} <= told, one


def test_per_face_errors_are_taken_where_they_are():
    """Of which claims they are not: parts of a face, subsets, maps read without votes and other lenders, in records of
    before."""
    by_seed = {row["id"] for row in CLAIMS for one in claims.judge(row) if one.verdict.faces == 1}
    assert by_seed <= {"C6", "C13", "C16", "C17", "C28"}


# ---- judging made-up records ---------------------------------------------------------------------------------------

FACTS = {"what": "w", "data": "d", "budget": {}, "commit": "c", "device": "cpu", "seconds": 1.0}
ROW = {"id": "C0", "metric": "nme", "compare": [{"better": "a", "worse": "b", "paper": [3.0, 4.0]}]}


def written(folder, arm, rows, **facts):
    """Records of an arm, a row of errors a seed."""
    for seed, errors in enumerate(rows):
        figures = {"nme": np.mean(errors), "errors": errors, "failures": np.mean(np.array(errors) > 0.1)}
        records.write_record(f"{arm}-{seed}", FACTS | {"seeds": [seed], "figures": figures} | facts, folder)


def test_a_verdict_is_that_of_the_errors_in_the_records(tmp_path):
    rng = np.random.default_rng(0)
    better = rng.uniform(0.02, 0.2, (3, 50))
    worse = better * 1.5 + rng.normal(0, 0.001, (3, 50))
    written(tmp_path, "a", better), written(tmp_path, "b", worse)
    [found] = claims.judge(ROW, folder=tmp_path)
    wanted = verdict.verdict(better, worse, 0.25 * worse.mean())
    assert found.verdict == wanted and wanted.says == verdict.HOLDS and claims.says(ROW, tmp_path) == ("holds", "lite")
    assert found.share(found.verdict.difference) == pytest.approx(1 / 3, abs=0.01)
    assert re.search(r"gain \+33\.\d % \[.*\], the paper's \+25\.0: holds \(3 seeds, 50 faces\)", claims.line(found))
    turned = ROW | {"compare": [{"better": "b", "worse": "a"}]}
    assert claims.says(turned, tmp_path) == ("does not hold", "lite")
    failures = ROW | {"compare": [{"better": "a@failures", "worse": "b@failures"}]}
    assert claims.judge(failures, folder=tmp_path)[0].verdict.difference == pytest.approx(
        (worse > 0.1).mean() - (better > 0.1).mean())


def test_seeds_are_paired_and_the_largest_budget_decides(tmp_path):
    written(tmp_path, "a", np.full((3, 9), 0.1)), written(tmp_path, "b", np.full((5, 9), 0.2) + np.eye(5, 9) / 100)
    assert claims.judge(ROW, folder=tmp_path)[0].verdict.seeds == 3
    assert claims.says(ROW, tmp_path) == ("holds", "lite") and claims.judge(ROW, "gpu", tmp_path) == []
    written(tmp_path, "gpu-a", np.full((4, 9), 0.2) + np.eye(4, 9) / 100)
    written(tmp_path, "gpu-b", np.full((4, 9), 0.1))
    assert claims.says(ROW, tmp_path) == ("does not hold", "gpu") and claims.judge(ROW, "lite", tmp_path)


def test_what_cannot_be_judged_is_open_or_refused(tmp_path):
    assert claims.says(ROW, tmp_path) == ("open", "")
    written(tmp_path, "a", [[0.1, 0.2]])
    assert claims.says(ROW, tmp_path) == ("open", "")
    written(tmp_path, "b", [[0.2, 0.3]])
    assert claims.says(ROW, tmp_path) == ("cannot be told", "lite")                     # one seed
    for facts, seen in (({"budget": {"steps": 2}}, "one budget"), ({"data": "other"}, "one budget"),
                        ({"commit": "c+"}, "changed tree"), ({"figures": {"other": 1}}, "metric"),
                        ({"figures": {"nme": 0.9, "errors": [0.2, 0.3]}}, "mean")):
        written(tmp_path, "b", [[0.2, 0.3]], **facts)
        with pytest.raises(ValueError, match=seen):
            claims.judge(ROW, folder=tmp_path)
    for one in ({"better": "a"}, {"better": "a", "worse": "b", "paper": [4.0, 3.0]}):
        with pytest.raises(ValueError, match="C0"):
            claims.Comparison.of(ROW | {"compare": [one]})


def test_two_that_are_level_are_so_both_ways():
    row = ROW | {"compare": [{"level": ["a", "b"], "allowed": 0.05}]}
    assert claims.Comparison.of(row) == [claims.Comparison("a", "b", allowed=0.05),
                                         claims.Comparison("b", "a", allowed=0.05)]


def test_the_command_prints_verdicts(capsys):
    assert claims.main(["C8"]) == 0
    assert re.match(r"C8 (holds|does not hold|cannot be told) \(\w+\): .*\n    \w+: tab-vgg against tab-single: ",
                    capsys.readouterr().out)
    assert claims.main(["C99"]) == 2 and "C99" in capsys.readouterr().err


def cells(html):
    """Texts of the cells of a board's rows, and what stands in its rows of claims."""
    heads = re.findall(r'<tr><th colspan="4"[^>]*>(.*?)</th></tr>', html)
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr><td.*?</tr>", html)]
    return [re.sub("<[^>]+>", "", head) for head in heads], rows


def test_a_board_has_the_verdicts_of_its_claims():
    row = next(row for row in CLAIMS if row["id"] == "C7")
    heads, rows = cells(claims.board(["C7"], lambda arm: arm.removeprefix("tab-").replace("@", ", ")))
    found = claims.judge(row)
    assert heads == [f"C7, {claims.says(row)[0]}: {row['claim']} (3 trainings of each, 600 faces)"]
    assert [one[0] for one in rows] == ["vgg <i>against</i> resnet, nme", "resnet <i>against</i> hourglass, nme"]
    for (_, errors, gain, says), one in zip(rows, found, strict=True):
        v = one.verdict
        assert errors == f"{100 * one.better:.2f}, {100 * one.worse:.2f}" and says.split(";")[0] == v.says
        picture, gain = gain.split("<br>", 1)
        gain = gain.replace("<br>", ", ")
        assert gain == (f"{100 * one.share(v.difference):+.1f} [{100 * one.share(v.low):+.1f}, "
                        f"{100 * one.share(v.high):+.1f}], the paper: {100 * one.comparison.effect:+.1f}")
        assert claims.COLOURS[v.says] in picture
    assert claims.BAND not in claims.board(["C7"]) and claims.BAND in claims.board(["C7", "C22"])
    with pytest.raises(KeyError):
        claims.board(["C99"])


def test_two_that_are_level_stand_once_on_a_board():
    row = next(row for row in CLAIMS if row["id"] == "C22")
    found = claims.judge(row)
    assert len(claims.once(found)) == len(found) // 2
    for one, says in claims.once(found):
        both = [f for f in found if {f.comparison.better, f.comparison.worse}
                == {one.comparison.better, one.comparison.worse}]
        assert len(both) == 2 and (says == "holds") == all(f.verdict.says == "holds" for f in both)


def test_what_two_variants_share_is_said_once():
    assert claims._against("a, b, 20 % hidden", "a, c, 20 % hidden") == "a: b <i>against</i> c, 20 % hidden"
    assert claims._against("a", "a, b") == "a <i>against</i> a, b"
    assert claims._against("a, x", "a, x") == "a: x <i>against</i> x"


def test_the_picture_of_an_interval_is_drawn_to_scale():
    comparison = claims.Comparison("a", "b", effect=0.1, allowed=0.05)
    result = verdict.Verdict("holds", 0.02, -0.01, np.inf, 0.0, 0.1, 3, 9, None)
    picture = claims.bar(claims.Found(comparison, result, result, 0.18, 0.2), "holds", 0.2)
    width, half = claims.BAR[0], claims.BAR[0] * claims.SHARE
    low, high = map(float, re.search(r"M([\d.]+) [\d.]+H([\d.]+)", picture).groups())
    assert low == pytest.approx(width / 2 + half * -0.05 / 0.2, abs=0.1)
    assert high == pytest.approx(width / 2 + half, abs=0.1)                    # endless: to the end of the picture
    assert float(re.search(r'circle cx="([\d.]+)"', picture)[1]) == pytest.approx(width / 2 + half * 0.1 / 0.2, abs=0.1)
    x, wide = map(float, re.search(r'rect x="([\d.]+)" y="1" width="([\d.]+)"', picture).groups())
    assert (x, wide) == pytest.approx((width / 2 - half / 4, half / 2), abs=0.1)
    assert float(re.findall(r"M([\d.]+) ", picture)[-1]) + 5 == pytest.approx(width / 2 + half / 2, abs=0.1)  # diamond


def test_figures_of_a_claim_are_computed_from_its_records(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "RESULTS", tmp_path)
    facts = {"what": "w", "data": "d", "seeds": [0], "budget": {}, "commit": "c", "device": "cpu", "seconds": 1.0}
    for seed, error in enumerate((0.01, 0.02, 0.03)):
        records.write_record(f"arm-{seed}", facts | {"figures": {"nme": error, "nme_chin": 0.1}}, tmp_path)
    records.write_record("arm-other-0", facts | {"figures": {"nme": 1}}, tmp_path)
    row = {"id": "C0", "compare": [{"better": "arm", "worse": "arm@nme_chin"}], "beside": [], "shows": ["nme"]}
    assert ledgers.measured(row) == ["`results/arm`: 2.00 ± 1.00 (3 seeds)"]
    row["shows"] = ["nme", "nme_chin"]
    assert ledgers.measured(row) == ["`results/arm`: all 2.00 ± 1.00, chin 10.00 ± 0.00 (3 seeds)"]
    assert ledgers.spread([0.1], "nme_t_0.4", ["nme_t_0.4", "nme_t_0.6"]) == "0.4 10.00"


def test_the_pages_show_every_row():
    equations, claims = ledgers.equations_page(), ledgers.claims_page()
    for page, rows in ((equations, EQUATIONS), (claims, CLAIMS)):
        shown = Counter(re.findall(r"^\* - \(row-\S+\)=\n    (\S+)$", page, re.MULTILINE))
        assert all(shown[row["id"]] == 1 for row in rows)
    for row in COMPUTED:
        assert row["function"].removeprefix("facealign_lite.") in equations


def test_what_came_out_names_every_claim_with_its_verdict():
    page = ledgers.outcome_page()
    for row in CLAIMS:
        word, _ = claims.says(row)
        assert re.search(rf"\{{ref\}}`{row['id']} <row-{row['id'].lower()}>`\n  - [^\n]+\n  - \*\*{word}\*\*", page)
        assert f"(row-{row['id'].lower()})=" in ledgers.claims_page()


def test_the_picture_of_the_gains_is_to_scale():
    row = {"id": "C99"}
    comparison = claims.Comparison("x-with", "x-without", 0.2)
    # errors 0.9 and 1.0 exactly: a gain of 10 % with an interval from 5 to 15 %
    result = verdict.Verdict("holds", 0.1, 0.05, 0.15, 0.0, 0.1, 3, 10, None)
    pictures = ledgers.gains([(row, claims.Found(comparison, result, result, 0.9, 1.0))], "X")
    wide, small = re.findall("<svg.*?</svg>", pictures)                      # the second for a phone
    for picture, width in ((wide, ledgers.WIDTH), (small, 358)):
        at = {text: float(re.search(rf'x="([\d.]+)" y="\d+" text-anchor="middle">{text}<', picture)[1])
              for text in ("-60 %", "0", r"\+20 %", r"\+60 %")}
        zero, unit = at["0"], (at[r"\+20 %"] - at["0"]) / 20
        assert 0 <= at["-60 %"] < zero < at[r"\+60 %"] <= width
        low, high = map(float, re.search(r'<line x1="([\d.]+)" x2="([\d.]+)" y1="[\d.]+" y2="[\d.]+" stroke',
                                         picture).groups())
        assert low == pytest.approx(zero + 5 * unit, abs=0.1) and high == pytest.approx(zero + 15 * unit, abs=0.1)
        assert float(re.search(r'cx="([\d.]+)"', picture)[1]) == pytest.approx(zero + 10 * unit, abs=0.1)
        assert float(re.search(r'd="M([\d.]+) ', picture)[1]) + 5 == pytest.approx(zero + 20 * unit, abs=0.1)
        assert "with / without" in picture and ledgers.COLOURS["holds"] in picture


def test_errata_are_the_corrected_rows():
    named = re.findall(r"\{ref\}`([^ ]+) <row-", ledgers.errata_page())
    assert named == [row["id"] for row in EQUATIONS if row["status"] == "corrected"] and named


def test_the_way_to_the_tables_names_every_set_and_speed():
    page = ledgers.tables_page()
    assert all(f"* - {name}\n  - `{folder}`" in page for name, (folder, _, _) in ledgers.SETS.items())
    speed = records.read_record("training_speed_cuda")["figures"]["scpan"]
    assert f"* - scpan\n  - {speed['batch']}\n  - {speed['eager_a_second']:,.0f}\n" in page


def test_numbers_of_weights_are_told_as_they_are():
    told = ledgers.spread([12552.0, 12552.0], "stem_parameters", ["nme", "stem_parameters"])
    assert told == "12,552 weights in the stem"
    [row] = [row for row in CLAIMS if row["id"] == "C7"]
    assert all("weights in the stem" in line for line in ledgers.measured(row))
