"""The benchmark of all networks: strains are what they say, and every network sees the same faces."""

import numpy as np
import pytest

from benchmarks import all_methods as bench
from benchmarks.photos_hidden import painted
from facealign_lite import metrics
from facealign_lite.align import Alignment
from facealign_lite.records import read_record
from facealign_lite.synthetic import SyntheticFaces


@pytest.fixture(scope="module")
def faces():
    return SyntheticFaces(3, bench.SIZE, bench.SEED)


@pytest.fixture(scope="module")
def seen(faces):
    return dict(bench.views(faces, 1))


def test_each_strain_changes_one_thing(seen):
    plain = seen["as it is"]
    area = np.prod(np.ptp(plain.face.landmarks, axis=0))
    for share in bench.COVERED:
        view = seen[f"covered {share}"]
        assert view.face is plain.face and view.box is plain.box
        hidden = (view.image == 0).all(-1).sum() - (plain.image == 0).all(-1).sum()
        assert hidden == pytest.approx(share * area, rel=0.05)
    for share in bench.MOVED:
        view = seen[f"moved {share}"]
        assert view.image is plain.image
        step = view.box - plain.box
        assert step[:2] == pytest.approx(step[2:])                                  # moved, not stretched
        assert np.hypot(*step[:2]) == pytest.approx(share * (plain.box[2:] - plain.box[:2]).max())
    detail = [np.abs(np.diff(view.image.astype(float), axis=1)).mean()
              for view in (plain, *(seen[f"blurred {sigma}"] for sigma in bench.BLURRED))]
    assert detail == sorted(detail, reverse=True) and detail[0] > 1.5 * detail[-1]
    for yaw in bench.TURNED:
        view = seen[f"turned {yaw}"]
        assert abs(view.face.pose[0]) == yaw and view.face.pose[1:] == plain.face.pose[1:]
    assert len(seen) == 1 + sum(map(len, (bench.COVERED, bench.BLURRED, bench.MOVED, bench.TURNED)))


def test_a_face_is_strained_alike_whenever_it_is_drawn(faces, seen):
    again = dict(bench.views(faces, 1))
    assert all((again[name].image == view.image).all() and (again[name].box == view.box).all()
               for name, view in seen.items())


def test_the_cover_lies_within_the_landmarks(seen):
    face = seen["as it is"].face
    white = np.full_like(face.image, 255)
    y, x = np.nonzero((painted(white, face.landmarks, np.array([1.0, 1.0]), 0.2)[0] == 0).all(-1))
    low, high = face.landmarks.min(0), face.landmarks.max(0)
    assert (np.array([x.min(), y.min()]) >= low - 1).all() and (np.array([x.max(), y.max()]) <= high + 1).all()


def test_true_landmarks_have_no_error_and_moved_ones_theirs(seen):
    face = seen["as it is"].face
    exact = Alignment(face.landmarks, np.ones(68), face.box)
    assert bench.errors(exact, face) == (0.0, pytest.approx(0.0, abs=1e-9))
    length = metrics.normalizing_length(face.landmarks, "inter_ocular")[0]
    nme, ac = bench.errors(Alignment(face.landmarks + [3.0, 4.0], np.ones(68), face.box), face)
    assert nme == pytest.approx(5 / length) and 0 < ac < nme          # along a line, moving costs nothing


def test_a_small_run_is_recorded_whole(tmp_path):
    assert bench.main(["--faces", "1", "--stressed", "1"], tmp_path) == 0
    figures = read_record("all_methods", tmp_path)["figures"]
    assert set(figures["parameters"]) == set(bench.MODELS) and len(figures["tags"]) == 1
    for rows in (*figures["as drawn"].values(), *figures["strained"].values()):
        assert set(rows) == set(bench.MODELS)
        for name, row in rows.items():
            assert ("nme" in row) == (name != "acenet") and len(row["nme_ac"]) == 1 and row["ms"] > 0
            assert 0 < row["nme_ac"][0] < 1
