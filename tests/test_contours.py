"""Contours to heat, and contourness against the search over angles that it replaces."""

import math

import numpy as np
import pytest
import torch
from capture import assert_capturable
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from facealign_lite import contours, geometry
from facealign_lite.acenet import to_loss
from facealign_lite.contours import contourness, distances, encode, extract, ideal, join, stack

DOUBLE = {"dtype": torch.float64}
TURN = math.pi / 2
SEED = st.integers(0, 10**6)
COORDINATE = st.floats(-8, 30, allow_nan=False)
POLYLINE = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=2, max_size=6)


def pixels(height, width):
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)


@pytest.mark.parametrize("call, word", [
    (lambda: encode([[[0, 0], [1, 1j]]], 8, 1.0), "contours"), (lambda: encode([[[0, 0], [1, 1]]], 10**8, 1.0), "size"),
    (lambda: encode([[[0, 0], [1, 1]]], (8, 8, 8), 1.0), "size"),
    (lambda: encode([[[0, 0], [1, 1]]], 8.5, 1.0), "size"),
    (lambda: encode([[[0, 0], [1, 1]]], 1 << 18, 1.0), "size"),
    (lambda: encode([[[0, 0], [1e20, 1]]], 8, 1.0), "nearer"),
    (lambda: encode([[[0, 0], [1, 1]]], 8, 1e-200), "sigma"), (lambda: encode([[[0, 0], [1, 1]]], 8, 1e200), "sigma"),
    (lambda: contourness(np.zeros((9, 9)), 2.0), "tensor"), (lambda: contourness(torch.zeros(0, 9), 2.0), "heatmaps"),
    (lambda: contourness(torch.zeros(9, 9), math.inf), "sigma"), (lambda: contourness(torch.zeros(9, 9), 1e5), "sigma"),
    (lambda: extract(np.full((9, 9), 1e200)), "heatmap"), (lambda: extract(np.zeros((9, 9)), 1e5), "sigma"),
    (lambda: extract(np.zeros((9, 9), complex)), "heatmap"), (lambda: join([[]], 1.0), "polylines"),
    (lambda: join([np.zeros((3, 3))], 1.0), "polylines"), (lambda: join([np.full((3, 2), math.nan)], 1.0), "finite"),
    (lambda: join([np.zeros((3, 2)), []], 1.0), "polylines"), (lambda: join([np.zeros((3, 2))], math.nan), "gap"),
])
def test_what_no_map_holds_is_refused(call, word):
    with pytest.raises(ValueError, match=word):
        call()


def test_every_form_of_contour_and_map_gives_the_same():
    lines, whole = np.array([[[2.0, 3], [9, 4], [12, 13]]]), torch.tensor([[[2.0, 3], [9, 4], [12, 13]]])
    wanted = encode(lines, 16, 2.0)
    for form in (lines.astype(">f8"), lines[:, ::-1][:, ::-1], lines.astype(int), lines.tolist(), whole.int(),
                 whole.half(), whole.bfloat16(), torch.nn.Parameter(whole)):
        torch.testing.assert_close(encode(form, np.int64(16), 2.0).double(), wanted, atol=1e-5, rtol=0)
    heat = wanted[0]
    curves = extract(heat, 2.0)
    for form in (heat.numpy(), heat.numpy()[::-1][::-1], heat.numpy().astype(">f8"), heat.clone().requires_grad_()):
        for one, other in zip(extract(form, 2.0), curves, strict=True):
            np.testing.assert_array_equal(one, other)
    torch.testing.assert_close(contourness((heat * 9).int(), 2.0)[0], contourness((heat * 9).int().float(), 2.0)[0])
    assert len(extract(heat.bfloat16(), 2.0)) == len(curves)


def clutter(*shape, seed=0):
    return torch.rand(*shape, generator=torch.manual_seed(seed), **DOUBLE)


def grid(reach):
    t = torch.arange(-reach, reach + 1, **DOUBLE)
    return torch.meshgrid(t, t, indexing="xy")                                   # x, y


def line(degrees, sigma=2.0, offset=0.0, width=None, reach=20):
    """An ideal contour through the middle pixel [reach, reach], moved by ``offset`` along its normal."""
    x, y = grid(reach)
    across = y * math.cos(math.radians(degrees)) - x * math.sin(math.radians(degrees)) - offset
    return (1 - 2 * across**2 / (width or sigma) ** 2).clamp(min=0)


def middle(heat, sigma=2.0):
    return contourness(heat, sigma)[0][heat.shape[-2] // 2, heat.shape[-1] // 2].item()


def weight(sigma):
    x, y = grid(int(2 * sigma))
    return torch.exp(-(x**2 + y**2) / sigma**2)                                  # Eq. 15


def template(theta, sigma, clip):
    x, y = grid(int(2 * sigma))
    flat = 1 - 2 * (y * torch.cos(theta) - x * torch.sin(theta)) ** 2 / sigma**2  # Eq. 16
    return flat.clamp(min=0) if clip else flat                                   # Eq. 5


def by_search(heat, sigma, clip=False, constant=False, count=3600):
    """Eq. 6 by trying every angle: best score and its angle. ``constant``: keep the sum of G T^2 that Eq. 18 drops."""
    theta = torch.arange(count, **DOUBLE)[:, None, None] * (math.pi / count)
    templates, g = template(theta, sigma, clip).flatten(1), weight(sigma).flatten()
    side = int(2 * sigma)
    patches = functional.unfold(heat.clamp(min=0)[None, None], 2 * side + 1, padding=side)[0]
    match = 2 * (templates * g) @ patches - g @ patches.square()
    if constant:
        match = match - (templates.square() @ g)[:, None]
    best, which = match.max(0)
    return best.view_as(heat), theta.flatten()[which].view_as(heat)


def apart(a, b):
    """The angle between two directions, modulo pi."""
    return ((a - b + TURN) % math.pi - TURN).abs()


# ---- from curves to maps ---------------------------------------------------------------------------------------------

@settings(max_examples=80, deadline=None)
@given(POLYLINE, st.floats(0.3, 6))
def test_distances_and_heat_are_those_of_geometry(polyline, sigma):
    wanted, size = geometry.distance_to_polyline(pixels(19, 23), polyline), (19, 23)
    np.testing.assert_allclose(distances(polyline, size, sigma), np.minimum(wanted, sigma), atol=1e-6)
    heat = encode(polyline, size, sigma)
    np.testing.assert_allclose(heat, np.maximum(0, 1 - 2 * wanted**2 / sigma**2), atol=1e-9)
    assert (heat.numpy()[wanted > 0.71 * sigma] == 0).all()


def test_heat_by_hand():
    heat = encode([[2.0, 1.5], [6.0, 1.5]], (4, 9), 2.0)
    np.testing.assert_allclose(heat[:, 4], [0, 0.875, 0.875, 0], atol=1e-15)     # 1 - 2 (1/2)^2 / 2^2; then d = 1.5
    np.testing.assert_allclose(heat[1, :3], [0, 1 - 2 * 1.25 / 4, 0.875], atol=1e-15)   # before the end


def test_nothing_wraps_around_the_border():
    heat = encode([[-1.0, 5.0], [-1.0, 9.0]], (12, 20), 4.0)
    assert heat[:, 0].max() > 0.5 and heat[:, 5:].max() == 0
    below = encode([[3.0, 12.0], [9.0, 12.0]], (12, 20), 4.0)
    assert below[-1].max() > 0.5 and below[:6].max() == 0
    stacked = encode([[[3.0, 12.0], [9.0, 12.0]], [[15.0, 6.0], [16.0, 6.0]]], (12, 20), 4.0)
    assert stacked[1, :2].max() == 0                                             # nor into the next map


def test_a_contour_that_leaves_the_map_goes_on_outside():
    through = encode([[-500.0, 4.0], [700.0, 9.0]], (12, 20), 2.0)
    np.testing.assert_allclose(through, encode([[-5.0, 6.0625], [25.0, 6.1875]], (12, 20), 2.0), atol=1e-9)
    assert encode([[-50.0, -50.0], [-40.0, 70.0]], (12, 20), 2.0).max() == 0


@given(SEED, st.integers(2, 5), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_repeated_points_and_company_change_nothing(seed, points, maps):
    lines = np.random.default_rng(seed).uniform(-3, 20, (maps, points, 2))
    together = encode(lines, (16, 17), 2.5)
    assert together.shape == (maps, 16, 17)
    for row, single in zip(together, lines):
        torch.testing.assert_close(row, encode(single, (16, 17), 2.5), atol=1e-12, rtol=0)
        doubled = np.repeat(single, 2, axis=0)
        torch.testing.assert_close(row, encode(doubled, (16, 17), 2.5), atol=1e-12, rtol=0)
        torch.testing.assert_close(row, encode(single[::-1].copy(), (16, 17), 2.5), atol=1e-12, rtol=0)
    assert encode(lines[None, :, None], 16, 2.5).shape == (1, maps, 1, 16, 16)


def test_polylines_of_different_lengths_share_a_stack():
    lines = [np.array([[1.0, 1], [9, 3]]), np.array([[2.0, 9], [4, 4], [9, 8], [1, 2]])]
    assert stack(lines).shape == (2, 4, 2)
    for row, single in zip(encode(lines, 12, 2.0), lines):
        torch.testing.assert_close(row, encode(single, 12, 2.0))


def test_a_single_point_is_an_anchor():
    x, y = np.moveaxis(pixels(12, 12), -1, 0)
    wanted = np.maximum(0, 1 - 2 * ((x - 4.3) ** 2 + (y - 7.6) ** 2) / 4)        # Eq. 1
    np.testing.assert_allclose(encode([[4.3, 7.6]] * 2, 12, 2.0), wanted, atol=1e-12)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0, 3.0, 4.0])
def test_the_ideal_score_is_that_of_a_line_along_a_row(sigma):
    assert middle(line(0, sigma), sigma) == pytest.approx(ideal(sigma), abs=1e-5)
    assert round(ideal(2.0), 2) == 4.92


def test_drawing_and_contourness_can_be_captured():
    lines = torch.tensor([[[1.3, 2], [9, 3.2], [9, 3.2]], [[-40, 2], [4.1, 4], [4.1, 4]]])
    assert_capturable(lambda: encode(lines, (14, 12), 2.0, check=False))
    assert encode(lines * math.nan, 8, 2.0, check=False).isnan().all()
    heat = torch.rand(2, 3, 40, 35, generator=torch.manual_seed(0), requires_grad=True)
    assert_capturable(lambda: contourness(heat, 2.0))
    assert heat.grad.isfinite().all() and heat.grad.abs().max() > 0


@pytest.mark.parametrize("call, word", [
    (lambda: encode([[1.0, 2], [3, 4]], 8, 0), "sigma must be positive"),
    (lambda: encode([[1.0, 2], [3, 4]], 8, math.nan), "sigma must be positive"),
    (lambda: encode([[1.0, 2]], 8, 2), "M >= 2"),
    (lambda: encode(np.zeros((3, 3)), 8, 2), "M, 2"),
    (lambda: encode([[1.0, math.nan], [3, 4]], 8, 2), "finite"),
    (lambda: encode([[1.0, 2], [3, 4]], (0, 8), 2), "at least one pixel"),
    (lambda: distances([[1.0, 2], [3, 4]], 8, math.inf), "reach must be positive and finite"),
    (lambda: stack([]), "polylines"),
    (lambda: stack([[[1.0, 2]]]), "M >= 2"),
])
def test_contours_that_make_no_sense(call, word):
    with pytest.raises(ValueError, match=word):
        call()


# ---- contourness is the best angle -----------------------------------------------------------------------------------

@pytest.mark.parametrize("sigma", [1.5, 2, 3])
def test_the_closed_form_is_the_best_of_3600_angles(sigma):
    for heat in (clutter(14, 15) - 0.1, line(33, sigma, 0.3, reach=8)):
        score, orientation = contourness(heat, sigma)
        wanted, angle = by_search(heat, sigma)
        torch.testing.assert_close(score, wanted, atol=1e-4, rtol=0)
        assert apart(orientation, angle).median() < math.pi / 3600


@settings(max_examples=25, deadline=None)
@given(SEED, st.floats(-4, 4), st.floats(1, 3))
def test_eq_19_to_23_are_identities_in_the_angle(seed, theta, sigma):
    g, (x, y) = weight(sigma), grid(int(2 * sigma))
    a, b, c = (1 - 2 * x**2 / sigma**2) * g, -2 * x * y / sigma**2 * g, (1 - 2 * y**2 / sigma**2) * g   # Eq. 20
    cos, sin = math.cos(theta), math.sin(theta)
    turned = template(torch.tensor(theta, **DOUBLE), sigma, clip=False) * g
    torch.testing.assert_close(turned, a * sin**2 - b * 2 * cos * sin + c * cos**2)                      # Eq. 19
    heat = clutter(*g.shape, seed=seed)
    ra, rb, rc = ((heat * f).sum().item() for f in (a, b, c))                                            # Eq. 21
    here = (heat * turned).sum().item()
    phase, swing = math.atan2(-2 * rb, rc - ra), math.hypot((rc - ra) / 2, rb)
    assert here == pytest.approx((rc + ra) / 2 + (rc - ra) / 2 * math.cos(2 * theta) - rb * math.sin(2 * theta))
    assert here == pytest.approx((rc + ra) / 2 + math.cos(2 * theta - phase) * swing)                    # Eq. 22
    best = (rc + ra) / 2 + swing                                                                         # Eq. 23
    assert here <= best + 1e-9
    assert best * 2 - (heat.square() * g).sum().item() == pytest.approx(middle(heat, sigma), abs=1e-6)   # Eq. 24
    orientation = contourness(heat, sigma)[1][g.shape[0] // 2, g.shape[1] // 2]
    assert apart(orientation, torch.tensor(phase / 2, **DOUBLE)) < 1e-9                                  # Eq. 25


def test_it_is_a_ridge_filter_less_the_heat_s_energy():
    """Ra, Rb, Rc are second derivatives of the blurred heat: Eq. 24 is -sigma^2 times the least eigenvalue of its
    Hessian, the ridge measure of Sato et al. 1998, less one term, which makes it a match to height 1."""
    heat, sigma = clutter(30, 33, seed=2), 2.0
    like_ours = {"sigma": sigma / math.sqrt(2), "truncate": 2 * math.sqrt(2), "mode": "constant"}
    xx, xy, yy = (gaussian_filter(heat.numpy(), order=order, **like_ours) for order in ((0, 2), (1, 1), (2, 0)))
    least = (xx + yy) / 2 - np.hypot((xx - yy) / 2, xy)
    energy = gaussian_filter(heat.numpy() ** 2, **like_ours)
    total = weight(sigma).sum().item()                                           # scipy's Gaussian sums to 1
    np.testing.assert_allclose(contourness(heat, sigma)[0], total * (-(sigma**2) * least - energy), atol=1e-6)


def test_convolution_and_correlation_are_the_same_here():
    """Eq. 18 writes Eq. 17 as a convolution, which turns the filters by pi: they do not mind."""
    x, y = grid(4)
    for f in (1 - x**2 / 2, -x * y / 2, 1 - y**2 / 2):
        torch.testing.assert_close(f, f.flip(0, 1))
    assert not torch.equal(-x * y / 2, (-x * y / 2).flip(0))                     # but they would mind one mirror


@pytest.mark.parametrize("maps, sigma", [((1, 1), 2), ((3, 40), 1.5), ((32, 33), 2), ((70, 31), 3), ((20, 50), 6)])
def test_maps_of_any_size_and_in_any_company(maps, sigma):
    heat = clutter(2, 3, *maps, seed=3)
    score, orientation = contourness(heat, sigma)
    assert score.shape == orientation.shape == heat.shape
    torch.testing.assert_close(score[1, 2], by_search(heat[1, 2], sigma, count=900)[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(contourness(heat[1, 2], sigma)[0], score[1, 2], atol=1e-12, rtol=0)
    assert contourness(heat[:0], sigma)[0].shape == (0, 3, *maps)
    # maps that want a gradient are cut in another way
    for alike, wanted in zip(contourness(heat.clone().requires_grad_(), sigma), (score, orientation)):
        assert torch.equal(alike, wanted)
    assert contourness(heat.float(), sigma)[0].dtype == torch.float32


def test_as_many_maps_at_a_time_as_is_liked(monkeypatch):
    """Also where the last are fewer, and of the gradient."""
    heat = clutter(7, 20, 35, seed=4).requires_grad_()

    def found():
        score, orientation = contourness(heat, 2)
        return score, orientation, torch.autograd.grad((score * orientation).sum(), heat)[0]
    wanted = found()
    for chunk in (1, 20 * 35, 3 * 20 * 35 + 1):
        monkeypatch.setattr(contours, "CHUNK", chunk)
        for one, other in zip(found(), wanted):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


# ---- which way it runs -----------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.floats(-180, 180), st.floats(-0.4, 0.4))
def test_orientation_is_the_direction_of_a_line(degrees, offset):
    """Of an ideal line, to 1.1 degrees: pixels and the square window prefer some angles a little."""
    orientation = contourness(line(degrees, offset=offset), 2)[1][20, 20]
    assert -TURN <= orientation <= TURN
    assert apart(orientation, torch.tensor(math.radians(degrees))) < math.radians(2)


def test_the_branch_of_the_arctangent():
    """Vertical lines are a matter of the last bit, pi / 2 or -pi / 2: directions are to be compared modulo pi."""
    up = contourness(torch.stack([line(89.9), line(90.1)]), 2)[1][:, 20, 20]
    assert up[0] > 1.5 and up[1] < -1.5 and apart(*up) < 0.01
    assert contourness(line(0), 2)[1][20, 20] == 0
    assert contourness(torch.zeros(5, 5), 2)[1].abs().max() == 0                 # no direction at all: 0


@pytest.mark.parametrize("rb", [-1.3, -0.2, 0.0, 0.2, 1.3])
@pytest.mark.parametrize("a_minus_c", [-1.1, -0.3, 0.3, 1.1])
def test_eq_26_is_eq_25_and_a_right_angle_in_every_quadrant(rb, a_minus_c):
    along, normal = math.atan2(-2 * rb, -a_minus_c) / 2, math.atan2(2 * rb, a_minus_c) / 2
    assert (normal - along - TURN) % math.pi == pytest.approx(0, abs=1e-12) or \
        (normal - along - TURN) % math.pi == pytest.approx(math.pi, abs=1e-12)
    # with the arctangent of one argument both would be one and the same angle
    assert math.atan(-2 * rb / -a_minus_c) == pytest.approx(math.atan(2 * rb / a_minus_c))


# ---- symmetry --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("move, turned", [
    (lambda m: m.rot90(1, (-2, -1)), lambda o: o - TURN),                        # y points down: to the left
    (lambda m: m.flip(-1), lambda o: -o),
    (lambda m: m.flip(-2), lambda o: -o),
    (lambda m: m.mT, lambda o: TURN - o),
], ids=["turn", "mirror", "upside down", "transpose"])
def test_turned_and_mirrored_maps(move, turned):
    heat = clutter(21, 26, seed=5)
    score, orientation = contourness(heat, 2)
    other_score, other_orientation = contourness(move(heat), 2)
    torch.testing.assert_close(other_score, move(score), atol=1e-9, rtol=0)
    assert apart(other_orientation, turned(move(orientation))).max() < 1e-6


def test_moved_maps():
    heat = functional.pad(clutter(20, 20, seed=6), (10, 10, 10, 10))
    (there, turned), (here, orientation) = contourness(heat.roll((5, -3), (0, 1)), 2), contourness(heat, 2)
    torch.testing.assert_close(there, here.roll((5, -3), (0, 1)), atol=1e-9, rtol=0)
    assert apart(turned, orientation.roll((5, -3), (0, 1)))[11:-11, 11:-11].max() < 1e-6


# ---- gradients -------------------------------------------------------------------------------------------------------

def test_gradients_of_score_and_orientation():
    heat = clutter(7, 9, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda h: contourness(h, 1.5), heat)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flat_heat_has_a_finite_gradient(dtype):
    for value in (0.0, 1.0):
        for part in (0, 1):
            heat = torch.full((12, 12), value, dtype=dtype, requires_grad=True)
            contourness(heat, 2)[part].sum().backward()
            assert heat.grad.isfinite().all()


def test_negative_heat_counts_as_none_and_hears_nothing():
    heat = clutter(12, 12) - 0.5
    torch.testing.assert_close(contourness(heat, 2), contourness(heat.clamp(min=0), 2))
    heat.requires_grad_()
    contourness(heat, 2)[0].sum().backward()
    assert (heat.grad[heat < 0] == 0).all()                                      # the clip of Eq. 6 stops the gradient
    assert (heat.grad[heat > 0] != 0).all()


@pytest.mark.parametrize("sigma", [0, -1, math.nan])
def test_a_width_that_makes_no_sense(sigma):
    with pytest.raises(ValueError, match="sigma must be positive"):
        contourness(torch.zeros(4, 4), sigma)


def test_a_map_has_two_dimensions():
    with pytest.raises(ValueError, match="heatmaps must be"):
        contourness(torch.zeros(4), 2)


# ---- what the paper leaves open, or says too quickly -----------------------------------------------------------------

@pytest.mark.parametrize("degrees, best", [(0, 4.9196), (22.5, 4.9887), (45, 4.9951)])
def test_the_stated_maximum_holds_only_along_the_axes(degrees, best):
    assert middle(line(degrees)) == pytest.approx(best, abs=1e-4)
    raw = 1 - 2 ** ((middle(line(degrees)) - 4.92) / 1.5)                        # section 5.3, said to lie in [0, 1]
    assert (raw < -0.03) == (degrees > 0)


@settings(max_examples=25, deadline=None)
@given(SEED, st.floats(0.1, 3))
def test_no_map_beats_an_ideal_line_by_more_than_its_angle(seed, height):
    """2 H T - H^2 <= max(0, T)^2 pixel by pixel, so the score is at most the greatest sum of G max(0, T)^2: 4.9961."""
    theta = torch.arange(0, math.pi, math.pi / 1800, **DOUBLE)[:, None, None]
    bound = (weight(2) * template(theta, 2, clip=True) ** 2).sum((-2, -1)).max().item()
    assert bound == pytest.approx(4.9961, abs=1e-4)
    assert contourness(clutter(20, 20, seed=seed) * height, 2)[0].max() < bound


def test_the_clip_that_is_dropped_changes_the_score():
    """Eq. 6 with the clipped template is a perfect 0 on a line; with the unclipped one it is -18.1."""
    heat = line(0, reach=8)
    with_clip, without = (by_search(heat, 2, clip=clip, constant=True)[0][8, 8].item() for clip in (True, False))
    assert with_clip == pytest.approx(0, abs=1e-12)
    assert without == pytest.approx(4.9196 - 23.0235, abs=1e-3)


def test_what_the_clip_leaves_out_is_heat_beside_the_line():
    """At any angle: Eq. 24's match = sum of G T+^2 + Eq. 6 - 2 times the sum of G H T-, and T- is 0 on the line."""
    heat, g = clutter(9, 9, seed=4), weight(2)
    for theta in torch.linspace(0, 3, 7, **DOUBLE):
        t, clipped = template(theta, 2, clip=False), template(theta, 2, clip=True)
        match = (g * (2 * heat * t - heat**2)).sum()
        mismatch = (g * (heat - clipped) ** 2).sum()
        torch.testing.assert_close(match, (g * clipped**2).sum() - mismatch - 2 * (g * heat * (clipped - t)).sum())
    # so a neighbour four pixels away costs half of the score; with the clip it would cost 3 %
    pair = torch.maximum(line(0, reach=6), line(0, offset=4, reach=6))
    assert 4.920 - middle(pair) == pytest.approx(2.373, abs=1e-3)
    assert by_search(pair, 2, clip=True, constant=True)[0][6, 6].item() == pytest.approx(-0.158, abs=1e-3)


def test_on_clutter_eq_6_and_eq_24_name_different_angles():
    def turned(heat):
        _, angle = by_search(heat, 2, clip=True, constant=True, count=720)       # Eq. 5 and 6 as printed
        return torch.rad2deg(apart(angle, contourness(heat, 2)[1]))

    off = turned(clutter(40, 40, seed=7))[4:-4, 4:-4]
    assert 10 < off.median() < 25 and off.max() > 85                             # a fifth of a right angle and more
    ridge = encode([[2.3, 30], [20, 9.1], [37.2, 22]], 40, 2).double()           # on a contour they agree
    assert turned(ridge)[ridge > 0.9].median() < 1.5


def test_the_constant_that_is_not_constant():
    """The sum of G T^2 is 2 pi sigma^2 = 25.13 over the plane, at any angle; on the window 23.02 to 23.71."""
    sums = {d: (weight(2) * template(torch.tensor(math.radians(d)), 2, False) ** 2).sum().item() for d in (0, 45, 90)}
    assert sums[0] == pytest.approx(23.0235, abs=1e-4) == pytest.approx(sums[90], abs=1e-4)
    assert sums[45] == pytest.approx(23.7068, abs=1e-4)
    x, y = grid(40)                                                             # no window to speak of
    for theta in (0.0, 0.4, TURN / 2):
        t = 1 - 2 * (y * math.cos(theta) - x * math.sin(theta)) ** 2 / 4
        assert (torch.exp(-(x**2 + y**2) / 4) * t**2).sum().item() == pytest.approx(8 * math.pi, abs=1e-9)


def test_dropping_the_constant_turns_clutter_and_does_lines_good():
    heat = clutter(40, 40, seed=8)
    kept = by_search(heat, 2, constant=True, count=720)[1]
    assert 8 < torch.rad2deg(apart(kept, contourness(heat, 2)[1]))[4:-4, 4:-4].median() < 20
    errors = {True: [], False: []}
    for degrees in range(0, 91, 5):
        for constant, row in errors.items():
            found = by_search(line(degrees, reach=6), 2, constant=constant, count=720)[1][6, 6]
            row.append(torch.rad2deg(apart(found, torch.tensor(math.radians(degrees)))).item())
    assert max(errors[True]) > 3 and max(errors[False]) < 1.5


@pytest.mark.parametrize("height, share", [(0.25, 0.4375), (0.5, 0.75), (1, 1), (1.5, 0.75), (2, 0), (3, -3)])
def test_a_contour_should_be_of_height_one(height, share):
    """The score is a match, not a strength: 2 h - h^2 of that of height 1. Twice too hot is as good as nothing."""
    assert middle(height * line(0)) == pytest.approx(share * 4.9196, abs=1e-3)


def test_a_blank_map_is_not_the_worst():
    """f never reaches 1: a blank map costs 0.897, clutter and crossings more."""
    nothing, flat = (to_loss(torch.tensor(middle(torch.full((21, 21), v, **DOUBLE)))).item() for v in (0.0, 1.0))
    assert nothing == pytest.approx(0.8971, abs=1e-4) and 0.999 < flat < 1
    assert middle(torch.full((21, 21), 0.25, **DOUBLE)) == pytest.approx(-0.697, abs=1e-3)


@pytest.mark.parametrize("offset, at_pixel, loss", [(0, 4.9196, 0.0002), (0.25, 4.5660, 0.3146), (0.5, 3.7871, 0.4076)])
def test_a_perfect_contour_between_pixels_scores_less(offset, at_pixel, loss):
    """Eq. 7 reads the score at a landmark between pixels; read between the pixels' scores, a perfect contour costs."""
    score = contourness(line(0, offset=offset), 2)[0][:, 20]
    assert score[20].item() == pytest.approx(at_pixel, abs=1e-4)
    assert to_loss((1 - offset) * score[20] + offset * score[21]).item() == pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize("row, along, across", [(0, 4.230, 3.154), (1, 4.920, 4.237), (2, 4.920, 4.748),
                                                (4, 4.920, 4.920)])
def test_the_border_lowers_scores(row, along, across):
    """Zeros are put around the map: a line along its border loses 14 %, one that runs out of it 36 % at the end."""
    beside = encode([[-20.0, row], [60, row]], 40, 2.0)
    assert contourness(beside, 2)[0][row, 20].item() == pytest.approx(along, abs=1e-3)
    through = encode([[20.0, -20], [20, 60]], 40, 2.0)
    assert contourness(through, 2)[0][row, 20].item() == pytest.approx(across, abs=1e-3)


def test_at_width_three_the_border_moves_the_ridge():
    beside = encode([[-20.0, 0], [60, 0]], 40, 3.0)
    assert contourness(beside, 3)[0][:, 20].argmax() == 1                        # the line is in row 0


def test_the_score_goes_with_the_width_squared():
    """4.92 and 1.5 in section 5.3 belong to sigma 2; at the sigma 3 of extraction a line has 11.14."""
    assert middle(line(0, 3), 3) == pytest.approx(11.136, abs=1e-3)
    over = [middle(line(0, s), s) / s**2 for s in (2, 3, 4, 6)]
    assert over == pytest.approx([1.2299, 1.2374, 1.2499, 1.2436], abs=1e-4)


def test_a_width_that_is_no_half_integer_has_its_window_cut():
    """Eq. 6 sums from -2 sigma to 2 sigma and says nothing of fractions: 4 pixels up to sigma 2.5, then 5."""
    heat = clutter(15, 15, seed=9)
    below, at = (contourness(heat, s)[0][7, 7].item() for s in (2.5 - 1e-9, 2.5))
    assert abs(below - at) > 0.05
    assert contourness(heat, 2.5 + 1e-9)[0][7, 7].item() == pytest.approx(at, abs=1e-6)


@pytest.mark.parametrize("sigma, best", [(2, 2), (3, 3)])
def test_lines_of_the_template_s_width_score_best(sigma, best):
    widths = np.arange(1, 5.01, 0.5)
    assert widths[np.argmax([middle(line(0, width=w), sigma) for w in widths])] == best


def test_curves_ends_and_crossings_score_less():
    """The template is straight, endless and alone."""
    turn = torch.linspace(0, 2 * math.pi, 721, **DOUBLE)
    for radius, wanted in ((4, 3.854), (8, 4.692), (20, 4.881)):
        ring = encode(torch.stack([40 + radius * turn.cos(), 40 + radius * turn.sin()], -1), 81, 2)
        assert contourness(ring, 2)[0][40, 40 + radius].item() == pytest.approx(wanted, abs=2e-3)
    end = contourness(encode([[20.0, 20], [60, 20]], (41, 81), 2), 2)[0][20]
    assert end[20].item() == pytest.approx(3.739, abs=1e-3) and end[24].item() == pytest.approx(4.920, abs=1e-3)
    assert middle(torch.maximum(line(0), line(90))) == pytest.approx(-2.990, abs=1e-3)      # worse than a blank map
