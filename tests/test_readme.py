"""The figures that README prints are those of the records."""

import json
import re

import pytest

from facealign_lite.records import ROOT
from facealign_lite.tracking import OneEuro

TEXT = (ROOT / "README.md").read_text()
COLUMNS = ("mean", "median", "inner51", "failures")


@pytest.mark.parametrize("row, measured", [("not one real photo seen", "box x 1.0, raw"),
                                           ("labels adapted by a linear map", "box x 1.0, ridge map")])
def test_the_table_of_photos(row, measured):
    found = json.loads((ROOT / "results" / "photos_hourglass.json").read_text())["figures"][measured]
    printed = re.search(rf"^\| this library, {row}[^|]*\|(.*)\|$", TEXT, re.M)[1].split("|")
    assert [float(cell) for cell in printed] == [round(found[name], 2) for name in COLUMNS]


def test_how_near_the_networks_come_on_photos():
    errors = {}
    for name in ("hourglass", "tab", "scpan", "msm_align", "rht"):
        record = json.loads((ROOT / "results" / f"photos_{name}.json").read_text())
        errors[name] = record["figures"]["box x 1.0, raw"]["mean"]
    near = [errors[name] for name in ("hourglass", "tab", "scpan", "msm_align")]
    assert max(near) - min(near) < 0.1 < errors["rht"] - max(near) < 0.2           # "less than two tenths behind"


def test_how_far_the_angles_err():
    found = json.loads((ROOT / "results" / "pose.json").read_text())["figures"]["quadratic_found"]["at_45"]["median"]
    assert "err by {:.1f}, {:.1f} and {:.1f}°".format(*found) in TEXT


def test_how_a_still_face_trembles():
    found = json.loads((ROOT / "results" / "tracking.json").read_text())["figures"]["still"]
    said = re.search(r"tremble by ([\d.]+) % of the distance between the eyes, unsmoothed \(`--raw`, `smooth=False`\) "
                     r"by ([\d.]+) %", TEXT.replace("\n", " ")).groups()
    how = OneEuro()
    ways = f"{how.min_cutoff:g} Hz, beta {how.beta:g}", "unfiltered"
    assert said == tuple(f"{found[way]['about_mean']:.2f}" for way in ways)


def test_what_the_network_that_borrows_takes_from_its_reference():
    found = json.loads((ROOT / "results" / "rht_lenders.json").read_text())["figures"]
    itself, stranger = found["own face, true landmarks"], found["stranger"]
    said = re.search(r"it errs by\s+([\d.]+) % as with a stranger's \(([\d.]+)\)", TEXT)
    assert said.groups() == (f"{itself['nme']:.2f}", f"{stranger['nme']:.2f}") and itself["low"] <= 0
    assert all(abs(row["gain"]) < 0.01 for row in found.values() if row is not stranger)  # "by a hundredth"
