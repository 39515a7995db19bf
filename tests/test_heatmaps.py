"""Codecs against their formulas, and encode -> decode against the points one began with."""

import numpy as np
import pytest
import torch
from capture import assert_capturable
from hypothesis import given, settings
from hypothesis import strategies as st

from facealign_lite.heatmaps import METHODS, SHAPES, decode, decode_with_peak, encode, peak, to_heatmap, to_image

SUBPIXEL = ("center_of_mass", "dark")


def near_every_border(height, width, margin=0.0, n=40):
    """Sub-pixel points along all four borders of a map, ``margin`` pixels inside its outermost pixel centres."""
    along_x, along_y = np.linspace(margin, width - 1 - margin, n), np.linspace(margin, height - 1 - margin, n)
    low, high_x, high_y = np.full(n, margin), np.full(n, width - 1 - margin), np.full(n, height - 1 - margin)
    return np.concatenate([np.stack(pair, 1) for pair in ((along_x, low), (along_x, high_y), (low, along_y),
                                                          (high_x, along_y))])


# ---- there and back -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", SUBPIXEL)
@pytest.mark.parametrize("image, heatmap", [(256, 64), ((256, 192), (64, 48)), ((128, 256), (32, 64)), (128, 32)])
def test_round_trip_of_clean_gaussians(method, image, heatmap):
    height, width = (image, image) if isinstance(image, int) else image
    random = np.random.default_rng(0)
    points = random.uniform([-0.5, -0.5], [width - 0.5, height - 0.5], (300, 2))
    found = to_image(decode(encode(to_heatmap(points, image, heatmap), heatmap, 1.5), method), heatmap, image)
    error = np.linalg.norm(found - points, axis=-1)
    assert error.mean() < 0.01 and error.max() < 0.1       # image pixels


@pytest.mark.parametrize("method", SUBPIXEL)
@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0])
def test_round_trip_at_every_border(method, sigma):
    size, image = (64, 48), (256, 192)
    points = near_every_border(*size)
    assert np.linalg.norm(decode(encode(points, size, sigma), method) - points, axis=-1).mean() * 4 < 0.01
    outermost = near_every_border(*image, margin=-0.4)     # between the outer pixel centres and the edge of the image
    found = to_image(decode(encode(to_heatmap(outermost, image, size), size, sigma), method), size, image)
    assert np.linalg.norm(found - outermost, axis=-1).mean() < 0.01


@settings(max_examples=30, deadline=None)
@given(st.floats(-0.5, 40.5), st.floats(-0.5, 30.5), st.floats(0.9, 2.5), st.floats(0.01, 50))
def test_any_point_comes_back_whatever_the_height(x, y, sigma, height):
    point = np.array([[x, y]])
    for method in SUBPIXEL:
        np.testing.assert_allclose(decode(height * encode(point, (31, 41), sigma), method), point, atol=0.02)


@pytest.mark.parametrize("method", SUBPIXEL)
@pytest.mark.parametrize("shape, sigma", [("ged", 1.0), ("ged", 2.0), ("student_t", 1.0), ("student_t", 3.0),
                                          ("ged_wide", 1.5), ("ged_narrow", 1.5), ("student_t_wide", 1.5),
                                          ("parabola", 4.0)])
def test_every_shape_comes_back_once_it_is_named(shape, sigma, method):
    image, heatmap = (160, 128), (40, 32)
    points = np.concatenate([np.random.default_rng(1).uniform([-0.5, -0.5], [127.5, 159.5], (300, 2)),
                             near_every_border(*image, margin=-0.4)])
    maps = encode(to_heatmap(points, image, heatmap), heatmap, sigma, shape)
    for kind in (np.float64, np.float32):
        error = np.linalg.norm(to_image(decode(maps.astype(kind), method, shape), heatmap, image) - points, axis=-1)
        assert error.mean() < 0.01 and error.max() < 0.1   # image pixels


def test_four_lit_pixels_of_a_parabola_are_enough():
    """With ACE-Net's sigma of 2 in training away from the border, with its 3 at test time along it; but two are not."""
    points = np.random.default_rng(6).uniform(4, 20, (300, 2))
    maps = encode(points, 25, 2.0, "parabola")
    assert (maps > 0).sum((-2, -1)).min() == 4
    np.testing.assert_allclose(decode(maps, "center_of_mass", "parabola"), points, atol=1e-3)
    outermost = near_every_border(25, 25, margin=-0.45, n=26)
    outermost = outermost[((outermost > 0) & (outermost < 24)).any(-1)]
    maps = encode(outermost, 25, 3.0, "parabola")
    np.testing.assert_allclose(decode(maps, "center_of_mass", "parabola"), outermost, atol=1e-3)
    corner = np.array([[-0.3, -0.1]])
    assert np.abs(decode(encode(corner, 25, 2.0, "parabola"), "center_of_mass", "parabola") - corner).max() > 0.02


@pytest.mark.parametrize("shape, sigma, most", [("ged", 1.5, 0.0025), ("student_t", 1.5, 0.0025),
                                                ("parabola", 3.0, 0.02), ("parabola", 2.0, 0.08)])
def test_center_of_mass_away_from_the_border_hardly_needs_the_name(shape, sigma, most):
    points = np.random.default_rng(1).uniform(6, 18, (300, 2))
    error = np.linalg.norm(decode(encode(points, 25, sigma, shape)) - points, axis=-1)
    assert error.mean() < most                             # heatmap pixels


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(SHAPES)), st.sampled_from(SUBPIXEL), st.floats(0, 1))
def test_naming_the_shape_is_safe_on_any_map(seed, shape, method, lit):
    random = np.random.default_rng(seed)
    maps = random.normal(size=(6, 9, 7)) * (random.random((6, 9, 7)) < lit)
    for kind in (np.float64, np.float32):
        found = decode(maps.astype(kind), method, shape)
        warm = maps.max((1, 2)) > 0                        # without any heat: the middle
        assert (np.abs(found - decode(maps.astype(kind), "argmax")) <= 1)[warm].all() and (found[~warm] == [3, 4]).all()


def test_what_the_coarse_decoders_lose():
    """A uniform place in a pixel is 0.3826 from its centre in the mean; a quarter towards the point leaves 0.1913."""
    points = np.random.default_rng(2).uniform(4, 20, (4000, 2))
    maps = encode(points.astype(np.float32), 25, 1.5)
    loss = {m: np.linalg.norm(decode(maps, m) - points, axis=-1).mean() for m in ("argmax", "quarter")}
    assert loss["argmax"] == pytest.approx(0.3826, abs=0.01)
    assert loss["quarter"] == pytest.approx(0.3826 / 2, abs=0.01)


# ---- encode ---------------------------------------------------------------------------------------------------------

FORMULAS = {
    "gaussian": lambda r, s: np.exp(-(r**2) / (2 * s**2)),
    "ged": lambda r, s: np.exp(-0.5 * (r / s) ** (2 / 1.1)),
    "ged_wide": lambda r, s: np.exp(-0.5 * (r / s) ** (2 / 1.2)),
    "ged_narrow": lambda r, s: np.exp(-0.5 * (r / s) ** (2 / 0.9)),
    "student_t": lambda r, s: (1 + (r / s) ** 2 / 3) ** -2,
    "student_t_wide": lambda r, s: 1 / (1 + (r / s) ** 2),
    "parabola": lambda r, s: max(0.0, 1 - 2 * r**2 / s**2),
}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(FORMULAS)), st.floats(-3, 12), st.floats(-3, 9), st.floats(0.5, 4))
def test_shapes_are_their_formulas(shape, x, y, sigma):
    assert set(FORMULAS) == set(SHAPES)
    wanted = [[FORMULAS[shape](np.hypot(j - x, i - y), sigma) for j in range(9)] for i in range(6)]
    np.testing.assert_allclose(encode(np.array([[x, y]]), (6, 9), sigma, shape)[0], wanted, atol=1e-12)


def test_a_parabola_ends_where_it_says():
    heat = encode(np.array([[8.0, 8.0]]), 17, 4.0, "parabola")[0]
    radius = np.hypot(*(np.mgrid[:17, :17] - 8.0))
    assert ((heat > 0) == (radius < 4 / np.sqrt(2))).all()
    assert heat[8, 8] == 1 and heat[8, 10] == pytest.approx(0.5)     # half height at sigma / 2


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_peak_is_one_and_falls_on_all_sides(shape):
    heat = encode(np.array([[5.0, 4.0]]), (9, 11), 2.0, shape)[0]
    assert heat[4, 5] == 1 == heat.max() and (heat >= 0).all()
    assert (np.diff(heat[4, 5:]) <= 0).all() and (np.diff(heat[4:, 5]) <= 0).all()
    np.testing.assert_allclose(heat, heat[::-1, ::-1])


def test_heavy_tails_lie_above_the_gaussian():
    heat = {s: encode(np.array([[0.0, 0.0]]), (1, 30), 2.0, s)[0, 0] for s in SHAPES}
    far = slice(8, None)
    order = ("student_t_wide", "student_t", "ged_wide", "ged", "gaussian", "ged_narrow")
    for heavier, lighter in zip(order, order[1:]):
        assert (heat[heavier][far] > heat[lighter][far]).all()


def test_leading_dimensions_and_kinds_are_kept():
    points = torch.rand(2, 3, 5, 2, dtype=torch.float32) * 20
    maps = encode(points, (24, 20), 1.5)
    assert maps.shape == (2, 3, 5, 24, 20) and maps.dtype == torch.float32
    for method in METHODS:
        found = decode(maps, method)
        assert isinstance(found, torch.Tensor) and found.shape == points.shape and found.dtype == torch.float32
    assert isinstance(encode(points.numpy(), 8, 1.0), np.ndarray)
    np.testing.assert_array_equal(encode(np.array([[3, 4]]), 8, 1.0), encode(np.array([[3.0, 4.0]]), 8, 1.0))


# ---- decode ---------------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
def test_argmax_is_the_hottest_pixel(seed, height, width):
    maps = np.random.default_rng(seed).normal(size=(3, height, width))
    for (x, y), heat in zip(decode(maps, "argmax"), maps, strict=True):
        if heat.size > 1:
            assert heat[int(y), int(x)] == heat.max()
    maps = np.zeros((1, 5, 7))
    maps[0, [1, 3], [6, 2]] = 2.0
    assert decode(maps, "argmax").tolist() == [[6.0, 1.0]]  # of two equals, the first


def test_quarter_steps_to_the_hotter_neighbour():
    heat = np.zeros((1, 5, 5))
    heat[0, 2, 2], heat[0, 2, 3], heat[0, 2, 1], heat[0, 1, 2] = 1.0, 0.5, 0.2, 0.1
    assert decode(heat, "quarter").tolist() == [[2.25, 1.75]]
    corner = np.zeros((1, 5, 5))
    corner[0, 0, 0], corner[0, 0, 1], corner[0, 1, 0] = 1.0, 0.9, 0.9
    assert decode(corner, "quarter").tolist() == [[0.0, 0.0]]        # no neighbour on one side: no step


@pytest.mark.parametrize("method", SUBPIXEL)
def test_negative_heat_does_not_pull(method):
    points = np.random.default_rng(3).uniform(8, 24, (50, 2))
    maps = encode(points, 33, 1.2)
    cold = np.where(maps < 1e-6, -5.0, maps)
    np.testing.assert_allclose(decode(cold, method), points, atol=0.01)


@pytest.mark.parametrize("method", SUBPIXEL)
def test_a_second_peak_far_away_does_not_pull(method):
    points = np.array([[12.3, 11.7]])
    maps = encode(points, 48, 1.5) + 0.8 * encode(np.array([[35.0, 34.0]]), 48, 1.5)
    np.testing.assert_allclose(decode(maps, method), points, atol=0.01)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_sub_pixel_decoders_stay_beside_the_peak(seed):
    maps = np.random.default_rng(seed).normal(size=(8, 12, 10))
    rough = decode(maps, "argmax")
    for method in SUBPIXEL:
        assert (np.abs(decode(maps, method) - rough) <= 1).all()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_turning_the_map_turns_the_answer(method):
    maps = encode(np.random.default_rng(4).uniform(3, 12, (30, 2)), (14, 17), 1.5)
    x, y = decode(maps, method).T
    np.testing.assert_allclose(decode(np.swapaxes(maps, -1, -2).copy(), method).T, [y, x], atol=1e-6)
    np.testing.assert_allclose(decode(maps[..., ::-1].copy(), method).T, [16 - x, y], atol=1e-6)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_map_without_heat_gives_its_middle(method):
    found = decode(np.zeros((1, 9, 5)), method)
    assert found.tolist() == [[2.0, 4.0]]


def test_soft_argmax_by_hand():
    logits = np.log([[[0.1, 0.2, 0.1], [0.3, 0.2, 0.1]]])
    np.testing.assert_allclose(decode(logits, "soft_argmax"), [[0.4 * 1 + 0.2 * 2, 0.6]])
    np.testing.assert_allclose(decode(logits + 7, "soft_argmax"), decode(logits, "soft_argmax"))


def test_soft_argmax_has_right_gradients():
    logits = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda maps: decode(maps, "soft_argmax"), logits)


def test_center_of_mass_passes_a_gradient():
    maps = encode(torch.tensor([[7.3, 6.6]], dtype=torch.float64), 15, 1.5).requires_grad_()
    decode(maps, "center_of_mass")[0, 0].backward()
    assert torch.isfinite(maps.grad).all()
    assert maps.grad[0, 7, 8] > 0 > maps.grad[0, 7, 6]     # more heat to the right moves it right


def test_peak_counts_the_mass_within_a_pixel():
    assert peak(np.zeros((1, 10, 12)))[0] == pytest.approx(9 / 120)
    sharp = np.zeros((2, 10, 12))
    sharp[0, 4, 4] = sharp[1, 0, 0] = 60.0
    np.testing.assert_allclose(peak(sharp), 1.0)
    logits = np.random.default_rng(5).normal(size=(6, 7))
    mass = np.exp(logits) / np.exp(logits).sum()
    y, x = np.unravel_index(mass.argmax(), mass.shape)
    wanted = mass[max(y - 1, 0):y + 2, max(x - 1, 0):x + 2].sum()
    assert peak(logits[None])[0] == pytest.approx(wanted)


# ---- between image and map ------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.floats(-50, 500), st.floats(-50, 500), *[st.integers(1, 300)] * 4)
def test_to_image_undoes_to_heatmap(x, y, image_h, image_w, map_h, map_w):
    point = np.array([[x, y]])
    there = to_heatmap(point, (image_h, image_w), (map_h, map_w))
    np.testing.assert_allclose(to_image(there, (map_h, map_w), (image_h, image_w)), point, atol=1e-8)


@pytest.mark.parametrize("kind", ["int64", "int32", "uint8", "int16", "float16", "bfloat16", "bool"])
def test_whole_numbers_and_half_precision_are_counted_in_full(kind):
    """Labels of whole pixels became -0.5, every one: the scale was made in their type."""
    points = [[1, 0], [0, 1]] if kind == "bool" else [[10, 20], [96, 127]]
    labels = torch.tensor(points, dtype=getattr(torch, kind))
    wanted = to_heatmap(np.array(points, np.float64), 128, (48, 64))
    assert kind == "bool" or wanted[0].tolist() == [4.75, 7.1875]
    np.testing.assert_allclose(to_heatmap(labels, 128, (48, 64)), wanted, atol=1e-6)
    np.testing.assert_allclose(to_image(labels, (48, 64), 128), to_image(np.array(points), (48, 64), 128), rtol=1e-6)
    np.testing.assert_allclose(encode(labels, 32, 1.5), encode(np.array(points, np.float64), 32, 1.5), atol=1e-6)
    if kind != "bfloat16":
        given = np.array(points, getattr(np, kind))
        np.testing.assert_allclose(to_heatmap(given, 128, (48, 64)), wanted, atol=1e-6)


def test_half_precision_far_from_the_corner():
    """bfloat16 knows no 301 between 300 and 302: the map is laid out in float32."""
    assert decode(encode(torch.tensor([[300.0, 7.0]], dtype=torch.bfloat16), (16, 400), 1.5)).tolist() == [
        [pytest.approx(300, abs=0.01), pytest.approx(7, abs=0.01)]]


@pytest.mark.parametrize("method", METHODS)
def test_autocast_does_not_blur_the_answer(method):
    maps = encode(torch.tensor([[100.16, 37.4], [3.2, 120.9]]), 128, 2.0)
    maps = 30 * maps if method == "soft_argmax" else maps
    wanted = decode(maps, method)
    with torch.autocast("cpu", torch.bfloat16):
        seen = decode(maps, method)
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen, wanted)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("height", [1e-38, 1e20, 1e38])
def test_heat_of_any_height_gives_a_place_on_the_map(method, shape, height):
    maps = encode(torch.tensor([[7.3, 9.1]]), 24, 2.0) * height
    seen = decode(maps, method, shape)
    assert torch.isfinite(seen).all() and ((seen >= -0.5) & (seen <= 23.5)).all()
    if height > 1 and method == "center_of_mass" and shape == "gaussian":
        torch.testing.assert_close(seen, torch.tensor([[7.3, 9.1]]), atol=0.01, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigma", [1e-3, 1e6])
def test_every_sigma_that_is_taken_gives_numbers(shape, sigma):
    points = torch.tensor([[3.0, 4.0], [1e30, -1e30], [0.2, 0.7]])
    maps = encode(points, 8, sigma, shape)
    assert torch.isfinite(maps).all() and maps[0, 4, 3] == 1 and maps.min() >= 0 and maps.max() <= 1


def test_names_of_arguments():
    points = np.array([[3.0, 4.0]])
    np.testing.assert_array_equal(encode(points=points, size=8, sigma=1.0), encode(points, 8, 1.0))
    np.testing.assert_array_equal(decode(heatmaps=encode(points, 8, 1.0)), decode(encode(points, 8, 1.0)))
    assert peak(heatmaps=torch.zeros(1, 3, 3)).item() == pytest.approx(1)
    np.testing.assert_array_equal(to_heatmap(points=points, image_size=8, heatmap_size=4), to_heatmap(points, 8, 4))
    with pytest.raises(TypeError, match="points"):
        encode(size=8, sigma=1.0)
    with pytest.raises(TypeError, match="size"):
        encode(points=points)


@pytest.mark.parametrize("call", [
    lambda: encode([[0, 0]], 8, np.inf), lambda: encode([[0, 0]], 8, 1e-200), lambda: encode([[0, 0]], 8, 1e200),
    lambda: encode([[0, 0]], 1.7, 1.0), lambda: encode([[0, 0]], np.inf, 1.0), lambda: encode([[0, 0]], (1, 2, 3), 1.0),
    lambda: encode([[0, 0]], "8", 1.0), lambda: encode([[0, 0]], (8, None), 1.0), lambda: encode([[0, 0]], np.nan, 1.0),
    lambda: encode([[0, 0j]], 8, 1.0), lambda: encode([["0", "0"]], 8, 1.0), lambda: encode([[None, 0]], 8, 1.0),
    lambda: encode(torch.zeros(1, 2, dtype=torch.complex64), 8, 1.0), lambda: decode(torch.eye(3).to_sparse()),
    lambda: decode(torch.zeros(3, 3), {}), lambda: decode(torch.zeros(3, 3), shape=[]),
    lambda: encode([[0, 0]], 8, 1.0, []),
    lambda: to_heatmap([[0, 0]], 8, 0.5), lambda: to_image([[0, 0]], (8, 1 << 40), 8),
])
def test_more_bad_input_is_a_value_error(call):
    with pytest.raises(ValueError):
        call()


def test_what_a_network_gives_keeps_its_gradient():
    points = torch.tensor([[3.3, 4.4]], requires_grad=True)
    assert to_heatmap(points, 32, 8).requires_grad and encode(points, 8, 1.0).requires_grad
    swapped = points.detach().numpy().astype(">f4")
    np.testing.assert_array_equal(encode(swapped, 8, 1.0), encode(points.detach().numpy(), 8, 1.0))


def test_edges_meet_edges():
    """The outer edges of the image are those of the map; so are the middles."""
    corners = np.array([[-0.5, -0.5], [191.5, 255.5], [95.5, 127.5]])
    np.testing.assert_allclose(to_heatmap(corners, (256, 192), (64, 48)), [[-0.5, -0.5], [47.5, 63.5], [23.5, 31.5]])


# ---- bad input ------------------------------------------------------------------------------------------------------

POINT = np.zeros((1, 2))


@pytest.mark.parametrize("call, word", [
    (lambda: encode(np.array([[np.nan, 0.0]]), 8, 1.0), "points"),
    (lambda: encode(np.zeros((1, 3)), 8, 1.0), "points"),
    (lambda: encode(np.zeros(2), 8, 1.0), "points"),
    (lambda: encode(POINT, 8, 0.0), "sigma"),
    (lambda: encode(POINT, 8, float("nan")), "sigma"),
    (lambda: encode(POINT, 0, 1.0), "size"),
    (lambda: encode(POINT, 8, 1.0, "square"), "gaussian, ged, .*student_t, .*parabola"),
    (lambda: encode(np.array([["a", "b"]]), 8, 1.0), "numbers"),
    (lambda: decode(np.zeros((1, 4, 4)), "magic"), "argmax, quarter, center_of_mass, dark"),
    (lambda: decode(np.zeros((1, 4, 4)), shape="square"), "gaussian, ged, .*student_t, .*parabola"),
    (lambda: decode(np.full((1, 4, 4), np.nan)), "heatmaps"),
    (lambda: decode(np.zeros((1, 0, 4))), "heatmaps"),
    (lambda: decode(np.zeros(4)), "heatmaps"),
    (lambda: peak(np.zeros((1, 4, 0))), "heatmaps"),
    (lambda: to_heatmap(np.zeros((1, 3)), 8, 4), "points"),
    (lambda: to_image(POINT, 8, 0), "size"),
])
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()


@pytest.mark.parametrize("method", ["argmax", "quarter", "soft_argmax"])
def test_maps_are_drawn_and_read_without_a_look_at_their_values(method):
    """What a loss does at every step: NaN, which would be refused, stays NaN, and nothing waits for the GPU."""
    points = torch.rand(2, 3, 2, generator=torch.manual_seed(0)) * 7
    assert_capturable(lambda: to_image(decode(encode(to_heatmap(points, 16, 8), 8, 1.0, check=False), method,
                                              check=False), 8, 16))
    torch.testing.assert_close(encode(points, 8, 1.0, check=False), encode(points, 8, 1.0))
    assert encode(points * torch.nan, 8, 1.0, check=False).isnan().all()


def test_one_softmax_for_place_and_score():
    """To the bit what the two doors say one by one, also under autocast, and NaN is refused alike."""
    maps = 5 * torch.randn(2, 3, 16, 20, generator=torch.manual_seed(5))
    wanted = decode(maps, "soft_argmax"), peak(maps)
    assert all(map(torch.equal, decode_with_peak(maps), wanted))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, decode_with_peak(maps), wanted))
    assert all(value.dtype == torch.float32 for value in decode_with_peak(maps.half()))
    maps[0, 1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        decode_with_peak(maps)
