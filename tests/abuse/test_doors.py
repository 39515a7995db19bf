"""Every public door under wrong arguments: what comes out is an answer or a ValueError, an OSError or a TypeError.

An answer of NaN is none, unless NaN, or what squares to infinity, went in at a door that says it passes.
``ABUSE_CASES`` is the number of cases a door, 25 if it is not set; ``make soak`` sets 10,000. A failure names the door
and the seed that repeats it.
"""

import os
import warnings
import zlib

import matplotlib

matplotlib.use("Agg")

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from facealign_lite import contours, data, geometry, heatmaps, markups, metrics, plots, zoo
from facealign_lite.data import files
from facealign_lite.nets import HourglassConfig, StackedHourglass
from facealign_lite.synthetic import SyntheticFaces

from .hostile import damaged, has_no_number, spoiled

CASES = int(os.environ.get("ABUSE_CASES", "25"))
FINE = (ValueError, OSError, TypeError)
RNG = np.random.default_rng(0)
FACE = RNG.uniform(20, 90, (68, 2))
FACES, OTHERS = RNG.uniform(0, 90, (3, 68, 2)), RNG.uniform(0, 90, (3, 68, 2))
IMAGE, BOX, MAP = RNG.integers(0, 256, (40, 50, 3), np.uint8), np.array([5.0, 6, 30, 34]), np.eye(2, 3)
LINE, HEAT = RNG.uniform(0, 30, (9, 2)), RNG.random((4, 16, 16))
LINES = {name: LINE + i for i, name in enumerate(markups.CONTOURS)}
ANCHORS = RNG.uniform(0, 40, (12, 2))


def drawn(function):
    """A plot, closed again."""
    def door(*arguments):
        try:
            function(*arguments)
        finally:
            plots.plt.close("all")
    return door


def pixels(image):
    seen = data.load_image(image)
    assert seen.dtype == np.uint8 and seen.ndim in (2, 3) and seen.flags.c_contiguous
    return seen


def sample(*arguments):
    seen = data.Sample(*arguments)
    return [part for part in (seen.landmarks, seen.box, seen.anchors) if part is not None]


# door: (function, good arguments, whether NaN passes)
DOORS = {
    "nme": (metrics.nme, (FACES, OTHERS, "box", "68", np.array([[-1.0, -1, 99, 99]] * 3)), False),
    "per_landmark": (metrics.per_landmark, (FACES, OTHERS, "inter_ocular", "68"), False),
    "failure_rate": (metrics.failure_rate, (RNG.random(9), 0.1), False),
    "ced": (metrics.ced, (RNG.random(9), RNG.random(4)), False),
    "auc": (metrics.auc, (RNG.random(9), 0.1), False),
    "landmarks_as_ac": (metrics.landmarks_as_ac, (FACE, "68"), False),
    "anchor_contour_errors": (metrics.anchor_contour_errors, (
        ANCHORS, LINES, {"nose_tip": FACE[0]}, {"chin_boundary": LINE}, 40.0, 0.1), False),
    "transform": (geometry.transform, (FACE, MAP), True), "invert": (geometry.invert, (MAP,), False),
    "compose": (geometry.compose, (MAP, MAP), False),
    "similarity": (geometry.similarity, (1.5, 0.2, np.array([3.0, 4.0])), False),
    "procrustes": (geometry.procrustes, (FACE, FACES[0]), False), "length": (geometry.length, (LINE,), False),
    "resample": (geometry.resample, (LINE, 12), False), "spline": (geometry.spline, (LINE, 12, 2), False),
    "distance_to_segments": (geometry.distance_to_segments, (FACE, LINE[1:], LINE[:-1]), True),
    "distance_to_polyline": (geometry.distance_to_polyline, (FACE, LINE), True),
    "convert": (markups.convert, (FACE, "68", "36"), True), "markup": (markups.get, ("68",), False),
    "encode": (heatmaps.encode, (LINE, 24, 1.5, "gaussian"), False),
    "decode": (heatmaps.decode, (HEAT, "center_of_mass", "gaussian"), False),
    "decode_dark": (heatmaps.decode, (HEAT, "dark", "student_t"), False),
    "decode_parabola": (heatmaps.decode, (HEAT, "dark", "parabola"), False),
    "soft_argmax": (heatmaps.decode, (HEAT, "soft_argmax"), False), "peak": (heatmaps.peak, (HEAT,), False),
    "to_heatmap": (heatmaps.to_heatmap, (FACE, 128, (32, 24)), True),
    "to_image": (heatmaps.to_image, (FACE, 32, 128), True),
    "contour_encode": (contours.encode, (LINE[None], 24, 1.5), False),
    "stack": (contours.stack, ([LINE, LINE[:4]],), True),
    "contourness": (contours.contourness, (torch.tensor(HEAT), 2.0), True),
    "extract": (contours.extract, (HEAT, 3.0, 0.2, 0.4), False),
    "join": (contours.join, ([LINE, LINE + 3], 4.0), False),
    "load_image": (pixels, (IMAGE,), False), "grey": (data.grey, (IMAGE,), True),
    "flip": (data.flip, (IMAGE, FACE, "68"), True), "crop": (data.crop, (IMAGE, MAP, 16), True),
    "crop_matrix": (data.crop_matrix, (BOX, 16, 0.3, 0.1, np.array([0.1, 0.0]), 1.1), False),
    "box_of": (data.box_of, (FACE,), False), "check_box": (data.check_box, (BOX,), False),
    "Sample": (sample, (IMAGE, FACE, np.ones(68), BOX, "68", {}, ANCHORS, LINES), False),
    "SyntheticFaces": (lambda *a: len(SyntheticFaces(*a)), (3, 64, 1), False),
    "same_file": (files.same_file, ("a", "b"), False),
    "show": (drawn(plots.show), (IMAGE, FACE, LINES, np.ones(68), BOX), False),
    "contours": (drawn(plots.contours), (IMAGE, LINES, ANCHORS), False),
    "sheet": (drawn(plots.sheet), ([IMAGE, IMAGE], [FACE, FACE]), False),
    "heatmap": (drawn(plots.heatmap), (IMAGE, HEAT), False),
    "part_errors": (drawn(plots.part_errors), ({"a": RNG.random((5, 68))}, "68"), False),
    "zoo_load": (lambda name: zoo.load(name, "cpu").training, ("no model",), False),
    "pick_device": (lambda name: zoo.pick_device(name).type, ("cpu",), False),
}
COSTLY = {"show", "contours", "sheet", "heatmap", "part_errors"}           # matplotlib takes its time


def _brief(arguments):
    return [" ".join(f"{type(each).__name__} {getattr(each, 'dtype', '')} {each!r}".split())[:200]
            for each in arguments]


def attempt(rng, function, good, passes):
    """What went wrong, in words, or None."""
    arguments = list(good)
    for i in rng.choice(len(good), rng.integers(1, min(3, len(good)) + 1), replace=False):
        arguments[i] = spoiled(rng, good[i])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = function(*arguments)
    except FINE:
        return None
    except Exception as error:      # noqa: BLE001    the very thing that is looked for
        return f"{type(error).__name__}: {error} for {_brief(arguments)}"
    if has_no_number(answer) and not (passes and has_no_number(arguments, 1e30)):
        return f"NaN or infinity without a word for {_brief(arguments)}"
    return None


@pytest.mark.parametrize("name", DOORS)
def test_a_door_answers_or_says_why_not(name):
    function, good, passes = DOORS[name]
    assert not has_no_number(function(*good)) if name != "zoo_load" else True
    for seed in range(CASES // 5 if name in COSTLY else CASES):
        wrong = attempt(np.random.default_rng([zlib.crc32(name.encode()), seed]), function, good, passes)
        assert wrong is None, f"door {name}, seed {seed}: {wrong[:1500]}"


# ---- files ---------------------------------------------------------------------------------------------------------

def _picture(kind, mode="RGB"):
    def make(folder):
        Image.fromarray(IMAGE).convert(mode).save(folder / "a", kind)
        return folder / "a", data.load_image
    return make


def _pts(folder):
    lines = [f"{x} {y}" for x, y in FACE]
    (folder / "a.pts").write_text("\n".join(["version: 1", "n_points: 68", "{", *lines, "}"]))
    return folder / "a.pts", data.read_pts


def _csv(folder):
    cv2.imwrite(str(folder / "a.png"), IMAGE)
    head = ["image", *(f"{c}{i}" for i in range(68) for c in "xy")]
    (folder / "a.csv").write_text("\n".join(map(",".join, [head, ["a.png", *map(str, FACE.ravel())]])))
    return folder / "a.csv", lambda path: data.read_csv(path, folder)


def _wflw(folder):
    cv2.imwrite(str(folder / "a.png"), IMAGE)
    (folder / "a.txt").write_text(" ".join(map(str, RNG.uniform(0, 40, 196))) + " 1 2 30 40 0 0 0 0 0 0 a.png\n")
    return folder / "a.txt", lambda path: data.read_wflw(path, folder)


def _aflw(folder):
    cv2.imwrite(str(folder / "a.png"), IMAGE)
    savemat(folder / "a.mat", {"bbox": np.array([[1.0, 31, 2, 42]]), "data": RNG.uniform(1, 40, (1, 38)),
                               "nameList": np.array([["a.png"]], object), "mask_new": np.ones((1, 19)), "ra": [[1]]})
    return folder / "a.mat", lambda path: data.read_aflw(path, folder, "train")


def _aflw2000(folder):
    cv2.imwrite(str(folder / "a.png"), IMAGE)
    savemat(folder / "a.mat", {"pt3d_68": RNG.uniform(0, 40, (3, 68))}, do_compression=True)
    return folder / "a.mat", lambda path: data.read_aflw2000(folder)


def _cofw(folder):
    with h5py.File(folder / "a.mat", "w") as file:
        file["phisT"] = RNG.uniform(1, 40, (87, 1))
        image = file.create_dataset("#refs#/a", data=IMAGE[..., 0])
        file["IsT"] = np.array([[image.ref]], h5py.ref_dtype)
    return folder / "a.mat", data.read_cofw


def _cofw68(folder):
    _cofw(folder)[0].rename(folder / "COFW_test.mat")
    (folder / "test_annotations").mkdir()
    savemat(folder / "cofw68_test_bboxes.mat", {"bboxes": np.ones((1, 4))})
    savemat(folder / "test_annotations" / "1_points.mat", {"Points": RNG.uniform(1, 40, (68, 2)), "Occ": np.zeros(68)})
    return folder / "test_annotations" / "1_points.mat", lambda path: data.read_cofw68(folder, folder / "COFW_test.mat")


def _weights(folder):
    torch.manual_seed(0)
    model = StackedHourglass(HourglassConfig(image_size=16, channels=4, stem=(2, 2, 4), depth=1))
    return zoo.save(model, folder / "a.safetensors"), zoo.read


def _pack(name):
    def make(folder):
        data.save_packed(folder / "pack", [data.Sample(IMAGE, FACE)] * 2)
        return folder / "pack" / name, lambda path: list(data.PackedFaces(folder / "pack"))
    return make


FILES = {"png": _picture("PNG"), "grey png": _picture("PNG", "L"), "palette png": _picture("PNG", "P"),
         "jpeg": _picture("JPEG"), "webp": _picture("WEBP"), "bmp": _picture("BMP"), "tiff": _picture("TIFF"),
         "gif": _picture("GIF", "P"), "ppm": _picture("PPM"), "pts": _pts, "csv": _csv, "wflw": _wflw, "aflw": _aflw,
         "aflw2000": _aflw2000, "cofw": _cofw, "cofw68": _cofw68, "weights": _weights, "pack.json": _pack("pack.json"),
         "images.npy": _pack("images.npy"), "landmarks.npy": _pack("landmarks.npy")}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_refused(name, tmp_path):
    path, read = FILES[name](tmp_path)
    whole = path.read_bytes()
    read(path)
    for seed in range(CASES):
        rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
        path.write_bytes(damaged(rng, whole))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except FINE:
            continue
        except Exception as error:      # noqa: BLE001
            pytest.fail(f"file {name}, seed {seed}: {type(error).__name__}: {error}")
