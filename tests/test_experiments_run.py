"""One arm of every kind in every paper, from faces to record, with networks and faces as small as they can be."""

import numpy as np
import pytest
from PIL import Image

from experiments import acenet, acenet_photos, acenet_shares, hourglass, msm, rht, scpan, scpan_photos, tab
from facealign_lite import geometry, records
from facealign_lite.data import Sample, read_helen, save_packed
from facealign_lite.markups import ANCHORS
from facealign_lite.msm import ShapeDictionary, canonical
from facealign_lite.synthetic import SyntheticFaces


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return save_packed(tmp_path_factory.mktemp("faces") / "pack", SyntheticFaces(5, 64, 2))


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    return [Sample(rng.integers(0, 255, (96, 96), np.uint8), rng.uniform(20, 76, (68, 2))) for _ in range(4)]


def short(paper, **more):
    """A budget of two steps."""
    lite = paper.BUDGETS["lite"]
    return lite | {name: 2 for name in lite if "steps" in name} | {"batch_size": 4, "amp": "off"} | more


def run(paper, budget, names, folder):
    """Records of some arms, by name of the arm."""
    arms = paper.arms(budget, "cpu")
    found = records.run_arms("p", {name: arms[name] for name in names}, [0], paper.WHAT, "d", budget, folder,
                             folder / "work", "cpu")
    assert [record["arm"] for record in found.values()] == list(names)
    return {record["arm"]: record for record in found.values()}


def test_hourglass(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(hourglass, "pack", lambda folder, name, budget: faces)
    monkeypatch.setattr(hourglass, "benchmark", lambda size: faces)
    found = run(hourglass, {"steps": 2, "batch_size": 2}, ["all", "none"], tmp_path)
    assert found["all"]["figures"]["nme"] != found["none"]["figures"]["nme"]
    assert found["all"]["history"]["."][-1]["step"] == 2 and len(found["all"]["figures"]["errors"]) == 5


def test_acenet(tmp_path, monkeypatch):
    monkeypatch.setattr(acenet, "SETS", {name: (look, 3, seed) for name, (look, _, seed) in acenet.SETS.items()})
    budget = short(acenet, image_size=64, face_size=64)
    found = run(acenet, budget, ["ace", "line_half", "landmarks", "line_star_sparse", "gt68_line"], tmp_path)
    assert set(found["ace"]["history"]) == {".", "last"} and found["gt68_line"]["history"] == {}
    assert found["line_half"]["figures"]["images_a_step"] == 2
    drawn = found["gt68_line"]["figures"]
    assert np.mean(drawn["errors"]) == pytest.approx(drawn["nme_ac"], abs=1e-5)
    assert np.mean(drawn["errors_chin"]) == pytest.approx(drawn["nme_ac_chin"], abs=1e-5)


def test_acenet_by_a_hand_that_errs(tmp_path, monkeypatch):
    monkeypatch.setattr(acenet, "SETS", {name: (look, 3, seed) for name, (look, _, seed) in acenet.SETS.items()})
    budget = short(acenet_shares, image_size=64, face_size=64)
    found = run(acenet_shares, budget, ["ace", "ace_printed", "ace_reach_double", "synthetic_only", "gt68_line"],
                tmp_path)
    for record in found.values():
        figures = record["figures"]
        assert np.mean(figures["errors"]) == pytest.approx(figures["nme_ac"], abs=1e-5)
        assert figures["success"] == np.mean(np.array(figures["errors"]) <= acenet_shares.SUCCESS)
    assert len(found["gt68_line"]["figures"]["contours"]) == 3 and found["gt68_line"]["figures"]["nme_ac"] > 0.005
    assert found["ace"]["history"]["."][-1]["loss"] != found["ace_printed"]["history"]["."][-1]["loss"]


def test_acenet_photos(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(acenet_photos, "photos", lambda folder: (photos, photos))
    budget = short(acenet, image_size=64, face_size=64, faces=3)
    assert acenet_photos.data(budget) == "4 photos of 68 landmarks; 3 rendered faces; test on 4 photos of 68 landmarks"
    found = run(acenet_photos, budget, ["ace", "line", "landmarks", "line_star_sparse"], tmp_path)
    assert all(np.isfinite(record["figures"]["nme_ac"]) for record in found.values())


def helen_of(face):
    """The 194 landmarks of a rendered face, in HELEN's order: rings from the corners, brows left out of the test."""
    line, at = face.contours, dict(zip(ANCHORS, face.anchors))

    def between(name, count, turned=False):
        inside = geometry.resample(line[name], count + 2)[1:-1]
        return inside[::-1] if turned else inside

    def corner(name):
        return at[name][None]
    eyes = []
    for side in ("left", "right"):
        inner, outer = corner(f"{side}_eye_inner_corner"), corner(f"{side}_eye_outer_corner")
        there = [between(f"{side}_eye_{lid}_lid", count) for lid, count in (("upper", 10), ("lower", 8))]
        # from the inner corner along the upper lid, back along the lower
        there = [lid if np.linalg.norm(lid[0] - inner) < np.linalg.norm(lid[-1] - inner) else lid[::-1]
                 for lid in there]
        eyes += [inner, there[0], outer, there[1][::-1]]
    lips = []
    for edge in ("outer", "inner"):
        lips += [corner(f"mouth_right_{edge}_corner"), between(f"mouth_upper_lip_{edge}", 13),
                 corner(f"mouth_left_{edge}_corner"), between(f"mouth_lower_lip_{edge}", 13, turned=True)]
    return np.vstack([geometry.resample(line["chin_boundary"], 41), geometry.resample(line["nose_bottom_boundary"], 17),
                      *lips, *eyes, np.zeros((40, 2))])


def test_acenet_is_tested_on_helen(tmp_path, monkeypatch):
    """Files as the data set has them, from rendered faces: true contours err by nothing, and the arms are measured."""
    faces = SyntheticFaces(3, 96, 5)
    for folder in ("images", "annotation"):
        (tmp_path / "helen" / folder).mkdir(parents=True)
    for i in range(3):
        Image.fromarray(faces[i].image).save(tmp_path / "helen" / "images" / f"face_{i}.jpg")
        rows = [f"{x} , {y}" for x, y in helen_of(faces[i])]
        (tmp_path / "helen" / "annotation" / f"{i + 1}.txt").write_text("\n".join([f"face_{i}", *rows]) + "\n")
    test = read_helen(tmp_path / "helen" / "annotation", tmp_path / "helen" / "images")
    assert [one.markup for one in test] == ["194"] * 3
    found = acenet.score(lambda i: (faces[i].anchors, faces[i].contours), test)
    assert found["nme_ac"] < 1e-3 and found["found"] == 1 and max(found[f"nme_ac_{p}"] for p in acenet.PARTS) < 2e-3
    # the other eye's lids would be half a face off
    swapped = acenet.score(lambda i: (faces[i].anchors[::-1], faces[i].contours), test)
    assert swapped["nme_ac"] > 0.02
    monkeypatch.setattr(acenet_photos, "photos", lambda folder: (test[:0] + list(faces), test))
    budget = short(acenet, image_size=64, face_size=64, faces=3)
    assert "test on 3 photos of 194 landmarks" in acenet_photos.data(budget)
    record = run(acenet_photos, budget, ["rendered_only"], tmp_path)["rendered_only"]
    assert np.isfinite(record["figures"]["nme_ac"]) and len(record["figures"]["errors"]) == 3


def test_tab_reads_the_boundary_part_of_its_seed(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(tab, "pack", lambda folder, name, budget: faces)
    found = run(tab, short(tab), ["vgg", "fusion0"], tmp_path)
    assert found["vgg"]["figures"]["boundary_mse"] == found["fusion0"]["figures"]["boundary_mse"]


def test_scpan_photos(faces, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(scpan_photos, "photos", lambda folder: (photos, photos))
    monkeypatch.setattr(scpan, "pack", lambda folder, name, budget: faces)
    assert scpan_photos.data({}) == "SyntheticFaces(3000, seed=2) with labels; 4 photos without; test on 4 photos"
    found = run(scpan_photos, short(scpan, pairs_a_step=2), ["photos", "labels_half"], tmp_path)
    assert found["labels_half"]["figures"]["pairs"] == 1 and len(found["photos"]["figures"]["errors"]) == 4


def test_rht(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(rht, "pack", lambda folder, name, budget: faces)
    monkeypatch.setattr(rht, "chosen", lambda folder, way, budget: np.array([1, 2, 3, 4, 0]))
    found = run(rht, short(rht), ["blocks", "rht", "wrong"], tmp_path)
    assert {f"nme_{name}" for name in rht.LENDERS} < set(found["rht"]["figures"])
    lent = found["rht"]["figures"]
    assert np.mean(lent["errors_least"]) == pytest.approx(lent["nme_least"], abs=1e-5)


def test_the_faces_that_lend_are_asked_once(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(rht, "pack", lambda folder, name, budget: faces)
    asked = []
    monkeypatch.setattr(rht.rht, "choose", lambda way, test, bank: asked.append(way) or np.arange(len(test)))
    for _ in range(2):
        assert rht.chosen(tmp_path, "most", {}).tolist() == [0, 1, 2, 3, 4]
    assert asked == ["most"]


def test_msm(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(msm, "pack", lambda folder, name, budget: faces)
    monkeypatch.setattr(msm, "validation", lambda folder: faces)
    monkeypatch.setattr(msm, "RULES", msm.RULES[:2])
    shapes = canonical(np.stack([faces[i].landmarks for i in range(len(faces))]))
    monkeypatch.setattr(msm, "dictionary", lambda folder, n, budget: ShapeDictionary(shapes))
    found = run(msm, short(msm), ["stgan_hg", "pure_hg", "stgan", "regression"], tmp_path)
    figures = found["stgan_hg"]["figures"]
    for name in ("", "_scores", "_all_40", "_true_20", "_N_500", "_t_0.4_0.6", "_t_0.7_0.7"):
        assert np.mean(figures[f"errors{name}"]) == pytest.approx(figures[f"nme{name}"], abs=1e-4)
    assert set(figures["rule_judged"]) == {"radius", "outline", "inner", "relative"}
    assert "nme_k_100" not in found["pure_hg"]["figures"]                       # sweeps are told once
    stgan = found["stgan"]["figures"]
    assert {"rotation", "before_rotation", "still_rotation_40", "validation_rotation"} < set(stgan)
    # the generator is that of the other arm, trained once
    assert stgan["rotation"] == figures["pose"]["rotation"] and found["stgan"]["history"] == {}
    shipped = run(msm, short(msm), ["hourglass"], tmp_path / "shipped")["hourglass"]["figures"]
    assert shipped["nme"] < figures["nme"] and "nme_true" not in shipped
    assert found["pure_hg"]["figures"]["nme"] != figures["nme"] and "nme_all" not in found["regression"]["figures"]
