"""TAB: boundary maps against brute force, the two networks against their equations, and what each loss reaches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline

from facealign_lite import geometry, markups, tab

MARKUPS = ("98", "68", "36", "29", "19")


def face(markup, size=32, seed=0, spread=1.0):
    """Landmarks anywhere about a map."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(-0.5, size - 0.5, (markups.get(markup).count, 2)) - size / 2) * spread + size / 2


# ---- curves --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("markup", MARKUPS)
def test_fifteen_boundaries_of_every_markup(markup):
    chains, table = markups.boundaries(markup), markups.get(markup)
    assert len(chains) == len(markups.BOUNDARIES) == 15
    for name, chain in zip(markups.BOUNDARIES, chains):
        assert len(set(chain)) == len(chain) >= 1 and set(chain) <= set(range(table.count))
        if name in table.curves:
            assert chain == table.curves[name]
    for chain, mirror in zip(chains, markups.BOUNDARY_FLIP):            # in the mirror a boundary is its twin
        assert {table.flip[k] for k in chain} == set(chains[mirror])


def test_boundaries_pass_nearly_all_landmarks():
    missing = {m: set(range(markups.get(m).count)) - {k for chain in markups.boundaries(m) for k in chain}
               for m in MARKUPS}
    assert missing == {"98": {96, 97}, "68": set(), "36": set(), "29": {16, 17}, "19": set()}     # pupils
    for m in ("194", "17"):
        with pytest.raises(ValueError, match="markup must be one of"):
            markups.boundaries(m)


@given(st.integers(3, 9), st.integers(1, 7), st.integers(0, 999))
def test_a_smooth_line_is_the_cubic_with_the_slopes_of_parabolas(count, steps, seed):
    points = np.random.default_rng(seed).normal(size=(count, 2)) * 10
    at = np.append(0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))

    def slope(i):                                       # of the parabola through point i and its neighbours, at i
        j = min(max(i, 1), count - 2)
        local = at[j - 1:j + 2] - at[i]
        return np.linalg.solve(np.stack([local**2, local, np.ones(3)], 1), points[j - 1:j + 2])[1]
    spline = CubicHermiteSpline(at, points, np.array([slope(i) for i in range(count)]))
    where = np.concatenate([np.linspace(a, b, steps, endpoint=False) for a, b in zip(at, at[1:])] + [at[-1:]])
    got = tab.smooth(torch.from_numpy(points), steps)
    np.testing.assert_allclose(got, spline(where), atol=1e-6)
    np.testing.assert_allclose(got[::steps], points, atol=1e-9)         # through every landmark


def test_three_points_give_their_parabola_two_a_line_and_one_itself():
    points = torch.tensor([[0.0, 0], [3, 1], [4, 5]], dtype=torch.float64)
    at = np.append(0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1)))
    curve = tab.smooth(points, 8).numpy()
    where = np.concatenate([np.linspace(a, b, 8, endpoint=False) for a, b in zip(at, at[1:])] + [at[-1:]])
    parabola = np.stack([np.polyval(np.polyfit(at, points[:, k], 2), where) for k in (0, 1)], 1)
    np.testing.assert_allclose(curve, parabola, atol=1e-9)
    np.testing.assert_allclose(tab.smooth(points[:2], 4)[:, 0], [0, 0.75, 1.5, 2.25, 3])
    assert tab.smooth(points[:1], 4).tolist() == [[0, 0], [0, 0]]
    for points, steps in ((torch.zeros(0, 2), 2), (torch.zeros(4, 3), 2), (torch.zeros(4, 2), 0)):
        with pytest.raises(ValueError, match="points"):
            tab.smooth(points, steps)


def test_a_landmark_bends_only_its_two_neighbouring_pieces_to_each_side():
    points = torch.randn(9, 2, generator=torch.manual_seed(0), dtype=torch.float64) + 3 * torch.arange(9)[:, None]
    moved = points.clone()
    moved[4] += 1
    same = (tab.smooth(points, 5) == tab.smooth(moved, 5)).all(-1)
    still = torch.ones_like(same)
    still[11:30] = False
    still[[15, 25]] = True                                               # points 3 and 5 themselves
    assert torch.equal(same, still)


def test_points_that_coincide_leave_all_finite():
    points = torch.tensor([[1.0, 1], [1, 1], [4, 2], [4, 2], [4, 2], [9, 9]])
    assert tab.smooth(points, 6).isfinite().all()
    assert tab.boundary_maps(np.full((68, 2), 5.0), "68", 12).isfinite().all()


# ---- maps ----------------------------------------------------------------------------------------------------------

@settings(max_examples=15, deadline=None)
@given(st.sampled_from(MARKUPS), st.integers(0, 99), st.floats(0.5, 2.5), st.floats(0.2, 1.6))
def test_boundary_maps_are_their_definition_pixel_by_pixel(markup, seed, sigma, spread):
    height, width = 18, 23
    points = face(markup, 20, seed, spread)
    maps = tab.boundary_maps(points, markup, (height, width), sigma).numpy()
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    nearest = np.full((height, width), np.inf)
    for heat, line in zip(maps, tab.boundary_curves(points, markup).numpy()):
        d = geometry.distance_to_polyline(pixels, line)
        clear = abs(d - 3 * sigma) > 1e-3                                # which side of the cut it is
        np.testing.assert_allclose(heat[clear], np.where(d < 3 * sigma, np.exp(-d**2 / (2 * sigma**2)), 0)[clear],
                                   atol=1e-9)
        nearest = np.minimum(nearest, d)
    assert maps.shape == (16, height, width)
    np.testing.assert_array_equal(maps[15], maps[:15].max(0))
    assert (maps[15][nearest < 2.9 * sigma] > 0).all()


def test_nothing_is_snapped_and_nothing_wraps():
    """Shifting the landmarks by a fraction shifts the maps by it; a line beyond one border is not seen at the other."""
    points = face("68", 24, spread=0.6)
    a = tab.boundary_maps(points, "68", 24, 2.0)
    b = tab.boundary_maps(points + [0.5, 0], "68", 24, 2.0)
    assert (a - b).abs().max() > 0.15                                     # half a pixel of a slope of 0.3
    halves = tab.boundary_maps(2 * (points + 0.5) - 0.5, "68", 48, 4.0)   # twice the map: pixel pairs straddle it
    np.testing.assert_allclose(tab.boundary_maps(points + 0.25, "68", 24, 2.0), halves[:, ::2, ::2], atol=1e-6)
    for shift in ([-30.0, 0.0], [30.0, 0.0], [0.0, 30.0], [0.0, -30.0]):
        assert not tab.boundary_maps(points + np.array(shift), "68", 24, 2.0).any()


def test_the_mirror_image_has_the_mirrored_maps():
    points = face("98", 20, seed=3)
    mirror = points[list(markups.get("98").flip)] * [-1, 1] + [19, 0]
    order = [*markups.BOUNDARY_FLIP, 15]
    np.testing.assert_allclose(tab.boundary_maps(mirror, "98", 20), tab.boundary_maps(points, "98", 20).flip(-1)[order],
                               atol=1e-9)


def test_maps_of_many_faces_and_bad_input():
    faces = torch.tensor(np.stack([face("29", 16, s) for s in range(3)]))
    maps = tab.boundary_maps(faces, "29", 16)
    for one, points in zip(maps, faces):
        torch.testing.assert_close(one, tab.boundary_maps(points, "29", 16))
    assert tab.boundary_maps(faces.float(), "29", 16).dtype == torch.float32
    for points, markup, sigma, what in ((faces, "68", 1.0, "68"), (faces, "29", 0.0, "sigma"),
                                        (faces * torch.nan, "29", 1.0, "finite"), (faces[..., 0], "29", 1.0, "29")):
        with pytest.raises(ValueError, match=what):
            tab.boundary_maps(points, markup, 16, sigma)


# ---- quality -------------------------------------------------------------------------------------------------------

def test_the_mean_square_of_an_empty_map_is_the_area_of_the_squared_band():
    """A straight line of length l has sum exp(-d^2 / sigma^2) = l sigma sqrt(pi) on its map, so the rest is known."""
    points = np.zeros((98, 2)) - 99
    points[list(markups.boundaries("98")[5])] = [[8, y] for y in (-20, 0, 40, 60)]        # the ridge crosses the map
    target = tab.boundary_maps(points, "98", (40, 17), 1.5)
    wanted = 2 * 40 * 1.5 * np.pi**0.5 / (16 * 40 * 17)                                   # the ridge and the union
    assert tab.boundary_mse(torch.zeros_like(target), target).item() == pytest.approx(wanted, rel=1e-3)
    assert tab.boundary_mse(target, target).item() == 0


def test_overlap_counts_pixels_of_bands():
    target = torch.zeros(2, 6, 6)
    target[0, 2:4] = 0.7
    predicted = target.clone()
    predicted[0, 2] = 0.4
    predicted[0, 5, :3] = 0.6                                             # shared 6, joint 15
    assert tab.boundary_overlap(predicted, target).tolist() == pytest.approx([6 / 15, 1])
    assert tab.boundary_overlap(predicted, target, 0.3).tolist() == pytest.approx([12 / 15, 1])
    target[1, 0, 0] = 1
    assert tab.boundary_overlap(predicted, target)[1] == 0
    for bad in (lambda: tab.boundary_overlap(predicted, target, 0), lambda: tab.boundary_mse(predicted, target[0]),
                lambda: tab.boundary_overlap(predicted[0], target[0])):
        with pytest.raises(ValueError, match=r"level|predicted"):
            bad()
