"""The lab: a face, networks of the zoo, and what each of them sees, side by side, with ipywidgets in JupyterLab.

``Lab()`` in a notebook shows it. Everything is recomputed when a control moves; nothing leaves the computer.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import ipywidgets as ui
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from facealign_lite import looks, plots, zoo
from facealign_lite.align import align, check_on_image, prepared
from facealign_lite.data import box_of, crop, grey, load_image
from facealign_lite.detection import find
from facealign_lite.synthetic import SyntheticFaces

SEED, SIZE = 1991, 256          # of rendered faces: their side in pixels
LARGEST = 640                  # longest side of a photo, pixels
VIEWS = ("answer", "heat", "crop")


@dataclass(frozen=True)
class Seen:
    """What a network made of a face."""

    landmarks: NDArray[np.float64]                      # (K, 2) pixels of the picture; anchors from ACE-Net
    contours: dict[str, NDArray[np.float64]] | None     # (M, 2) by name
    score: float                                        # mean of the scores
    crop: NDArray[np.uint8]                             # (S, S) what it saw at last, upright
    heat: NDArray[np.float64]                           # (h, w) in [0, 1]: its maps there, each over its maximum


def covered(picture: NDArray, box: ArrayLike, share: float, place: ArrayLike = (0.5, 0.5)) -> NDArray:
    """The picture with a grey square over ``share`` of the box's area, ``place`` in [0, 1]² saying where in the box.

    Raises:
        ValueError: if the share or a coordinate of the place is outside [0, 1].
    """
    place, box = np.asarray(place, float), np.asarray(box, float)
    if not 0 <= share <= 1 or place.shape != (2,) or not ((place >= 0) & (place <= 1)).all():
        raise ValueError(f"share and place must lie in [0, 1], got {share} and {place.tolist()}")
    extent = (box[2:] - box[:2]) * np.sqrt(share)
    low = box[:2] + place * (box[2:] - box[:2] - extent)
    x0, y0, x1, y1 = np.concatenate([low, low + extent]).round().astype(int).clip(0)
    hidden = picture.copy()
    hidden[y0:y1, x0:x1] = 128
    return hidden


def see(picture: NDArray, box: ArrayLike, network: nn.Module) -> Seen:
    """What a network answers in that box, and what it saw and painted at its last look.

    Raises:
        ValueError: if the box is not on the picture.
    """
    box = check_on_image(box, picture)
    found = align(picture, box, network)
    _, matrix = looks.look_twice(picture, box, network)
    with torch.inference_mode(), looks.in_eval_mode(network):
        images = looks.cut(picture, matrix[None], network)
        lent = network.lend(images, None) if len(network.inputs) > 1 else ()
        maps = list(_tensors(network(images, *lent)))[-1][0].float()                      # (K, h, w)
    if maps.min() < 0:                                                                    # logits
        maps = maps.flatten(1).softmax(1).view_as(maps)
    heat = (maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).amax(0)
    return Seen(found.landmarks, found.contours, float(found.scores.mean()),
                crop(grey(picture), matrix, network.config.image_size), heat.cpu().double().numpy())


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """The maps (B, K, h, w) among a network's outputs, in order."""
    if isinstance(outputs, Tensor):
        if outputs.ndim == 4:
            yield outputs
    elif isinstance(outputs, dict):
        yield from _tensors(list(outputs.values()))
    elif is_dataclass(outputs):
        yield from _tensors([getattr(outputs, field.name) for field in fields(outputs)])
    elif isinstance(outputs, (list, tuple)):
        for one in outputs:
            yield from _tensors(one)


def drawn(picture: NDArray, box: ArrayLike, answers: dict[str, Seen], views: Sequence[str] = VIEWS,
          true: NDArray | None = None) -> bytes:
    """A PNG: a row for each view, a column for each network.

    Args:
        views: of ``VIEWS``: "answer", landmarks or contours on the picture; "heat", on the crop; "crop" alone.
        true: landmarks (68, 2), small white dots beneath the answers.

    Raises:
        ValueError: for no network or no view, or an unknown one.
    """
    if not answers or not views or set(views) - set(VIEWS):
        raise ValueError(f"answers and views must not be empty, views of {VIEWS}, got {list(answers)} and {views}")
    figure = Figure(figsize=(2.7 * len(answers), 2.8 * len(views)), layout="constrained")
    axes = figure.subplots(len(views), len(answers), squeeze=False)
    left, top, right, bottom = box
    room = 0.2 * max(right - left, bottom - top)
    for column, (name, seen) in zip(axes.T, answers.items()):
        for ax, view in zip(column, views):
            if view == "answer":
                points = None if seen.contours else seen.landmarks
                plots.show(picture, points, seen.contours, box=box, size=8, title=f"{name}, score {seen.score:.2f}",
                           ax=ax)
                if true is not None:
                    ax.scatter(*true.T, s=2, color="white", zorder=1.5)
                ax.set(xlim=(left - room, right + room), ylim=(bottom + room, top - room))
            else:
                plots.show(seen.crop, title={"heat": "its maps", "crop": "its last crop"}[view], ax=ax)
                if view == "heat":
                    side = seen.crop.shape[0]
                    ax.imshow(seen.heat, cmap="inferno", alpha=0.7, extent=(-0.5, side - 0.5, side - 0.5, -0.5))
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=90)
    return png.getvalue()


class Lab(ui.VBox):
    """A face (rendered, from a file or uploaded), a box, a cover, and the networks that look at it.

    Args:
        models: names of the zoo that are chosen at first; None for its first two.
        face: number of the rendered face that is shown at first.
    """

    def __init__(self, models: Sequence[str] | None = None, face: int = 3) -> None:
        self.number = ui.BoundedIntText(value=face, min=0, max=9999, description="face no.")
        self.path = ui.Text(placeholder="path of a photo", description="file", continuous_update=False)
        self.upload = ui.FileUpload(accept="image/*", description="upload")
        self.models = ui.SelectMultiple(options=zoo.names(), value=tuple(models or zoo.names()[:2]), rows=6,
                                        description="networks")
        self.views = ui.SelectMultiple(options=VIEWS, value=VIEWS, rows=3, description="views")
        slide = {"continuous_update": False, "readout_format": ".2f"}
        self.x = ui.FloatSlider(value=0, min=-0.4, max=0.4, step=0.02, description="box right", **slide)
        self.y = ui.FloatSlider(value=0, min=-0.4, max=0.4, step=0.02, description="box down", **slide)
        self.scale = ui.FloatSlider(value=1, min=0.6, max=1.6, step=0.05, description="box size", **slide)
        self.share = ui.FloatSlider(value=0, min=0, max=0.6, step=0.05, description="cover", **slide)
        self.across = ui.FloatSlider(value=0.5, min=0, max=1, step=0.05, description="cover right", **slide)
        self.down = ui.FloatSlider(value=1.0, min=0, max=1, step=0.05, description="cover down", **slide)
        self.told, self.shown = ui.HTML(), ui.Image(format="png")
        super().__init__([
            ui.HBox([ui.VBox([self.number, self.path, self.upload, self.models, self.views]),
                     ui.VBox([self.x, self.y, self.scale, self.share, self.across, self.down])]),
            self.told, self.shown])
        self.picture, self.true, self.face_box = self._rendered()
        self.number.observe(lambda _: self._take(*self._rendered()), "value")
        self.path.observe(lambda change: self._try(change["new"]), "value")
        self.upload.observe(lambda change: self._try(io.BytesIO(bytes(change["new"][0]["content"])))
                            if change["new"] else None, "value")
        for control in (self.models, self.views, self.x, self.y, self.scale, self.share, self.across, self.down):
            control.observe(lambda _: self.refresh(), "value")
        self.refresh()

    @property
    def box(self) -> NDArray[np.float64]:
        """(4,) left, top, right, bottom as the sliders have it."""
        centre, half = (self.face_box[:2] + self.face_box[2:]) / 2, (self.face_box[2:] - self.face_box[:2]) / 2
        centre = centre + 2 * half.max() * np.array([self.x.value, self.y.value])
        return np.concatenate([centre - self.scale.value * half, centre + self.scale.value * half])

    def answers(self) -> dict[str, Seen]:
        """What the chosen networks make of the face as it is shown."""
        picture = covered(self.picture, self.face_box, self.share.value, (self.across.value, self.down.value))
        return {name: see(picture, self.box, prepared(name, "cpu")) for name in self.models.value}

    def refresh(self) -> None:
        """Ask the networks again and draw."""
        if not self.models.value or not self.views.value:
            self.told.value = "Choose at least one network and one view."
            return
        try:
            answers = self.answers()
        except ValueError as error:
            self.told.value = str(error)
            return
        self.told.value = "" if self.true is None else "Small white dots: the true landmarks."
        picture = covered(self.picture, self.face_box, self.share.value, (self.across.value, self.down.value))
        self.shown.value = drawn(picture, self.box, answers, self.views.value, self.true)

    def _rendered(self) -> tuple[NDArray, NDArray, NDArray]:
        face = SyntheticFaces(10_000, SIZE, SEED)[self.number.value]
        return face.image, face.landmarks, box_of(face.landmarks)

    def _try(self, source: Any) -> None:
        """A photo from a path or bytes; what is wrong with it is told."""
        if source == "":
            return self._take(*self._rendered())
        try:
            from PIL import Image
            photo = Image.open(source)
            photo.thumbnail((LARGEST, LARGEST))
            picture = load_image(photo)
            self._take(picture, None, find(picture, prepared("hourglass", "cpu")).box)
        except (ValueError, OSError) as error:
            self.told.value = f"No face: {error}"

    def _take(self, picture: NDArray, true: NDArray | None, box: NDArray) -> None:
        self.picture, self.true, self.face_box = picture, true, box
        self.refresh()


__all__ = ["Lab", "Seen", "covered", "drawn", "see"]
