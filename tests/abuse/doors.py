"""Every public door, and how wrong calls of it are made.

A door is ``door(folder) -> draw``; ``draw(rng) -> (call, words)``: a call that is ready to be made, and what it is of.
``draw(None)`` is the good call. ``call()`` returns None where the answer is one, or words that say why it is none.
"""

import contextlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib

matplotlib.use("Agg")

import cv2
import h5py
import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image
from scipy.io import savemat
from torch import nn

from facealign_lite import (
    adaptation,
    contours,
    data,
    detection,
    evaluation,
    geometry,
    heatmaps,
    markups,
    metrics,
    plots,
    pose,
    records,
    tab,
    tracking,
    training,
    zoo,
)
from facealign_lite.__main__ import main
from facealign_lite.align import Alignment, align, align_all, align_many
from facealign_lite.data import files
from facealign_lite.msm import ShapeDictionary, exemplars
from facealign_lite.nets import HourglassConfig, Reading, StackedHourglass
from facealign_lite.synthetic import Style, SyntheticFaces

from .hostile import OneOf, damaged, has_no_number, spoiled, spoiled_json

Call = Callable[[], str | None]
Draw = Callable[[np.random.Generator | None], tuple[Call, Any]]
Door = Callable[[Path], Draw]

NO_NUMBER = "NaN or infinity without a word"
RNG = np.random.default_rng(0)
FACE = RNG.uniform(20, 90, (68, 2))
FACES, OTHERS = RNG.uniform(0, 90, (3, 68, 2)), RNG.uniform(0, 90, (3, 68, 2))
IMAGE, BOX, MAP = RNG.integers(0, 256, (40, 50, 3), np.uint8), np.array([5.0, 6, 30, 34]), np.eye(2, 3)
LINE, HEAT = RNG.uniform(0, 30, (9, 2)), RNG.random((4, 16, 16))
LINES = {name: LINE + i for i, name in enumerate(markups.CONTOURS)}
ANCHORS = RNG.uniform(0, 40, (12, 2))
SMALL = HourglassConfig(image_size=16, channels=4, stem=(2, 2, 4), depth=1)


def arguments(function: Callable, good: tuple, passes: bool = False, most: int = 2) -> Door:
    """A door whose arguments are spoiled, up to ``most`` at once; ``passes``: NaN that goes in may come out."""
    def door(_: Path) -> Draw:
        def draw(rng: np.random.Generator | None) -> tuple[Call, Any]:
            given = [one[0] if isinstance(one, OneOf) else one for one in good]
            if rng is not None:
                for i, one in enumerate(good):
                    if isinstance(one, OneOf) and rng.random() < 0.4:           # mostly good, so that others are seen
                        given[i] = one[rng.integers(len(one))]
                for i in rng.choice(len(good), rng.integers(1, min(most, len(good)) + 1), replace=False):
                    given[i] = spoiled(rng, good[i])

            def call() -> str | None:
                answer = function(*given)
                return NO_NUMBER if has_no_number(answer) and not (passes and has_no_number(given, 1e30)) else None
            return call, given
        return draw
    return door


def file(make: Callable[[Path], tuple[Path, Callable]], spoil: Callable = damaged) -> Door:
    """A door that reads a file, which is damaged."""
    def door(folder: Path) -> Draw:
        path, read = make(folder)
        whole = path.read_bytes()

        def draw(rng: np.random.Generator | None) -> tuple[Call, Any]:
            content = whole if rng is None else spoil(rng, whole)

            def call() -> str | None:
                path.write_bytes(content)
                return NO_NUMBER if has_no_number(read(path)) else None
            return call, content[:200]
        return draw
    return door


# ---- arrays --------------------------------------------------------------------------------------------------------

def drawn(function: Callable) -> Callable:
    """A plot, closed again."""
    def door(*given: Any) -> None:
        try:
            function(*given)
        finally:
            plots.plt.close("all")
    return door


def pixels(image: Any) -> np.ndarray:
    seen = data.load_image(image)
    assert seen.dtype == np.uint8 and seen.ndim in (2, 3) and seen.flags.c_contiguous
    return seen


def sample(*given: Any) -> list:
    seen = data.Sample(*given)
    return [part for part in (seen.landmarks, seen.box, seen.anchors) if part is not None]


def loaded(name: Any) -> bool:
    return zoo.load(name, "cpu").training


ARRAYS: dict[str, Door] = {
    "nme": arguments(metrics.nme, (FACES, OTHERS, "box", "68", np.array([[-1.0, -1, 99, 99]] * 3))),
    "per_landmark": arguments(metrics.per_landmark, (FACES, OTHERS, "inter_ocular", "68")),
    "failure_rate": arguments(metrics.failure_rate, (RNG.random(9), 0.1)),
    "ced": arguments(metrics.ced, (RNG.random(9), RNG.random(4))),
    "auc": arguments(metrics.auc, (RNG.random(9), 0.1)),
    "landmarks_as_ac": arguments(metrics.landmarks_as_ac, (FACE, "68")),
    "anchor_contour_errors": arguments(metrics.anchor_contour_errors, (
        ANCHORS, LINES, {"nose_tip": FACE[0]}, {"chin_boundary": LINE}, 40.0, 0.1)),
    "transform": arguments(geometry.transform, (FACE, MAP), True), "invert": arguments(geometry.invert, (MAP,)),
    "compose": arguments(geometry.compose, (MAP, MAP)),
    "similarity": arguments(geometry.similarity, (1.5, 0.2, np.array([3.0, 4.0]))),
    "procrustes": arguments(geometry.procrustes, (FACE, FACES[0])), "length": arguments(geometry.length, (LINE,)),
    "resample": arguments(geometry.resample, (LINE, 12)), "spline": arguments(geometry.spline, (LINE, 12, 2)),
    "distance_to_segments": arguments(geometry.distance_to_segments, (FACE, LINE[1:], LINE[:-1]), True),
    "distance_to_polyline": arguments(geometry.distance_to_polyline, (FACE, LINE), True),
    "convert": arguments(markups.convert, (FACE, "68", "36"), True), "markup": arguments(markups.get, ("68",)),
    "encode": arguments(heatmaps.encode, (LINE, 24, 1.5, "gaussian")),
    "decode": arguments(heatmaps.decode, (HEAT, "center_of_mass", "gaussian")),
    "decode_dark": arguments(heatmaps.decode, (HEAT, "dark", "student_t")),
    "decode_parabola": arguments(heatmaps.decode, (HEAT, "dark", "parabola")),
    "soft_argmax": arguments(heatmaps.decode, (HEAT, "soft_argmax")), "peak": arguments(heatmaps.peak, (HEAT,)),
    "to_heatmap": arguments(heatmaps.to_heatmap, (FACE, 128, (32, 24)), True),
    "to_image": arguments(heatmaps.to_image, (FACE, 32, 128), True),
    "contour_encode": arguments(contours.encode, (LINE[None], 24, 1.5)),
    "stack": arguments(contours.stack, ([LINE, LINE[:4]],), True),
    "contourness": arguments(contours.contourness, (torch.tensor(HEAT), 2.0), True),
    "extract": arguments(contours.extract, (HEAT, 3.0, 0.2, 0.4)),
    "join": arguments(contours.join, ([LINE, LINE + 3], 4.0)),
    "load_image": arguments(pixels, (IMAGE,)), "grey": arguments(data.grey, (IMAGE,), True),
    "flip": arguments(data.flip, (IMAGE, FACE, "68"), True), "crop": arguments(data.crop, (IMAGE, MAP, 16), True),
    "crop_matrix": arguments(data.crop_matrix, (BOX, 16, 0.3, 0.1, np.array([0.1, 0.0]), 1.1)),
    "box_of": arguments(data.box_of, (FACE,)), "check_box": arguments(data.check_box, (BOX,)),
    "Sample": arguments(sample, (IMAGE, FACE, np.ones(68), BOX, "68", {}, ANCHORS, LINES)),
    "SyntheticFaces": arguments(lambda *a: len(SyntheticFaces(*a)), (3, 64, 1)),
    "Style": arguments(lambda *a: vars(Style(*a)), tuple(getattr(Style(), each.name) for each in fields(Style)),
                       most=3),
    "same_file": arguments(files.same_file, ("a", "b")),
    "show": arguments(drawn(plots.show), (IMAGE, FACE, LINES, np.ones(68), BOX)),
    "contours": arguments(drawn(plots.contours), (IMAGE, LINES, ANCHORS)),
    "sheet": arguments(drawn(plots.sheet), ([IMAGE, IMAGE], [FACE, FACE])),
    "heatmap": arguments(drawn(plots.heatmap), (IMAGE, HEAT)),
    "part_errors": arguments(drawn(plots.part_errors), ({"a": RNG.random((5, 68))}, "68")),
    "zoo_load": arguments(loaded, (OneOf(("hourglass", "no model", "hourglass.safetensors")),)),
    "pick_device": arguments(lambda name: zoo.pick_device(name).type, ("cpu",)),
}


# ---- the dictionary, poses, labels, filters ------------------------------------------------------------------------

SHAPES = np.asarray([face.landmarks for face in SyntheticFaces(12, 48, 2)])
DICTIONARY = ShapeDictionary(exemplars.canonical(SHAPES))
TRUST = np.arange(68) % 3 > 0


def rebuilt(*given: Any) -> np.ndarray:
    found = DICTIONARY.reconstruct(*given)
    assert found.shape == np.shape(torch.as_tensor(given[0]) if isinstance(given[0], torch.Tensor) else given[0])
    return found


def smoothed_twice(points: Any, seconds: Any, size: Any, *how: Any) -> list:
    """The second step of the filter, which the first prepares."""
    first = tracking.smoothed(None, SHAPES[0], 0.0, 40.0)
    motion = tracking.smoothed(first, points, seconds, size, tracking.OneEuro(*how))
    return [motion.points, motion.velocity]


SHAPED: dict[str, Door] = {
    "ShapeDictionary": arguments(lambda *a: len(ShapeDictionary(*a)), (DICTIONARY.exemplars,)),
    "ShapeDictionary.fit": arguments(lambda *a: ShapeDictionary.fit(*a).exemplars, (SHAPES, 4, "68", 0)),
    "ShapeDictionary.reconstruct": arguments(rebuilt, (SHAPES[:2], np.stack([TRUST, ~TRUST]), 5, 60.0, OneOf(
        (True, False)), OneOf((False, True)))),
    "scores": arguments(exemplars.scores, (HEAT, 2)),
    "reliable": arguments(exemplars.reliable, (np.linspace(0, 1, 68), "68")),
    "head_pose": arguments(lambda *a: vars(pose.head_pose(*a)), (SHAPES[0], "68")),
    "fit_label_map": arguments(lambda *a: adaptation.fit_label_map(*a)(SHAPES), (SHAPES, SHAPES + 1, 1.0)),
    "smoothed": arguments(smoothed_twice, (SHAPES[1], 0.1, 40.0, 0.5, 20.0, 1.0)),
    "boundary_maps": arguments(tab.boundary_maps, (SHAPES[:2], "68", 16, 1.0)),
    "Augmentation": arguments(lambda *a: asdict(data.Augmentation(*a)), tuple(
        getattr(data.Augmentation(), each.name) for each in fields(data.Augmentation)), most=3),
}


# ---- the front door ------------------------------------------------------------------------------------------------

PHOTO = SyntheticFaces(1, 64, 3)[0]
STRIPS = tuple(np.full(shape, 90, np.uint8)
               for shape in ((1, 1), (1, 300, 3), (300, 1), (2, 900, 3), (3, 40), (600, 8)))
PICTURES = OneOf((PHOTO.image, PHOTO.image[..., 0], *STRIPS, PHOTO.image[::-1, ::2],
                  PHOTO.image.astype(np.uint16) * 257, Image.fromarray(PHOTO.image),
                  Image.fromarray(PHOTO.image).convert("CMYK"),
                  Image.fromarray(PHOTO.image).convert("P"), Image.fromarray(PHOTO.image).convert("1"),
                  Image.new("RGB", (0, 0)), Image.new("F", (5, 5)), "no such photo.jpg", Path("/dev/zero"), Path("/"),
                  "a\0b", "\udcff.png"))
BOXES = OneOf((PHOTO.box, PHOTO.box, PHOTO.box * 0, PHOTO.box[[2, 3, 0, 1]], PHOTO.box + 1e4, PHOTO.box - 64,
               np.array([-1e5, -1e5, 1e5, 1e5]), np.array([30, 30, 30.001, 30.001])))
NETWORKS = OneOf(("hourglass", "hourglass", "no network", "none.safetensors", Path("/dev/null"), nn.Linear(2, 2)))
DEVICES = OneOf(("cpu", "cpu", "cpu", "meta", "hpu", "privateuseone", "cuda:99", "vulkan"))


def seen(found: Any) -> list:
    """The numbers of an alignment, whose shapes must be those that are promised."""
    if isinstance(found, (ValueError, OSError)):         # of one picture of many
        return []
    assert isinstance(found, Alignment) and found.landmarks.ndim == 2 and found.landmarks.shape[1] == 2
    assert found.scores.shape == found.landmarks.shape[:1] and found.box.shape == (4,)
    assert not (found.scores < 0).any() and not (found.scores > 1).any()
    return [found.landmarks, found.scores, found.box, found.anchors, found.contours, found.theta]


class Odd(nn.Module):
    """A network of a caller, who makes mistakes: what it reads is no landmarks."""

    def __init__(self, config: Any, inputs: Any, answer: Any):
        super().__init__()
        self.weight, self.config, self.inputs, self.answer = nn.Parameter(torch.zeros(1)), config, inputs, answer

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1)[:, :136].reshape(-1, 68, 2) + 8 + self.weight

    def read(self, outputs: torch.Tensor, mirrored: bool = False) -> Any:
        half = outputs[:len(outputs) // 2] if mirrored else outputs
        if self.answer is None:
            return Reading(half, half[..., 0] * 0 + 0.5)
        return replace(Reading(half, half[..., 0] * 0 + 0.5), **self.answer)


def by_network(config: Any, inputs: Any, answer: Any) -> list:
    return seen(align(PHOTO.image, PHOTO.box, Odd(config, inputs, answer)))


def followed(*given: Any) -> list:
    return [seen(each.face) for each in tracking.track(*given) if each.face is not None]


GIVEN = (PICTURES, BOXES, NETWORKS, DEVICES)
REFERENCE = (SyntheticFaces(1, 64, 4)[0].image, SyntheticFaces(1, 64, 4)[0].landmarks)
TENSOR = torch.rand(1, 68, 2)
FRONT: dict[str, Door] = {
    "align": arguments(lambda *a: seen(align(*a)), (*GIVEN, None, OneOf((2, 1)))),
    "align: picture": arguments(lambda image, box: seen(align(image, box, device="cpu")), (PICTURES, PHOTO.box)),
    "align: picture alone": arguments(lambda image: seen(align(image, device="cpu")), (PICTURES,)),
    "align: reference": arguments(lambda *a: seen(align(PHOTO.image, PHOTO.box, "rht", "cpu", a)), REFERENCE),
    "align: network": arguments(by_network, (
        OneOf((SMALL, SimpleNamespace(image_size=16, in_channels=1, landmarks=68), {}, SimpleNamespace())),
        OneOf((("image",), ("image", "reference"), (), "image")),
        OneOf((None, {"points": TENSOR * torch.nan}, {"points": TENSOR[0]}, {"scores": TENSOR},
               {"points": TENSOR.numpy()},
               {"scores": TENSOR[..., 0] * 9}, {"anchors": TENSOR}, {"points": TENSOR[:, :5]}, {"theta": TENSOR},
               {"points": None}, {"contours": [{}]}, {"contours": [{"chin": 3}]}, {"reliable": TENSOR})))),
    "align_all": arguments(lambda *a: [seen(face) for face in align_all(*a)], (
        PICTURES, OneOf((None, 1, 2)), OneOf((None, 20.0)), NETWORKS, DEVICES)),
    "align_many": arguments(lambda *a: [seen(face) for face in align_many(*a)], (
        [PHOTO.image, IMAGE], [PHOTO.box, BOX], OneOf((2, 1)), NETWORKS, DEVICES)),
    "track": arguments(followed, (OneOf(([PHOTO.image] * 2, [IMAGE, PHOTO.image[..., 0]], "no video.mp4", Path("/"))),
                                  NETWORKS, DEVICES, OneOf((True, False, tracking.OneEuro())), 30.0, 0.25)),
    "find_all": arguments(lambda image, size: [vars(each) for each in detection.find_all(
        pixels(image), zoo_hourglass(), size)], (PICTURES, OneOf((None, 20.0)))),
}


def zoo_hourglass() -> nn.Module:
    global _hourglass
    _hourglass = _hourglass or zoo.load("hourglass", "cpu")
    return _hourglass


_hourglass: nn.Module | None = None


# ---- training and evaluating ---------------------------------------------------------------------------------------

CONFIG = training.TrainConfig(steps=2, batch_size=2, device="cpu", log_every=1)
SETTINGS = tuple({"device": DEVICES, "rates": {"1": 0.5}, "out": None}.get(each.name, getattr(CONFIG, each.name))
                 for each in fields(CONFIG))


def toy_data() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.rand(1, 2, 2, generator=generator), "slope": torch.tensor(i / 3)} for i in range(3)]


def toy_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 1))


class Own(Exception):
    """Raised by what the caller brought: a model, a loss or data. It is the caller's to see, as it is."""


def owned(function: Callable) -> Callable:
    def inner(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except Exception as error:
            raise Own from error
    return inner


def trained(samples: Any, result: Any, scale: Any, kind: Any, config: Any, resume: Any) -> list:
    model = toy_model()
    model.forward = owned(model.forward)
    if kind == "nothing to learn":
        model = nn.Flatten()
    elif kind == "NaN":
        nn.init.constant_(model[1].weight, torch.nan)

    def loss(outputs: torch.Tensor, batch: Any) -> Any:
        value = (outputs[:, 0] - batch["slope"]).square().mean() * scale
        return value if result == "plain" else result(value) if callable(result) else result
    try:
        history = training.fit(model, samples, owned(loss), config, resume, progress=False)
    except Own as error:
        raise ValueError("the caller's own") from error
    assert not model.training
    return [history, list(model.state_dict().values())]


RESULTS = OneOf(("plain", "plain", "plain", 3.0, None, torch.zeros(2), torch.tensor(float("nan"), requires_grad=True),
                 {}, lambda v: {"a": v, "b": v * 2}, lambda v: {"step": v}, lambda v: {"a": None}, lambda v: v.detach(),
                 lambda v: v * 1e38, lambda v: {"loss": v, "x": v}, lambda v: {1: v}, lambda v: [v]))


def samples(count: int = 3) -> list[Any]:
    return [data.Sample(face.image, face.landmarks, box=face.box, tags=face.tags)
            for face in SyntheticFaces(count, 48, 1)]


def judged(*given: Any) -> list:
    found = evaluation.evaluate(*given)
    assert found.predicted.shape == found.target.shape and found.errors.shape == found.predicted.shape[:1]
    return [found.predicted, found.errors, found.boxes]


def tiny() -> StackedHourglass:
    torch.manual_seed(0)
    return StackedHourglass(SMALL)


TRAINING: dict[str, Door] = {
    "TrainConfig": arguments(lambda *a: json.dumps(asdict(training.TrainConfig(*a)), allow_nan=False), SETTINGS,
                             most=3),
    "fit": arguments(trained, (toy_data(), RESULTS, 1.0, OneOf(("plain", "plain", "nothing to learn", "NaN")),
                               OneOf((CONFIG, replace(CONFIG, ema=0.9), replace(CONFIG, batch_size=7))), False)),
    "evaluate": arguments(judged, (OneOf((tiny(), tiny(), nn.Linear(1, 1))), samples(), OneOf(("inter_ocular", "box")),
                                   2, DEVICES)),
    "Crops": arguments(lambda *a: [each["image"] for each in data.Crops(*a)], (
        samples(2), 16, None, 0, OneOf((False, True)), 0.3)),
}


# ---- files ---------------------------------------------------------------------------------------------------------

def _picture(kind: str, mode: str = "RGB") -> Callable:
    def make(folder: Path) -> tuple[Path, Callable]:
        Image.fromarray(IMAGE).convert(mode).save(folder / "a", kind)
        return folder / "a", data.load_image
    return make


def _pts(folder: Path) -> tuple[Path, Callable]:
    lines = [f"{x} {y}" for x, y in FACE]
    (folder / "a.pts").write_text("\n".join(["version: 1", "n_points: 68", "{", *lines, "}"]))
    return folder / "a.pts", data.read_pts


def _of_samples(read: Callable) -> Callable:
    """A reader, whose samples are looked at."""
    return lambda path: [sample.landmarks for sample in read(path)]


def _csv(folder: Path) -> tuple[Path, Callable]:
    cv2.imwrite(str(folder / "a.png"), IMAGE)
    head = ["image", *(f"{c}{i}" for i in range(68) for c in "xy")]
    (folder / "a.csv").write_text("\n".join(map(",".join, [head, ["a.png", *map(str, FACE.ravel())]])))
    return folder / "a.csv", _of_samples(lambda path: data.read_csv(path, folder))


def _wflw(folder: Path) -> tuple[Path, Callable]:
    cv2.imwrite(str(folder / "a.png"), IMAGE)
    (folder / "a.txt").write_text(" ".join(map(str, RNG.uniform(0, 40, 196))) + " 1 2 30 40 0 0 0 0 0 0 a.png\n")
    return folder / "a.txt", _of_samples(lambda path: data.read_wflw(path, folder))


def _helen(folder: Path) -> tuple[Path, Callable]:
    cv2.imwrite(str(folder / "a.png"), IMAGE)
    (folder / "lists").mkdir()
    (folder / "lists" / "1.txt").write_text("\n".join(["a", *(f"{x} , {y}" for x, y in RNG.uniform(0, 40, (194, 2)))]))
    return folder / "lists" / "1.txt", _of_samples(lambda path: data.read_helen(folder / "lists", folder))


def _aflw(folder: Path) -> tuple[Path, Callable]:
    cv2.imwrite(str(folder / "a.png"), IMAGE)
    savemat(folder / "a.mat", {"bbox": np.array([[1.0, 31, 2, 42]]), "data": RNG.uniform(1, 40, (1, 38)),
                               "nameList": np.array([["a.png"]], object), "mask_new": np.ones((1, 19)), "ra": [[1]]})
    return folder / "a.mat", _of_samples(lambda path: data.read_aflw(path, folder, "train"))


def _aflw2000(folder: Path) -> tuple[Path, Callable]:
    cv2.imwrite(str(folder / "a.png"), IMAGE)
    savemat(folder / "a.mat", {"pt3d_68": RNG.uniform(0, 40, (3, 68))}, do_compression=True)
    return folder / "a.mat", _of_samples(lambda path: data.read_aflw2000(folder))


def _cofw(folder: Path) -> tuple[Path, Callable]:
    with h5py.File(folder / "a.mat", "w") as file:
        file["phisT"] = RNG.uniform(1, 40, (87, 1))
        image = file.create_dataset("#refs#/a", data=IMAGE[..., 0])
        file["IsT"] = np.array([[image.ref]], h5py.ref_dtype)
    return folder / "a.mat", _of_samples(data.read_cofw)


def _cofw68(folder: Path) -> tuple[Path, Callable]:
    _cofw(folder)[0].rename(folder / "COFW_test.mat")
    (folder / "test_annotations").mkdir()
    savemat(folder / "cofw68_test_bboxes.mat", {"bboxes": np.ones((1, 4))})
    savemat(folder / "test_annotations" / "1_points.mat", {"Points": RNG.uniform(1, 40, (68, 2)), "Occ": np.zeros(68)})
    read = _of_samples(lambda path: data.read_cofw68(folder, folder / "COFW_test.mat"))
    return folder / "test_annotations" / "1_points.mat", read


def _weights(folder: Path) -> tuple[Path, Callable]:
    return zoo.save(tiny(), folder / "a.safetensors"), lambda path: list(zoo.read(path)[0].state_dict().values())


def _pack(name: str) -> Callable:
    def make(folder: Path) -> tuple[Path, Callable]:
        whole = data.Sample(IMAGE, FACE, anchors=ANCHORS, contours=LINES, tags={"blur": True})
        data.save_packed(folder / "pack", [whole] * 2)
        return folder / "pack" / name, lambda path: [[face.landmarks, face.box, face.anchors, face.contours]
                                                     for face in data.PackedFaces(folder / "pack")]
    return make


RECORD = {"what": "a test", "data": "none", "seeds": [0], "budget": {"steps": 3}, "commit": "abc", "device": "cpu",
          "seconds": 1.5, "figures": {"nme": 0.05, "curve": [0.1, 0.2], "by": {"a": 1}}}


def _record(folder: Path) -> tuple[Path, Callable]:
    return records.write_record("a", RECORD, folder), lambda path: records.read_record("a", folder)


def _lines(folder: Path) -> tuple[Path, Callable]:
    records.save_lines({"a": RECORD, "b": RECORD}, folder / "a.jsonl")
    return folder / "a.jsonl", lambda path: records.collect(path, Path(folder / "into"))


def _video(folder: Path) -> tuple[Path, Callable]:
    path = folder / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    for _ in range(3):
        writer.write(PHOTO.image[..., ::-1])
    writer.release()
    return path, lambda path: [seconds for seconds, _ in tracking.Video(path)]


def _json(rng: np.random.Generator, whole: bytes) -> bytes:
    """The same JSON with another value somewhere in it, one to a line."""
    lines = [json.loads(line) for line in whole.splitlines()] if whole[:1] == b"{" and b"\n{" in whole else [
        json.loads(whole)]
    at = rng.integers(len(lines))
    lines[at] = spoiled_json(rng, lines[at])
    return "\n".join(json.dumps(line) for line in lines).encode()


def _tensors(rng: np.random.Generator, whole: bytes) -> bytes:
    """A whole safetensors file in which a tensor is another, or what it says of itself."""
    tensors = safetensors.torch.load(whole)
    said = json.loads(whole[8:8 + int.from_bytes(whole[:8], "little")]).get("__metadata__") or {}
    names, way = sorted(tensors), rng.integers(3)
    name = names[rng.integers(len(names))]
    if way == 0:
        key = sorted(said)[rng.integers(len(said))]
        said[key] = json.dumps(spoiled_json(rng, json.loads(said[key]))) if said[key][:1] == "{" else "other"
    elif way == 1:
        value = tensors.pop(name)
        tensors[name + " "[:rng.integers(2)]] = value
    else:
        value = tensors[name]
        tensors[name] = (value * torch.nan, value.double(), value.flatten()[:1], value[None], torch.zeros(0),
                         value.to(torch.int32), value.bfloat16())[rng.integers(7)]
    if "state" in said:                            # somebody who knows how: the digests fit what is there
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            state = json.loads(said["state"])
            said["state"] = json.dumps(training.signed(state, tensors))
    return safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, said)


def _foreign(rng: np.random.Generator, whole: bytes) -> bytes:
    """Other programs' files under that name."""
    made = io.BytesIO()
    torch.save({"state_dict": toy_model().state_dict()}, made)
    zipped = made.getvalue()
    other = safetensors.torch.save(tiny().state_dict(), {"state": "{}"})
    return (zipped, other, b"\x80\x04\x95", b"GIF89a", json.dumps(RECORD).encode(), b"")[rng.integers(6)]


def _either(*ways: Callable) -> Callable:
    return lambda rng, whole: ways[rng.integers(len(ways))](rng, whole)


def _checkpoint(folder: Path, exact: bool) -> Draw:
    """A training that goes on from a checkpoint: with exactly the right numbers, if the checkpoint is only damaged."""
    config = replace(CONFIG, steps=4, checkpoint_every=2, out=folder / "run")
    plain = toy_model()
    rows = training.fit(plain, toy_data(), training_loss, replace(config, out=None), progress=False)
    going = training.steps(toy_model(), toy_data(), training_loss, config, progress=False)
    for _ in range(3):
        next(going)
    whole = (folder / "run" / training.CHECKPOINT).read_bytes()
    going.close()
    spoil = _either(damaged, _foreign) if exact else _tensors

    def draw(rng: np.random.Generator | None) -> tuple[Call, Any]:
        content = whole if rng is None else spoil(rng, whole)

        def call() -> str | None:
            shutil.rmtree(folder / "run")
            (folder / "run").mkdir()
            (folder / "run" / training.CHECKPOINT).write_bytes(content)
            model = toy_model()
            history = training.fit(model, toy_data(), training_loss, config, resume=True, progress=False)
            if has_no_number([history, list(model.state_dict().values())]):
                return NO_NUMBER
            if exact and (history != rows or not torch.equal(model[1].weight, plain[1].weight)):
                return f"other numbers without a word: {history} for {rows}"
            return None
        return call, content[:200]
    return draw


def training_loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
    return (outputs[:, 0] - batch["slope"]).square().mean()


FILES: dict[str, Door] = {
    **{name: file(_picture(*kind)) for name, kind in {
        "png": ("PNG",), "grey png": ("PNG", "L"), "palette png": ("PNG", "P"), "jpeg": ("JPEG",),
        "CMYK jpeg": ("JPEG", "CMYK"), "webp": ("WEBP",), "bmp": ("BMP",), "tiff": ("TIFF",), "gif": ("GIF", "P"),
        "ppm": ("PPM",)}.items()},
    "pts": file(_pts), "csv": file(_csv), "wflw": file(_wflw), "helen": file(_helen), "aflw": file(_aflw),
    "aflw2000": file(_aflw2000), "cofw": file(_cofw), "cofw68": file(_cofw68), "video": file(_video),
    "weights": file(_weights), "weights by a malicious hand": file(_weights, _either(_tensors, _foreign)),
    **{f"pack: {name}": file(_pack(name)) for name in sorted(data.packed.FILES)},
    "pack by a malicious hand": file(_pack("pack.json"), _json),
    "read_record": file(_record), "record by a malicious hand": file(_record, _json),
    "collect": file(_lines, _either(damaged, _json)),
    "checkpoint": lambda folder: _checkpoint(folder, True),
    "checkpoint by a malicious hand": lambda folder: _checkpoint(folder, False),
}


# ---- what is written, and the command line -------------------------------------------------------------------------

def _write_record(folder: Path) -> Draw:
    def written(name: Any, record: Any) -> Any:
        path = records.write_record(name, record, folder / "out")
        assert path.parent == folder / "out"
        return records.read_record(name, folder / "out")
    return arguments(written, ("a", RECORD))(folder)


def _save_packed(folder: Path) -> Draw:
    def written(given: Any, workers: Any) -> Any:
        faces = data.save_packed(folder / "pack", given, workers)
        return [[face.landmarks, face.box] for face in faces]
    return arguments(written, (samples(2), OneOf((0,))))(folder)


def _zoo_save(folder: Path) -> Draw:
    def written(model: Any, name: Any, record: Any, half: Any) -> Any:
        path = zoo.save(model, folder / name if isinstance(name, str) else name, record, half)
        return list(zoo.read(path)[0].state_dict().values())
    bad = tiny()
    nn.init.constant_(next(bad.parameters()), torch.inf)
    return arguments(written, (OneOf((tiny(), bad, toy_model())), "a.safetensors", {"nme": 0.1, "seeds": [1, 2]},
                               OneOf((True, False))))(folder)


def _command(folder: Path) -> Draw:
    """The command line on pictures that may be damaged, with options that may be wrong.

    It ends with 0, 1 or 2; with 2 in one line on stderr; no picture is changed, and what is written is JSON.
    """
    wholes = {}
    for kind in ("png", "jpg", "webp", "bmp", "tif", "gif"):
        Image.fromarray(PHOTO.image).save(folder / f"a.{kind}")
        wholes[kind] = (folder / f"a.{kind}").read_bytes()
    shutil.rmtree(folder / "out", ignore_errors=True)
    box = [f"{v:.1f}" for v in PHOTO.box]
    odd = [["--json", "{photo}"], ["--out", "{photo}"], ["--out", "/dev/full.png"], ["--model", "no"],
           ["--model", "{photo}"],
           ["--device", "meta"], ["--device", "hpu"], ["--format", "xml"], ["--format", "pts"], ["--all"], ["--out"],
           ["--box", "1", "2"], ["--box", "nan", "0", "9", "9"], ["--overlays", "{photo}"], ["--raw"], ["--no-such"],
           ["--format", "csv", "--out", "{out}"], ["--format", "jsonl"], ["--video", "{photo}"], ["--video", "99"],
           ["--json", "/proc/no"], ["{out}/*.png"], ["/dev/zero"], ["/"], [""], ["no.png"], ["--", "--out"]]

    def draw(rng: np.random.Generator | None) -> tuple[Call, Any]:
        kind = "png" if rng is None else sorted(wholes)[rng.integers(len(wholes))]
        content, words = wholes[kind], ["{photo}", "--box", *box, "--json", "{out}/a.json", "--device", "cpu"]
        if rng is not None:
            content = damaged(rng, content) if rng.random() < 0.6 else content
            if rng.random() < 0.5:
                words = words + odd[rng.integers(len(odd))]
            if rng.random() < 0.3:
                del words[rng.integers(len(words))]
        photo, out = folder / f"a.{kind}", folder / "out"
        words = [word.format(photo=photo, out=out) for word in words]

        def call() -> str | None:
            photo.write_bytes(content)
            shutil.rmtree(out, ignore_errors=True)
            said, told = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
                code = main(words)
            if photo.read_bytes() != content:
                return "the picture was written over"
            if code not in (0, 1, 2) or (code == 2) != (said.getvalue().count("\n") == 1 and not told.getvalue()):
                return f"ended with {code}, saying {said.getvalue()!r} and {told.getvalue()[:200]!r}"
            if (out / "a.json").exists() and has_no_number(json.loads((out / "a.json").read_text())):
                return NO_NUMBER
            if code == 2:
                raise ValueError(said.getvalue())
            return None
        return call, words
    return draw


WRITERS: dict[str, Door] = {"write_record": _write_record, "save_packed": _save_packed, "zoo_save": _zoo_save,
                            "command line": _command}

DOORS: dict[str, Door] = {**ARRAYS, **SHAPED, **FRONT, **TRAINING, **FILES, **WRITERS}
# What takes long is tried less often, by this share: drawing, networks, files of many parts
COSTLY = {"zoo_load": 20, "show": 5, "contours": 5, "sheet": 5, "heatmap": 5, "part_errors": 5, "align": 5,
          "align: picture": 5, "align: picture alone": 20, "align: reference": 20, "align_all": 20,
          "align_many": 10, "track": 10, "find_all": 20, "evaluate": 5, "fit": 5, "save_packed": 10, "zoo_save": 5,
          "command line": 5, "checkpoint": 5, "checkpoint by a malicious hand": 5,
          "weights by a malicious hand": 10}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings, and back in the folder where it began."""
    here = os.getcwd()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.chdir(here)
