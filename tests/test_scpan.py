"""SCPAN's fields, divergences, disturbances and losses against their definitions."""

import math

import numpy as np
import pytest
import torch
from capture import assert_capturable
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch.autograd import gradcheck

from facealign_lite import geometry, heatmaps, markups, nets
from facealign_lite.scpan import (
    DRAWS,
    Maps,
    PoseAttention,
    Weights,
    add_noise,
    add_salt,
    bali_field,
    boundaries_of,
    calibration_mechanism_loss,
    calibration_terms,
    coordinate_loss,
    curves,
    decode_bali,
    decode_field,
    determinant,
    disturb,
    disturb_by,
    divergence,
    draw_linear,
    field_divergence,
    js_divergence,
    landmark_offsets,
    linear_map,
    low_resolution,
    move_images,
    move_maps,
    move_offsets,
    move_points,
    occlude,
    original_divergence,
    original_loss,
    overall_loss,
    self_calibrated_divergence,
    self_calibrated_loss,
    semi_supervised_loss,
    square_offsets,
    squared,
    supervised_terms,
    truth,
    widen,
)
from facealign_lite.scpan.disturbances import BLACK, WHITE

EYE = ((0, 1, 2, 3), (0, 4, 5, 3))                   # two lids with common corners
EYE_POINTS = np.array([[4.3, 12.1], [10.2, 8.4], [16.7, 8.1], [22.4, 12.6], [10.1, 15.9], [16.4, 16.2]])
EYE_FLIP, LID_FLIP = (3, 2, 1, 0, 5, 4), (0, 1)
TURNS = {"quarter": math.pi / 2, "half": math.pi, "none": 0.0}


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def one_map(angle=0.0, scale=1.0, mirror=False):
    return linear_map(*(torch.tensor([v], dtype=torch.float64) for v in (angle, scale)), torch.tensor([mirror]))


def random_maps(*shape, seed=0):
    return torch.rand(shape, generator=draw(seed), dtype=torch.float64)


# ---- fields ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, count", [("68", 13), ("36", 13), ("98", 15)])
def test_boundaries_of_a_markup_and_their_mirror_images(name, count):
    chains, flip = boundaries_of(name)
    table = markups.get(name)
    assert len(chains) == count
    for chain, other in zip(chains, flip):
        assert {table.flip[k] for k in chain} == set(chains[other])
    missing = set(range(table.count)) - {k for chain in chains for k in chain}
    assert missing == ({96, 97} if name == "98" else set())
    with pytest.raises(ValueError, match="'29'"):
        boundaries_of("29")


def test_a_field_is_its_definition_pixel_by_pixel():
    points = np.random.default_rng(0).uniform(-2, 24, (6, 2))
    height, width, radius, sigma = 18, 22, 2, 1.3
    field = bali_field(points, EYE, (height, width), radius, sigma, background=0.01)
    lines = curves(points, EYE).numpy()
    for c, chain in enumerate(EYE):
        for y in range(height):
            for x in range(width):
                pixel, own = np.array([x, y]), points[list(chain)]
                inside = (np.abs(np.floor(own + 0.5) - pixel) <= radius).all(1).any()
                nearest = own[np.linalg.norm(own - pixel, axis=1).argmin()]
                assert field.mask[c, y, x] == inside
                np.testing.assert_allclose(field.offsets[c, :, y, x], (nearest - pixel) * inside, atol=1e-12)
                d = geometry.distance_to_polyline(pixel, lines[c])
                wanted = math.exp(-d**2 / (2 * sigma**2)) if d < 2 * sigma else 0.01
                assert field.confidence[c, y, x] == pytest.approx(wanted, abs=1e-9)


def test_the_two_readings_of_the_confidence():
    """On the boundary both are 1; two sigma away the printed one still has exp(-1 / sigma), then falls to nothing."""
    points, sigma = np.array([[0.0, 10.0], [40.0, 10.0]]), 2.0
    heat = {r: bali_field(points, [(0, 1)], (21, 41), sigma=sigma, reading=r).confidence[0, :, 20]
            for r in ("gaussian", "printed")}
    for r, power in (("gaussian", 2), ("printed", 1)):
        wanted = [math.exp(-abs(y - 10) ** power / (2 * sigma**2)) if abs(y - 10) < 2 * sigma else 0 for y in range(21)]
        np.testing.assert_allclose(heat[r], wanted, atol=1e-9)
    near = np.array([[0.0, 10.001], [40.0, 10.001]])
    near = {r: bali_field(near, [(0, 1)], (21, 41), sigma=sigma, reading=r).confidence[0, 6, 20].item() for r in heat}
    assert bali_field(points + [0, 0.001], [(0, 1)], (21, 41), sigma=sigma).confidence[0, 14, 20] == pytest.approx(
        math.exp(-2), abs=1e-3)
    assert near == {"gaussian": 0, "printed": 0}     # 4.001 away: beyond
    edge = bali_field(points + [0, 0.001], [(0, 1)], (21, 41), sigma=sigma, reading="printed").confidence[0, 14, 20]
    assert edge == pytest.approx(math.exp(-1 / sigma), abs=1e-3)


@pytest.mark.parametrize("shape", [*heatmaps.GED, *heatmaps.STUDENT])
def test_boundaries_have_every_shape_that_peaks_have(shape):
    """Across a straight boundary, up to two sigma, the profile is that of a peak along its row."""
    sigma, points = 2.0, np.array([[0.0, 10.0], [40.0, 10.0]])
    across = bali_field(points, [(0, 1)], (21, 41), sigma=sigma, reading=shape).confidence[0, :, 20]
    peak = heatmaps.encode(np.array([[20.0, 10.0]]), (21, 41), sigma, shape)[0, :, 20]
    wanted = np.where(np.abs(np.arange(21) - 10) < 2 * sigma, peak, 0)
    np.testing.assert_allclose(across, wanted, atol=1e-9)


def test_every_square_has_its_size_and_lone_or_repeated_landmarks_are_lines():
    field = bali_field(np.array([[12.4, 11.5]]), [(0,)], 24, radius=5)
    assert field.mask.sum() == 11 * 11
    np.testing.assert_allclose(field.confidence[0, 11:13, 12], math.exp(-(0.4**2 + 0.5**2) / 4.5))
    angles = np.linspace(0, np.pi, 7)
    arc = curves(10 * np.stack([np.cos(angles), np.sin(angles)], 1), [tuple(range(7))])[0]
    assert (torch.linalg.vector_norm(arc, dim=1) - 10).abs().max() < 0.1     # straight lines miss it by 0.34
    twice = np.array([[3.0, 4.0], [3.0, 4.0], [9.0, 4.0]])
    np.testing.assert_allclose(curves(twice, [(0, 1, 2)]), curves(twice[1:], [(0, 1)]), atol=1e-12)


def spline(points, n):
    """A boundary by scipy: the slow way."""
    apart = np.append(True, np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-3)
    points = points[apart]
    return np.repeat(points, n, 0) if len(points) == 1 else geometry.spline(points, n, min(2, len(points) - 1))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.sampled_from([2, 16, 33]))
def test_curves_of_all_boundaries_at_once_are_scipys_splines(seed, repeated, n):
    random, (chains, _) = np.random.default_rng(seed), boundaries_of("68")
    faces = random.uniform(-10, 64, (2, 68, 2))
    for k in random.integers(67, size=repeated):
        faces[1, k + 1] = faces[1, k]
    found = curves(faces, chains, n)
    for face, lines in zip(faces, found):
        for chain, line in zip(chains, lines):
            wanted = spline(face[list(chain)], n)
            np.testing.assert_allclose(line, wanted, atol=1e-9 * max(1, np.abs(wanted).max()))
    np.testing.assert_allclose(curves(faces.astype(np.float32), chains, n), found, rtol=1e-3, atol=1e-3)


def test_curves_of_short_boundaries():
    points = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    assert curves(points, [(0,), (2,)], 3).tolist() == [[[0, 0]] * 3, [[4, 0]] * 3]
    assert curves(points, [(0, 1), (1, 2)], 3).tolist() == [[[0, 0], [2, 0], [4, 0]], [[4, 0]] * 3]
    assert curves(points, [(0, 1, 2), (2, 1, 1)], 3).tolist() == [[[0, 0], [2, 0], [4, 0]], [[4, 0]] * 3]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 4), st.booleans())
def test_squares_hold_the_masked_pixels_of_the_field_once(seed, radius, crowded):
    points = torch.rand(3, 6, 2, generator=draw(seed), dtype=torch.float64) * (6 if crowded else 30) - 2
    field, said = bali_field(points, EYE, (24, 27), radius), random_maps(3, 2, 2, 24, 27, seed=seed)
    found, true, counts = square_offsets(said, points, EYE, radius)
    assert torch.equal(counts.sum(-1), field.mask.sum((-2, -1)))
    for values, dense in ((found, said), (true, field.offsets)):
        masked = (dense * field.mask[:, :, None]).flatten(3)
        for power in (1, 2):
            torch.testing.assert_close((values * counts[:, :, None]).pow(power).sum(-1), masked.pow(power).sum(-1))


def test_fields_of_many_faces_at_once():
    points = torch.rand(2, 3, 6, 2, generator=draw()) * 20
    together = bali_field(points, EYE, 20)
    alone = bali_field(points[1, 2], EYE, 20)
    assert together.offsets.shape == (2, 3, 2, 2, 20, 20) and together.confidence.dtype == torch.float32
    for a, b in zip(together, alone):
        torch.testing.assert_close(a[1, 2], b)
    assert not bali_field(points + 100, EYE, 20).mask.any()


@pytest.mark.parametrize("change, words", [
    ({"points": EYE_POINTS * np.nan}, "finite"), ({"points": EYE_POINTS[:3]}, "from 0 to 2"),
    ({"points": np.ones((3, 3))}, r"\(3, 3\)"), ({"boundaries": [()]}, "empty"), ({"boundaries": []}, "boundaries"),
    ({"radius": -1}, "radius"), ({"background": -1.0}, "background"), ({"sigma": 0.0}, "sigma"),
    ({"reading": "square"}, "reading .*square"), ({"size": 0}, "size"),
])
def test_fields_refuse(change, words):
    with pytest.raises(ValueError, match=words):
        bali_field(**{"points": EYE_POINTS, "boundaries": EYE, "size": 24} | change)


# ---- decode ---------------------------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(-0.5, 14.5), st.floats(-0.5, 10.5), st.integers(0, 4), st.floats(-6, 6))
def test_perfect_vectors_decode_exactly_whatever_the_heat(seed, x, y, radius, power):
    """Anywhere on the map, border and corners too, with heat that has nothing to do with the point."""
    height, width = 11, 15
    random = np.random.default_rng(seed)
    heat = torch.from_numpy(random.uniform(0.01, 1, (1, height, width)) * 10**power)
    v, u = np.mgrid[:height, :width]
    offsets = torch.from_numpy(np.stack([x - u, y - v])[None])
    np.testing.assert_allclose(decode_bali(heat, offsets, radius), [[x, y]], atol=1e-9)
    cold = torch.from_numpy(random.normal(size=(1, height, width)))
    for maps in (cold, -cold.abs(), torch.zeros_like(heat), heat * 1e-300):        # negative, none, almost none
        np.testing.assert_allclose(decode_bali(maps, offsets, radius), [[x, y]], atol=1e-9)
    faint = (heat / heat.max()).float() * 1e-43      # a single float holds one or two digits of it
    np.testing.assert_allclose(decode_bali(faint, offsets.float(), radius), [[x, y]], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 3))
def test_without_vectors_it_is_the_centre_of_mass_of_the_window(seed, radius):
    heat = np.random.default_rng(seed).uniform(-0.5, 1, (3, 7, 9))
    found = decode_bali(torch.from_numpy(heat), torch.zeros(3, 2, 7, 9, dtype=torch.float64), radius)
    for h, got in zip(heat, found):
        y, x = np.unravel_index(h.argmax(), h.shape)
        rows, columns = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
        v, u = np.mgrid[:7, :9]
        mass = h[rows, columns].clip(0)              # negative heat is none
        mass = mass / mass.sum()
        np.testing.assert_allclose(got, [(mass * u[rows, columns]).sum(), (mass * v[rows, columns]).sum()], atol=1e-9)


def test_landmarks_far_enough_apart_come_back_from_the_field_of_their_boundary():
    points = EYE_POINTS * 2                           # all more than a window's diagonal apart
    field = bali_field(points, EYE, (40, 50))
    heat = random_maps(6, 40, 50) * 0.9 + 5 * torch.from_numpy(heatmaps.encode(points, (40, 50), 0.3))
    found = decode_bali(heat, landmark_offsets(field.offsets, EYE, 6))
    np.testing.assert_allclose(found, points, atol=1e-9)


def test_a_near_neighbour_takes_its_votes_away():
    """Two landmarks 4 pixels apart, a window of 7: the columns 7 .. 12 say 10, the last one says 14."""
    points = np.array([[10.0, 8.0], [14.0, 8.0]])
    offsets = bali_field(points, [(0, 1)], 24).offsets
    heat = torch.ones(1, 24, 24, dtype=torch.float64)
    heat[0, 8, 10] += 1e-9
    assert decode_bali(heat, offsets)[0, 0].item() == pytest.approx(10 + 4 / 7)
    gaussian = torch.from_numpy(heatmaps.encode(points[:1], 24, 1.0))
    assert 0 < decode_bali(gaussian, offsets)[0, 0] - 10 < 0.03     # heat hides most of it
    assert decode_bali(heat, offsets, radius=1)[0, 0] == 10
    assert decode_bali(heat, offsets, reach=1.5)[0].tolist() == pytest.approx([10, 8])
    assert decode_bali(heat, offsets, reach=3.9)[0].tolist() == pytest.approx([10, 8])
    assert decode_bali(heat, offsets, reach=4.1)[0, 0].item() == pytest.approx(10 + 4 / 7)


def test_where_no_vote_is_within_reach_the_window_decides_without_arrows():
    heat = torch.zeros(1, 24, 24, dtype=torch.float64)
    heat[0, 10, 10:12] = torch.tensor([2.0, 1.0])
    arrows = torch.tensor([5.0, 0.0]).double().view(1, 2, 1, 1).expand(1, 2, 24, 24)
    assert decode_bali(heat, arrows)[0].tolist() == pytest.approx([15 + 1 / 3, 10])
    assert decode_bali(heat, arrows, reach=1.5)[0].tolist() == pytest.approx([10 + 1 / 3, 10])
    cold = arrows.clone()
    cold[0, :, 8, 8] = torch.tensor([2.0, 2.0])                      # a vote without heat counts where all others fail
    assert decode_bali(heat, cold, reach=1.5)[0].tolist() == pytest.approx([10, 10])


def test_where_landmarks_are_close_the_printed_decode_loses_more_than_without_vectors():
    """33 landmarks 3 pixels apart, as along a chin: perfect vectors, yet the mean is pulled towards both neighbours."""
    angle = np.linspace(0.2, np.pi - 0.2, 33)
    points = np.stack([40 + 35 * np.cos(angle), 5 + 35 * np.sin(angle)], 1)
    assert 2.9 < np.linalg.norm(np.diff(points, axis=0), axis=1).min() < 3.1
    chain = (tuple(range(33)),)
    heat = torch.from_numpy(heatmaps.encode(points, 80, 1.5))
    offsets = landmark_offsets(bali_field(points, chain, 80).offsets, chain, 33)

    def error(vectors, **how):
        return np.linalg.norm(decode_bali(heat, vectors, **how).numpy() - points, axis=1).max()
    assert error(offsets) > 2 * error(0 * offsets) > 0.1
    assert error(offsets, reach=1.5) < 1e-9


def test_a_landmark_reads_the_mean_of_its_boundaries():
    offsets = random_maps(2, 2, 2, 5, 5)
    read = landmark_offsets(offsets, EYE, 7)
    torch.testing.assert_close(read[:, 0], offsets.mean(1))          # the corner ends both lids
    torch.testing.assert_close(read[:, 1], offsets[:, 0])
    torch.testing.assert_close(read[:, 5], offsets[:, 1])
    assert not read[:, 6].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 3), st.sampled_from([None, 1.5, 0.2]), st.booleans())
def test_fields_looked_up_in_the_windows_give_the_same_votes(seed, radius, reach, cold):
    heat, offsets = random_maps(2, 7, 9, 11, seed=seed) - 0.5, 3 * random_maps(2, 2, 2, 9, 11, seed=seed + 1) - 1.5
    heat = heat * 0 if cold else heat
    wanted = decode_bali(heat, landmark_offsets(offsets, EYE, 7), radius, reach)
    torch.testing.assert_close(decode_field(heat, offsets, EYE, radius, reach), wanted)
    flat = decode_bali(heat, torch.zeros(2, 7, 2, 9, 11).double(), radius)
    torch.testing.assert_close(decode_field(heat, offsets[:, :0], (), radius), flat)


def test_gradients_of_the_decode():
    heat = random_maps(2, 6, 7).requires_grad_()
    offsets = random_maps(2, 2, 6, 7, seed=1).requires_grad_()
    assert gradcheck(lambda h, o: decode_bali(h, o, 1), (heat, offsets))
    for flat in (torch.zeros(1, 5, 5), -torch.ones(1, 5, 5), torch.ones(1, 5, 5)):
        flat.requires_grad_()
        decode_bali(flat, torch.rand(1, 2, 5, 5, generator=draw())).sum().backward()
        assert flat.grad.isfinite().all()


def test_decode_refuses():
    with pytest.raises(ValueError, match=r"offsets .*\(2, 5, 5\)"):
        decode_bali(torch.zeros(1, 5, 5), torch.zeros(2, 5, 5))
    with pytest.raises(ValueError, match="radius"):
        decode_bali(torch.zeros(1, 5, 5), torch.zeros(1, 2, 5, 5), -1)
    with pytest.raises(ValueError, match="finite"):
        decode_bali(torch.full((1, 5, 5), torch.nan), torch.zeros(1, 2, 5, 5))
    with pytest.raises(ValueError, match="offsets"):
        landmark_offsets(torch.zeros(3, 2, 5, 5), EYE, 6)


# ---- divergences ----------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1), st.floats(-4, 4))
def test_js_is_symmetric_bounded_and_scipys(seed, lit_a, lit_b, power):
    random = np.random.default_rng(seed)
    a, b = (random.normal(0.3, 1, (4, 6, 5)) * (random.random((4, 6, 5)) < lit) for lit in (lit_a, lit_b))
    a *= 10**power
    found = js_divergence(torch.from_numpy(a), torch.from_numpy(b))
    wanted = [jensenshannon(p.clip(0).ravel() + 1e-6, q.clip(0).ravel() + 1e-6) ** 2 for p, q in zip(a, b)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    np.testing.assert_allclose(found, js_divergence(torch.from_numpy(b), torch.from_numpy(a)), atol=1e-15)
    assert (found > -1e-15).all() and (found < math.log(2)).all()


def test_js_of_equal_disjoint_scaled_and_empty_maps():
    maps = torch.from_numpy(heatmaps.encode(EYE_POINTS, 28, 1.0))
    assert js_divergence(maps, maps).abs().max() < 1e-15
    assert js_divergence(maps, 7 * maps).max() < 1e-3                # only the shape of the heat counts
    left, right = torch.zeros(2, 4, 4, dtype=torch.float64)
    left[0, 0] = right[3, 3] = 1.0
    assert js_divergence(left, right) == pytest.approx(math.log(2), abs=1e-3)
    half = left / 2 + right / 2                      # m = (3/4, 1/4): JS = (2 log(4/3) + log(2/3) + log 2) / 4
    wanted = (2 * math.log(4 / 3) + math.log(2 / 3) + math.log(2)) / 4
    assert js_divergence(left, half) == pytest.approx(wanted, abs=1e-3)
    assert js_divergence(torch.zeros(4, 4), torch.ones(4, 4)) == 0   # no heat is heat everywhere
    other = maps.flip(0)
    np.testing.assert_allclose(js_divergence(maps.half(), other.half()), js_divergence(maps, other), atol=1e-3)
    torch.testing.assert_close(divergence(maps[None], other[None]), js_divergence(maps, other).sum()[None])
    with pytest.raises(ValueError, match="one shape"):
        js_divergence(maps, maps[:1])


def test_js_gradients():
    a, b = (random_maps(2, 4, 3, seed=s).add(0.1).requires_grad_() for s in (0, 1))
    assert gradcheck(js_divergence, (a, b))
    target = torch.from_numpy(heatmaps.encode(EYE_POINTS, 28, 1.0)).float()
    for value in (0.0, 1.0, -1.0, 1e-6, 1e6):
        flat = torch.full((6, 28, 28), value, requires_grad=True)
        js_divergence(flat, target).sum().backward()
        assert flat.grad.isfinite().all()
    flat = torch.zeros(6, 28, 28, requires_grad=True)
    js_divergence(flat, torch.zeros(6, 28, 28)).sum().backward()
    assert (flat.grad == 0).all()
    empty = torch.zeros(6, 28, 28, requires_grad=True)
    js_divergence(empty, target).sum().backward()
    x, y = EYE_POINTS[0].round().astype(int)
    assert empty.grad[0, y, x] < 0 < empty.grad[0, 27, 27]           # heat wanted on the landmark, none far off


def test_the_divergence_of_fields_sees_length_and_sign():
    field = bali_field(torch.from_numpy(EYE_POINTS), EYE, 28)
    true, mask = field.offsets[None], field.mask[None]
    def loss(offsets):
        return field_divergence(offsets, true, mask).item()
    assert loss(true) == pytest.approx(0, abs=1e-12)
    assert all(loss(wrong) > 1e-3 for wrong in (0.5 * true, 1.3 * true, -true, true + 2, 0 * true))
    assert loss(-true) < 4 * math.log(2) < loss(1000 * true)
    elsewhere = torch.where(mask[:, :, None], true, random_maps(*true.shape))
    assert loss(elsewhere) == loss(true)                             # nothing is asked outside the mask
    # while as normed heat, field and doubled field are the same
    window = true[0, 0, :1, 3:9, 3:9]
    assert js_divergence(window, 2 * window).item() < 1e-5


def test_field_divergence_by_hand_and_its_gradients():
    """One pixel, R = 1.5 / 1.5 - 0.5: L = 1.5 (1 + 0.5) = 2.25; u = 0.45 against -0.9, v equal."""
    offsets, target = torch.tensor([0.45, 0.3]).view(1, 1, 2, 1, 1).double(), torch.tensor([-0.9, 0.3])
    found = field_divergence(offsets, target.view_as(offsets).double(), torch.ones(1, 1, 1, 1, dtype=torch.bool), 1)
    assert found.item() == pytest.approx(jensenshannon([0.6, 0.4], [0.3, 0.7]) ** 2, abs=1e-7)
    true, mask = bali_field(torch.from_numpy(EYE_POINTS), EYE, 28, 1)[1:]
    wrong = (true + random_maps(*true.shape) - 0.5)[None].requires_grad_()
    assert gradcheck(lambda o: field_divergence(o, true[None], mask[None], 1), wrong, fast_mode=True)
    for value in (0.0, 100.0, -100.0):
        flat = torch.full_like(true, value)[None].requires_grad_()
        field_divergence(flat, true[None], mask[None], 1).sum().backward()
        assert flat.grad.isfinite().all()
        assert value == 0 or (flat.grad[:, mask[:, None].expand_as(true)] * value > 0).all()
    none = torch.zeros_like(mask)[None]
    assert field_divergence(true[None], 2 * true[None], none).item() == 0
    with pytest.raises(ValueError, match="mask"):
        field_divergence(true[None], true[None], mask)


# ---- disturbances ---------------------------------------------------------------------------------------------------

def encoded(points, size, linear=None):
    """Heat and field of EYE; with a linear map, of the disturbed landmarks."""
    points = torch.as_tensor(points, dtype=torch.float64)[None]
    points = points if linear is None else move_points(points, linear, size, EYE_FLIP)
    return heatmaps.encode(points, size, 1.5), bali_field(points, EYE, size)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turn", TURNS)
def test_mirror_and_quarter_turns_of_maps_are_exact(turn, mirror):
    linear = one_map(TURNS[turn], 1.0, mirror)
    heat, field = encoded(EYE_POINTS, 27)
    new_heat, new_field = encoded(EYE_POINTS, 27, linear)
    np.testing.assert_allclose(move_maps(heat, linear, EYE_FLIP), new_heat, atol=1e-9)
    np.testing.assert_allclose(move_maps(field.confidence, linear, LID_FLIP), new_field.confidence, atol=1e-6)
    np.testing.assert_allclose(move_offsets(field.offsets, linear, LID_FLIP), new_field.offsets, atol=1e-9)
    image = random_maps(1, 3, 27, 27)
    wanted = torch.rot90(image.flip(-1) if mirror else image, -round(TURNS[turn] / (math.pi / 2)), (-2, -1))
    np.testing.assert_allclose(move_images(image, linear), wanted, atol=1e-9)      # clockwise on the screen
    assert move_images(image * 0 + 1, one_map(0.5, 0.6, mirror)).min().item() == pytest.approx(1)     # no black corners


@settings(max_examples=15, deadline=None)
@given(st.floats(-60, 60), st.booleans())
def test_encode_then_turn_is_turn_then_encode(degrees, mirror):
    """Within what bilinear interpolation of a peak of sigma loses: at most h'' / 8 in each direction, 1 / 4 sigma^2."""
    linear = one_map(math.radians(degrees), 1.0, mirror)
    heat, field = encoded(EYE_POINTS, 27)
    new_heat, new_field = encoded(EYE_POINTS, 27, linear)
    assert (move_maps(heat, linear, EYE_FLIP) - new_heat).abs().max() < 1 / (4 * 1.5**2)
    found = heatmaps.decode(move_maps(heat, linear, EYE_FLIP))
    np.testing.assert_allclose(found, move_points(torch.from_numpy(EYE_POINTS)[None], linear, 27, EYE_FLIP), atol=0.05)
    moved = move_offsets(field.offsets, linear, LID_FLIP)
    alike = move_maps(field.mask.double(), linear, LID_FLIP) > 0.999
    alike &= new_field.mask                          # squares turn, the ones of the turned landmarks stand upright
    gap = (moved - new_field.offsets).abs().amax(2)[alike]
    assert gap.median() < 1e-9                       # vectors are linear between the lines where the nearest changes
    assert (gap < 1e-6).double().mean() > 0.8


def test_scaling_narrows_peaks_and_widen_restores_them():
    linear = one_map(math.radians(25), 0.6)
    points = torch.from_numpy(EYE_POINTS * 2)[None]
    moved = move_maps(heatmaps.encode(points, 56, 3.0), linear, EYE_FLIP)
    after = move_points(points, linear, 56, EYE_FLIP)
    assert (moved - heatmaps.encode(after, 56, 0.6 * 3.0)).abs().max() < 1 / (4 * 1.8**2)
    wide = heatmaps.encode(after, 56, 3.0)
    assert divergence(moved, wide) > 0.2             # what Eq. 7 and Eq. 6 together ask for cannot both hold
    restored = widen(moved, linear, 3.0)
    assert (restored - wide).abs().max() < 0.05 and divergence(restored, wide) < 0.01
    assert widen(wide, one_map(1.0), 3.0).sub(wide).abs().max() < 1e-6


def test_points_move_as_geometry_says():
    angle, scale, size = 0.4, 0.7, (20, 30)
    turn = geometry.similarity(scale, angle)
    middle = np.array([14.5, 9.5])
    for mirror in (False, True):
        start = EYE_POINTS * [-1, 1] + [29, 0] if mirror else EYE_POINTS
        wanted = geometry.transform(start - middle, turn) + middle
        wanted = wanted[list(EYE_FLIP)] if mirror else wanted
        found = move_points(torch.from_numpy(EYE_POINTS)[None], one_map(angle, scale, mirror), size, EYE_FLIP)
        np.testing.assert_allclose(found[0], wanted, atol=1e-12)


def test_points_of_a_picture_and_of_its_map_move_alike():
    linear = draw_linear(3, draw()).double()
    points = random_maps(3, 6, 2) * 64
    on_map = heatmaps.to_heatmap(move_points(points, linear, 64, EYE_FLIP), 64, 16)
    torch.testing.assert_close(on_map, move_points(heatmaps.to_heatmap(points, 64, 16), linear, 16, EYE_FLIP))


def test_drawn_maps_stay_in_their_ranges():
    linear = draw_linear(2000, draw()).double()
    determinant = torch.linalg.det(linear)
    scale = determinant.abs().sqrt()
    assert 0.5 <= scale.min() < 0.51 and 0.99 < scale.max() <= 1
    assert 0.45 < (determinant < 0).double().mean() < 0.55
    turn = torch.atan2(-linear[:, 0, 1], linear[:, 1, 1]).rad2deg()
    assert -60 <= turn.min() < -59 and 59 < turn.max() <= 60
    assert torch.equal(draw_linear(4, draw(3)), draw_linear(4, draw(3)))
    mild = draw_linear(2000, draw(), turn=30, scale=(0.75, 1))
    assert 0.75 <= torch.linalg.det(mild).abs().sqrt().min() < 0.76
    turn = torch.atan2(-mild[:, 0, 1], mild[:, 1, 1]).rad2deg()
    assert -30 <= turn.min() < -29 and 29 < turn.max() <= 30


def test_occlusion_covers_its_box_and_nothing_else():
    images = random_maps(2, 1, 8, 9) - 0.5
    boxes = torch.tensor([[2, 1, 5, 4], [-3, 6, 3, 20]])
    covered = torch.zeros(2, 1, 8, 9, dtype=torch.bool)
    covered[0, :, 1:4, 2:5] = covered[1, :, 6:, :3] = True
    black = occlude(images, boxes)
    assert (black[covered] == BLACK).all() and torch.equal(black[~covered], images[~covered])
    own = occlude(images, boxes, torch.tensor([[2, 3], [-1, 0]]))
    assert torch.equal(own[0, :, 1:4, 2:5], images[0, :, 4:7, 4:7])
    assert torch.equal(own[1, :, 6:, 1:3], images[1, :, 6:, 0:2]) and torch.equal(own[~covered], images[~covered])


def test_noise_salt_and_low_resolution():
    grey = torch.zeros(2, 3, 64, 64)
    noisy = add_noise(grey, 0.1, draw())
    assert noisy.std().item() == pytest.approx(0.1, rel=0.02) and abs(noisy.mean()) < 0.005
    assert torch.equal(add_noise(grey, 0.0, draw()), grey)
    salted = add_salt(grey, 0.1, draw())
    assert set(salted.unique().tolist()) == {0.0, WHITE}
    assert (salted > 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (salted.amax(1) == salted.amin(1)).all()                  # all channels of a pixel
    x = torch.linspace(-0.4, 0.4, 64).expand(1, 1, 64, 64)
    assert (low_resolution(x, 4) - x)[..., 8:-8].abs().max() < 1e-3  # a ramp survives
    checks = (torch.arange(64) % 2 - 0.5).expand(1, 1, 64, 64)
    assert low_resolution(checks, 4)[..., 8:-8].abs().max() < 0.05   # what is finer than the small picture does not
    assert low_resolution(torch.rand(1, 1, 5, 5, generator=draw()) - 0.5, 16).shape == (1, 1, 5, 5)


def test_disturbed_pictures():
    images = torch.rand(40, 1, 32, 32, generator=draw()) - 0.5
    twins, linear = disturb(images, draw(1))
    assert twins.shape == images.shape and linear.shape == (40, 2, 2)
    assert BLACK <= twins.min() and twins.max() <= WHITE and torch.equal(twins, disturb(images, draw(1))[0])
    touched = (twins != move_images(images, linear)).flatten(1).any(1)
    assert 0 < (~touched).sum() < 20                                 # one in six is only moved


def test_twins_of_given_numbers_are_those_textures_one_by_one():
    """Against the functions of one picture at a time; only noise is drawn otherwise, by the inverse normal."""
    count, (height, width) = 60, (24, 32)
    images = torch.rand(count, 2, height, width, generator=draw()) - 0.5
    draws, grain = torch.rand(count, DRAWS, generator=draw(1)), torch.rand(count, 3, height, width, generator=draw(2))
    twins, linear = disturb_by(images, draws, grain, turn=30, scale=(0.7, 1), shift=0.1)
    kinds = (draws[:, 5] * 6).long()
    assert kinds.unique().tolist() == list(range(6)) and linear.shape == (count, 2, 3)

    def textured(k, row, kind, moved):
        amount, texture = row[6].item(), grain[k:k + 1]
        w, h = width * (0.2 + 0.3 * row[7]), height * (0.2 + 0.3 * row[8])
        left, top = row[9] * (width - w), row[10] * (height - h)
        box = torch.stack([left, top, left + w, top + h])[None].round().long()
        own = (row[None, 11:] * torch.tensor([width, height])).long()
        noise = math.sqrt(2) * torch.erfinv(2 * texture[:, 1:] - 1)
        return (lambda: moved, lambda: (moved + 0.1 * amount * noise).clamp(BLACK, WHITE),
                lambda: torch.where(texture[:, :1] < 0.05 * amount, WHITE, moved),
                lambda: low_resolution(moved, (2, 4, 8, 16)[int(4 * amount)]), lambda: occlude(moved, box),
                lambda: occlude(moved, box, own))[kind]()

    for k, (row, kind) in enumerate(zip(draws.double(), kinds.tolist())):
        angle, share, mirror = row[:3]
        one = linear_map(torch.deg2rad(30 * (2 * angle[None] - 1)), 0.7 + 0.3 * share[None], mirror[None] < 0.5,
                         0.1 * (2 * row[None, 3:5] - 1))
        torch.testing.assert_close(linear[k:k + 1].double(), one, atol=1e-6, rtol=0)
        wanted = textured(k, row, kind, move_images(images[k:k + 1], linear[k:k + 1]))
        torch.testing.assert_close(twins[k], wanted[0], atol=1e-4, rtol=0)
    assert_capturable(lambda: disturb_by(images, draws, grain, shift=0.1))
    with pytest.raises(ValueError, match="draws"):
        disturb_by(images, draws[:, 1:], grain)


def test_twins_of_uniform_numbers_are_distributed_as_drawn_ones():
    count = 1500
    images = torch.full((count, 1, 12, 12), 0.2)
    given, linear = disturb_by(images, torch.rand(count, DRAWS, generator=draw()),
                               torch.rand(count, 2, 12, 12, generator=draw(1)))
    drawn, other = disturb(images, draw(2))
    for statistic in (lambda t: ((t - 0.2).abs() < 1e-4).flatten(1).all(1).double(),  # moved or blurred
                      lambda t: (t == BLACK).flatten(1).double().mean(1),
                      lambda t: (t == WHITE).flatten(1).double().mean(1),
                      lambda t: t.flatten(1).std(1).double()):
        a, b = statistic(given), statistic(drawn)
        assert abs(a.mean() - b.mean()) < 4 * ((a.var() + b.var()) / count).sqrt()
    for a, b in ((determinant(linear), determinant(other)), (linear[:, 0, 1], other[:, 0, 1])):
        assert abs(a.mean() - b.mean()) < 4 * ((a.var() + b.var()) / count).sqrt()
        assert (a.std() / b.std() - 1).abs() < 0.1


@pytest.mark.parametrize("mirror", [False, True])
def test_a_shift_moves_pictures_maps_points_and_vectors_alike(mirror):
    """By whole pixels of a map of 27, 3 to the right and 6 up, after a quarter turn."""
    shift = torch.tensor([[3 / 27, -6 / 27]], dtype=torch.float64)
    turn = torch.tensor([math.pi / 2], dtype=torch.float64)
    linear = linear_map(turn, torch.ones(1).double(), torch.tensor([mirror]), shift)
    still = one_map(math.pi / 2, 1.0, mirror)
    points = torch.from_numpy(EYE_POINTS)[None]
    moved = move_points(points, linear, 27, EYE_FLIP)
    torch.testing.assert_close(moved, move_points(points, still, 27, EYE_FLIP) + torch.tensor([3.0, -6.0]).double())
    heat, field = encoded(EYE_POINTS, 27)
    new_heat, new_field = encoded(EYE_POINTS, 27, linear)
    kept = (..., slice(0, 21), slice(3, 27))                                     # what did not move in from outside
    np.testing.assert_allclose(move_maps(heat, linear, EYE_FLIP)[kept], new_heat[kept], atol=1e-9)
    np.testing.assert_allclose(move_offsets(field.offsets, linear, LID_FLIP)[kept], new_field.offsets[kept], atol=1e-9)
    assert (move_maps(heat, linear, EYE_FLIP)[..., 21:, :].abs() < 1e-9).all()
    image = random_maps(1, 3, 27, 27)
    torch.testing.assert_close(move_images(image, linear)[kept], move_images(image, still)[..., 6:, :24])
    on_map = heatmaps.to_heatmap(move_points(points, linear, 27, EYE_FLIP), 27, 9)   # the same for maps of any size
    torch.testing.assert_close(on_map, move_points(heatmaps.to_heatmap(points, 27, 9), linear, 9, EYE_FLIP))


def test_all_in_the_middle_costs_something_once_pictures_shift():
    middle = heatmaps.encode(torch.full((1, 6, 2), 13.0), 27, 1.5)
    shifted = linear_map(*torch.tensor([[0.3], [1.0], [0.0]]), torch.tensor([[0.1, 0.0]]))
    assert self_calibrated_loss(middle, middle, shifted[..., :2], EYE_FLIP, divergence) / 6 < 0.01
    assert self_calibrated_loss(middle, middle, shifted, EYE_FLIP, divergence) / 6 > 0.1


def test_drawn_shifts_stay_in_their_range_and_leave_the_other_draws_alone():
    linear = draw_linear(1000, draw(), shift=0.1)
    assert linear.shape == (1000, 2, 3) and torch.equal(linear[..., :2], draw_linear(1000, draw()))
    assert 0.099 < linear[..., 2].max() <= 0.1 and -0.1 <= linear[..., 2].min() < -0.099


def test_disturbances_refuse():
    with pytest.raises(ValueError, match=r"linear .*\(2, 2, 2\)"):
        move_images(torch.zeros(2, 1, 4, 4), one_map())
    with pytest.raises(ValueError, match="flip .*6"):
        move_points(torch.zeros(1, 6, 2), one_map(), 8, (0, 1))
    with pytest.raises(ValueError, match="sigma"):
        widen(torch.zeros(1, 1, 4, 4), one_map(), 0.0)


# ---- losses ---------------------------------------------------------------------------------------------------------

def random_answer(seed, sizes=(8, 8, 16), batch=2):
    """What a network with 6 landmarks and 2 boundaries might say in three stages."""
    heat = [random_maps(batch, 6, n, n, seed=seed + i) for i, n in enumerate(sizes)]
    lids = [random_maps(batch, 2, n, n, seed=seed + 10 + i) for i, n in enumerate(sizes)]
    return Maps(heat, lids, 4 * random_maps(batch, 2, 2, sizes[-1], sizes[-1], seed=seed + 20) - 2)


def case(batch=2):
    """Pair of answers, pair of truths, linear maps (the second mirrors)."""
    points = torch.from_numpy(EYE_POINTS)[None].expand(batch, -1, -1)
    linear = torch.cat([one_map(0.3, 0.8, i % 2 == 1) for i in range(batch)])
    truths = [truth(p, 28, (8, 8, 16), EYE) for p in (points, move_points(points, linear, 28, EYE_FLIP))]
    return [random_answer(0), random_answer(100)], truths, linear


def test_truth_holds_all_stages():
    points = torch.from_numpy(EYE_POINTS)[None]
    true = truth(points, 28, (7, 14), EYE, sigma=1.2, radius=2)
    assert [h.shape[-1] for h in true.maps.heatmaps] == [c.shape[-1] for c in true.maps.confidences] == [7, 14]
    torch.testing.assert_close(true.points, (points + 0.5) / 2 - 0.5)
    field = bali_field(true.points, EYE, 14, 2, 1.2)
    torch.testing.assert_close(true.maps.offsets, field.offsets)
    assert torch.equal(true.mask, field.mask)
    torch.testing.assert_close(true.maps.heatmaps[0], heatmaps.encode((points + 0.5) / 4 - 0.5, 7, 1.2))


@pytest.mark.parametrize("measure", [squared, divergence])
def test_original_and_calibrated_losses_sum_what_they_say(measure):
    (alpha, beta), _, linear = case()
    a, b, ta, tb = (maps.heatmaps[0] for maps in (alpha, beta, random_answer(200), random_answer(300)))
    wanted = (measure(a, ta) + measure(b, tb)).sum() / 2
    torch.testing.assert_close(original_loss((a, b), (ta, tb), measure), wanted)
    moved = move_maps(a, linear, EYE_FLIP)
    torch.testing.assert_close(self_calibrated_loss(a, b, linear, EYE_FLIP, measure), measure(moved, b).sum() / 2)
    assert original_loss((a, b), (a, b), measure).abs() < 1e-12
    assert self_calibrated_loss(a, moved, linear, EYE_FLIP, measure).abs() < 1e-12
    torch.testing.assert_close(squared(a, ta)[0], torch.linalg.vector_norm(a[0] - ta[0]) ** 2)


def test_without_swapped_channels_a_perfect_answer_to_a_mirrored_face_is_punished():
    linear = one_map(mirror=True)
    heat, twin = encoded(EYE_POINTS, 27)[0], encoded(EYE_POINTS, 27, linear)[0]
    assert self_calibrated_loss(heat, twin, linear, EYE_FLIP) < 1e-12
    assert self_calibrated_loss(heat, twin, linear, tuple(range(6))) > 10


def test_empty_maps_calibrate_themselves():
    """Why Eq. 8 cannot do without labelled pictures altogether."""
    _, _, linear = case()
    assert self_calibrated_loss(torch.zeros(2, 6, 8, 8), torch.zeros(2, 6, 8, 8), linear, EYE_FLIP) == 0


def test_the_mechanism_weighs_its_two_losses():
    (alpha, beta), truths, linear = case()
    pair = alpha.heatmaps[0], beta.heatmaps[0]
    targets = [t.maps.heatmaps[0] for t in truths]
    parts = self_calibrated_loss(*pair, linear, EYE_FLIP), original_loss(pair, targets)
    found = calibration_mechanism_loss(pair, targets, linear, EYE_FLIP, calibrated=3.0, original=0.5)
    torch.testing.assert_close(found, 3 * parts[0] + 0.5 * parts[1])
    assert calibration_mechanism_loss(pair, targets, linear, EYE_FLIP, original=0.0) == parts[0]    # no labels


def test_coordinate_loss_by_hand():
    points = torch.tensor([[[3.0, 4.0], [1.0, 1.0]], [[0.0, 0.0], [5.0, 5.0]]])
    target = points + torch.tensor([[[2.0, 0.0], [0.0, 5.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert coordinate_loss(points, target, (10, 20)).item() == pytest.approx((0.1**2 + 0.5**2) / 2)
    assert coordinate_loss(points, points, 8) == 0
    here = points.double().requires_grad_()
    assert gradcheck(lambda p: coordinate_loss(p, target.double(), 8), here)


def test_original_divergence_by_hand():
    (alpha, _), (true, _), _ = case()
    terms = original_divergence(alpha, true)
    by_stage = [(divergence(h, th) + divergence(c, tc)).mean() for h, th, c, tc in zip(
        alpha.heatmaps, true.maps.heatmaps, alpha.confidences, true.maps.confidences)]
    torch.testing.assert_close(terms["earlier"], by_stage[0] + by_stage[1])
    torch.testing.assert_close(terms["last"], by_stage[2])
    torch.testing.assert_close(terms["field"], field_divergence(alpha.offsets, true.maps.offsets, true.mask).mean())
    assert all(abs(term) < 1e-9 for term in original_divergence(true.maps, true).values())
    with pytest.raises(ValueError, match="zip"):
        original_divergence(alpha._replace(heatmaps=alpha.heatmaps[:1]), true)


def test_calibration_of_stages_disturbs_one_side_only():
    (alpha, beta), _, linear = case()
    twin = Maps([move_maps(h, linear, EYE_FLIP) for h in alpha.heatmaps],
                [move_maps(c, linear, LID_FLIP) for c in alpha.confidences], alpha.offsets)
    stages = self_calibrated_divergence(alpha, twin, linear, EYE_FLIP, LID_FLIP)
    assert len(stages) == 3 and all(abs(stage) < 1e-12 for stage in stages)
    # as printed, the same twin is punished: its boundaries are moved twice
    assert divergence(move_maps(alpha.confidences[0], linear, LID_FLIP),
                      move_maps(twin.confidences[0], linear, LID_FLIP)).min() > 0.1
    one = self_calibrated_divergence(alpha, beta, linear, EYE_FLIP, LID_FLIP)[1]
    heat = self_calibrated_loss(alpha.heatmaps[1], beta.heatmaps[1], linear, EYE_FLIP, divergence)
    lids = self_calibrated_loss(alpha.confidences[1], beta.confidences[1], linear, LID_FLIP, divergence)
    torch.testing.assert_close(one, heat + lids)


def test_the_overall_loss_is_its_weighted_parts():
    pair, truths, linear = case()
    weights = Weights(last=2.0, field=3.0, coordinates=5.0, earlier=7.0, calibrated=9.0)
    found = overall_loss(pair, truths, EYE, linear, EYE_FLIP, LID_FLIP, weights)
    points = torch.from_numpy(EYE_POINTS)[None].expand(2, -1, -1)
    twins = move_points(points, linear, 28, EYE_FLIP)
    original = [original_divergence(said, true) for said, true in zip(pair, truths)]
    read = [decode_bali(said.heatmaps[-1], landmark_offsets(said.offsets, EYE, 6)) for said in pair]
    stages = self_calibrated_divergence(*pair, linear, EYE_FLIP, LID_FLIP)
    fast = [supervised_terms(said, points, 28, EYE, 1.5, 5, 3, None, None)
            for said, points in zip(pair, (points, twins))]
    for name in ("last", "field", "earlier", "coordinates"):
        torch.testing.assert_close(getattr(weights, name) * sum(terms[name].mean() for terms in fast), found[name])
    turns = Maps(*([torch.stack(both, 1).flatten(0, 1) for both in zip(*maps)] for maps in zip(*(p[:2] for p in pair))),
                 pair[0].offsets)
    torch.testing.assert_close(9 * calibration_terms(turns, linear, EYE_FLIP, LID_FLIP).mean(), found["calibrated"])
    wanted = {
        "last": 2 * sum(o["last"] for o in original), "field": 3 * sum(o["field"] for o in original),
        "earlier": 7 * sum(o["earlier"] for o in original), "calibrated": 9 * (stages[0] + stages[1]),
        "coordinates": 5 * sum(coordinate_loss(p, t.points, 16) for p, t in zip(read, truths)),
    }
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)
    paper = overall_loss(pair, truths, EYE, linear, EYE_FLIP, LID_FLIP)
    assert (paper["field"] / found["field"]).item() == pytest.approx(16 / 3)
    assert (paper["coordinates"] / found["coordinates"]).item() == pytest.approx(40 / 5)


@pytest.mark.parametrize("radius", [1, 3])
def test_vectors_per_landmark_are_means_over_each_ones_square(radius):
    """Eq. 16 by loops: the square around each landmark, cut from what is said and from what is true; corners twice."""
    said, points = random_answer(7), torch.from_numpy(EYE_POINTS)[None].expand(2, -1, -1)
    size, limit, wanted = said.offsets.shape[-1], 1.5 * (radius + 0.5), torch.zeros(2, dtype=torch.float64)
    on_map = heatmaps.to_heatmap(points, 28, size)
    true = bali_field(on_map, EYE, size, radius).offsets
    for c, line in enumerate(EYE):
        for k in line:
            x, y = (int(np.floor(v + 0.5)) for v in on_map[0, k].tolist())
            rows, columns = (slice(max(0, v - radius), min(size, v + radius + 1)) for v in (y, x))
            for b in range(2):
                for axis in range(2):
                    u, t = (f[b, c, axis, rows, columns].numpy() for f in (said.offsets, true))
                    coins = [jensenshannon([p, 1 - p], [q, 1 - q]) ** 2 for p, q in
                             zip(*(((1 + v / limit) / 2).clip(1e-6, 1 - 1e-6).ravel() for v in (u, t)))]
                    wanted[b] += np.mean(coins) + np.clip(np.abs(u) / limit - 1, 0, None).mean()
    found = supervised_terms(said, points, 28, EYE, 1.5, radius, 3, None, None, per_landmark=True)["field"]
    torch.testing.assert_close(found, wanted.to(found), rtol=1e-4, atol=1e-5)


def test_the_last_stage_is_calibrated_where_equation_17_is_meant():
    pair, _, linear = case()
    turns = Maps(*([torch.stack(both, 1).flatten(0, 1) for both in zip(*maps)] for maps in zip(*(p[:2] for p in pair))),
                 pair[0].offsets)
    stages = self_calibrated_divergence(*pair, linear, EYE_FLIP, LID_FLIP)
    found = [calibration_terms(turns, linear, EYE_FLIP, LID_FLIP, last=last).mean() for last in (False, True)]
    torch.testing.assert_close(found[0], sum(stages[:-1]))
    torch.testing.assert_close(found[1], sum(stages))


def test_a_perfect_answer_costs_nothing_but_what_the_scaling_does_to_its_peaks():
    points = torch.from_numpy(EYE_POINTS)[None]
    for linear, calibrated in ((one_map(mirror=True), 0.0), (one_map(scale=0.6), 0.1)):
        twins = move_points(points, linear, 28, EYE_FLIP)
        truths = [truth(p, 28, (28, 56), EYE) for p in (points, twins)]
        losses = overall_loss([t.maps for t in truths], truths, EYE, linear, EYE_FLIP, LID_FLIP)
        assert all(losses[name] < 1e-6 for name in ("last", "earlier", "field"))
        assert losses["coordinates"] < 1e-4                          # near neighbours, see above
        assert (losses["calibrated"] < 1e-6) == (calibrated == 0) and losses["calibrated"] >= calibrated


def test_unlabelled_pictures_add_their_own_term():
    pair, truths, linear = case()
    supervised = overall_loss(pair, truths, EYE, linear, EYE_FLIP, LID_FLIP)
    others = [random_answer(400), random_answer(500)]
    both = semi_supervised_loss(supervised, others, linear, EYE_FLIP, LID_FLIP)
    stages = self_calibrated_divergence(*others, linear, EYE_FLIP, LID_FLIP)
    assert {k: v for k, v in both.items() if k != "unlabelled"} == supervised
    torch.testing.assert_close(both["unlabelled"], stages[0] + stages[1])


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_flat_answers_have_finite_gradients_in_every_loss(value):
    pair, truths, linear = case()
    leaves = []

    def flat(maps):
        leaves.append(torch.full_like(maps, value).requires_grad_())
        return leaves[-1]
    flats = [Maps([flat(h) for h in said.heatmaps], [flat(c) for c in said.confidences], flat(said.offsets))
             for said in pair]
    losses = overall_loss(flats, truths, EYE, linear, EYE_FLIP, LID_FLIP)
    losses = semi_supervised_loss(losses, flats, linear, EYE_FLIP, LID_FLIP)
    heat = [said.heatmaps[0] for said in flats]
    losses["squared"] = calibration_mechanism_loss(heat, [t.maps.heatmaps[0] for t in truths], linear, EYE_FLIP)
    sum(losses.values()).backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


def test_gradients_of_the_overall_loss():
    pair, truths, linear = case()

    def loss(heat, lids, offsets):
        said = Maps([heat, *pair[0].heatmaps[1:2], 2 * heat.repeat_interleave(2, -1).repeat_interleave(2, -2)],
                    [lids, *pair[0].confidences[1:]], offsets)
        return sum(overall_loss([said, pair[1]], truths, EYE, linear, EYE_FLIP, LID_FLIP).values())
    leaves = [t.add(0.1).requires_grad_() for t in (pair[0].heatmaps[0], pair[0].confidences[0], pair[0].offsets)]
    assert gradcheck(loss, leaves, fast_mode=True)


# ---- pose attention -------------------------------------------------------------------------------------------------

def test_pose_attention_is_its_equations():
    torch.manual_seed(0)
    features, head = torch.randn(2, 8, 5, 7), torch.nn.Conv2d(8, 7, 1)
    for module, maps_of, count in ((PoseAttention(8).eval(), None, 8), (PoseAttention(8, 7).eval(), head, 7)):
        after, pose, mask = module(features, maps_of)
        wanted = module.first(features)
        torch.testing.assert_close(pose, wanted if maps_of is None else head(wanted))
        torch.testing.assert_close(mask, 1 / (1 + torch.exp(-module.second(pose))))
        torch.testing.assert_close(after, features * (1 + mask))
        assert pose.shape == (2, count, 5, 7) and ((mask > 0) & (mask < 1)).all()
    assert nets.parameter_count(PoseAttention(8)) == 2 * nets.parameter_count(nets.Residual(8, 8))


def test_a_silent_pose_attention_halves_nothing_and_gradients_pass():
    module = PoseAttention(4)
    torch.nn.init.zeros_(module.second.branch[-1].weight)
    features = torch.zeros(2, 4, 3, 3, requires_grad=True)
    after, _, mask = module(features)
    assert (mask == 0.5).all() and (after == 0).all()
    after.sum().backward()
    assert features.grad.isfinite().all() and (features.grad.mean() - 1.5).abs() < 0.2
