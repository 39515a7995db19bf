"""The markup tables: whole, symmetric, and clear of the traps that have spoilt published figures."""

import dataclasses
import textwrap

import numpy as np
import pytest
import torch

from facealign_lite import markups, metrics
from facealign_lite.markups import (
    ANCHOR_FLIP,
    ANCHORS,
    BOUNDARIES,
    BOUNDARY_FLIP,
    CONTOUR_FLIP,
    CONTOURS,
    CONVERSIONS,
    MARKUPS,
    SPARSE,
    Markup,
    convert,
    get,
)
from facealign_lite.nets.reading import read_maps

# of the 39 landmarks of a profile only their number is known
EACH = pytest.mark.parametrize("markup", [m for m in MARKUPS.values() if m.name != "39"], ids=lambda m: m.name)
PARTS = ("jaw", "brow", "nose", "eye", "mouth")

# what stays in place and what changes places in a mirror, counted from 1 as the data sets do
MIDLINE = {"68": [9, 28, 29, 30, 31, 34, 52, 58, 63, 67], "98": [17, 52, 53, 54, 55, 58, 80, 86, 91, 95],
           "29": [21, 22, 25, 26, 27, 28, 29], "19": [14, 17, 19]}
PAIRS = {
    "68": [(1, 17), (8, 10), (18, 27), (22, 23), (32, 36), (33, 35), (37, 46), (38, 45), (39, 44), (40, 43), (41, 48),
           (42, 47), (49, 55), (50, 54), (51, 53), (60, 56), (59, 57), (61, 65), (62, 64), (68, 66)],
    "98": [(1, 33), (16, 18), (34, 47), (38, 43), (39, 51), (40, 50), (41, 49), (42, 48), (56, 60), (57, 59), (61, 73),
           (65, 69), (66, 76), (67, 75), (68, 74), (77, 83), (78, 82), (79, 81), (88, 84), (87, 85), (89, 93), (90, 92),
           (96, 94), (97, 98)],
    "29": [(1, 2), (3, 4), (5, 7), (6, 8), (9, 10), (11, 12), (13, 15), (14, 16), (17, 18), (19, 20), (23, 24)],
    "19": [(1, 6), (2, 5), (3, 4), (7, 12), (8, 11), (9, 10), (13, 15), (16, 18)],
}


def mirror_name(name):
    return name.replace("right", "left") if "right" in name else name.replace("left", "right")


def test_the_known_markups():
    assert {name: m.count for name, m in MARKUPS.items()} == {"68": 68, "36": 36, "98": 98, "29": 29, "19": 19,
                                                              "194": 194, "39": 39}
    assert all(get(name) is m and m.name == name for name, m in MARKUPS.items())
    assert (len(ANCHORS), len(CONTOURS), len(BOUNDARIES)) == (12, 13, 15)
    assert len(set(ANCHORS)) == 12 and len(set(CONTOURS)) == 13 and len(set(BOUNDARIES)) == 15


@EACH
def test_the_five_parts_share_out_the_landmarks(markup):
    assert sorted(i for part in PARTS for i in markup.groups[part]) == list(range(markup.count))


@EACH
def test_two_mirrors_are_none(markup):
    flip = np.array(markup.flip)
    assert sorted(flip) == list(range(markup.count))
    assert (flip[flip] == np.arange(markup.count)).all()


@pytest.mark.parametrize("name", PAIRS)
def test_mirror_pairs_are_those_of_the_data_sets(name):
    flip = get(name).flip
    assert [i + 1 for i, j in enumerate(flip) if i == j] == MIDLINE[name]
    for a, b in PAIRS[name]:
        assert flip[a - 1] == b - 1 and flip[b - 1] == a - 1
    if name in ("29", "19"):
        assert 2 * len(PAIRS[name]) + len(MIDLINE[name]) == get(name).count


@EACH
def test_groups_mirror_to_groups(markup):
    for name, group in markup.groups.items():
        other = markup.groups[mirror_name(name)]
        assert {markup.flip[i] for i in group} == set(other), name


@EACH
def test_curves_mirror_to_curves(markup):
    for name, curve in markup.curves.items():
        assert name in BOUNDARIES or name in CONTOURS
        other = markup.curves[mirror_name(name)]
        mirrored = tuple(markup.flip[i] for i in curve)
        assert other in (mirrored, mirrored[::-1]), name
        assert len(set(curve)) == len(curve) >= 2


@EACH
def test_ends_of_normalisers_and_anchors_mirror(markup):
    for right, left in markup.normalizers.values():
        assert {markup.flip[i] for i in right} == set(left) and not set(right) & set(left)
    for name, i in markup.anchors.items():
        assert markup.flip[i] == markup.anchors[mirror_name(name)]


def test_name_flips_swap_sides():
    for names, flip in ((ANCHORS, ANCHOR_FLIP), (CONTOURS, CONTOUR_FLIP), (BOUNDARIES, BOUNDARY_FLIP)):
        assert [names[i] for i in flip] == [mirror_name(name) for name in names]
        assert [flip[i] for i in flip] == list(range(len(names)))


def test_wflw_has_all_boundaries_and_300w_all_contours():
    assert set(BOUNDARIES) <= set(get("98").curves)
    assert set(CONTOURS) <= set(get("68").curves) and set(CONTOURS) <= set(get("36").curves)
    assert set(get("98").anchors) == set(ANCHORS)


@pytest.mark.parametrize("name", ["68", "98"])
def test_lids_and_lips_end_in_their_corners(name):
    curves, anchors = get(name).curves, get(name).anchors
    for side in ("right", "left"):
        corners = {anchors[f"{side}_eye_inner_corner"], anchors[f"{side}_eye_outer_corner"]}
        for lid in (f"{side}_eye_upper", f"{side}_eye_lower", f"{side}_eye_upper_lid", f"{side}_eye_lower_lid"):
            assert {curves[lid][0], curves[lid][-1]} == corners
    for edge in ("outer", "inner"):
        corners = {anchors[f"mouth_{side}_{edge}_corner"] for side in ("right", "left")}
        for lip in (f"mouth_upper_lip_{edge}", f"mouth_lower_lip_{edge}", f"upper_lip_{edge}", f"lower_lip_{edge}"):
            assert {curves[lip][0], curves[lip][-1]} == corners
            assert len(set(curves[lip]) & corners) == 2


def test_helen_has_the_154_landmarks_that_acenet_is_tested_on():
    """Section 5.4: 8 corners and what lies on lids, nose, lips and chin; each is there once."""
    helen = get("194")
    corners = {name for name in ANCHORS if "corner" in name}
    assert set(helen.anchors) == corners and len(corners) == 8
    on = [i for name in CONTOURS for i in helen.curves.get(name, ()) if i not in helen.anchors.values()]
    assert len(on) == len(set(on)) == 154 - 8
    assert not set(on) & {*helen.groups["right_brow"], *helen.groups["left_brow"]}
    for side in ("right", "left"):
        ends = {helen.anchors[f"{side}_eye_{end}_corner"] for end in ("inner", "outer")}
        lids = [helen.curves[f"{side}_eye_{lid}_lid"] for lid in ("upper", "lower")]
        assert all({lid[0], lid[-1]} == ends for lid in lids)
        assert set(lids[0]) | set(lids[1]) == set(helen.groups[f"{side}_eye"])
        assert len(lids[0]) == 12                                               # by both public readers
    for edge in ("outer", "inner"):
        ends = {helen.anchors[f"mouth_{side}_{edge}_corner"] for side in ("right", "left")}
        lips = [helen.curves[f"mouth_{lip}_lip_{edge}"] for lip in ("upper", "lower")]
        assert all({lip[0], lip[-1]} == ends for lip in lips)
        assert set(lips[0]) | set(lips[1]) == set(helen.groups[f"mouth_{edge}"])


def test_wflw_eyebrows_go_round():
    """Upper and lower edge share the tail and no other landmark, and leave none of the nine out."""
    curves = get("98").curves
    for side, tail in (("right", 33), ("left", 46)):
        upper, lower = set(curves[f"{side}_eyebrow_upper"]), set(curves[f"{side}_eyebrow_lower"])
        assert upper & lower == {tail}
        assert upper | lower == set(get("98").groups[f"{side}_brow"])


def test_cofw_pupils_are_not_its_eye_corners():
    cofw = get("29")
    assert cofw.normalizers["inter_ocular"] == ((8,), (9,))
    assert cofw.normalizers["inter_pupil"] == ((16,), (17,))
    assert (cofw.anchors["right_iris_center"], cofw.anchors["right_eye_outer_corner"]) == (16, 8)


def test_300w_by_heart():
    m = get("68")
    assert m.normalizers["inter_ocular"] == ((36,), (45,))
    assert m.normalizers["inter_pupil"] == (tuple(range(36, 42)), tuple(range(42, 48)))
    assert len(m.groups["inner51"]) == 51 and not set(m.groups["inner51"]) & set(m.groups["jaw"])


def test_the_thin_markup_keeps_ends_and_a_point_between():
    assert len(set(SPARSE)) == len(SPARSE) == 36 and list(SPARSE) == sorted(SPARSE)
    whole, thin = get("68"), get("36")
    assert {whole.flip[i] for i in SPARSE} == set(SPARSE)
    for name in whole.curves:
        kept = [SPARSE[i] for i in thin.curves[name]]
        assert kept[0] == whole.curves[name][0] and kept[-1] == whole.curves[name][-1]
        assert len(kept) >= 3 or name == "nose_ridge"


# ---- conversions ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("source, target", sorted(CONVERSIONS))
def test_conversion_and_mirror_can_change_places(source, target):
    points = np.random.default_rng(0).normal(size=(4, get(source).count, 2))
    there = convert(points, source, target)
    assert there.shape == (4, get(target).count, 2)
    np.testing.assert_allclose(convert(points[:, get(source).flip], source, target), there[:, get(target).flip])


@pytest.mark.parametrize("source, target", sorted(CONVERSIONS))
def test_anchors_stay_what_they_are(source, target):
    points = np.random.default_rng(1).normal(size=(get(source).count, 2))
    there = convert(points, source, target)
    for name, i in get(target).anchors.items():
        np.testing.assert_array_equal(there[i], points[get(source).anchors[name]])


def test_98_to_68_keeps_the_ends_of_curves():
    points = np.random.default_rng(2).normal(size=(98, 2))
    there = convert(points, "98", "68")
    for name in set(get("68").curves) & set(get("98").curves):
        a, b = get("68").curves[name], get("98").curves[name]
        np.testing.assert_array_equal(there[[a[0], a[-1]]], points[[b[0], b[-1]]], name)


def test_a_markup_is_its_own_copy():
    points = np.zeros((68, 2))
    same = convert(points, "68", "68")
    same += 1
    assert (points == 0).all()


@pytest.mark.parametrize("call, word", [
    (lambda: get("5"), "68, 36, 98, 29, 19, 194"),
    (lambda: convert(np.zeros((68, 2)), "68", "98"), "98 to 68"),
    (lambda: convert(np.zeros((67, 2)), "68", "36"), "68, 2"),
    (lambda: convert(np.zeros((68, 3)), "68", "36"), "68, 2"),
    (lambda: convert(np.zeros((68, 2)), "68", "12"), "markup"),
])
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_the_tables_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get("68").count = 5
    with pytest.raises(TypeError):
        get("68").groups["jaw"] = ()


# ---- markups of one's own --------------------------------------------------------------------------------------------

FIVE = Markup("5", 5, groups={"eye": (0, 1), "nose": (2,), "mouth": (3, 4)}, flip=(1, 0, 2, 4, 3),
              normalizers={"inter_ocular": ((0,), (1,)), "inter_pupil": ((0,), (1,))})


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(markups, "MARKUPS", dict(markups.MARKUPS))


def test_a_markup_of_ones_own_is_known_to_metrics_and_readings(table):
    with pytest.raises(ValueError, match="markups.register"):
        get("5")
    markups.register(FIVE)
    markups.register(FIVE)                                     # twice is no harm
    face = np.array([[10.0, 20], [50, 20], [30, 40], [15, 60], [45, 60]])
    assert metrics.nme(face + [3, 4], face, markup="5") == pytest.approx(5 / 40)
    maps = torch.rand(2, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    maps = torch.cat([maps, maps.flip(-1)[:, list(FIVE.flip)]])
    both, one = read_maps(maps, 64, mirrored=True), read_maps(maps[:2], 64)
    torch.testing.assert_close(both.points, one.points, atol=1e-3, rtol=0)


def test_the_docstring_shows_that_markup(table):
    example = markups.__doc__.split("asks for it:\n")[1].split("\n\nNetworks")[0]
    exec(textwrap.dedent(example), vars(markups).copy())
    assert get("5") == FIVE


@pytest.mark.parametrize("changes, words", [
    ({"name": "68"}, "another's"), ({"flip": (1, 0, 2, 4)}, "flip"), ({"flip": (1, 2, 0, 3, 4)}, "flip"),
    ({"normalizers": {"inter_ocular": ((0,), (1,))}}, "inter_pupil"), ({"groups": {"eye": (0, 5)}}, "indices"),
    ({"anchors": {"nose_tip": -1}}, "indices"), ({"curves": {"chin_boundary": (3, 9)}}, "indices")])
def test_a_broken_markup_is_refused(table, changes, words):
    with pytest.raises(ValueError, match=words):
        markups.register(dataclasses.replace(FIVE, **changes))
    assert "5" not in markups.MARKUPS


def test_a_markup_is_one():
    with pytest.raises(ValueError, match="Markup"):
        markups.register({"name": "5"})
