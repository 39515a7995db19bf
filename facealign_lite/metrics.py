"""How wrong a prediction is: per-image errors first; everything else is a reduction of them.

Points (N, K, 2) or (K, 2), arrays or tensors, in any pixels. Errors are fractions of the normaliser: 0.05 is 5 %.
Nothing is mutated. NaN is refused unless it is said what it means: ``mask`` leaves out landmarks that were not
annotated, ``missing`` is the error of a face that was not found. Infinity is such an error: ``failure_rate``, ``ced``
and ``auc`` count it as a failure at every threshold.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facealign_lite import geometry, markups
from facealign_lite.arrays import by_name, finite, floats, number, plain

NORMALIZERS = ("inter_ocular", "inter_pupil", "box", "diagonal")
# the columns of ACE-Net's Table 1; brows are left out, as there
PARTS = {part: tuple(name for name in markups.ANCHORS + markups.CONTOURS if word in name and "brow" not in name)
         for part, word in (("eyes", "eye_"), ("nose", "nose"), ("mouth", "mouth"), ("chin", "chin"))}
Array = NDArray[np.float64]


def nme(pred: ArrayLike, target: ArrayLike, normalizer: str = "inter_ocular", markup: str = "68",
        box: ArrayLike | None = None, mask: ArrayLike | None = None, missing: float | None = None) -> Array:
    """Normalised mean error of each image.

    Args:
        pred, target: (N, K, 2) or (K, 2).
        normalizer: the length one divides by: "inter_ocular", between the outer eye corners; "inter_pupil", between
            the pupils or the centres of the eyes' landmarks; "box", sqrt(w h) of the box; "diagonal", that of the box.
        markup: says which landmarks those are.
        box: (N, 4) or (4,) left, top, right, bottom, around the middle of the target landmarks; without it their box.

    Returns:
        (N,), or (1,) for a single image.

    Raises:
        ValueError: for wrong shapes, NaN, an unknown normaliser or markup, a normaliser of length zero, or a box that
            is not (left, top, right, bottom) or lies elsewhere, as one does that is meant as (x, y, width, height); for
            a mask that leaves an image without landmarks, or without the ends of its normaliser.

    Source: TAB Eq. 6, SCPAN Eq. 21, RHT Eq. 10, MSM Eq. 12.
    """
    errors = per_landmark(pred, target, normalizer, markup, box, mask, missing)
    # NaN stands where the mask is false; the sum over the others, which are at least one
    counted = ~np.isnan(errors)
    return np.where(counted, errors, 0).sum(1) / counted.sum(1)


def per_landmark(pred: ArrayLike, target: ArrayLike, normalizer: str = "inter_ocular", markup: str = "68",
                 box: ArrayLike | None = None, mask: ArrayLike | None = None, missing: float | None = None) -> Array:
    """The same before the mean over landmarks: (N, K), NaN where ``mask`` is false."""
    pred, target = _shaped(pred, "pred", markup), _shaped(target, "target", markup)
    if pred.shape != target.shape:
        raise ValueError(f"pred and target must have one shape, got {pred.shape} and {target.shape}")
    length = normalizing_length(target, normalizer, markup, box, mask)
    counted = np.ones(target.shape[:2], bool) if mask is None else _mask(mask, target)
    lost = np.zeros(len(pred), bool)
    if missing is not None:
        if not (missing := number(missing, "missing")) >= 0:
            raise ValueError(f"missing must not be negative or NaN, got {missing}")
        lost = np.isnan(pred).all((1, 2))
    pred = np.where((counted & ~lost[:, None])[..., None], pred, 0)
    finite(pred, "pred")
    errors = np.linalg.norm(pred - np.where(counted[..., None], target, 0), axis=-1) / length[:, None]
    errors = finite(errors, "the errors of pred")
    if lost.any():
        errors = np.where(lost[:, None], missing, errors)
    return errors if mask is None else np.where(counted, errors, np.nan)


def normalizing_length(target: ArrayLike, normalizer: str, markup: str = "68", box: ArrayLike | None = None,
                       mask: ArrayLike | None = None) -> Array:
    """What the errors of each image are divided by, (N,) in pixels. Raises like ``nme``."""
    target = _shaped(target, "target", markup)
    if mask is not None:
        target = np.where(_mask(mask, target)[..., None], target, np.nan)
    else:
        finite(target, "target")
    if normalizer not in NORMALIZERS:
        raise ValueError(f"normalizer must be one of {', '.join(NORMALIZERS)}, got {normalizer!r}")
    if normalizer in ("inter_ocular", "inter_pupil"):
        if normalizer not in (ends := markups.get(markup).normalizers):
            raise ValueError(f"normalizer must be box or diagonal for markup {markup!r}, got {normalizer!r}")
        right, left = ends[normalizer]
        length = np.linalg.norm(target[:, list(right)].mean(1) - target[:, list(left)].mean(1), axis=-1)
    else:
        box = (np.concatenate([np.nanmin(target, 1), np.nanmax(target, 1)], axis=1) if box is None
               else _boxes(box, target))
        w, h = (box[:, 2:] - box[:, :2]).T
        length = np.sqrt(np.maximum(w * h, 0)) if normalizer == "box" else np.hypot(w, h)
    if not (length > 0).all():
        bad = np.flatnonzero(~(length > 0))
        raise ValueError(f"{normalizer} must be a positive length, got {length[bad[0]]} for image {bad[0]}"
                         + " (mask leaves out an end of it)" * bool(np.isnan(length[bad[0]])))
    return length


# ---- anchors and contours ------------------------------------------------------------------------------------------

def landmarks_as_ac(landmarks: ArrayLike, markup: str = "68") -> tuple[dict[str, Array], dict[str, Array]]:
    """Landmarks (K, 2) of one face as what NME^AC wants: anchors by name, and the other landmarks of each contour.

    Landmarks that are neither, as the sides of the nose, are left out; a contour of anchors only has no landmarks.

    Raises:
        ValueError: if the shape does not fit the markup or a coordinate is not finite.
    """
    points, table = _points(landmarks, "landmarks", markup)[0], markups.get(markup)
    anchors = {name: points[i] for name, i in table.anchors.items()}
    taken = set(table.anchors.values())
    rows = {name: [i for i in table.curves.get(name, ()) if i not in taken] for name in markups.CONTOURS}
    return anchors, {name: points[row] for name, row in rows.items() if row}


def anchor_contour_errors(anchors: ArrayLike, contours: Mapping[str, ArrayLike], true_anchors: Mapping[str, ArrayLike],
                          true_contours: Mapping[str, ArrayLike], length: float, missing: float = 0.1
                          ) -> dict[str, Array]:
    """Error of every true landmark of one face, by the name of its anchor or contour.

    Args:
        anchors: (12, 2) predicted, in the order of ``markups.ANCHORS``.
        contours: predicted polylines (M, 2) by name; one that is absent was not found.
        true_anchors: (2,) by name; any of the twelve.
        true_contours: landmarks (n, 2) on each contour; any number, any of the thirteen.
        length: what the errors are divided by, in the same pixels.
        missing: error of each landmark of a contour that was not found; the paper does not say what it charges.

    Returns:
        name -> (n,) fractions, (1,) for anchors.

    Raises:
        ValueError: for an unknown name, a wrong shape, NaN in what is compared, or a length that is not positive.

    Source: ACE-Net Eq. 13. The distance goes from the landmark to the nearest point of the contour, never back: what is
    drawn where nothing is costs nothing. ``reverse_errors`` tells.
    """
    length = _positive(length, "length")
    for name, those in (("contours", contours), ("true_anchors", true_anchors), ("true_contours", true_contours)):
        by_name(those, name)
    if unknown := (set(true_anchors) - set(markups.ANCHORS)) | (
            (set(true_contours) | set(contours)) - set(markups.CONTOURS)):
        raise ValueError(f"names must be of markups.ANCHORS and CONTOURS, got {sorted(unknown)}")
    anchors = floats(anchors, "anchors")
    if anchors.shape != (len(markups.ANCHORS), 2):
        raise ValueError(f"anchors must be ({len(markups.ANCHORS)}, 2), got shape {anchors.shape}")
    missing = number(missing, "missing")
    if not 0 <= missing < np.inf:
        raise ValueError(f"missing must not be negative or infinite, got {missing}")
    errors = {}
    for name, point in true_anchors.items():
        if (point := floats(point, name)).shape != (2,):
            raise ValueError(f"true_anchors must be (2,) each, got shape {point.shape} for {name}")
        errors[name] = np.linalg.norm(anchors[markups.ANCHORS.index(name)] - point)[None]
    for name, points in true_contours.items():
        points = finite(points, name)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"true_contours must be (n, 2) each, got shape {points.shape} for {name}")
        errors[name] = (geometry.distance_to_polyline(points, contours[name]) if name in contours
                        else np.full(len(points), missing * length))
    errors = {name: error / length for name, error in errors.items()}
    if bad := sorted(name for name, error in errors.items() if not np.isfinite(error).all()):
        raise ValueError(f"anchors and landmarks must be finite, got NaN or infinity in {bad}")
    return errors


def reverse_errors(contours: Mapping[str, ArrayLike], true_contours: Mapping[str, ArrayLike], length: float,
                   n: int = 100) -> dict[str, float]:
    """How far each predicted contour lies from the true one, on average along it: what Eq. 13 does not ask.

    Args:
        contours: predicted polylines (M, 2) by name.
        true_contours: polylines (n, 2) by name, ends included; contours that are not among them are passed over.
        length: what the distances are divided by.
        n: points at equal arcs along the predicted contour.

    Raises:
        ValueError: for polylines that are none, or a length that is not positive.
    """
    length = _positive(length, "length")
    by_name(contours, "contours"), by_name(true_contours, "true_contours")
    return {name: float(geometry.distance_to_polyline(geometry.resample(line, n), true_contours[name]).mean() / length)
            for name, line in contours.items() if name in true_contours}


def nme_ac(errors: Mapping[str, ArrayLike], names: Sequence[str] | None = None) -> float:
    """Mean over all landmarks of ``anchor_contour_errors``, or over those of some ``names``, such as ``PARTS["chin"]``.

    Names without an error, as a markup without irises has, are passed over.

    Source: ACE-Net Eq. 14.
    """
    by_name(errors, "errors")
    some = [floats(errors[name], name) for name in (errors if names is None else names) if name in errors]
    if not some:
        raise ValueError(f"errors must hold one of {list(names or [])}, got {sorted(errors)}")
    return float(np.concatenate([np.ravel(each) for each in some]).mean())


def failure_rate(errors: ArrayLike, threshold: float = 0.1) -> float:
    """Share of images whose error exceeds ``threshold``."""
    return float((_errors(errors) > _positive(threshold, "threshold")).mean())


def ced(errors: ArrayLike, thresholds: ArrayLike) -> Array:
    """Cumulative error distribution: the share of images with an error of at most each threshold.

    Returns:
        same shape as ``thresholds``, rising from 0 to 1.
    """
    errors, thresholds = _errors(errors), floats(thresholds, "thresholds")
    if np.isnan(thresholds).any():
        raise ValueError("thresholds must be numbers, got NaN")
    return np.searchsorted(np.sort(errors), thresholds, side="right") / len(errors)


def auc(errors: ArrayLike, limit: float = 0.1) -> float:
    """Area under the step function ``ced`` from 0 to ``limit``, divided by ``limit``: 1 is perfect.

    The area is exact, no trapezoids: each image of error e adds (limit - e) / limit if e < limit.
    """
    limit = _positive(limit, "limit")
    return float(np.clip(1 - _errors(errors) / limit, 0, None).mean())


def _points(points: ArrayLike, name: str, markup: str) -> Array:
    return finite(_shaped(points, name, markup), name)


def _shaped(points: ArrayLike, name: str, markup: str) -> Array:
    points = floats(points, name)
    points = points[None] if points.ndim == 2 else points
    count = markups.get(markup).count
    if points.ndim != 3 or points.shape[1:] != (count, 2) or len(points) == 0:
        raise ValueError(f"{name} must be (N, {count}, 2) in markup {markup!r}, got shape {points.shape}")
    return points


def _mask(mask: ArrayLike, target: Array) -> NDArray[np.bool_]:
    """(N, K) bool; the target is finite where it is true."""
    mask = plain(mask, "mask")
    mask = mask[None] if mask.ndim == 1 else mask
    if mask.dtype != bool or mask.shape != target.shape[:2]:
        raise ValueError(f"mask must be bool and {target.shape[:2]}, got {mask.dtype} and {mask.shape}")
    if not mask.any(1).all():
        raise ValueError(f"mask must leave landmarks of every image, got none of image {mask.any(1).argmin()}")
    finite(np.where(mask[..., None], target, 0), "target")
    return mask


def _boxes(box: ArrayLike, target: Array) -> Array:
    """(N, 4), each around the middle of its landmarks."""
    box = finite(box, "box")
    if box.shape not in {(4,), (len(target), 4)} or box.size != 4 * len(target):
        raise ValueError(f"box must be one for each of {len(target)} images, ({len(target)}, 4), got shape {box.shape}")
    box, middle = box.reshape(-1, 4), np.nanmean(target, 1)
    good = (box[:, :2] < middle) & (middle < box[:, 2:])
    if not good.all():
        i = np.flatnonzero(~good.all(1))[0]
        raise ValueError(f"box must be (left, top, right, bottom), not (x, y, width, height), around the landmarks, "
                         f"whose middle is {middle[i].round(1).tolist()}, got {box[i].tolist()} for image {i}")
    return box


def _errors(errors: ArrayLike) -> Array:
    errors = floats(errors, "errors").ravel()
    if errors.size == 0 or not (errors >= 0).all():                      # also false for NaN
        raise ValueError("errors must be numbers, not negative and at least one; infinity is a face not found")
    return errors


def _positive(value: float, name: str) -> float:
    value = number(value, name)
    if not 0 < value < np.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return float(value)
