"""Every landmark markup as one table: groups, mirror pairs, curves, and the indices that metrics divide by.

"right" is the person's right, at the left of the image. Indices are 0-based; papers count from 1.

A markup of your own is one call, before a network or a metric asks for it:

    register(Markup("5", 5, groups={"eye": (0, 1), "nose": (2,), "mouth": (3, 4)}, flip=(1, 0, 2, 4, 3),
                    normalizers={"inter_ocular": ((0,), (1,)), "inter_pupil": ((0,), (1,))}))

Networks look theirs up by their number of landmarks: its name is that number. Curves and anchors may be left out; what
needs them (boundaries, contours) says so.
"""

from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facealign_lite.arrays import floats

Indices = tuple[int, ...]

# ACE-Net Table 3
ANCHORS = (
    "right_eye_inner_corner", "right_eye_outer_corner", "left_eye_inner_corner", "left_eye_outer_corner",
    "right_iris_center", "left_iris_center", "nose_tip", "nose_bottom_center",
    "mouth_right_outer_corner", "mouth_left_outer_corner", "mouth_right_inner_corner", "mouth_left_inner_corner",
)
CONTOURS = (
    "right_eyebrow_center_line", "left_eyebrow_center_line", "right_eye_upper_lid", "right_eye_lower_lid",
    "left_eye_upper_lid", "left_eye_lower_lid", "nose_ridge", "nose_bottom_boundary", "mouth_upper_lip_outer",
    "mouth_lower_lip_outer", "mouth_upper_lip_inner", "mouth_lower_lip_inner", "chin_boundary",
)
# TAB Fig. 3, after Wu et al. 2018
BOUNDARIES = (
    "face_outline", "right_eyebrow_upper", "right_eyebrow_lower", "left_eyebrow_upper", "left_eyebrow_lower",
    "nose_ridge", "nose_bottom", "right_eye_upper", "right_eye_lower", "left_eye_upper", "left_eye_lower",
    "upper_lip_outer", "upper_lip_inner", "lower_lip_inner", "lower_lip_outer",
)


def _swapped(names: tuple[str, ...]) -> Indices:
    """Where each name's mirror image stands: right becomes left."""
    def other(name: str) -> str:
        if "right" in name:
            return name.replace("right", "left")
        return name.replace("left", "right")
    return tuple(names.index(other(name)) for name in names)


ANCHOR_FLIP, CONTOUR_FLIP, BOUNDARY_FLIP = _swapped(ANCHORS), _swapped(CONTOURS), _swapped(BOUNDARIES)


@dataclass(frozen=True)
class Markup:
    """One landmark markup.

    Attributes:
        name: its key in ``MARKUPS``.
        count: number of landmarks K.
        groups: parts of the face by name, as landmark indices.
        flip: mirrored points are ``points[..., flip, :]``.
        normalizers: "inter_ocular" (outer eye corners) and "inter_pupil", each two index groups whose means are the
            two ends.
        curves: chains of landmarks along ``BOUNDARIES`` and ``CONTOURS``, where the markup has them.
        anchors: which landmark each of ``ANCHORS`` is, where the markup has it.
    """

    name: str
    count: int
    groups: MappingProxyType
    flip: Indices
    normalizers: MappingProxyType
    curves: MappingProxyType = field(default_factory=lambda: MappingProxyType({}))
    anchors: MappingProxyType = field(default_factory=lambda: MappingProxyType({}))


def get(name: str) -> Markup:
    """The markup of that name. Raises ValueError for an unknown one."""
    if not isinstance(name, str) or name not in MARKUPS:
        raise ValueError(f"markup must be one of {', '.join(MARKUPS)}, or one that you add with markups.register, got "
                         f"{name!r}")
    return MARKUPS[name]


def register(markup: Markup) -> None:
    """Make a markup known by its name, in this process: to ``get``, and so to metrics, crops and networks.

    Raises:
        ValueError: if another markup has its name, or it is none: a flip that is no order of its landmarks or does not
            lead back, an index beyond its count, or a normaliser missing.
    """
    if not isinstance(markup, Markup):
        raise ValueError(f"markup must be a Markup, got {type(markup).__name__}")
    if markup.name in MARKUPS and MARKUPS[markup.name] != markup:
        raise ValueError(f"markup must have a name of its own, and {markup.name!r} is another's")
    everyone, flip = list(range(markup.count)), markup.flip
    if sorted(flip) != everyone or [flip[i] for i in flip] != everyone:
        raise ValueError(f"flip must be an order of {markup.count} landmarks that leads back to itself, got {flip}")
    if missing := {"inter_ocular", "inter_pupil"} - set(markup.normalizers):
        raise ValueError(f"normalizers must have inter_ocular and inter_pupil, got no {' and no '.join(missing)}")
    used = {*markup.anchors.values()}.union(*markup.groups.values(), *markup.curves.values(),
                                            *(end for ends in markup.normalizers.values() for end in ends))
    if not used <= set(everyone):
        raise ValueError(f"indices must be from 0 to {markup.count - 1}, got {sorted(used - set(everyone))}")
    MARKUPS[markup.name] = markup


def convert(points: ArrayLike, source: str, target: str) -> NDArray[np.float64]:
    """Landmarks of one markup as another, where every point of the target has a counterpart.

    Args:
        points: (..., K, 2) in the markup ``source``.

    Raises:
        ValueError: if the conversion would have to invent points, or the count is wrong.
    """
    points = floats(points, "points")
    if points.shape[-2:] != (get(source).count, 2):
        raise ValueError(f"points of markup {source!r} must be (..., {get(source).count}, 2), got {points.shape}")
    get(target)
    if source == target:
        return points.copy()
    if (source, target) not in CONVERSIONS:
        known = ", ".join(f"{a} to {b}" for a, b in CONVERSIONS)
        raise ValueError(f"source and target must be one of {known}; got {source} to {target}")
    groups = CONVERSIONS[source, target]
    return np.stack([points[..., list(group), :].mean(-2) for group in groups], axis=-2)


def _span(first: int, last: int) -> Indices:
    """first, ..., last, both included, in either direction."""
    return tuple(range(first, last + 1)) if last >= first else tuple(range(first, last - 1, -1))


def _flip(count: int, pairs: list[tuple[Indices, Indices]]) -> Indices:
    """Identity but for pairs of equally long right and left chains."""
    order = list(range(count))
    for right, left in pairs:
        for a, b in zip(right, left, strict=True):
            order[a], order[b] = b, a
    return tuple(order)


def _frozen(**items) -> MappingProxyType:
    return MappingProxyType(items)


# ---- 68: 300-W -----------------------------------------------------------------------------------------------------

_68 = Markup(
    "68", 68,
    groups=_frozen(jaw=_span(0, 16), brow=_span(17, 26), nose=_span(27, 35), eye=_span(36, 47), mouth=_span(48, 67),
                   right_brow=_span(17, 21), left_brow=_span(22, 26), right_eye=_span(36, 41), left_eye=_span(42, 47),
                   inner51=_span(17, 67)),
    flip=_flip(68, [(_span(0, 7), _span(16, 9)), (_span(17, 21), _span(26, 22)), (_span(31, 32), _span(35, 34)),
                    (_span(36, 39), _span(45, 42)), (_span(40, 41), _span(47, 46)), (_span(48, 50), _span(54, 52)),
                    (_span(58, 59), _span(56, 55)), (_span(60, 61), _span(64, 63)), ((67,), (65,))]),
    normalizers=_frozen(inter_ocular=((36,), (45,)), inter_pupil=(_span(36, 41), _span(42, 47))),
    curves=_frozen(
        face_outline=_span(0, 16), right_eyebrow_upper=_span(17, 21), left_eyebrow_upper=_span(22, 26),
        nose_bottom=_span(31, 35), right_eye_upper=_span(36, 39), right_eye_lower=(36, 41, 40, 39),
        left_eye_upper=_span(42, 45), left_eye_lower=(42, 47, 46, 45), upper_lip_outer=_span(48, 54),
        upper_lip_inner=_span(60, 64), lower_lip_inner=(60, 67, 66, 65, 64), lower_lip_outer=(48, *_span(59, 54)),
        right_eyebrow_center_line=_span(17, 21), left_eyebrow_center_line=_span(22, 26),
        right_eye_upper_lid=_span(36, 39), right_eye_lower_lid=(36, 41, 40, 39), left_eye_upper_lid=_span(42, 45),
        left_eye_lower_lid=(42, 47, 46, 45), nose_ridge=_span(27, 30), nose_bottom_boundary=_span(31, 35),
        mouth_upper_lip_outer=_span(48, 54), mouth_lower_lip_outer=(48, *_span(59, 54)),
        mouth_upper_lip_inner=_span(60, 64), mouth_lower_lip_inner=(60, 67, 66, 65, 64), chin_boundary=_span(0, 16)),
    anchors=_frozen(right_eye_inner_corner=39, right_eye_outer_corner=36, left_eye_inner_corner=42,
                    left_eye_outer_corner=45, nose_tip=30, nose_bottom_center=33, mouth_right_outer_corner=48,
                    mouth_left_outer_corner=54, mouth_right_inner_corner=60, mouth_left_inner_corner=64))

# ---- 36: ACE-Net's sparse markup, Fig. 7c --------------------------------------------------------------------------
# The paper shows it and lists nothing. Ours keeps all anchors of the 68 and about every second contour landmark; each
# curve still has its ends and, but for the straight nose ridge, at least one point between them.

SPARSE = (0, 2, 4, 6, 8, 10, 12, 14, 16, 17, 19, 21, 22, 24, 26, 27, 30, 31, 33, 35, 36, 37, 39, 40, 42, 44, 45, 47,
          48, 51, 54, 57, 60, 62, 64, 66)


def _subset(name: str, whole: Markup, kept: Indices) -> Markup:
    """A markup made of some landmarks of another."""
    at = {old: new for new, old in enumerate(kept)}

    def thin(items) -> MappingProxyType:
        return MappingProxyType({k: tuple(at[i] for i in v if i in at) for k, v in items.items()})

    mirror = {old: whole.flip[old] for old in kept}
    # 37 and 40 mirror to 44 and 47: the set is closed under the flip
    return Markup(name, len(kept), groups=thin(whole.groups), flip=tuple(at[mirror[old]] for old in kept),
                  normalizers=MappingProxyType({k: tuple(tuple(at[i] for i in end if i in at) for end in v)
                                                for k, v in whole.normalizers.items()}),
                  curves=thin(whole.curves),
                  anchors=MappingProxyType({k: at[i] for k, i in whole.anchors.items()}))


_36 = _subset("36", _68, SPARSE)

# ---- 98: WFLW ------------------------------------------------------------------------------------------------------

_98 = Markup(
    "98", 98,
    groups=_frozen(jaw=_span(0, 32), brow=_span(33, 50), nose=_span(51, 59), eye=(*_span(60, 75), 96, 97),
                   mouth=_span(76, 95), right_brow=_span(33, 41), left_brow=_span(42, 50), right_eye=_span(60, 67),
                   left_eye=_span(68, 75)),
    flip=_flip(98, [(_span(0, 15), _span(32, 17)), (_span(33, 37), _span(46, 42)), (_span(38, 41), _span(50, 47)),
                    (_span(55, 56), _span(59, 58)), (_span(60, 64), _span(72, 68)), (_span(65, 67), _span(75, 73)),
                    (_span(76, 78), _span(82, 80)), (_span(86, 87), _span(84, 83)), (_span(88, 89), _span(92, 91)),
                    ((95,), (93,)), ((96,), (97,))]),
    normalizers=_frozen(inter_ocular=((60,), (72,)), inter_pupil=((96,), (97,))),
    curves=_frozen(
        face_outline=_span(0, 32), right_eyebrow_upper=_span(33, 37), right_eyebrow_lower=(33, *_span(41, 38)),
        left_eyebrow_upper=_span(42, 46), left_eyebrow_lower=_span(50, 46), nose_ridge=_span(51, 54),
        nose_bottom=_span(55, 59), right_eye_upper=_span(60, 64), right_eye_lower=(60, *_span(67, 64)),
        left_eye_upper=_span(68, 72), left_eye_lower=(68, *_span(75, 72)), upper_lip_outer=_span(76, 82),
        upper_lip_inner=_span(88, 92), lower_lip_inner=(88, *_span(95, 92)), lower_lip_outer=(76, *_span(87, 82)),
        right_eye_upper_lid=_span(60, 64), right_eye_lower_lid=(60, *_span(67, 64)), left_eye_upper_lid=_span(68, 72),
        left_eye_lower_lid=(68, *_span(75, 72)), nose_bottom_boundary=_span(55, 59),
        mouth_upper_lip_outer=_span(76, 82), mouth_lower_lip_outer=(76, *_span(87, 82)),
        mouth_upper_lip_inner=_span(88, 92), mouth_lower_lip_inner=(88, *_span(95, 92)), chin_boundary=_span(0, 32)),
    anchors=_frozen(right_eye_inner_corner=64, right_eye_outer_corner=60, left_eye_inner_corner=68,
                    left_eye_outer_corner=72, right_iris_center=96, left_iris_center=97, nose_tip=54,
                    nose_bottom_center=57, mouth_right_outer_corner=76, mouth_left_outer_corner=82,
                    mouth_right_inner_corner=88, mouth_left_inner_corner=92))

# ---- 29: COFW ------------------------------------------------------------------------------------------------------
# Right and left points alternate. Points 8, 9 are the outer eye corners, 16, 17 the pupils: mixing the two up changes
# every published figure.

_29 = Markup(
    "29", 29,
    groups=_frozen(brow=(0, 1, 2, 3, 4, 5, 6, 7), eye=_span(8, 17), nose=_span(18, 21), mouth=_span(22, 27), jaw=(28,)),
    flip=_flip(29, [((0,), (1,)), ((2,), (3,)), ((4,), (6,)), ((5,), (7,)), ((8,), (9,)), ((10,), (11,)),
                    ((12,), (14,)), ((13,), (15,)), ((16,), (17,)), ((18,), (19,)), ((22,), (23,))]),
    normalizers=_frozen(inter_ocular=((8,), (9,)), inter_pupil=((16,), (17,))),
    anchors=_frozen(right_eye_outer_corner=8, left_eye_outer_corner=9, right_eye_inner_corner=10,
                    left_eye_inner_corner=11, right_iris_center=16, left_iris_center=17, nose_tip=20,
                    nose_bottom_center=21, mouth_right_outer_corner=22, mouth_left_outer_corner=23))

# ---- 19: AFLW (21 less the ears) -----------------------------------------------------------------------------------

_19 = Markup(
    "19", 19,
    groups=_frozen(brow=_span(0, 5), eye=_span(6, 11), nose=_span(12, 14), mouth=_span(15, 17), jaw=(18,)),
    flip=_flip(19, [(_span(0, 2), _span(5, 3)), (_span(6, 8), _span(11, 9)), ((12,), (14,)), ((15,), (17,))]),
    normalizers=_frozen(inter_ocular=((6,), (11,)), inter_pupil=((7,), (10,))),
    anchors=_frozen(right_eye_outer_corner=6, right_iris_center=7, right_eye_inner_corner=8, left_eye_inner_corner=9,
                    left_iris_center=10, left_eye_outer_corner=11, nose_tip=13, mouth_right_outer_corner=15,
                    mouth_left_outer_corner=17))

# ---- 194: HELEN ----------------------------------------------------------------------------------------------------
# 41 jaw, 17 nose, 28 outer lips, 28 inner lips, 20 each eye and brow. Jaw, nose and lips begin on the person's right,
# eyes and brows with the left one. The ring of an eye begins at its inner corner and runs along the upper lid to the
# outer one, its twelfth point; lips begin at the right corner, with the upper lip. The order is that of two public
# readers of the data set (Stasm's table of mirror partners, drishti's parts), which agree; not checked on its images.


def _ring(first: int, count: int, start: int = 0) -> Indices:
    return tuple(first + (start + k) % count for k in range(count))


def _mirror_ring(first: int, count: int, axis: int) -> list[tuple[Indices, Indices]]:
    """Pairs of a ring whose point ``axis`` mirrors to point 0."""
    pairs = []
    for k in range(count):
        other = (axis - k) % count
        if k < other:
            pairs.append(((first + k,), (first + other,)))
    return pairs


_194 = Markup(
    "194", 194,
    groups=_frozen(jaw=_span(0, 40), nose=_span(41, 57), mouth=_span(58, 113), eye=_span(114, 153),
                   brow=_span(154, 193), mouth_outer=_span(58, 85), mouth_inner=_span(86, 113),
                   right_eye=_span(134, 153), left_eye=_span(114, 133), right_brow=_span(174, 193),
                   left_brow=_span(154, 173)),
    flip=_flip(194, [(_span(0, 19), _span(40, 21)), (_span(41, 48), _span(57, 50)), *_mirror_ring(58, 28, 14),
                     *_mirror_ring(86, 28, 14), (_ring(114, 20), _ring(134, 20)), (_ring(154, 20), _ring(174, 20))]),
    normalizers=_frozen(inter_ocular=((145,), (125,)), inter_pupil=(_span(134, 153), _span(114, 133))),
    curves=_frozen(face_outline=_span(0, 40), chin_boundary=_span(0, 40), nose_bottom_boundary=_span(41, 57),
                   right_eye_upper_lid=_span(145, 134), right_eye_lower_lid=(*_span(145, 153), 134),
                   left_eye_upper_lid=_span(114, 125), left_eye_lower_lid=(114, *_span(133, 125)),
                   mouth_upper_lip_outer=_span(58, 72), mouth_lower_lip_outer=(58, *_span(85, 72)),
                   mouth_upper_lip_inner=_span(86, 100), mouth_lower_lip_inner=(86, *_span(113, 100))),
    anchors=_frozen(right_eye_inner_corner=134, right_eye_outer_corner=145, left_eye_inner_corner=114,
                    left_eye_outer_corner=125, mouth_right_outer_corner=58, mouth_left_outer_corner=72,
                    mouth_right_inner_corner=86, mouth_left_inner_corner=100))

# ---- 39: Menpo 2D, faces in profile -------------------------------------------------------------------------------
# Only the side that is seen, left and right profiles in one order, so a mirror image keeps it (our reading, unchecked
# on its images). Which landmark is which is not said here, and no two eyes are seen: errors are divided by the box or
# its diagonal, as in the set's own challenge.

_39 = Markup("39", 39, groups=_frozen(), flip=_span(0, 38), normalizers=_frozen())

MARKUPS = {m.name: m for m in (_68, _36, _98, _29, _19, _194, _39)}

# ---- boundaries ----------------------------------------------------------------------------------------------------
# TAB draws 15 boundaries for every markup; a sparser one has fewer landmarks for them. Where it has one line for two
# boundaries (the brows of 68 landmarks, the lids and lips of 19) both are that line; where it has one landmark
# (the chin of 29) the boundary is a point. The paper shows pictures and no lists.

_SAME_BROWS = {"right_eyebrow_lower": "right_eyebrow_upper", "left_eyebrow_lower": "left_eyebrow_upper"}


def _drawn(markup: Markup, **more: Indices) -> tuple[Indices, ...]:
    chains = {**{name: markup.curves[other] for name, other in _SAME_BROWS.items() if other in markup.curves},
              **markup.curves, **more}
    return tuple(chains[name] for name in BOUNDARIES)


_LIDS, _MOUTH = {"right": (6, 7, 8), "left": (9, 10, 11)}, (15, 16, 17)   # 19: through the pupils, through the lips

BOUNDARY_CHAINS: dict[str, tuple[Indices, ...]] = {
    "98": _drawn(_98), "68": _drawn(_68), "36": _drawn(_36),
    "29": _drawn(
        _29, face_outline=(28,), right_eyebrow_upper=(0, 4, 2), right_eyebrow_lower=(0, 5, 2),
        left_eyebrow_upper=(3, 6, 1), left_eyebrow_lower=(3, 7, 1), nose_ridge=(20,), nose_bottom=(18, 21, 19),
        right_eye_upper=(8, 12, 10), right_eye_lower=(8, 13, 10), left_eye_upper=(11, 14, 9),
        left_eye_lower=(11, 15, 9), upper_lip_outer=(22, 24, 23), upper_lip_inner=(22, 25, 23),
        lower_lip_inner=(22, 26, 23), lower_lip_outer=(22, 27, 23)),
    "19": _drawn(
        _19, face_outline=(18,), right_eyebrow_upper=(0, 1, 2), right_eyebrow_lower=(0, 1, 2),
        left_eyebrow_upper=(3, 4, 5), left_eyebrow_lower=(3, 4, 5), nose_ridge=(13,), nose_bottom=(12, 13, 14),
        right_eye_upper=_LIDS["right"], right_eye_lower=_LIDS["right"], left_eye_upper=_LIDS["left"],
        left_eye_lower=_LIDS["left"], upper_lip_outer=_MOUTH, upper_lip_inner=_MOUTH, lower_lip_inner=_MOUTH,
        lower_lip_outer=_MOUTH),
}


def boundaries(name: str) -> tuple[Indices, ...]:
    """The landmarks along each of the 15 ``BOUNDARIES``, in their order.

    Raises:
        ValueError: for a markup without boundaries, or an unknown one.

    Source: TAB Fig. 2 and 3, which show them; the lists of the sparse markups are ours.
    """
    if get(name).name not in BOUNDARY_CHAINS:
        raise ValueError(f"markup must be one of {', '.join(BOUNDARY_CHAINS)} to have boundaries, got {name!r}")
    return BOUNDARY_CHAINS[name]


# each target landmark as the mean of source landmarks
CONVERSIONS: dict[tuple[str, str], tuple[Indices, ...]] = {
    ("68", "36"): tuple((i,) for i in SPARSE),
    ("98", "68"): tuple((i,) for i in (
        *range(0, 33, 2), *_span(33, 37), *_span(42, 46), *_span(51, 59), 60, 61, 63, 64, 65, 67,
        68, 69, 71, 72, 73, 75, *_span(76, 95))),
}
CONVERSIONS["98", "36"] = tuple(CONVERSIONS["98", "68"][i] for i in SPARSE)
