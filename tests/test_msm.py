"""The multistage model: landmark scores, thresholds, and shapes rebuilt from exemplars."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facealign_lite import geometry, markups
from facealign_lite.heatmaps import decode, encode
from facealign_lite.msm import (
    FRAME,
    INNER,
    OUTLINE,
    PUPILS,
    ShapeDictionary,
    canonical,
    clean_score,
    reliable,
    scores,
)

K = 68
ALL = np.ones(K, bool)
OUTER = list(range(17))


def faces(n, seed=0, modes=12):
    """Shapes (n, 68, 2) of a linear family: a plain face and ``modes`` smooth ways to change it, all as strong."""
    rng = np.random.default_rng(seed)
    t = np.linspace(np.pi, 0, 17)
    mean = np.concatenate([
        np.stack([64 + 56 * np.cos(t), 30 + 90 * np.sin(t)], 1),                        # outline
        np.stack([np.r_[np.linspace(18, 52, 5), np.linspace(76, 110, 5)], np.full(10, 12.0)], 1),
        np.stack([np.full(4, 64.0), np.linspace(30, 58, 4)], 1),
        np.stack([np.linspace(54, 74, 5), np.full(5, 64.0)], 1),
        *(np.stack([x + 9 * np.cos(a), 29 - 4 * np.sin(a)], 1)
          for x in (44, 84) for a in [np.deg2rad([180, 120, 60, 0, -60, -120])]),
        np.stack([64 + 18 * np.cos(np.linspace(np.pi, -np.pi, 13)[:12]),
                  84 - 8 * np.sin(np.linspace(np.pi, -np.pi, 13)[:12])], 1),
        np.stack([64 + 12 * np.cos(np.linspace(np.pi, -np.pi, 9)[:8]),
                  84 - 3 * np.sin(np.linspace(np.pi, -np.pi, 9)[:8])], 1)])
    waves = np.random.default_rng(99).normal(0, 0.04, (modes, 2, 2))
    modes = np.stack([np.sin(mean @ w + np.arange(2)) for w in waves])
    return mean + np.einsum("nm,mkd->nkd", rng.normal(0, 2.5, (n, len(modes))), modes)


FACES = faces(160)
BOOK = ShapeDictionary.fit(FACES, 40)


def moved(points, scale=1.7, angle=0.5, shift=(40.0, -9.0)):
    return geometry.transform(points, geometry.similarity(scale, angle, shift))


masks = st.lists(st.booleans(), min_size=K, max_size=K).map(np.array)
poses = st.tuples(st.floats(0.2, 5), st.floats(-3.1, 3.1), st.tuples(st.floats(-200, 200), st.floats(-200, 200)))


# ---- landmark scores -----------------------------------------------------------------------------------------------

def test_a_score_is_the_mean_heat_of_the_square_around_the_peak():
    maps = np.random.default_rng(0).uniform(0, 1, (2, 5, 12, 15))
    for radius in (0, 1, 3):
        padded = np.pad(maps, ((0, 0), (0, 0), (radius, radius), (radius, radius)))
        found = scores(maps, radius)
        for at in np.ndindex(2, 5):
            y, x = np.unravel_index(maps[at].argmax(), (12, 15))
            square = padded[at][y:y + 2 * radius + 1, x:x + 2 * radius + 1]
            np.testing.assert_allclose(found[at], square.sum() / (2 * radius + 1) ** 2, rtol=1e-12)


def test_a_score_looks_where_argmax_looks_and_beyond_the_border_there_is_nothing():
    map_ = np.zeros((1, 9, 9))
    map_[0, 0, 8] = 1.0
    np.testing.assert_array_equal(decode(map_, "argmax"), [[8, 0]])
    assert scores(map_, 1)[0] == 1 / 9 and scores(map_, 2)[0] == 1 / 25
    assert scores(np.ones((1, 9, 9)), 2)[0] == 1 and scores(-np.ones((1, 9, 9)), 2)[0] == 0


@pytest.mark.parametrize("radius", [0.25, 0.75, 1.5])
def test_a_square_that_ends_inside_a_pixel_counts_part_of_it(radius):
    """The same map, each pixel as 8 x 8 of its own value, has the square of side 2 r + 1 pixels cut exactly."""
    maps = np.random.default_rng(0).uniform(0, 1, (3, 9, 9))
    maps[:, 4, 4] = 2
    fine, half = np.kron(maps, np.ones((1, 8, 8))), round(8 * (radius + 0.5))
    square = fine[:, 36 - half:36 + half, 36 - half:36 + half]                          # 36: the middle of pixel 4
    np.testing.assert_allclose(scores(maps, radius), square.mean((1, 2)), rtol=1e-12)


@pytest.mark.parametrize("sigma, radius", [(1.2, 0), (1.2, 0.75), (1.2, 2), (3.0, 1)])
def test_a_clean_peak_scores_the_clean_score(sigma, radius):
    assert scores(encode(np.array([[16.0, 15.0]]), 32, sigma), radius)[0] == pytest.approx(
        clean_score(sigma, radius), rel=1e-12)
    anywhere = scores(encode(np.random.default_rng(3).uniform(8, 24, (4000, 2)), 32, sigma), radius)
    assert anywhere.max() <= clean_score(sigma, radius) * (1 + 1e-9)
    least = (1 - 1 / (12 * sigma**2)) * clean_score(sigma, radius)
    assert least * (1 - 0.005) < anywhere.mean() < clean_score(sigma, radius)
    assert clean_score(sigma, radius + 0.5) < clean_score(sigma, radius)


def test_a_square_of_the_same_share_of_the_map_tells_doubt_alike():
    """r = 2 on a map of 64 is r = 0.75 on one of 32: heat spread as widely in the crop loses as much of its score.

    With r = 2 on the smaller map it loses far less, and passes.
    """
    def share(side, radius, width, sure=0.0375):                                        # widths in sides of the map
        maps = np.concatenate([encode(np.full((1, 2), 0.5 * side), side, w * side) for w in (width, sure)])
        wide, narrow = scores(maps / maps.sum((1, 2), keepdims=True), radius)           # the same mass
        return wide / narrow
    for width in (0.05, 0.07, 0.1):
        paper, lite, unscaled = share(64, 2, width), share(32, 0.75, width), share(32, 2, width)
        assert lite == pytest.approx(paper, rel=0.06)
        assert unscaled > 1.25 * paper


def test_weaker_and_blunter_heat_scores_less():
    sharp, blunt = encode(np.full((1, 2), 32.0), 64, 1.5), encode(np.full((1, 2), 32.0), 64, 6.0)
    assert scores(0.5 * sharp)[0] == pytest.approx(0.5 * scores(sharp)[0])
    mass = sharp.sum() / blunt.sum()
    assert scores(mass * blunt)[0] < 0.2 * scores(sharp)[0]


def test_the_outline_has_a_lower_threshold():
    assert (OUTLINE, INNER) == (0.4, 0.6)
    w = np.full(K, 0.5)
    w[30] = 1.0
    found = reliable(w)
    assert found[OUTER].all() and found[30] and found.sum() == 18
    assert set(markups.get("68").groups["jaw"]) == set(OUTER)
    assert reliable(w, inner=0.4).all() and reliable(w, outline=0.5).sum() == 1        # strictly above


def test_thresholds_are_shares_of_the_best_score():
    w = np.random.default_rng(1).uniform(0, 1, (6, K))
    np.testing.assert_array_equal(reliable(w), reliable(37.0 * w))
    np.testing.assert_array_equal(reliable(w)[2], reliable(w[2]))
    assert not reliable(np.zeros(K)).any()


def test_a_floor_is_absolute():
    w = np.random.default_rng(1).uniform(0.1, 1, (6, K))
    np.testing.assert_array_equal(reliable(w, floor=0.5), reliable(w) & (w > 0.5))
    assert not reliable(0.4 * w, floor=0.5).any() and reliable(0.4 * w).any()


def test_thresholds_need_not_be_shares_of_the_best():
    w = np.random.default_rng(1).uniform(0.1, 1, (6, K))
    jaw = np.arange(K) < 17
    np.testing.assert_array_equal(reliable(w, outline=0.3, inner=0.7, relative=False), w > np.where(jaw, 0.3, 0.7))
    # a face that is hidden as a whole has none, and the best landmark of a wall is no landmark
    assert not reliable(0.2 * w, relative=False).any() and reliable(0.2 * w).any(1).all()
    with pytest.raises(ValueError, match="relative"):
        reliable(w, relative="yes")


def test_line_6_as_printed_trusts_no_landmark_of_a_perfect_map():
    clean = scores(encode(np.random.default_rng(2).uniform(20, 40, (K, 2)), 64, 1.5))
    assert not (clean * clean.max() > OUTLINE).any()       # printed: times the best
    assert reliable(clean).all()                            # meant: over the best


# ---- one frame -----------------------------------------------------------------------------------------------------

def test_canonical_puts_the_pupils_in_their_places_whatever_the_pose():
    placed = canonical(moved(FACES))
    eyes = markups.get("68").normalizers["inter_pupil"]
    for group, place in zip(eyes, PUPILS):
        np.testing.assert_allclose(placed[:, list(group)].mean(1), np.tile(place, (len(placed), 1)), atol=1e-9)
    np.testing.assert_allclose(placed, canonical(FACES), atol=1e-9)
    assert 0 < placed.mean(0).min() and placed.mean(0).max() < FRAME


def test_the_midpoint_of_the_pupils_adds_nothing_to_them():
    """Why "pupils and midpoint" fix a similarity: an affine map would need points that do not lie on a line."""
    a, b = (np.array(place) for place in PUPILS)
    assert np.linalg.matrix_rank(np.column_stack([[a, b, (a + b) / 2], np.ones(3)])) == 2


def test_fit_keeps_means_of_clusters():
    shapes = canonical(FACES).reshape(len(FACES), -1)
    means = BOOK.exemplars.reshape(len(BOOK), -1)
    nearest = np.linalg.norm(shapes[:, None] - means, axis=-1).argmin(1)
    assert len(BOOK) == 40 == len(np.unique(nearest))
    for j in range(40):
        np.testing.assert_allclose(means[j], shapes[nearest == j].mean(0), atol=1e-9)


def test_fit_with_as_many_clusters_as_shapes_keeps_them_all_and_is_repeatable():
    few = FACES[:9]
    kept = ShapeDictionary.fit(few, 9).exemplars
    assert np.linalg.norm(kept[:, None] - canonical(few), axis=(-2, -1)).min(0).max() < 1e-9
    np.testing.assert_array_equal(BOOK.exemplars, ShapeDictionary.fit(FACES, 40).exemplars)


# ---- reconstruction: the formulas ----------------------------------------------------------------------------------

def flat(shapes):
    return shapes.reshape(*shapes.shape[:-2], -1)


def test_equation_10_by_its_normal_equations():
    d, ridge = BOOK.exemplars, 60.0
    rows = flat(d)                                                                      # D_s as printed, N x 2 L
    for shape in canonical(faces(5, seed=3)):
        alpha = np.linalg.solve(rows @ rows.T + ridge * np.eye(40), rows @ flat(shape))
        with pytest.raises(ValueError):
            rows @ alpha                                                                # does not fit: 2 L against N
        np.testing.assert_allclose(flat(BOOK.reconstruct(shape, k=None, align=False)), rows.T @ alpha, atol=1e-6)


def test_equation_10_squares_its_norms():
    """With plain norms, as printed, another alpha is best; the text speaks of least squares and ridge regression."""
    rows, shape, ridge = flat(BOOK.exemplars), flat(canonical(faces(1, seed=4)))[0] + np.arange(2 * K) % 7, 60.0
    alpha = np.linalg.solve(rows @ rows.T + ridge * np.eye(40), rows @ shape)
    squared_gradient = -2 * rows @ (shape - rows.T @ alpha) + 2 * ridge * alpha
    plain_gradient = -rows @ (shape - rows.T @ alpha) / np.linalg.norm(shape - rows.T @ alpha) \
        + ridge * alpha / np.linalg.norm(alpha)
    assert np.abs(squared_gradient).max() < 1e-4 and np.abs(plain_gradient).max() > 1


@settings(max_examples=20, deadline=None)
@given(masks, st.integers(1, 40), st.sampled_from([1.0, 60.0, 1e4]), st.integers(0, 10**6))
def test_equation_11_by_search_and_normal_equations(mask, k, ridge, seed):
    mask[0] = True
    shape = canonical(faces(1, seed))[0] + np.random.default_rng(seed).normal(0, 1, (K, 2))
    d = BOOK.exemplars
    distance = np.linalg.norm((d - shape)[:, mask], axis=(-2, -1))
    near = d[np.argsort(distance)[:k]]
    v = np.repeat(mask, 2).astype(float)
    a = flat(near).T * v[:, None]                                                       # V* D_s^T, 2 L x k
    alpha = np.linalg.solve(a.T @ a + ridge * np.eye(k), a.T @ (v * flat(shape)))
    found = BOOK.reconstruct(shape, mask, k, ridge, align=False)
    np.testing.assert_allclose(flat(found), flat(near).T @ alpha, atol=1e-4)


def test_both_sizes_of_system_give_one_answer():
    """More exemplars than coordinates or fewer: one is solved among exemplars, the other among coordinates."""
    big = ShapeDictionary(np.random.default_rng(5).normal(60, 20, (12, 5, 2)))           # 12 exemplars, 10 coordinates
    shape = np.random.default_rng(6).normal(60, 20, (5, 2))
    rows = flat(big.exemplars)
    alpha = np.linalg.solve(rows @ rows.T + 60 * np.eye(12), rows @ flat(shape))
    np.testing.assert_allclose(flat(big.reconstruct(shape, k=None, align=False)), rows.T @ alpha, atol=1e-8)


@settings(max_examples=20, deadline=None)
@given(masks, st.integers(1, 40), st.integers(0, 10**6))
def test_reliable_landmarks_move_no_more_than_the_fit_says(mask, k, seed):
    """|V (S - found)|^2 + ridge |alpha|^2 is least, so at most what the nearest exemplar alone, or none, would give."""
    mask[3] = True
    shape = canonical(faces(1, seed))[0] + np.random.default_rng(seed).normal(0, 3, (K, 2))
    step = (BOOK.reconstruct(shape, mask, k, align=False) - shape)[mask]
    alone = np.linalg.norm((BOOK.exemplars - shape)[:, mask], axis=(-2, -1)).min() ** 2 + 60
    assert (step**2).sum() <= min(alone, (shape[mask] ** 2).sum()) + 1e-6
    kept = BOOK.reconstruct(shape, mask, k, keep=True)
    np.testing.assert_array_equal(kept[mask], shape[mask])
    np.testing.assert_array_equal(kept[~mask], BOOK.reconstruct(shape, mask, k)[~mask])


def test_a_heavier_ridge_fits_worse_and_a_wider_search_better():
    shape = canonical(faces(1, seed=7))[0] + np.random.default_rng(7).normal(0, 2, (K, 2))
    off = [np.linalg.norm(BOOK.reconstruct(shape, k=20, ridge=r, align=False) - shape) for r in (0, 1, 60, 1e4, 1e6)]
    assert off == sorted(off) and off[0] < 0.9 * off[-1]
    wide = [np.linalg.norm(BOOK.reconstruct(shape, k=k, ridge=0, align=False) - shape) for k in (1, 5, 20, 40)]
    assert wide == sorted(wide, reverse=True)


# ---- reconstruction: what it must be ---------------------------------------------------------------------------------

TWENTY = ShapeDictionary(canonical(faces(20, seed=20, modes=60)))


def spoilt(truth, rng, n=30):
    """All but ``n`` landmarks thrown about, and which these are: 60 equations for a pose and 20 coefficients."""
    mask = rng.permutation(K) < n
    return np.where(mask[:, None], truth, rng.uniform(-500, 500, (K, 2))), mask


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_what_lies_in_the_span_is_recovered_exactly(seed):
    rng = np.random.default_rng(seed)
    truth = np.einsum("n,nkd->kd", rng.normal(0, 1, 20), TWENTY.exemplars)
    found = TWENTY.reconstruct(*spoilt(truth, rng), k=None, ridge=0, align=False)
    np.testing.assert_allclose(found, truth, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), poses, st.sampled_from([1, 5, 20]))
def test_an_exemplar_in_any_pose_is_recovered_exactly(seed, pose, k):
    rng = np.random.default_rng(seed)
    truth = moved(TWENTY.exemplars[seed % 20], *pose)
    np.testing.assert_allclose(TWENTY.reconstruct(*spoilt(truth, rng), k, 0), truth, atol=1e-6 * pose[0])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), poses)
def test_a_mixture_in_any_pose_is_recovered_exactly(seed, pose):
    """A mixture of exemplars that stand as their reliable landmarks place them: onto these the mean face fits best."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(0, 1, 20)
    weights += (1 - weights.sum()) / 20
    _, mask = spoilt(FACES[0], np.random.default_rng(seed + 1))
    mean = TWENTY.exemplars.mean(0)
    upright = [geometry.transform(e, geometry.invert(geometry.procrustes(mean[mask], e[mask])))
               for e in TWENTY.exemplars]
    truth = moved(np.einsum("n,nkd->kd", weights, upright), *pose)
    given_ = np.where(mask[:, None], truth, rng.uniform(-500, 500, (K, 2)))
    np.testing.assert_allclose(TWENTY.reconstruct(given_, mask, None, 0), truth, atol=1e-5 * pose[0])


@pytest.mark.parametrize("align", [True, False])
def test_recovery_gets_exact_as_the_ridge_goes(align):
    truth = TWENTY.exemplars[3]
    given_, mask = spoilt(truth, np.random.default_rng(8))
    off = [np.abs(TWENTY.reconstruct(given_, mask, None, r, align) - truth).max() for r in (1e6, 1e3, 1, 1e-3, 0)]
    assert off == sorted(off, reverse=True) and off[0] > 1 and off[-1] < 1e-7


@settings(max_examples=20, deadline=None)
@given(masks, st.integers(0, 10**6))
def test_the_order_of_landmarks_does_not_matter(mask, seed):
    order = np.random.default_rng(seed).permutation(K)
    shape = faces(1, seed)[0] + np.random.default_rng(seed).normal(0, 1, (K, 2))
    shuffled = ShapeDictionary(BOOK.exemplars[:, order])
    for align in (True, False):
        np.testing.assert_allclose(shuffled.reconstruct(shape[order], mask[order], 15, align=align),
                                   BOOK.reconstruct(shape, mask, 15, align=align)[order], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.one_of(masks, st.integers(0, 3).map(lambda n: np.arange(K) < n)), poses, st.integers(0, 10**6))
def test_the_answer_moves_with_the_face(mask, pose, seed):
    shape = faces(1, seed)[0] + np.random.default_rng(seed).normal(0, 1, (K, 2))
    found = BOOK.reconstruct(moved(shape, *pose), mask, 15)
    np.testing.assert_allclose(found, moved(BOOK.reconstruct(shape, mask, 15), *pose), atol=1e-5 * pose[0])


@settings(max_examples=20, deadline=None)
@given(masks, st.integers(0, 10**6))
def test_unreliable_landmarks_have_no_say(mask, seed):
    mask[[0, 8, 16, 36, 45]] = True                         # these place the face
    rng = np.random.default_rng(seed)
    shape = faces(1, seed)[0]
    spoilt = np.where(mask[:, None], shape, rng.normal(0, 1e3, (K, 2)))
    np.testing.assert_allclose(BOOK.reconstruct(spoilt, mask, 15), BOOK.reconstruct(shape, mask, 15), atol=1e-6)


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 60.0])
@pytest.mark.parametrize("which", [[], [30], [0, 16], [62, 66], OUTER, range(K)], ids=lambda w: f"{len(w)} reliable")
def test_any_number_of_reliable_landmarks_has_an_answer(which, ridge, align):
    mask = np.zeros(K, bool)
    mask[list(which)] = True
    found = BOOK.reconstruct(canonical(faces(1, seed=9))[0], mask, 15, ridge, align)
    assert found.shape == (K, 2) and -50 < found.min() and found.max() < 200


def test_none_reliable_gives_the_mean_face_where_the_face_is():
    mean = BOOK.exemplars.mean(0)
    none = np.zeros(K, bool)
    shape = moved(faces(1, seed=10)[0])
    found = BOOK.reconstruct(shape, none, 15)
    np.testing.assert_allclose(found, geometry.transform(mean, geometry.procrustes(mean, shape)), atol=1e-8)
    np.testing.assert_allclose(BOOK.reconstruct(canonical(FACES[:1])[0], none, 15, align=False), mean, atol=1e-9)


def test_two_landmarks_side_by_side_leave_the_pose_to_the_rest():
    """The inner lips touch: a hundredth of a pixel between them would say how large the face is."""
    shape = moved(faces(1, seed=11)[0])
    shape[66] = shape[62] + 0.01
    found = BOOK.reconstruct(shape, np.isin(np.arange(K), [62, 66]), 15)
    assert np.linalg.norm(found - shape, axis=-1).mean() < 15


def test_landmarks_in_one_place_stay_there():
    point = np.tile([12.0, 34.0], (K, 1))
    for mask in (ALL, ~ALL, np.arange(K) < 20):
        np.testing.assert_allclose(BOOK.reconstruct(point, mask, 15), point, atol=1e-9)


def test_a_batch_is_its_faces_one_by_one():
    rng = np.random.default_rng(12)
    shapes, mask = moved(faces(6, seed=12)), rng.random((6, K)) < np.linspace(0, 1, 6)[:, None]
    before = shapes.copy(), mask.copy()
    for options in ({}, {"ridge": 0.0}, {"align": False}, {"keep": True}):
        together = BOOK.reconstruct(shapes, mask, 15, **options)
        alone = [BOOK.reconstruct(s, m, 15, **options) for s, m in zip(shapes, mask)]
        np.testing.assert_allclose(together, alone, atol=1e-7)
    np.testing.assert_array_equal(shapes, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_hidden_landmarks_come_back_nearer_than_the_mean_face_would_put_them():
    truth = moved(faces(40, seed=13))
    rng = np.random.default_rng(13)
    mask = rng.random((40, K)) < 0.5
    spoilt = truth + np.where(mask[..., None], rng.normal(0, 0.3, truth.shape), rng.normal(0, 20, truth.shape))
    found = BOOK.reconstruct(spoilt, mask, 40)
    mean = np.stack([geometry.transform(m, geometry.procrustes(m[v], t[v]))
                     for t, v, m in zip(truth, mask, np.broadcast_to(BOOK.exemplars.mean(0), truth.shape))])
    off, off_mean = (np.linalg.norm(x - truth, axis=-1)[~mask].mean() for x in (found, mean))
    assert off < 0.3 * off_mean


# ---- bad input -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("call, said", [
    (lambda: scores(np.zeros((3, 4, 4)), -1), "radius"),
    (lambda: scores(np.full((3, 4, 4), np.nan)), "finite, got nan"),
    (lambda: clean_score(0.0), "sigma"),
    (lambda: clean_score(1.2, -0.5), "radius"),
    (lambda: reliable(np.ones(5)), "scores must be"),
    (lambda: reliable(-np.ones(K)), "not negative"),
    (lambda: reliable(np.full(K, np.nan)), "finite"),
    (lambda: canonical(np.zeros((2, 5, 2))), "shapes must be"),
    (lambda: canonical(np.zeros((2, K, 2))), "pupils"),
    (lambda: ShapeDictionary(np.zeros((0, K, 2))), "exemplars"),
    (lambda: ShapeDictionary(np.ones((3, K, 2))), "single point|more than one point"),
    (lambda: ShapeDictionary(np.full((3, K, 2), np.inf)), "finite"),
    (lambda: ShapeDictionary.fit(FACES, 161), "n must be"),
    (lambda: ShapeDictionary.fit(FACES, 0), "n must be"),
    (lambda: BOOK.reconstruct(FACES[0], ALL), "k must be"),
    (lambda: BOOK.reconstruct(FACES[0], ALL, 0), "k must be"),
    (lambda: BOOK.reconstruct(FACES[0], ALL, 5, -1.0), "ridge"),
    (lambda: BOOK.reconstruct(FACES[0], ALL, 5, np.nan), "ridge"),
    (lambda: BOOK.reconstruct(FACES[0], ALL.astype(int), 5), "reliable must be bool"),
    (lambda: BOOK.reconstruct(FACES[:2], ALL, 5), "reliable must be bool"),
    (lambda: BOOK.reconstruct(FACES[0, :5], ALL[:5], 5), "shapes must be"),
    (lambda: BOOK.reconstruct(np.full((K, 2), np.nan), ALL, 5), "finite"),
])
def test_bad_input_is_refused_at_the_door(call, said):
    with pytest.raises(ValueError, match=said):
        call()
