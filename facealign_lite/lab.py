"""The lab: a face, networks of the zoo, and what each of them sees, side by side, with ipywidgets in JupyterLab.

``Lab()`` in a notebook shows it. Everything is recomputed when a control moves; nothing leaves the computer.
"""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import anywidget
import ipywidgets as ui
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image, UnidentifiedImageError
from skimage import data
from torch import Tensor, nn

from facealign_lite import looks, metrics, plots, widgets, zoo
from facealign_lite.align import align, check_on_image, prepared
from facealign_lite.data import box_of, crop, grey, load_image
from facealign_lite.detection import find
from facealign_lite.synthetic import SyntheticFaces

SEED, SIZE = 1991, 256          # of rendered faces: their side in pixels
LARGEST = 640                  # longest side of a photo, pixels
VIEWS = {"answer": "answers", "heat": "maps", "crop": "last crops"}
TILE = 216                      # pixels of the page that a network's answer is wide


@dataclass(frozen=True)
class Seen:
    """What a network made of a face."""

    landmarks: NDArray[np.float64]                      # (K, 2) pixels of the picture; anchors from ACE-Net
    contours: dict[str, NDArray[np.float64]] | None     # (M, 2) by name
    score: float                                        # mean of the scores
    crop: NDArray[np.uint8]                             # (S, S) what it saw at last, upright
    heat: NDArray[np.float64]                           # (h, w) in [0, 1]: its maps there, each over its maximum


def covered(picture: NDArray, cover: ArrayLike) -> NDArray:
    """The picture with grey over ``cover``, [left, top, right, bottom] in pixels; an empty one covers nothing.

    Raises:
        ValueError: if the cover has another form, is not finite, or its right or lower side comes before the other.
    """
    cover = np.asarray(cover, float)
    if cover.size == 0:
        return picture
    if cover.shape != (4,) or not np.isfinite(cover).all() or (cover[2:] < cover[:2]).any():
        raise ValueError(f"cover must be empty or [left, top, right, bottom] in order, got {cover.tolist()}")
    x0, y0, x1, y1 = (cover + 0.5).round().astype(int).clip(0)
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


def drawn(picture: NDArray, box: ArrayLike, answers: dict[str, Seen], views: Sequence[str] = tuple(VIEWS),
          true: NDArray | None = None) -> bytes:
    """A PNG: a row for each view, a column for each network.

    Args:
        views: of ``VIEWS``: "answer", landmarks or contours on the picture; "heat", on the crop; "crop" alone.
        true: landmarks (68, 2), small white dots beneath the answers.

    Raises:
        ValueError: for no network or no view, or an unknown one.
    """
    if not answers or not views or set(views) - set(VIEWS):
        raise ValueError(f"answers and views must not be empty, views of {[*VIEWS]}, got {[*answers]} and {views}")
    figure = Figure(figsize=(2.4 * len(answers), 2.6 * len(views)), layout="constrained")
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
    for ax in axes.flat:
        ax.title.set_color(plots.INK)                           # for JupyterLab in light and in dark
    figure.savefig(png, format="png", dpi=135, transparent=True)
    return png.getvalue()


class Scene(anywidget.AnyWidget):
    """A picture on which the reader moves the box and a cover, and a camera that takes another.

    Pixels of the picture; box, cover and near are [left, top, right, bottom], the cover empty where there is none.
    ``near`` is what is shown unless the reader asks for the whole picture; ``photo`` is what the camera took, encoded.
    Box and cover arrive when the hand lets go.
    """

    _esm, _css = widgets.script("scene"), widgets.Figure._css
    picture = traitlets.Bytes().tag(sync=True)
    photo = traitlets.Bytes().tag(sync=True, from_json=lambda value, _: bytes(value))      # comes as a memoryview
    size = traitlets.List(traitlets.Int(), [1, 1]).tag(sync=True)
    box = traitlets.List(traitlets.Float(), [0.0, 0.0, 1.0, 1.0]).tag(sync=True)
    near = traitlets.List(traitlets.Float(), [0.0, 0.0, 1.0, 1.0]).tag(sync=True)
    cover = traitlets.List(traitlets.Float()).tag(sync=True)


class Lab(ui.VBox):
    """A face (rendered, from a file, uploaded or from the camera), a box, a cover, and the networks that look at it.

    Args:
        models: names of the zoo that are chosen at first; None for the first two of ``zoo.MODELS``.
        face: number of the rendered face that is shown at first.

    Raises:
        ValueError: for a name that the zoo does not know.
    """

    def __init__(self, models: Sequence[str] | None = None, face: int = 3) -> None:
        chosen = list(zoo.MODELS)[:2] if models is None else models
        if set(chosen) - set(zoo.names()):
            raise ValueError(f"models must be of {zoo.names()}, got {list(chosen)}")
        short = ui.Layout(width="150px")
        self.number = ui.BoundedIntText(value=face, min=0, max=9999, layout=ui.Layout(width="90px"))
        self.rendered = ui.Button(description="another face", tooltip="the next rendered face", layout=short)
        self.sample = ui.Button(description="sample photo", tooltip="a photo of an astronaut", layout=short)
        self.upload = ui.FileUpload(accept="image/*", description="upload a photo",
                                    layout=ui.Layout(width="180px"))
        self.path = ui.Text(placeholder="or the path of a photo, and Enter", continuous_update=False,
                            layout=ui.Layout(width="260px"))
        self.models = {name: _tick(name, name in chosen) for name in zoo.names()}
        self.views = {name: _tick(words, name != "crop") for name, words in VIEWS.items()}
        self.reset = ui.Button(description="box and cover as before", layout=ui.Layout(width="190px"))
        self.scene = Scene(layout=ui.Layout(flex="0 1 330px", min_width="280px"))
        self.told, self.shown = ui.HTML(), ui.HTML()
        wrap = ui.Layout(flex_flow="row wrap", align_items="center", overflow="visible")
        super().__init__([
            ui.HBox([ui.Label("rendered face no."), self.number, self.rendered, self.sample, self.upload, self.path],
                    layout=wrap),
            ui.HBox([ui.Label("networks:"), *self.models.values()], layout=wrap),
            ui.HBox([ui.Label("shown:"), *self.views.values(), self.reset], layout=wrap),
            self.told,
            ui.HBox([self.scene, self.shown],
                    layout=ui.Layout(flex_flow="row wrap-reverse", align_items="flex-end", overflow="visible"))])
        self._waits = False                                     # while a new picture brings box and cover along
        self._render()
        self.number.observe(lambda _: self._render(), "value")
        self.rendered.on_click(lambda _: self._next())
        self.sample.on_click(lambda _: self._bring(data.astronaut()))
        self.path.observe(lambda change: self._bring(change["new"]) if change["new"] else None, "value")
        self.upload.observe(lambda _: self._uploaded(), "value")
        self.scene.observe(lambda change: self._bring(change["new"]), "photo")
        self.reset.on_click(lambda _: self._set(self.face_box))
        for control in (*self.models.values(), *self.views.values()):
            control.observe(lambda _: self.refresh(), "value")
        self.scene.observe(lambda _: self.refresh(), ["box", "cover"])

    @property
    def chosen(self) -> list[str]:
        """Names of the networks that look."""
        return [name for name, tick in self.models.items() if tick.value]

    def answers(self) -> dict[str, Seen]:
        """What the chosen networks make of the face as it is shown."""
        picture = covered(self.picture, self.scene.cover)
        return {name: see(picture, self.scene.box, prepared(name, "cpu")) for name in self.chosen}

    def refresh(self) -> None:
        """Ask the networks again and draw."""
        if self._waits:
            return
        views = [name for name, tick in self.views.items() if tick.value]
        if not self.chosen or not views:
            self.told.value = "Choose at least one network, and at least one thing to be shown."
            return
        self.told.value = "The networks look &hellip;"
        try:
            answers = self.answers()
        except ValueError as error:
            self.told.value = html.escape(str(error))
            return
        png = drawn(covered(self.picture, self.scene.cover), self.scene.box, answers, views, self.true)
        wide, words = TILE * len(answers), html.escape(_words(answers, self.true))
        # as wide as it is drawn: up to two networks stand beside the scene, more above it
        self.shown.layout.flex = f"0 1 {wide}px"
        self.shown.value = (f'<img alt="{words}" src="data:image/png;base64,{base64.b64encode(png).decode()}" '
                            f'style="width: {wide}px; max-width: 100%; height: auto">')
        self.told.value = f"{words} {html.escape(self.note)}"

    def _next(self) -> None:
        """The next rendered face, or, after a photo, the one from before."""
        if self.true is None:
            self._render()
        else:
            self.number.value = (self.number.value + 1) % (self.number.max + 1)

    def _render(self) -> None:
        face = SyntheticFaces(10_000, SIZE, SEED)[self.number.value]
        self._take(face.image, face.landmarks, box_of(face.landmarks), "Small white dots: the true landmarks.")

    def _uploaded(self) -> None:
        """Take what was uploaded, and forget it, so that the same file can be brought again."""
        if self.upload.value:
            [file, *_] = self.upload.value
            self.upload.value = ()
            self._bring(bytes(file["content"]))

    def _bring(self, source: Any) -> None:
        """A photo: an array, a path or an encoded picture; what is wrong with it is told."""
        try:
            picture = _small(load_image(Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source))
        except UnidentifiedImageError:
            self.told.value = "This file could not be read as a picture. JPEG and PNG can be, HEIC cannot."
            return
        except (ValueError, OSError) as error:
            self.told.value = html.escape(f"No photo: {error}")
            return
        try:
            self._take(picture, None, find(picture, prepared("hourglass", "cpu")).box, "")
        except ValueError:
            size = np.array(picture.shape[1::-1])
            self._take(picture, None, np.concatenate([0.25 * size, 0.75 * size]),
                       "No face was found. Drag the yellow box around one, from the brows to the chin.", found=False)

    def _take(self, picture: NDArray, true: NDArray | None, box: NDArray, note: str, found: bool = True) -> None:
        self.picture, self.true, self.face_box, self.note, self.found = picture, true, box, note, found
        self._set(box)

    def _set(self, box: NDArray) -> None:
        """The picture with that box, and no cover."""
        self._waits = True
        self.scene.picture, self.scene.size = widgets.picture(self.picture), list(self.picture.shape[1::-1])
        self.scene.near = _near(box, self.scene.size) if self.found else [0.0, 0.0, *map(float, self.scene.size)]
        self.scene.box, self.scene.cover = [float(value) for value in box], []
        self._waits = False
        self.refresh()


def _tick(words: str, value: bool) -> ui.Checkbox:
    return ui.Checkbox(value=value, description=words, indent=False, layout=ui.Layout(width="auto", margin="2px 14px"))


def _near(box: ArrayLike, size: Sequence[int]) -> list[float]:
    """The part of a picture of that size that holds the box and, to either side, as much again as it is long."""
    box, size = np.asarray(box, float), np.array(size)
    half = np.minimum(1.5 * (box[2:] - box[:2]).max(), size / 2)
    middle = np.clip((box[:2] + box[2:]) / 2, half, size - half)
    return [*(middle - half).tolist(), *(middle + half).tolist()]


def _small(picture: NDArray) -> NDArray:
    """With no side over LARGEST."""
    factor = LARGEST / max(picture.shape[:2])
    if factor >= 1:
        return picture
    size = [max(1, round(side * factor)) for side in picture.shape[1::-1]]
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def _words(answers: dict[str, Seen], true: NDArray | None) -> str:
    """What the networks said, in words: mean scores, and errors where the truth is known."""
    if true is None:
        return "Mean scores: " + ", ".join(f"{name} {seen.score:.2f}" for name, seen in answers.items()) + "."
    return "Mean errors, in per cent of the distance between the outer eye corners: " + ", ".join(
        f"{name} {100 * metrics.nme(seen.landmarks, true)[0]:.1f}" if len(seen.landmarks) == len(true) else
        f"{name} none (it gives lines)" for name, seen in answers.items()) + "."


__all__ = ["Lab", "Scene", "Seen", "covered", "drawn", "see"]
