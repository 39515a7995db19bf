"""Scores of landmarks, and a dictionary of exemplar shapes that rebuilds those that score low.

Shapes (B, K, 2) or (K, 2), (x, y); reliable (B, K) or (K,) bool. Within a dictionary faces stand in one frame of 128
pixels. Points are complex numbers x + iy there: a turn and a change of size together are one factor.
"""

import warnings
from numbers import Integral

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from facealign_lite import markups
from facealign_lite.arrays import finite, number, plain
from facealign_lite.heatmaps import decode

FRAME = 128                               # pixels, the side of the canonical frame
PUPILS = ((43.5, 28.5), (83.5, 28.5))     # image right and left eye in it, ours: the mean face then fills it
RADIUS = 2                                # r of Eq. 9 on the paper's map of 64 pixels, ours: a square of 10 of 128
                                          # pixels; the paper gives no number
OUTLINE, INNER = 0.4, 0.6                 # Table IX: the best thresholds of landmark scores
ROUNDS = 30                               # of K-means
WIDEST = 1e6                              # pixels of a radius: beyond every map
LEAST_SPREAD = 0.05                       # share of the mean shape's squared spread that tells size and turn
Array = NDArray[np.float64]


# ---- landmark scores -----------------------------------------------------------------------------------------------

def scores(heatmaps: ArrayLike, radius: float = RADIUS) -> Array:
    """Mean heat over the square of side 2 r + 1 around each map's hottest pixel.

    Args:
        heatmaps: (..., K, H, W); negative heat counts as none, and so does what lies beyond the border.
        radius: r in heatmap pixels; the paper gives no number. Between two whole numbers the square's outermost pixels
            count in part, so that maps of another resolution can have the same square.

    Returns:
        (..., K) float64, >= 0, in the units of the heat; over ``clean_score`` it is in those of a clean peak.

    Raises:
        ValueError: for NaN, an empty map or a negative radius.

    Source: MSM Eq. 9, around the place of Eq. 8.
    """
    return peak_heat(torch.from_numpy(np.array(finite(heatmaps, "heatmaps"))), radius).numpy()


def peak_heat(maps: Tensor, radius: float = RADIUS) -> Tensor:
    """``scores`` of tensors, on their device: (..., K, H, W) -> (..., K)."""
    if not 0 <= (radius := number(radius, "radius")) <= WIDEST:
        raise ValueError(f"radius must be in [0, {WIDEST}], got {radius}")
    at = decode(maps, "argmax")[..., None]                                              # (..., K, 2, 1)
    height, width = maps.shape[-2:]
    x, y = (torch.arange(n, dtype=at.dtype, device=maps.device) for n in (width, height))
    # of the pixel at distance d the square covers min(1, r + 1 - d)
    near_x = (radius + 1 - (x - at[..., 0, :]).abs()).clamp(0, 1)                       # (..., K, W)
    near_y = (radius + 1 - (y - at[..., 1, :]).abs()).clamp(0, 1)                       # (..., K, H)
    # w = sum of the heat of the square / (2 r + 1)^2
    inside = ((maps.clamp(min=0) @ near_x[..., None])[..., 0] * near_y).sum(-1)
    return inside / (2 * radius + 1) ** 2


def clean_score(sigma: float, radius: float = RADIUS) -> float:
    """The score of a Gaussian peak of height 1 on a pixel: what a landmark seen as clearly as can be scores.

    On average over places between pixels a clean peak scores 1 - 1 / (12 sigma^2) of that at radius 0 (to first order;
    0.94 at sigma 1.2), and more the larger the radius.

    Raises:
        ValueError: for a sigma that is not positive or a negative radius.

    Source: MSM Eq. 9 of the peak that the network was trained for; ours.
    """
    sigma, radius = number(sigma, "sigma"), number(radius, "radius")
    if not (sigma > 0 and 0 <= radius <= WIDEST):
        raise ValueError(f"sigma must be positive and radius in [0, {WIDEST}], got {sigma} and {radius}")
    d = np.arange(-np.ceil(radius), np.ceil(radius) + 1)
    # the square of a sum along one axis: exp(-(x^2 + y^2) / 2 s^2) = exp(-x^2 / 2 s^2) exp(-y^2 / 2 s^2)
    along = np.exp(-(d / sigma) ** 2 / 2) @ np.clip(radius + 1 - np.abs(d), 0, 1)
    return float((along / (2 * radius + 1)) ** 2)


def reliable(scores: ArrayLike, markup: str = "68", outline: float = OUTLINE, inner: float = INNER,
             floor: float = 0.0, relative: bool = True) -> NDArray[np.bool_]:
    """Which landmarks to trust: those above their threshold once the best score of the face is 1.

    Args:
        scores: (..., K), >= 0.
        markup: says which landmarks are on the outline.
        outline, inner: thresholds of the landmarks on the outline of the face and of all others, shares of the best.
        floor: what a score must exceed besides, in its own units. Some landmark is always the best, on a wall too;
            ours, the paper has none.
        relative: the thresholds are shares of the face's best score, as line 6 means it; if not, they are in the units
            of the scores, and then a face that is hidden as a whole has no reliable landmark.

    Returns:
        (..., K). A face whose scores are all 0 has none.

    Raises:
        ValueError: for another number of landmarks, NaN or negative scores, or a ``relative`` that is no truth value.

    Source: MSM Algorithm 2 lines 5 to 10, Table IX. Line 6 prints w max(w) where only w / max(w) is a share.
    """
    scores, chosen = finite(scores, "scores"), markups.get(markup)
    outline, inner, floor = number(outline, "outline"), number(inner, "inner"), number(floor, "floor")
    if np.isnan([outline, inner, floor]).any():
        raise ValueError(f"thresholds must be numbers, got {outline}, {inner} and {floor}")
    if scores.ndim < 1 or scores.shape[-1] != chosen.count:
        raise ValueError(f"scores must be (..., {chosen.count}) in markup {markup!r}, got shape {scores.shape}")
    if not (scores >= 0).all():
        raise ValueError("scores must be finite and not negative")
    if not isinstance(relative, (bool, np.bool_)):
        raise ValueError(f"relative must be True or False, got {relative!r}")
    threshold = np.full(chosen.count, inner)
    threshold[list(chosen.groups["jaw"])] = outline
    best = scores.max(-1, keepdims=True)
    return (scores > np.maximum(threshold * best if relative else threshold, floor)) & (best > 0)


# ---- the dictionary ------------------------------------------------------------------------------------------------

def canonical(shapes: ArrayLike, markup: str = "68") -> Array:
    """Shapes turned, scaled and moved until their pupils lie in fixed places of a frame of 128 pixels.

    Args:
        shapes: (N, K, 2); a markup without pupils gives the centres of the eyes' landmarks.

    Returns:
        (N, K, 2).

    Raises:
        ValueError: for wrong shapes, NaN, or pupils that coincide.

    Source: MSM section IV-C: an affine map by the pupils and the midpoint. These three lie on a line, if the midpoint
    is theirs, and fix a similarity, not more; the places are ours and leave a face room to all sides.
    """
    count = markups.get(markup).count
    points = _complex(shapes, "shapes", count)
    right, left = (points[:, list(group)].mean(1) for group in markups.get(markup).normalizers["inter_pupil"])
    if not (np.abs(left - right) > 0).all():
        raise ValueError("pupils must not coincide")
    a, b = (complex(*place) for place in PUPILS)
    factor = (b - a) / (left - right)
    return _real(a + (points - right[:, None]) * factor[:, None])


def mean_face(shapes: ArrayLike, markup: str = "68") -> Array:
    """The mean of canonical ``shapes`` (N, K, 2), itself canonical: (K, 2). Raises as ``canonical`` does."""
    return canonical(canonical(shapes, markup).mean(0, keepdims=True), markup)[0]


class ShapeDictionary:
    """Exemplar shapes, and the reconstruction of a face from its reliable landmarks by those that are most like it.

    Args:
        exemplars: (N, K, 2) in one frame, best that of ``canonical``.

    Raises:
        ValueError: for wrong shapes, NaN, or exemplars whose mean is a single point.

    Source: MSM section III-C.
    """

    def __init__(self, exemplars: ArrayLike):
        self._points = _complex(exemplars, "exemplars")
        self._mean = self._points.mean(0)
        if np.ptp(np.stack([self._mean.real, self._mean.imag]), axis=1).max() == 0:
            raise ValueError("exemplars must have a mean of more than one point")

    @classmethod
    def fit(cls, shapes: ArrayLike, n: int = 500, markup: str = "68", seed: int = 0) -> "ShapeDictionary":
        """Normalise ``shapes`` (M, K, 2) and keep the means of ``n`` clusters (K-means).

        Raises:
            ValueError: if n is not in 1 .. M, or as in ``canonical``.

        Source: MSM sections III-C and IV-C: N = 500.
        """
        from scipy.cluster.vq import kmeans2  # scipy takes half a second, and who reads faces needs none of it

        shapes, n, seed = canonical(shapes, markup), _whole(n, "n"), _whole(seed, "seed")
        if not 1 <= n <= len(shapes):
            raise ValueError(f"n must be in 1 .. {len(shapes)}, the number of shapes, got {n}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "One of the clusters is empty")     # it keeps the mean it had
            means, _ = kmeans2(shapes.reshape(len(shapes), -1), n, ROUNDS, minit="++", rng=seed)
        return cls(means.reshape(n, -1, 2))

    def __len__(self) -> int:
        return len(self._points)

    @property
    def exemplars(self) -> Array:
        """(N, K, 2)."""
        return _real(self._points)

    def reconstruct(self, shapes: ArrayLike, reliable: ArrayLike | None = None, k: int | None = 100,
                    ridge: float = 60.0, align: bool = True, keep: bool = False) -> Array:
        """Shapes rebuilt from their reliable landmarks by the ``k`` exemplars nearest to these.

        Args:
            shapes: (B, K, 2) or (K, 2).
            reliable: (B, K) or (K,) bool: the landmarks to go by. None: all of them, as in Eq. 10.
            k: exemplars that take part; None: the whole dictionary, as in Eq. 10.
            ridge: lambda >= 0, in squared pixels of the frame; 0 is the least-squares solution of least norm.
            align: first bring the shape and every exemplar into one pose by their reliable landmarks; the answer then
                turns, grows and moves with the shape. If not, shapes must already lie in the frame, as those of a
                straightened crop should.
            keep: leave reliable landmarks where they are. Algorithm 2 line 13 replaces them all, the text speaks of
                the misaligned ones only.

        Returns:
            same shape as ``shapes``, in its pixels. Reliable landmarks that lie too near each other to tell size and
            turn leave the pose to all landmarks; without any the answer is the mean exemplar in that pose.

        Raises:
            ValueError: for wrong shapes, NaN, k not in 1 .. N, or a negative ridge.

        Source: MSM Eq. 10, 11, Algorithm 2 lines 11 to 13.
        """
        k, ridge = len(self) if k is None else _whole(k, "k"), number(ridge, "ridge")
        if not 1 <= k <= len(self):
            raise ValueError(f"k must be in 1 .. {len(self)}, the number of exemplars, got {k}")
        if not 0 <= ridge < np.inf:
            raise ValueError(f"ridge must not be negative, got {ridge}")
        for name, value in (("align", align), ("keep", keep)):
            if not isinstance(value, (bool, np.bool_)):
                raise ValueError(f"{name} must be True or False, got {value!r}")
        shapes = finite(shapes, "shapes")
        count, single = self._points.shape[1], shapes.ndim == 2
        given = _complex(shapes[None] if single else shapes, "shapes", count)
        trust = np.ones(given.shape, bool) if reliable is None else np.atleast_2d(plain(reliable, "reliable"))
        if trust.dtype != bool or trust.shape != given.shape:
            raise ValueError(f"reliable must be bool of shape {given.shape}, got {trust.dtype} of {trust.shape}")
        v = trust.astype(np.float64)

        if align:
            c, t, g, h = self._poses(given, v)
            target = np.where(c == 0, self._mean, (given - t) / np.where(c == 0, 1, c))     # one point tells nothing
        else:
            c, t, g, h = 1.0, 0.0, np.ones((len(given), len(self))), np.zeros((len(given), len(self)))
            target = given
        index = np.argpartition(self._distances(target, v, g, h), k - 1, axis=1)[:, :k]
        scale, shift = (np.take_along_axis(x, index, 1)[..., None] for x in (g, h))
        nearest = scale * self._points[index] + shift                                   # D, (B, k, K)
        # min over alpha of |V S - (D V)^T alpha|^2 + lambda |alpha|^2
        alpha = _ridge(_flat(v[:, None] * nearest), _flat(v * target), ridge)
        found = (alpha[:, None] @ nearest)[:, 0]                                        # D^T alpha
        found = np.where(trust.any(1, keepdims=True), found, self._mean) * c + t
        found = _real(np.where(trust, given, found) if keep else found)
        return found[0] if single else found

    def _poses(self, shapes: NDArray, v: Array) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """c, t (B, 1), of the similarity c m + t from mean to shape; g s + h = (s - t) / c, (B, N), of exemplars."""
        spread = _spread(self._mean, v) / _spread(self._mean, np.ones_like(v))
        w = np.where(spread < LEAST_SPREAD, 1.0, v)
        w /= w.sum(1, keepdims=True)
        middle = w @ self._mean[:, None]                                                # (B, 1)
        # c = <m, s> / <m, m> and t are linear in s: what mixes shapes of one pose has that pose
        to_factor = w * (self._mean - middle).conj()
        to_factor /= (to_factor * (self._mean - middle)).sum(1, keepdims=True)
        c = (to_factor * shapes).sum(1, keepdims=True)
        t = (w * shapes).sum(1, keepdims=True) - c * middle
        of_all = to_factor @ self._points.T                                             # (B, N)
        g = 1 / np.where(of_all == 0, 1, of_all)
        return c, t, g, middle - g * (w @ self._points.T)

    def _distances(self, target: NDArray, v: Array, g: ArrayLike, h: ArrayLike) -> Array:
        """Sum over reliable landmarks of |target - (g exemplar + h)|^2 less |target|^2, the same for all: (B, N)."""
        across = (v * target) @ self._points.conj().T
        squares = np.abs(g) ** 2 * (v @ np.abs(self._points.T) ** 2) + np.abs(h) ** 2 * v.sum(1, keepdims=True)
        mixed = np.conj(h) * (g * (v @ self._points.T) - (v * target).sum(1, keepdims=True)) - np.conj(g) * across
        return squares + 2 * mixed.real


def _ridge(rows: Array, goal: Array, ridge: float) -> Array:
    """alpha (B, k) of least |goal - rows^T alpha|^2 + ridge |alpha|^2; rows (B, k, M), goal (B, M)."""
    columns = rows.swapaxes(1, 2)
    if ridge == 0:
        return (np.linalg.pinv(columns) @ goal[..., None])[..., 0]
    # (R R^T + l)^-1 R g = R (R^T R + l)^-1 g: the smaller system of the two
    if rows.shape[1] <= rows.shape[2]:
        return np.linalg.solve(rows @ columns + ridge * np.eye(rows.shape[1]), rows @ goal[..., None])[..., 0]
    return (rows @ np.linalg.solve(columns @ rows + ridge * np.eye(rows.shape[2]), goal[..., None]))[..., 0]


def _spread(points: NDArray, v: Array) -> Array:
    """Sum of squared distances from their mean of the points that ``v`` (B, K) counts: (B, 1)."""
    mean = v @ points[:, None] / np.maximum(v.sum(1, keepdims=True), 1)
    return (v * np.abs(points - mean) ** 2).sum(1, keepdims=True)


def _whole(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def _complex(points: ArrayLike, name: str, count: int | None = None) -> NDArray[np.complex128]:
    points = finite(points, name)
    if points.ndim != 3 or points.shape[2] != 2 or 0 in points.shape or count not in (None, points.shape[1]):
        raise ValueError(f"{name} must be (N, {count or 'K'}, 2), got shape {points.shape}")
    return np.ascontiguousarray(points).view(np.complex128)[..., 0]


def _real(points: NDArray) -> Array:
    return np.stack([points.real, points.imag], -1)


def _flat(points: NDArray) -> Array:
    """Complex (..., K) to real (..., 2 K)."""
    return np.concatenate([points.real, points.imag], -1)
