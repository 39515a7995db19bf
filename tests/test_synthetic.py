"""Rendered faces: the camera, the rasteriser, the occluding contour, and what a data set promises."""

import dataclasses
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facealign_lite import markups
from facealign_lite.synthetic import Style, SyntheticFaces, denser, render_face
from facealign_lite.synthetic.paint import distance_to_curve, sample
from facealign_lite.synthetic.parts import parts
from facealign_lite.synthetic.raster import EMPTY, depth_map, lit, rasterize
from facealign_lite.synthetic.scene import draw
from facealign_lite.synthetic.view import View, look, plane, shape

PLAIN = Style(glasses=0, beard=0, cap=0, headband=0, mask=0, occluder=0, blur=0, hard_light=0)
FLIP = list(markups.get("68").flip)


def symmetric(**changes):
    """A scene without any asymmetry: the base head, looking straight ahead."""
    plain = {"weights": {}, "gaze": (0.0, 0.0), "yaw": 0.0, "pitch": 0.0, "roll": 0.0, "shift": (0.0, 0.0)}
    return dataclasses.replace(draw(1, 0, PLAIN), **{**plain, **changes})


def annotate(scene, size=128):
    return look(parts(), scene, shape(parts(), scene), size)


# ---- the data set ---------------------------------------------------------------------------------------------------

def _render(args):
    seed, index = args
    return SyntheticFaces(10, 64, seed)[index]


@pytest.mark.parametrize("change", [{"n": np.inf}, {"n": 1.5}, {"n": 10**30}, {"n": "9"}, {"n": None}, {"size": np.nan},
                                    {"size": 10**6}, {"seed": -1}, {"style": {}}, {"style": 0}], ids=str)
def test_sets_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        SyntheticFaces(**{"n": 3} | change)


def test_an_item_depends_on_seed_and_index_alone():
    here = [SyntheticFaces(10, 64, seed=3)[i] for i in (4, 0, 9)]
    with ProcessPoolExecutor(2) as pool:                        # other processes, other order
        there = dict(zip((9, 4, 0), pool.map(_render, [(3, 9), (3, 4), (3, 0)])))
    for face, index in zip(here, (4, 0, 9)):
        np.testing.assert_array_equal(face.image, there[index].image)
        np.testing.assert_array_equal(face.landmarks, there[index].landmarks)
        np.testing.assert_array_equal(face.visibility, there[index].visibility)
    longer = SyntheticFaces(500, 64, seed=3)[4]                  # nor does it depend on how many there are
    np.testing.assert_array_equal(longer.image, here[0].image)
    assert (SyntheticFaces(10, 64, seed=4)[4].image != here[0].image).any()


@pytest.mark.parametrize("index", range(6))
def test_a_face_is_complete(index):
    face = SyntheticFaces(6, 96, seed=11)[index]
    assert face.image.shape == (96, 96, 3) and face.image.dtype == np.uint8
    assert face.landmarks.shape == (68, 2) and np.isfinite(face.landmarks).all()
    assert face.visibility.shape == (68,) and face.visibility.dtype == bool
    assert list(face.contours) == list(markups.CONTOURS) and face.anchors.shape == (12, 2)
    np.testing.assert_array_equal(face.box, [*face.landmarks.min(0), *face.landmarks.max(0)])
    width, height = face.box[2:] - face.box[:2]
    assert 0.499 <= max(width, height) / 96 <= 0.661
    assert abs(face.pose[0]) <= 60 and abs(face.pose[1]) <= 30 and abs(face.pose[2]) <= 30
    assert set(face.tags) == {"pose", "occlusion", "blur", "expression", "light"}


def test_anchors_are_landmarks_and_contours_end_in_anchors():
    _, truth = annotate(draw(5, 2))
    by_name = dict(zip(markups.ANCHORS, truth.anchors))
    for name, landmark in {"right_eye_outer_corner": 36, "right_eye_inner_corner": 39, "left_eye_inner_corner": 42,
                           "left_eye_outer_corner": 45, "nose_tip": 30, "nose_bottom_center": 33,
                           "mouth_right_outer_corner": 48, "mouth_left_outer_corner": 54,
                           "mouth_right_inner_corner": 60, "mouth_left_inner_corner": 64}.items():
        np.testing.assert_allclose(by_name[name], truth.landmarks[landmark], atol=1e-3)
    for contour, first, last in (("right_eye_upper_lid", 36, 39), ("left_eye_lower_lid", 42, 45),
                                 ("mouth_upper_lip_outer", 48, 54), ("mouth_lower_lip_inner", 60, 64),
                                 ("chin_boundary", 0, 16)):
        ends = truth.contours[contour][[0, -1]]
        wanted = truth.landmarks[[first, last]]
        gap = min(np.abs(ends - wanted).max(), np.abs(ends[::-1] - wanted).max())
        assert gap < 1e-3, contour


def test_landmarks_scale_with_the_image():
    small, large = annotate(draw(2, 1), 64)[1], annotate(draw(2, 1), 128)[1]
    np.testing.assert_allclose((small.landmarks + 0.5) * 2 - 0.5, large.landmarks, atol=1e-3)


@pytest.mark.parametrize("arguments", [dict(n=-1), dict(n=2, size=16), dict(n=2, seed=-3), dict(n=1.5)])
def test_refuses_nonsense(arguments):
    with pytest.raises(ValueError, match="must be an integer"):
        SyntheticFaces(**arguments)


def test_index_outside_the_set():
    with pytest.raises(IndexError):
        SyntheticFaces(3)[3]


# ---- geometry -------------------------------------------------------------------------------------------------------

@settings(max_examples=15, deadline=None)
@given(yaw=st.floats(0, 60), pitch=st.floats(-30, 30))
def test_a_symmetric_head_turned_left_mirrors_one_turned_right(yaw, pitch):
    size = 128
    left, right = (annotate(symmetric(yaw=sign * yaw, pitch=pitch), size)[1] for sign in (1, -1))
    mirrored = left.landmarks[FLIP] * [-1, 1] + [size - 1, 0]
    inner = slice(17, 68)
    np.testing.assert_allclose(mirrored[inner], right.landmarks[inner], atol=0.15)
    assert np.abs(mirrored[:17] - right.landmarks[:17]).max() < 2.5     # sections are found apart on both sides


def test_light_and_skin_do_not_move_the_truth():
    scene = draw(8, 3)
    other = dataclasses.replace(scene, light_seed=1, skin_seed=1)
    a, b = render_face(scene, 64), render_face(other, 64)
    np.testing.assert_array_equal(a.landmarks, b.landmarks)
    assert (a.image != b.image).mean() > 0.2


def test_pixels_are_a_pinhole_projection():
    view = View(np.eye(3), np.zeros(3), 10.0, 200.0, np.array([63.5, 63.5]), 128)
    # x / z = 1 / 10, so 20 pixels right of the centre; y up becomes up in the image
    np.testing.assert_allclose(view.to_pixels(view.to_camera(np.array([1.0, 0.5, 0.0]))), [83.5, 53.5])
    big = view.resized(2)
    np.testing.assert_allclose((view.to_pixels(np.array([1.0, 0.5, -10.0])) + 0.5) * 2 - 0.5,
                               big.to_pixels(np.array([1.0, 0.5, -10.0])))


def test_rasteriser_is_perspective_correct():
    scene = draw(4, 4)
    vertices = shape(parts(), scene)
    view, _ = look(parts(), scene, vertices, 96)
    camera = view.to_camera(vertices)
    fragments = rasterize(camera, parts().head.triangles, view)
    seen = view.to_pixels(fragments.interpolate(camera))
    y, x = np.divmod(fragments.pixels, 96)
    assert np.abs(seen - np.stack([x, y], 1)).max() < 0.01
    depth = fragments.depth.ravel()[fragments.pixels]
    np.testing.assert_allclose(-fragments.interpolate(camera)[:, 2], depth, atol=1e-3)


def test_a_roof_casts_a_shadow():
    ground = np.array([[x, 7.0, z] for x in (-0.5, 0.0, 0.5) for z in (0.4, 0.6, 0.8)], float)
    roof = np.array([[-0.2, 7.6, 0.3], [0.2, 7.6, 0.3], [0.2, 7.6, 0.9], [-0.2, 7.6, 0.9]], float)
    triangles = np.array([[9, 10, 11], [9, 11, 12]], np.int32)
    light = lit(np.concatenate([ground, roof]), triangles, np.array([0.0, 1.0, 0.05]))
    assert (light[3:6] < 0.1).all() and (light[[0, 1, 2, 6, 7, 8]] > 0.9).all()


# ---- the occluding contour ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("yaw", [30, 45, -30, -45])
def test_the_far_jaw_is_where_the_face_ends(yaw):
    """Across the outline of the side turned away, the surface jumps back: inside is face, outside is far behind.

    The outline is smoothed along its course, so the jump lies within six pixels of 256, not on it.
    """
    size, step = 256, 6.0
    side = slice(12, 15) if yaw > 0 else slice(2, 5)
    scene = symmetric(yaw=float(yaw), fill=0.6)
    vertices = shape(parts(), scene)
    view, truth = look(parts(), scene, vertices, size)
    depth = depth_map(view.to_camera(vertices), parts().head.triangles, view)
    center = truth.landmarks[30]
    points = truth.landmarks[side]
    out = (points - center) / np.linalg.norm(points - center, axis=1, keepdims=True)

    def at(p):
        x, y = np.rint(p).astype(int).T
        return depth[y, x]

    assert (at(points - step * out) < EMPTY).all()
    assert (at(points + step * out) - at(points - step * out) > 0.2).all()


def test_a_turned_head_hides_its_far_side():
    face = render_face(symmetric(yaw=60.0), 128)
    for far, near in ((42, 39), (35, 31), (54, 48)):          # inner eye corner, nostril, mouth corner
        assert not face.visibility[far] and face.visibility[near]
    assert render_face(symmetric(), 128).visibility[17:48].mean() > 0.9


def test_occluders_hide_landmarks():
    covered = Style(glasses=0, mask=1, occluder=0, cap=0, headband=0)
    faces = [SyntheticFaces(4, 128, 1, covered)[i] for i in range(4)]
    assert np.mean([face.visibility[48:68].mean() for face in faces]) < 0.2
    assert all(face.tags["occlusion"] for face in faces)


# ---- paint ----------------------------------------------------------------------------------------------------------

def test_distance_to_a_bent_curve():
    curve = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
    points = np.array([[0.5, 0.3], [-3.0, 4.0], [2.0, 1.0], [1.0, 3.5]], np.float32)
    wanted = [0.3, 20**0.5, 1.0, 1.5]
    np.testing.assert_allclose(distance_to_curve(points[:, 0], points[:, 1], curve), wanted, atol=1e-5)


def test_texture_lookup_is_bilinear_and_wraps():
    field = np.arange(12, dtype=np.float32).reshape(3, 4)
    u, v = np.array([0.0, 0.5, 1.5]), np.array([0.0, 0.25, 0.25])
    np.testing.assert_allclose(sample(field, u, v), [0.0, 2 + 1.5, 2 + 1.5], atol=0.05)


def test_plane_looks_down_the_axis():
    np.testing.assert_allclose(plane(np.array([[2.0, 1.0, -4.0]])), [[0.5, -0.25]])


# ---- 98 landmarks ---------------------------------------------------------------------------------------------------

def test_98_landmarks_are_the_68_and_some_between():
    faces = SyntheticFaces(12, 128, 4)
    for i in range(len(faces)):
        face, points = faces[i], denser(faces.scene(i), 128)
        fewer = markups.convert(points, "98", "68")
        unit = np.linalg.norm(face.landmarks[36] - face.landmarks[45])
        off = np.linalg.norm(fewer - face.landmarks, axis=1) / unit
        same = [*range(17), *range(27, 37), 39, 42, 45, 48, 54]            # jaw, nose, corners of eyes and mouth
        assert off[same].max() < 1e-6 and off[[*range(36, 68)]].max() < 0.1
        # on a line that the face has, halfway between neighbours
        jaw = points[:33]
        steps = np.linalg.norm(np.diff(jaw, axis=0), axis=1)
        assert (steps[::2] / steps[1::2]).max() < 1.5 and (steps[::2] / steps[1::2]).min() > 0.67
        # the line that 68 landmarks follow lies 0.65 of the way from a brow's middle to its upper edge
        for above, below, line in (((34, 35, 36, 37), (41, 40, 39, 38), (18, 19, 20, 21)),
                                   ((42, 43, 44, 45), (50, 49, 48, 47), (22, 23, 24, 25))):
            high, low = points[list(above)], points[list(below)]
            there = (high + low) / 2 + 0.65 * (high - low) / 2
            apart = np.linalg.norm(high - low, axis=1)                     # perspective bends a deep brow a little
            assert (np.linalg.norm(there - face.landmarks[list(line)], axis=1) < 0.05 * apart).all()


def test_98_landmarks_of_a_mirrored_face_are_the_mirrored_98():
    points = denser(symmetric(), 200)
    mirrored = points[list(markups.get("98").flip)] * [-1, 1] + [199, 0]
    assert np.abs(mirrored - points).max() < 1.5


@pytest.mark.parametrize("kind", [{"target_strength": np.nan}, {"glasses": 1.5}, {"yaw": -1}, {"yaw": "60"},
                                  {"local_targets": 2.5}, {"pitch": np.inf}, {"roll": True}])
def test_styles_that_cannot_be(kind):
    with pytest.raises(ValueError, match=next(iter(kind))):
        Style(**kind)


def test_there_is_no_face_between_two():
    with pytest.raises(TypeError):
        SyntheticFaces(3, 64)[1.7]
    assert (SyntheticFaces(3, 64)[np.int64(1)].image == SyntheticFaces(3, 64)[1].image).all()
