"""Interactive figures that compute in the reader's browser: no kernel, no network, the same in JupyterLab and the book.

Python packs plain numpy arrays into one buffer; a short script draws them. Every figure is an ``anywidget`` whose one
module is the text of ``assets/widgets/kit.js`` followed by its own script, so a new figure is a class here and one
script there that calls the kit: ``figure``, ``pane``, ``slider``, ``choice``, ``toggle``, ``player``, ``table``,
``canvas``, ``handle`` (a point to drag), ``plot``, ``heatPicture``. ``kit.css`` names the colours of both themes.

Shapes: N images or frames, K landmarks, T training steps, F faces, H W. Coordinates: 0-based pixel centres (x, y).
Pictures are stored as JPEG: mind the two-megabyte notebook habit and keep stacks near 256 pixels a side.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import anywidget
import cv2
import numpy as np
import torch
import traitlets

from . import markups, metrics

SCRIPTS = Path(__file__).parent / "assets" / "widgets"
JPEG_QUALITY = 88  # edges of drawn landmarks are vector work above the picture, so this is enough

SHAPES = ("gaussian", "ged", "student_t", "parabola")


def script(*names: str) -> str:
    """The one module of a figure: the kit, parts that figures share, then its own script, which exports ``render``."""
    return "\n".join((SCRIPTS / f"{name}.js").read_text(encoding="utf-8") for name in ("kit", *names))


class Figure(anywidget.AnyWidget):
    """A figure of the kit: ``options`` are small values, ``arrays`` says where each array lies in ``data``.

    Subclasses set ``_esm = script("<name>")`` and call ``super().__init__(options, arrays)``. Arrays are float32, int32
    or uint8 numpy arrays; pictures are ``bytes`` from ``picture``. In the script ``unpack(model)`` returns all of them.
    """

    _css = (SCRIPTS / "kit.css").read_text(encoding="utf-8")
    options = traitlets.Dict().tag(sync=True)
    arrays = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)

    def __init__(self, options: Mapping[str, object], arrays: Mapping[str, np.ndarray | bytes]) -> None:
        layout, buffer = pack(arrays)
        super().__init__(options=dict(options), arrays=layout, data=buffer)


def pack(arrays: Mapping[str, np.ndarray | bytes]) -> tuple[dict[str, dict], bytes]:
    """Lay arrays and encoded pictures end to end: a directory {name: {dtype, shape, offset, size}} and the bytes."""
    layout, parts, offset = {}, [], 0
    for name, value in arrays.items():
        if isinstance(value, bytes):
            part, dtype, shape = value, "image/jpeg", []
        else:
            dtype = {"f": "float32", "u": "uint8", "b": "uint8", "i": "int32"}[value.dtype.kind]
            part, shape = value.astype(np.dtype(dtype).newbyteorder("<")).tobytes(), list(value.shape)
        layout[name] = {"dtype": dtype, "shape": shape, "offset": offset, "size": len(part)}
        parts.append(part)
        offset += len(part)
    return layout, b"".join(parts)


def picture(image: np.ndarray) -> bytes:
    """An image as JPEG: uint8 (H, W) grey or (H, W, 3) RGB; floats are taken as grey levels from 0 to 1.

    Raises:
        ValueError: if the shape or the type is another, or a side is zero.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise ValueError(f"image must be (H, W) or (H, W, 3) and not empty, got shape {image.shape}")
    if image.dtype.kind == "f":
        image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 or float in [0, 1], got {image.dtype}")
    bgr = image[..., ::-1] if image.ndim == 3 else image
    _, buffer = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return buffer.tobytes()


def _chain(points: object, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The landmarks of one boundary inside a small map, and the map's (height, width)."""
    points = _floats("points", points, (None, 2))
    height, width = (int(n) for n in size)
    if not (1 < height <= 64 and 1 < width <= 64):
        raise ValueError(f"size must be (height, width) from 2 to 64, got {size}")
    if not 2 <= len(points) <= 17:
        raise ValueError(f"points must be 2 to 17 landmarks, got {len(points)}")
    if not ((points >= -0.5) & (points <= [width - 0.5, height - 0.5])).all():
        raise ValueError(f"points must lie inside the {width} x {height} map, got {points.tolist()}")
    return points, (height, width)


def _floats(name: str, value: object, shape: tuple[int | None, ...]) -> np.ndarray:
    """``value`` as float32 of the wanted shape (None: any length), or a ValueError that names it."""
    array = np.asarray(value, dtype=np.float32)
    if array.ndim != len(shape) or any(want not in (None, got) for want, got in zip(shape, array.shape)):
        wanted = "(" + ", ".join("any" if want is None else str(want) for want in shape) + ")"
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    return array


def _size(image: np.ndarray) -> dict[str, int]:
    return {"width": int(np.shape(image)[1]), "height": int(np.shape(image)[0])}


class CodecFigure(Figure):
    """Drag a point: its heatmap, and what every decoder reads back from it, with the error in image pixels.

    Args:
        image: what the point lies on, (H, W) or (H, W, 3); None draws a plain grid of ``image_size``.
        image_size: side in image pixels where there is no image.
        heatmap_size: side of the square map at first; the reader chooses among 16, 32, 64, 128.
        point: (x, y) at first, in image pixels.
        sigma: width of the heat at first, in heatmap pixels, from 0.5 to 5.
        shape: "gaussian", "ged", "student_t" or "parabola" at first.

    Example:
        >>> CodecFigure(photo, heatmap_size=64, point=(103.3, 88.8), sigma=1.5)

    Source: ACE-Net Eq. 1 and 12; MSM Eq. 8; SCPAN Table VII.
    """

    _esm = script("codec")

    def __init__(self, image: np.ndarray | None = None, image_size: int = 256, heatmap_size: int = 64,
                 point: tuple[float, float] = (103.3, 88.8), sigma: float = 1.5, shape: str = "gaussian") -> None:
        if shape not in SHAPES:
            raise ValueError(f"shape must be one of {SHAPES}, got {shape!r}")
        if not 0.5 <= sigma <= 5:
            raise ValueError(f"sigma must lie in [0.5, 5], got {sigma}")
        if heatmap_size not in (16, 32, 64, 128):
            raise ValueError(f"heatmap_size must be 16, 32, 64 or 128, got {heatmap_size}")
        size = {"width": image_size, "height": image_size} if image is None else _size(image)
        x, y = (float(v) for v in point)
        if not (-0.5 <= x <= size["width"] - 0.5 and -0.5 <= y <= size["height"] - 0.5):
            raise ValueError(f"point must lie inside the {size['width']} x {size['height']} image, got {point}")
        options = size | {"heatmap_size": heatmap_size, "point": [x, y], "sigma": sigma, "shape": shape}
        super().__init__(options, {} if image is None else {"image": picture(image)})


class CedFigure(Figure):
    """Cumulative error distributions: move the limit and watch AUC and failure rate, change the normaliser.

    Args:
        errors: per-image errors as fractions (0.05 = 5 %), as {method: (N,)} or {normaliser: {method: (N,)}}; the
            methods must be the same for every normaliser.
        limit: the limit of AUC and failure rate at first.
        span: right end of the error axis and largest limit.
        normalizer: what the errors are divided by, where ``errors`` does not say.

    Example:
        >>> CedFigure({"inter_ocular": {"ours": ours_io, "peer": peer_io}, "box": {"ours": ours_box, "peer": peer_box}})

    Raises:
        ValueError: on empty, negative or NaN errors, differing methods, or a limit outside (0, span].

    Source: AUC and FR as in ``metrics``.
    """

    _esm = script("ced")

    def __init__(self, errors: Mapping[str, object], limit: float = 0.1, span: float = 0.2,
                 normalizer: str = "inter_ocular") -> None:
        if not errors:
            raise ValueError("errors must name at least one method, got none")
        nested = isinstance(next(iter(errors.values())), Mapping)
        groups = dict(errors) if nested else {normalizer: errors}
        names = list(next(iter(groups.values())))
        if not 0 < limit <= span:
            raise ValueError(f"limit must lie in (0, span = {span}], got {limit}")
        arrays = {}
        for n, (group, by_name) in enumerate(groups.items()):
            if list(by_name) != names:
                raise ValueError(f"errors must hold the same methods for every normaliser, got {list(by_name)} "
                                 f"for {group!r}, wanted {names}")
            for i, (name, values) in enumerate(by_name.items()):
                values = _floats(f"errors[{name!r}]", values, (None,))
                if not len(values) or not np.isfinite(values).all() or (values < 0).any():
                    raise ValueError(f"errors[{name!r}] must hold finite values >= 0, got {values}")
                arrays[f"errors_{n}_{i}"] = np.sort(values)
        labels = [group.replace("_", "-") for group in groups]
        super().__init__({"normalizers": labels, "names": names, "limit": limit, "span": span}, arrays)


class FaceFigure(Figure):
    """Turn a rendered head by a slider, with its exact landmarks and contours above it.

    Args:
        frames: N views of equal size, uint8 (H, W, 3) or (H, W).
        landmarks: (N, K, 2) image pixels.
        values: N numbers the slider shows, such as the yaw of each view.
        visibility: (N, K) booleans; None means all visible.
        contours: {name: N polylines (M, 2)}; lengths may differ, NaN breaks a line.
        occluding: names among ``contours`` that are outlines of the view, drawn apart.
        label: what the slider changes, with its ``unit``.
        start: index of the first view shown; None takes the middle.

    Example:
        >>> FaceFigure([f.image for f in faces], [f.landmarks for f in faces], yaws,
        ...            [f.visibility for f in faces], {name: [f.contours[name] for f in faces] for name in CONTOURS},
        ...            occluding=("chin_boundary",))
    """

    _esm = script("face")

    def __init__(self, frames: Sequence[np.ndarray], landmarks: object, values: Sequence[float],
                 visibility: object | None = None, contours: Mapping[str, Sequence[np.ndarray]] | None = None,
                 occluding: Sequence[str] = (), label: str = "yaw", unit: str = "°", start: int | None = None) -> None:
        count = len(frames)
        if not count or len(values) != count:
            raise ValueError(f"frames and values must be equally many and not none, got {count} and {len(values)}")
        if len({np.shape(frame)[:2] for frame in frames}) > 1:
            raise ValueError(f"frames must have one size, got {sorted({np.shape(frame)[:2] for frame in frames})}")
        landmarks = _floats("landmarks", landmarks, (count, None, 2))
        seen = np.ones(landmarks.shape[:2], bool) if visibility is None else np.asarray(visibility).astype(bool)
        if seen.shape != landmarks.shape[:2]:
            raise ValueError(f"visibility must have shape {landmarks.shape[:2]}, got {seen.shape}")
        contours = dict(contours or {})
        if not set(occluding) <= set(contours):
            raise ValueError(f"occluding must name contours among {sorted(contours)}, got {list(occluding)}")
        arrays: dict[str, np.ndarray | bytes] = {"landmarks": landmarks, "visibility": seen}
        drawn = []
        for i, (name, lines) in enumerate(contours.items()):
            if len(lines) != count:
                raise ValueError(f"contours[{name!r}] must hold {count} polylines, got {len(lines)}")
            arrays[f"contour_{i}"] = _stack([_floats(f"contours[{name!r}]", line, (None, 2)) for line in lines])
            drawn.append({"name": name, "key": f"contour_{i}", "occluding": name in occluding})
        arrays |= {f"frame_{i}": picture(frame) for i, frame in enumerate(frames)}
        start = count // 2 if start is None else start
        if not 0 <= start < count:
            raise ValueError(f"start must be an index below {count}, got {start}")
        values = [round(float(v), 3) for v in values]
        values = [int(v) if v == int(v) else v for v in values]
        super().__init__(_size(frames[0]) | {"values": values, "label": label, "unit": unit, "contours": drawn,
                                             "start": start}, arrays)


def _stack(lines: Sequence[np.ndarray]) -> np.ndarray:
    """Polylines of different lengths as one (N, M, 2) array, the short ones filled up with NaN."""
    out = np.full((len(lines), max(1, *(len(line) for line in lines)), 2), np.nan, np.float32)
    for row, line in zip(out, lines):
        row[: len(line)] = line
    return out


class OverlayFigure(Figure):
    """A photo with predicted landmarks: choose one and see its heatmap above the photo, and its score.

    Args:
        image: (H, W) or (H, W, 3).
        landmarks: (K, 2) predicted, in image pixels.
        heatmaps: (K, h, w), each drawn from 0 to its own maximum; pass probabilities, not logits.
        scores: (K,) in [0, 1], or None.
        matrix: 2x3 map from image pixels to *heatmap* pixels; None: the maps cover the whole image.
        truth: (K, 2) given points to compare with, or None.
        markup: names the groups of landmarks, where ``markups`` knows it and the count fits.
        start: the landmark chosen at first.

    Example:
        >>> to_map = geometry.compose(scaling_128_to_32, data.crop_matrix(box, 128))
        >>> OverlayFigure(photo, found.landmarks, maps, found.scores, to_map, start=30)
    """

    _esm = script("overlay")

    def __init__(self, image: np.ndarray, landmarks: object, heatmaps: object, scores: object | None = None,
                 matrix: object | None = None, truth: object | None = None, markup: str = "68", start: int = 0) -> None:
        landmarks = _floats("landmarks", landmarks, (None, 2))
        count = len(landmarks)
        heatmaps = _floats("heatmaps", heatmaps, (count, None, None))
        if not np.isfinite(landmarks).all() or not np.isfinite(heatmaps).all():
            raise ValueError("landmarks and heatmaps must be finite, got NaN or infinity")
        if not 0 <= start < count:
            raise ValueError(f"start must be a landmark below {count}, got {start}")
        size, (map_height, map_width) = _size(image), heatmaps.shape[1:]
        if matrix is None:                                    # q = (p + 0.5) s - 0.5
            sx, sy = map_width / size["width"], map_height / size["height"]
            matrix = [[sx, 0, 0.5 * sx - 0.5], [0, sy, 0.5 * sy - 0.5]]
        matrix = _floats("matrix", matrix, (2, 3))
        if abs(np.linalg.det(matrix[:, :2])) < 1e-12:
            raise ValueError(f"matrix must be invertible, got {matrix.tolist()}")
        heat = np.clip(heatmaps, 0, None)
        heat = np.round(255 * heat / np.maximum(heat.max((1, 2), keepdims=True), 1e-12)).astype(np.uint8)
        arrays: dict[str, np.ndarray | bytes] = {"landmarks": landmarks, "heatmaps": heat, "image": picture(image)}
        if scores is not None:
            arrays["scores"] = _floats("scores", scores, (count,))
        if truth is not None:
            arrays["truth"] = _floats("truth", truth, (count, 2))
        super().__init__(size | {"map_width": map_width, "map_height": map_height, "start": start,
                                 "to_map": matrix.astype(float).tolist(), "groups": _groups(markup, count)}, arrays)


def _groups(markup: str, count: int) -> list[dict]:
    """The finest groups of a markup, smallest first, so that a landmark is named by the narrowest one."""
    if markup not in markups.MARKUPS or markups.MARKUPS[markup].count != count:
        return []
    groups = sorted(markups.MARKUPS[markup].groups.items(), key=lambda group: len(group[1]))
    return [{"name": name.replace("_", " "), "indices": list(indices)} for name, indices in groups]


class StepsFigure(Figure):
    """What a small network predicts on a few faces while it trains, beside its loss curve.

    Args:
        images: F faces of equal size, (H, W), (H, W, 3), uint8 or float in [0, 1].
        steps: T training steps, ascending, at which the predictions were taken.
        predictions: (T, F, K, 2) in pixels of those images.
        loss: the curve as (L, 2) rows (step, value), or {name: (L, 2)} for several.
        truth: (F, K, 2) or None.
        scale: factor from these pixels to the ``unit`` the mean error is shown in.
        log: logarithmic loss axis; all values must then be positive.

    Example:
        >>> StepsFigure(batch["image"][:4, 0] + 0.5, [0, 50, 100, 200, 400], predictions,
        ...             [(h.step, h.loss) for h in history], truth=batch["landmarks"][:4])
    """

    _esm = script("steps")

    def __init__(self, images: Sequence[np.ndarray], steps: Sequence[int], predictions: object, loss: object,
                 truth: object | None = None, scale: float = 1.0, unit: str = "px", log: bool = True,
                 loss_label: str = "loss") -> None:
        count, faces = len(steps), len(images)
        if not count or not faces:
            raise ValueError(f"steps and images must not be empty, got {count} and {faces}")
        if any(b <= a for a, b in pairwise(steps)):
            raise ValueError(f"steps must ascend, got {list(steps)}")
        if len({np.shape(image)[:2] for image in images}) > 1:
            raise ValueError(f"images must have one size, got {sorted({np.shape(image)[:2] for image in images})}")
        predictions = _floats("predictions", predictions, (count, faces, None, 2))
        arrays: dict[str, np.ndarray | bytes] = {"predictions": predictions}
        if truth is not None:
            arrays["truth"] = _floats("truth", truth, (faces, predictions.shape[2], 2))
        curves = dict(loss) if isinstance(loss, Mapping) else {loss_label: loss}
        for i, (name, curve) in enumerate(curves.items()):
            curve = _floats(f"loss[{name!r}]", curve, (None, 2))
            if not len(curve) or not np.isfinite(curve).all() or (log and (curve[:, 1] <= 0).any()):
                raise ValueError(f"loss[{name!r}] must hold finite{' positive' if log else ''} values, got {curve}")
            arrays[f"curve_{i}"] = curve
        arrays |= {f"face_{f}": picture(image) for f, image in enumerate(images)}
        super().__init__(_size(images[0]) | {
            "steps": [int(s) for s in steps], "faces": faces, "curves": [{"name": name} for name in curves], "log": log,
            "loss_label": loss_label, "scale": scale, "unit": unit}, arrays)


class BaliFigure(Figure):
    """Drag the landmarks of one boundary: its BALI field follows, and the vote that finds the chosen landmark again.

    Args:
        points: (M, 2), 2 <= M <= 17, landmarks along the boundary in map pixels, inside the map.
        size: (height, width) of the map, at most 64 each.
        image: what the map covers from edge to edge, at any resolution; None draws the field alone.
        sigma: width of the boundary in map pixels, from 0.5 to 4.
        radius: R, of the squares that carry vectors, 1 to 7.
        decode_radius: r, of the window that votes, 0 to 5.
        start: the landmark chosen at first.

    Example:
        >>> BaliFigure(heatmaps.to_heatmap(face.landmarks, 256, 64)[36:40] - [12, 18], (16, 28), crop)

    Source: SCPAN Eq. 1 to 5.
    """

    _esm = script("bali")

    def __init__(self, points: object, size: tuple[int, int], image: np.ndarray | None = None, sigma: float = 1.5,
                 radius: int = 5, decode_radius: int = 3, start: int = 0) -> None:
        points, (height, width) = _chain(points, size)
        for name, value, low, high in (("sigma", sigma, 0.5, 4), ("radius", radius, 1, 7),
                                       ("decode_radius", decode_radius, 0, 5), ("start", start, 0, len(points) - 1)):
            if not low <= value <= high:
                raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
        options = {"width": width, "height": height, "sigma": sigma, "radius": radius, "decode_radius": decode_radius,
                   "start": start}
        super().__init__(options, {"points": points} | ({} if image is None else {"image": picture(image)}))


class PairFigure(Figure):
    """Turn, scale and mirror a picture's twin: what self-calibration compares, and what it cannot tell apart.

    Args:
        image: square, (S, S) or (S, S, 3).
        landmarks: (K, 2) in pixels of the image.
        markup: names the flip pairs, where the count fits.
        size: of the maps that are compared, from 8 to 64.
        sigma: width of the peaks in map pixels, from 0.5 to 4.
        nose: the landmark that one of the lazy answers gives for all.

    Example:
        >>> PairFigure(face.image, face.landmarks)

    Source: SCPAN Eq. 7, 12, 15 and 17.
    """

    _esm = script("pair")

    def __init__(self, image: np.ndarray, landmarks: object, markup: str = "68", size: int = 32, sigma: float = 1.5,
                 nose: int = 30) -> None:
        count = markups.get(markup).count
        landmarks = _floats("landmarks", landmarks, (count, 2))
        if not np.isfinite(landmarks).all():
            raise ValueError("landmarks must be finite, got NaN or infinity")
        sides = _size(image)
        if sides["width"] != sides["height"]:
            raise ValueError(f"image must be square, got {sides['width']} x {sides['height']}")
        for name, value, low, high in (("size", size, 8, 64), ("sigma", sigma, 0.5, 4), ("nose", nose, 0, count - 1)):
            if not low <= value <= high:
                raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
        flip = np.array(markups.get(markup).flip, np.int32)
        super().__init__({"side": sides["width"], "size": size, "sigma": sigma, "nose": nose},
                         {"landmarks": landmarks, "flip": flip, "image": picture(image)})


class BoundaryFigure(Figure):
    """Drag the landmarks of a boundary: the line through them, its heatmap, and what snapping to pixels does to it.

    Args:
        points: (M, 2), 2 <= M <= 17, landmarks along the boundary in map pixels, inside the map.
        size: (height, width) of the map, from 2 to 64 each.
        image: what the map covers from edge to edge, at any resolution; None draws the line alone.
        sigma: width of the boundary in map pixels at first, from 0.5 to 4.

    Example:
        >>> BoundaryFigure([[6, 12], [14, 7], [22, 6], [31, 11]], (20, 38))

    Source: TAB Fig. 3; ``tab.smooth``, ``tab.boundary_maps``, ``tab.boundary_mse`` and ``tab.boundary_overlap``.
    """

    _esm = script("boundary")

    def __init__(self, points: object, size: tuple[int, int], image: np.ndarray | None = None,
                 sigma: float = 1.0) -> None:
        points, (height, width) = _chain(points, size)
        if not 0.5 <= sigma <= 4:
            raise ValueError(f"sigma must lie in [0.5, 4], got {sigma}")
        options = {"width": width, "height": height, "sigma": sigma}
        super().__init__(options, {"points": points} | ({} if image is None else {"image": picture(image)}))


class WeakLossFigure(Figure):
    """Bend a contour at and between its landmarks: its heat, its contourness, and what ACE-Net's weak loss charges.

    Args:
        landmarks: (M, 2), 2 <= M <= 6, along the contour in map pixels, inside the map; the two ends count as anchors.
        size: (height, width) of the map, from 8 to 96 each.
        image: what the map covers from edge to edge, at any resolution; None draws the heat alone.
        truth: (N, 2) the true contour to compare with, or None.
        reach: D at first, a whole number of map pixels from 1 to 8.
        sigma: width of the contour in map pixels, from 1 to 4; the mapping of Eq. 7 is made for 2.
        alpha: weight of a pixel that is all wrong.

    Example:
        >>> WeakLossFigure([[6, 20], [22, 12], [40, 14], [57, 24]], (36, 64))

    Source: ACE-Net Eq. 7 to 11.
    """

    _esm = script("contour", "weakloss")

    def __init__(self, landmarks: object, size: tuple[int, int], image: np.ndarray | None = None,
                 truth: object | None = None, reach: int = 6, sigma: float = 2.0, alpha: float = 50.0) -> None:
        landmarks = _floats("landmarks", landmarks, (None, 2))
        height, width = (int(n) for n in size)
        if not (8 <= height <= 96 and 8 <= width <= 96):
            raise ValueError(f"size must be (height, width) from 8 to 96, got {size}")
        if not 2 <= len(landmarks) <= 6:
            raise ValueError(f"landmarks must be 2 to 6, got {len(landmarks)}")
        if not ((landmarks >= -0.5) & (landmarks <= [width - 0.5, height - 0.5])).all():
            raise ValueError(f"landmarks must lie inside the {width} x {height} map, got {landmarks.tolist()}")
        if (landmarks[0] == landmarks[-1]).all():
            raise ValueError(f"landmarks must be an open chain, got both ends at {landmarks[0].tolist()}")
        for name, value, low, high in (("reach", reach, 1, 8), ("sigma", sigma, 1, 4), ("alpha", alpha, 1, 1000)):
            if not low <= value <= high:
                raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
        arrays: dict[str, np.ndarray | bytes] = {"landmarks": landmarks}
        if truth is not None:
            arrays["truth"] = _floats("truth", truth, (None, 2))
        if image is not None:
            arrays["image"] = picture(image)
        super().__init__({"width": width, "height": height, "reach": int(reach), "sigma": float(sigma),
                          "alpha": float(alpha)}, arrays)


class ReferenceFigure(Figure):
    """Choose a place of a target face: how similar every place of a reference is, which one answers, what is borrowed.

    Args:
        target, reference: pictures (H', W') or (H', W', 3) that the map covers from edge to edge, at any resolution.
        query, key: (C, H, W) their local features, H and W from 2 to 48.
        correlate: (query, key (1, C, H, W), patch) -> confidence (1, 1, H, W) and index (1, H W) of the winners;
            ``rht.correlate``.
        place: (x, y) on the map at first, whole numbers.
        patch: 1, 3 or 5 at first.

    Example:
        >>> ReferenceFigure(target, reference, features(target), features(reference), rht.correlate, place=(11, 13))

    Source: RHT Eq. 1 to 3.
    """

    _esm = script("reference")

    def __init__(self, target: np.ndarray, reference: np.ndarray, query: object, key: object,
                 correlate: Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]],
                 place: tuple[int, int] = (0, 0), patch: int = 3) -> None:
        query, key = _floats("query", query, (None, None, None)), _floats("key", key, (None, None, None))
        rows, columns = query.shape[1:]
        if query.shape != key.shape or not (2 <= rows <= 48 and 2 <= columns <= 48):
            raise ValueError(f"query and key must both be (C, H, W), H and W from 2 to 48, got {query.shape} and "
                             f"{key.shape}")
        if not (np.isfinite(query).all() and np.isfinite(key).all()):
            raise ValueError("query and key must be finite, got NaN or infinity")
        x, y = (int(v) for v in place)
        if not (0 <= x < columns and 0 <= y < rows):
            raise ValueError(f"place must lie on the {columns} x {rows} map, got {place}")
        if patch not in (1, 3, 5):
            raise ValueError(f"patch must be 1, 3 or 5, got {patch}")
        pairs = [correlate(torch.from_numpy(query[None]), torch.from_numpy(key[None]), n) for n in (1, 3, 5)]
        super().__init__({"rows": rows, "columns": columns, "start": y * columns + x, "patch": patch,
                          "patches": [1, 3, 5]},
                         {"query": query, "key": key, "target": picture(target), "reference": picture(reference),
                          "index": np.concatenate([index.numpy() for _, index in pairs]).astype(np.int32),
                          "confidence": np.concatenate([sure.flatten(1).numpy() for sure, _ in pairs])})


class ExemplarFigure(Figure):
    """Cover landmarks with a hand, and watch a dictionary of exemplar shapes put them back.

    Args:
        exemplars: (N, K, 2) at most 200 faces in one frame, such as a ``msm.ShapeDictionary`` holds.
        truth: (K, 2) the landmarks of one face, in pixels of ``image`` or of a plain square of ``size``.
        image: (H, W) or (H, W, 3), or None.
        size: side in pixels where there is no image.
        markup: says which landmarks are joined by lines, which groups can be covered and what errors are divided by.
        hand: (x, y) of the hand at first; None: the middle of the landmarks.
        radius: of the hand, in inter-ocular distances, 0 to 1.5.
        error: of covered landmarks at first, per axis, in inter-ocular distances, 0 to 0.5.
        k: exemplars that take part at first.
        ridge: lambda at first, 0.1 to 100,000.
        seed: of the errors.

    Example:
        >>> ExemplarFigure(ShapeDictionary.fit(shapes, 100).exemplars, face.landmarks, face.image, k=50)

    Source: MSM Eq. 10, 11.
    """

    _esm = script("exemplars")

    def __init__(self, exemplars: object, truth: object, image: np.ndarray | None = None, size: int = 128,
                 markup: str = "68", hand: tuple[float, float] | None = None, radius: float = 0.5, error: float = 0.15,
                 k: int = 50, ridge: float = 60.0, seed: int = 0) -> None:
        chosen, exemplars = markups.get(markup), _floats("exemplars", exemplars, (None, None, 2))
        truth = _floats("truth", truth, (chosen.count, 2))
        if not np.isfinite(truth).all():
            raise ValueError("truth must be finite, got NaN or infinity")
        if exemplars.shape[1] != len(truth) or len(exemplars) > 200:
            raise ValueError(f"exemplars must be at most 200 of {len(truth)} landmarks, got {len(exemplars)} of "
                             f"{exemplars.shape[1]}")
        for name, value, low, high in (("radius", radius, 0, 1.5), ("error", error, 0, 0.5),
                                       ("k", k, 1, len(exemplars)), ("ridge", ridge, 0.1, 1e5)):
            if not low <= value <= high:
                raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
        span = {"width": size, "height": size} if image is None else _size(image)
        at = truth.mean(0) if hand is None else np.asarray(hand, np.float32)
        if at.shape != (2,) or not ((at >= -0.5) & (at <= [span["width"] - 0.5, span["height"] - 0.5])).all():
            raise ValueError(f"hand must lie inside the {span['width']} x {span['height']} image, got {at.tolist()}")
        length = float(metrics.normalizing_length(truth, "inter_ocular", markup)[0])
        names = {"jaw": "jaw", "brow": "brows", "nose": "nose", "eye": "eyes", "mouth": "mouth"}
        super().__init__(
            span | {"length": length, "chains": [list(chain) for chain in chosen.curves.values()],
                    "groups": [{"name": text, "indices": list(chosen.groups[name])}
                               for name, text in names.items() if name in chosen.groups],
                    "hand": at.astype(float).tolist(), "radius": radius, "error": error, "k": k, "ridge": ridge},
            {"truth": truth, "exemplars": exemplars,
             "wander": np.random.default_rng(seed).normal(size=truth.shape).astype(np.float32)}
            | ({} if image is None else {"image": picture(image)}))


class ContournessFigure(Figure):
    """Turn a line: its heat, its contourness, and how well the template fits at every angle.

    Angle, offset, width and height of the line, noise, a second line and the template's sigma are the reader's; all is
    computed in the browser.

    Args:
        angle: of the line at first, degrees from x towards y, 0 to 180.
        sigma: of the template, and width of the line, at first; one of 1, 1.5, ..., 4.
        second: whether a second line crosses it at first.

    Example:
        >>> ContournessFigure(angle=30)

    Source: ACE-Net Eq. 5, 6, 18, 24 and 25.
    """

    _esm = script("contour", "contourness")

    def __init__(self, angle: float = 30.0, sigma: float = 2.0, second: bool = False) -> None:
        if not 0 <= angle <= 180:
            raise ValueError(f"angle must lie in [0, 180], got {angle}")
        if sigma not in (1, 1.5, 2, 2.5, 3, 3.5, 4):
            raise ValueError(f"sigma must be 1, 1.5, ... or 4, got {sigma}")
        super().__init__({"angle": float(angle), "sigma": float(sigma), "second": bool(second)}, {})


class ExtractionFigure(Figure):
    """Damage a contour heatmap, move sigma and the thresholds, and see each stage of extraction and its curves.

    Noise, blur, a hole, sigma, low and high are the reader's; all is computed in the browser as ``contours.extract``
    does.

    Args:
        heatmap: (H, W) of one contour, sides from 8 to 96.
        truth: (M, 2) the contour itself, in heatmap pixels, without repeated points.
        hole_at: (x, y), the middle of the hole; None takes the middle of ``truth``.
        sigma: width of the templates at first; one of 1.5, 2, ..., 4.
        low, high: thresholds at first, shares of the score of an ideal contour.
        noise: standard deviation of the noise at first, 0 to 0.4.
        seed: of the noise.

    Example:
        >>> chin = heatmaps.to_heatmap(face.contours["chin_boundary"], 256, 64)
        >>> ExtractionFigure(contours.encode(chin, 64, 2.0), chin)

    Source: ACE-Net section 3.4.
    """

    _esm = script("contour", "extraction")

    def __init__(self, heatmap: object, truth: object, hole_at: tuple[float, float] | None = None, sigma: float = 3.0,
                 low: float = 0.2, high: float = 0.4, noise: float = 0.0, seed: int = 0) -> None:
        heatmap, truth = _floats("heatmap", heatmap, (None, None)), _floats("truth", truth, (None, 2))
        height, width = heatmap.shape
        if not (8 <= height <= 96 and 8 <= width <= 96) or not np.isfinite(heatmap).all():
            raise ValueError(f"heatmap must be finite with sides from 8 to 96, got shape {heatmap.shape}")
        if len(truth) < 2 or not np.isfinite(truth).all():
            raise ValueError(f"truth must hold at least 2 finite points, got shape {truth.shape}")
        if sigma not in (1.5, 2, 2.5, 3, 3.5, 4):
            raise ValueError(f"sigma must be 1.5, 2, ... or 4, got {sigma}")
        if not 0.02 <= low <= high <= 1:
            raise ValueError(f"thresholds must be 0.02 <= low <= high <= 1, got {low} and {high}")
        if not 0 <= noise <= 0.4:
            raise ValueError(f"noise must lie in [0, 0.4], got {noise}")
        x, y = truth[len(truth) // 2] if hole_at is None else hole_at
        options = {"width": width, "height": height, "sigma": float(sigma), "low": low, "high": high,
                   "noise_level": noise, "hole_at": [float(x), float(y)]}
        super().__init__(options, {"heat": heatmap, "truth": truth,
                                   "noise": np.random.default_rng(seed).standard_normal(heatmap.shape)})


class StraightenFigure(Figure):
    """Move, turn and size the frame that a spatial transformer reads, and see the crop that comes out.

    Args:
        image: (S, S) or (S, S, 3), a rough crop.
        target: (2, 3) the theta that straightens it, such as ``msm.true_theta`` gives.
        theta: (2, 3) at first; None: the identity, the crop as it came.
        margin: around the frame of exemplars, see ``msm.pose_residual``.

    Example:
        >>> StraightenFigure(crop, msm.true_theta(landmarks[None], mean, 128)[0])

    Source: MSM Eq. 1, 2 and 5.
    """

    _esm = script("straighten")

    def __init__(self, image: np.ndarray, target: object, theta: object = None, margin: float = 0.3) -> None:
        span = _size(np.asarray(image))
        if span["width"] != span["height"]:
            raise ValueError(f"image must be square, got {span['width']} x {span['height']}")
        given = {"target": _floats("target", target, (2, 3)),
                 "theta": _floats("theta", np.eye(2, 3) if theta is None else theta, (2, 3))}
        for name, value in given.items():
            if not np.isfinite(value).all() or abs(np.linalg.det(value[:, :2])) < 1e-6:
                raise ValueError(f"{name} must be finite and invertible, got {value.tolist()}")
        if not 1 + margin > 0:
            raise ValueError(f"1 + margin must be positive, got {1 + margin}")
        super().__init__({"size": span["width"], "margin": margin}
                         | {name: value.astype(float).tolist() for name, value in given.items()},
                         {"image": picture(image)})
