"""``make benchmark`` at a size that means nothing: every row runs, is printed and is kept; and what is behind a row."""

import numpy as np
import pytest

from benchmarks import __main__ as bench
from facealign_lite import heatmaps
from facealign_lite.records import read_record

ROWS = {"align": {"hourglass, 2 looks": 2, "hourglass, 1 look": 2, "acenet": 2, "msm": 2, "rht": 2, "scpan": 2,
                  "tab": 2, "mediapipe": 1, "dlib": 1},
        "contourness": {"OpenCV's filters": 2, "with gradient": 2, "by side": 1, "by number of maps": 1},
        "extraction": {"sato": 1, "by side": 1}, "codecs": {"encode": 2, "decode": 4, "mmpose": 4},
        "rendering": {"120 faces": 1, "by side": 1}, "exemplars": {"one by one": 1, "dictionary": 1},
        "references": {"matching all": 2, "by size of the bank": 1, "soft transformation": 1},
        "training": {"forward pass": 1, "by batch": 1}}


@pytest.mark.parametrize("section", sorted(bench.SECTIONS))
def test_every_row_runs_is_printed_and_kept(section, tmp_path, capsys):
    assert bench.main(["--tiny", "--only", section], tmp_path) == 0
    printed, record = capsys.readouterr().out, read_record("benchmark", tmp_path)
    for words, least in ROWS[section].items():
        assert sum(words in name for name in record["figures"]) >= min(least, 1), words
        assert printed.count(words) >= least
    for name, row in record["figures"].items():
        assert name in printed
        assert {"ratio", "exponent", "ms", "not installed"} & row.keys()
        if "sizes" in row:
            assert len(row["sizes"]) == len(row["ms"]) >= 2 and row["exponent"] == pytest.approx(
                bench.slope(row["sizes"], row["ms"]), abs=0.05) and row["theory"] >= 1
        if row.get("aim", np.inf) < row.get("ratio", 0):
            slug = bench.slug(name)
            assert "tottime" in (tmp_path / f"profile_{slug}.txt").read_text() and "MISSED" in printed


def test_the_slope_of_a_power_law():
    sizes = [3, 10, 40, 200]
    assert bench.slope(sizes, [7e-3 * size**1.7 for size in sizes]) == pytest.approx(1.7)


def test_a_row_says_whether_it_reached_its_aim():
    met, missed, open_ = (bench.Row("a", {"ratio": 1.5}, most) for most in (1.5, 1.49, None))
    assert not met.missed() and missed.missed() and not open_.missed()
    assert met.line().endswith("aim: at most 1.5, met") and missed.line().endswith("aim: at most 1.49, MISSED")


def test_the_other_codec_is_as_described():
    """Its targets are ours of the rounded points, as far as they reach; its decoder finds a clean peak."""
    rng = np.random.default_rng(3)
    points = rng.uniform(0, 66, (40, 2))
    ours = heatmaps.encode(np.floor(points + 0.5), 64, 2.0)
    theirs = bench.pasted(points, 64, 2.0)
    drawn = theirs > 0
    np.testing.assert_allclose(theirs[drawn], ours[drawn], atol=1e-6)
    assert ours[~drawn].max() < np.exp(-(7**2) / 8) + 1e-6
    inside = rng.uniform(8, 55, (40, 2))
    assert np.abs(bench.newton(heatmaps.encode(inside, 64, 2.0).astype(np.float32)) - inside).max() < 0.02
