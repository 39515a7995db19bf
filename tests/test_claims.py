"""The scripts that decide claims: what they measure, on a few faces."""
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from facealign_lite.data import save_packed
from facealign_lite.synthetic import SyntheticFaces

TOOLS = Path(__file__).resolve().parents[1] / "tools"


def script(name):
    """A script of tools/ as a module."""
    sys.path.insert(0, str(TOOLS))
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def acenet_claims():
    return script("claims_acenet")


@pytest.fixture(scope="module")
def faces(acenet_claims):
    domain = acenet_claims.Domain(acenet_claims.REAL, 4, 96, 5)
    return [domain[i] for i in range(4)]


def test_the_truth_itself_has_no_error(acenet_claims, faces):
    found = acenet_claims.score(lambda i: (faces[i].anchors, faces[i].contours), faces)
    assert found["nme_ac"] < 1e-9 and found["back"] < 1e-9 and found["found"] == 1 and found["auc"] > 1 - 1e-6


def test_the_truth_has_as_many_landmarks_as_helen_without_brows(acenet_claims, faces):
    anchors, on, length = acenet_claims.truth(faces[0])
    assert len(anchors) + sum(map(len, on.values())) == 194 - 40
    assert length == pytest.approx(np.linalg.norm(faces[0].landmarks[36] - faces[0].landmarks[45]))


def test_lines_through_more_landmarks_and_bent_ones_are_better(acenet_claims, faces):
    def error(markup, degree):
        def read(i):
            points = faces[i].landmarks
            return acenet_claims.through(acenet_claims.markups.convert(points, "68", markup), markup, degree)
        return acenet_claims.score(read, faces)["nme_ac"]
    assert 0 < error("68", 2) < error("68", 1) < error("36", 1)
    assert error("36", 2) < error("36", 1)


def test_the_domains_share_no_face_and_differ_in_shape(acenet_claims):
    real, synthetic = (acenet_claims.Domain(look, 3, 64, 5) for look in (acenet_claims.REAL, acenet_claims.SYNTHETIC))
    assert real.scene(0).weights != synthetic.scene(0).weights
    scene = synthetic.scene(1)
    assert scene.widen == scene.broaden == scene.chin == scene.lengthen == 0
    assert not any(abs(scene.weights.get(name, 0)) > 1e-9 for name in acenet_claims.PROPORTIONS
                   if name not in acenet_claims.SyntheticFaces(3, 64, 1005, synthetic.style).scene(1).weights)
    assert (np.abs(np.diff(synthetic[0].image.astype(float), axis=0)).mean()
            < np.abs(np.diff(real[0].image.astype(float), axis=0)).mean())      # the smooth look has less texture


def test_the_test_faces_are_nobodys_training_faces(acenet_claims):
    seeds = [(look.name, seed) for look, _, seed in acenet_claims.SETS.values()]
    assert len(set(seeds)) == len(seeds)


def test_tab_arms_share_the_boundary_part_and_report_what_table_8_has(tmp_path, monkeypatch):
    claims = script("claims_tab")
    small = claims.replace(claims.tab.LITE, image_size=32, channels=8, depth=3, widths=(4, 4, 4, 4))
    monkeypatch.setattr(claims.tab, "LITE", small)
    monkeypatch.setattr(claims, "BUDGET", {"boundary_steps": 2, "landmark_steps": 1, "lr": 1e-3, "landmark_lr": 1e-3,
                                           "batch_size": 2, "amp": "off"})
    faces = save_packed(tmp_path / "faces", SyntheticFaces(3, 48, 2))
    monkeypatch.setattr(claims, "pack", lambda folder, name: faces)
    seen = [claims.arm(scales=scales, fusion=t)(0, tmp_path / name)
            for name, scales, t in (("a", "multi", 2), ("b", "single", 0))]
    assert seen[0]["boundary_mse"] == seen[1]["boundary_mse"] > 0 and seen[0]["nme"] != seen[1]["nme"]
    assert [p.name for p in tmp_path.glob("tab-boundaries-*")] == ["tab-boundaries-vgg-0"]
    assert 0 <= seen[0]["overlap"] <= 1 and len(seen[0]["overlap_of_each"]) == 16 and seen[0]["subsets"]
    assert seen[0]["parameters"] > seen[1]["parameters"] > seen[0]["stem_parameters"]


@pytest.fixture
def scpan_claims(tmp_path, monkeypatch):
    claims = script("claims_scpan")
    small = claims.replace(claims.scpan.LITE, channels=8, depth=1, stem=(4, 4, 8))
    monkeypatch.setattr(claims.scpan, "LITE", small)
    less = {"image_size": 32, "steps": 2, "lr": 1e-3, "pairs_a_step": 2, "amp": "off"}
    monkeypatch.setattr(claims, "BUDGET", claims.BUDGET | less)
    monkeypatch.setattr(claims, "FEW", 2)
    faces = save_packed(tmp_path / "faces", SyntheticFaces(4, 48, 2))
    monkeypatch.setattr(claims, "pack", lambda folder, name: faces)
    return claims


def test_scpan_arms_differ_in_what_they_say_they_do(scpan_claims, tmp_path):
    found = {}
    for name, some in {"shn": (scpan_claims.SHN, scpan_claims.uncalibrated()), "scpan": ()}.items():
        (tmp_path / name).mkdir()
        found[name] = scpan_claims.arm(*some, pairs=2)(0, tmp_path / name)
        assert np.isfinite(found[name]["nme"]) and len(found[name]["errors"]) == 4 and found[name]["subsets"]
    assert found["shn"]["nme"] != found["scpan"]["nme"] != found["scpan"]["nme_unvoted"]
    assert found["shn"]["parameters"] != found["scpan"]["parameters"]


def test_unlabelled_faces_of_semi_scpan_have_no_labels_and_no_face_twice(scpan_claims, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(scpan_claims, "fit", lambda model, pairs, *rest, **more: seen.append(pairs))
    scpan_claims.ARMS["semi"](0, tmp_path)
    few, many = seen[0].parts
    assert [int(i) for i in few.samples.indices] == [0, 1] and list(many.samples.indices) == [2, 3]
    assert seen[0][1]["landmarks"].isnan().all()


@pytest.fixture(scope="module")
def msm_claims():
    return script("claims_msm")


@pytest.mark.parametrize("hidden", [0, 0.4])
def test_msm_hides_what_it_says_and_measures_where_the_faces_are(msm_claims, faces, hidden):
    test, plain = msm_claims.rough(faces, hidden), msm_claims.rough(faces, 0)
    assert torch.equal(test.landmarks, plain.landmarks) and (test.visible <= plain.visible).all()
    changed = (test.images != plain.images).any(1).float().flatten(1).mean(1)          # share of each crop
    box = np.ptp(test.landmarks.numpy(), axis=1).prod(1) / msm_claims.SIZE**2
    assert np.allclose(changed, hidden * box, rtol=0.2, atol=1e-3)
    mean = torch.from_numpy(msm_claims.msm.mean_face(test.landmarks.numpy()))
    theta = msm_claims.stgan.true_theta(test.landmarks.double(), mean, msm_claims.SIZE)
    matrix = msm_claims.stgan.pixel_map(theta, msm_claims.SIZE)
    straight = torch.linalg.solve(matrix[..., :2], (test.landmarks.double() - matrix[:, None, :, 2]).mT).mT
    scores = np.where(np.arange(68) % 3 > 0, 1.0, 0.0) * np.ones((len(faces), 1))
    found = msm_claims.Answer(straight.numpy(), scores, theta)
    assert msm_claims.errors(found, test).max() < 1e-9 and msm_claims.pose(theta, test, mean)["rotation"] < 1e-6
    again = msm_claims.rebuilt(found, msm_claims.msm.ShapeDictionary(msm_claims.msm.canonical(test.landmarks.numpy())))
    moved = np.linalg.norm(again.points - found.points, axis=-1)
    assert moved[:, scores[0] == 1].max() < 1e-9 < moved[:, scores[0] == 0].max()
