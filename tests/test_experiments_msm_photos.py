"""MSM's tables on photos, run on a few faces in the folders that the sets are published in."""

from dataclasses import replace

import pytest
from test_experiments_tab_photos import cofw, w300, wflw

from experiments import msm_photos
from facealign_lite import records
from facealign_lite.msm import network
from facealign_lite.training import learning_rate


def run(names, where, monkeypatch, **more):
    monkeypatch.setattr(network, "HEAT_LITE", replace(network.HEAT_LITE, channels=8, stacks=1))
    few = {"generator_steps": 2, "steps": 2, "batch_size": 2, "amp": "off"}
    budget = msm_photos.BUDGETS["lite"] | few | more
    arms = msm_photos.arms(budget, "cpu")
    found = records.run_arms("p", {name: arms[name] for name in names}, [0], msm_photos.WHAT, msm_photos.data(budget),
                             budget, where, where / "work", "cpu")
    return {record["arm"]: record["figures"] for record in found.values()}


def test_every_table_has_its_rows(tmp_path, monkeypatch):
    folder = tmp_path / "sets"
    monkeypatch.setenv("DATA", str(folder))
    wflw(folder / "wflw"), w300(folder / "300w"), cofw(folder / "cofw")
    found = run(["300w", "300w_hg", "wflw_pure"], tmp_path, monkeypatch)
    assert {"full_inter_ocular", "challenging_inter_pupil", "private", "cofw68"} < set(found["300w"]["rows"])
    assert set(found["wflw_pure"]["rows"]) == {"all", "pose", "occlusion"}
    whole = found["300w"]
    assert whole["rows"]["full_inter_ocular"]["images"] == 3 and {"failures_8", "failures_10"} < set(
        whole["rows"]["private"])
    assert set(whole["not_rebuilt"]) == set(whole["rows"]) and whole["train"] == 2
    assert whole["nme"] != found["300w_hg"]["nme"]                              # straightening makes a difference


def test_the_recipe_is_that_of_the_paper():
    """Section IV-C: 5e-4, halved after 400 of 1,000 epochs and after 100 of 300, 16 crops of 3,148 faces a step."""
    for config, epochs, halved in ((msm_photos.GENERATOR_PAPER, 1000, 400), (msm_photos.HOURGLASS_PAPER, 300, 100)):
        assert config.steps == 3148 * epochs // 16 and config.batch_size == 16 and config.optimizer == "adam"
        at = config.steps * halved // epochs
        assert learning_rate(config, at - 1) == pytest.approx(5e-4) and learning_rate(config, at + 1) == pytest.approx(
            2.5e-4) == learning_rate(config, config.steps - 1)
    assert (msm_photos.AUGMENTATION.rotation, msm_photos.AUGMENTATION.scale) == (30, (0.9, 1.1))
    paper = msm_photos.settings(msm_photos.BUDGETS["gpu"], "cpu", 0, "", "x")
    assert replace(paper, amp="auto", device="auto", out=None, checkpoint_every=0) == msm_photos.HOURGLASS_PAPER
