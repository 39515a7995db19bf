"""A folder of arrays that holds rendered faces, so that training never waits for the renderer."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from facealign_lite import markups

from .files import write_atomic
from .samples import Sample, box_of, load_image, stacked_contours

FORMAT = 1


class PackedFaces(Sequence):
    """Faces saved by ``save_packed``, read through a memory map: ``Sample`` by index.

    Raises:
        OSError: if the folder does not hold a finished pack.
        ValueError: if it holds another format.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            meta = json.loads((self.path / "pack.json").read_text())
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.path} is not a finished pack of faces: pack.json is missing") from None
        if meta.get("format") != FORMAT:
            raise ValueError(f"{self.path} must be of pack format {FORMAT}, got {meta.get('format')}")
        self.markup, self.tags = meta["markup"], meta["tags"]
        self.images = np.load(self.path / "images.npy", mmap_mode="r")           # (N, S, S[, 3]) uint8
        self.landmarks = np.load(self.path / "landmarks.npy")                    # (N, K, 2) float64
        self.visibility = np.load(self.path / "visibility.npy")                  # (N, K) bool
        self.boxes = np.load(self.path / "boxes.npy")                            # (N, 4) float64
        self.anchors = self.contours = None
        if meta.get("contours"):
            self.anchors = np.load(self.path / "anchors.npy")                    # (N, 12, 2) float64
            self.contours = np.load(self.path / "contours.npy")                  # (N, 13, CONTOUR_POINTS, 2) float32

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.asarray(self.images[index]), self.landmarks[index], self.visibility[index],
                      self.boxes[index], self.markup, self.tags[index],
                      None if self.anchors is None else self.anchors[index],
                      None if self.contours is None else dict(zip(markups.CONTOURS, self.contours[index])))


def save_packed(path: str | Path, samples: Sequence[Any], workers: int = 0, progress: bool = False) -> PackedFaces:
    """Save samples of one image size and markup; the folder appears under its name only when complete.

    Contours are kept as ``CONTOUR_POINTS`` points at equal arcs each, where every sample has them.

    Args:
        path: new folder; one that is there is replaced.
        samples: objects with the attributes of ``Sample``, landmarks included.
        workers: processes that fetch (render) samples.

    Raises:
        ValueError: if there are none, or sizes or markups differ.
        OSError: if the disk refuses.
    """
    if len(samples) == 0:
        raise ValueError("samples must not be empty")
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        _write(partial, samples, workers, progress)
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return PackedFaces(path)


def _write(folder: Path, samples: Sequence[Any], workers: int, progress: bool) -> None:
    # arrays as they are: as tensors, each would come through shared memory and keep a file open
    loader = DataLoader(_Plain(samples), batch_size=None, num_workers=workers, collate_fn=_same)
    if progress:
        from tqdm.auto import tqdm
        loader = tqdm(loader, unit="face")
    images, first = None, None
    landmarks, visibility, boxes, tags, anchors, contours = [], [], [], [], [], []
    for i, (image, points, visible, box, markup, tag, anchor, contour) in enumerate(loader):
        if images is None:
            first = (image.shape, markup)
            images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (len(samples), *image.shape))
        if (image.shape, markup) != first:
            raise ValueError(f"samples[{i}] must have image shape and markup {first}, got {(image.shape, markup)}")
        images[i] = image
        for rows, value in ((landmarks, points), (visibility, visible), (boxes, box), (tags, tag)):
            rows.append(value)
        if contour is not None:
            anchors.append(anchor)
            contours.append(contour)
    images.flush()
    complete = len(contours) == len(samples)
    arrays = {"landmarks": landmarks, "visibility": visibility, "boxes": boxes}
    for name, rows in (arrays | ({"anchors": anchors, "contours": contours} if complete else {})).items():
        np.save(folder / f"{name}.npy", np.stack(rows))
    meta = {"format": FORMAT, "markup": first[1], "tags": tags, "contours": complete}
    write_atomic(folder / "pack.json", json.dumps(meta, default=lambda v: v.item()).encode())  # last: all is there


def _same(item: tuple) -> tuple:
    return item


class _Plain:
    """Samples as tuples of arrays: what worker processes can send."""

    def __init__(self, samples: Sequence[Any]):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple:
        sample = self.samples[index]
        if sample.landmarks is None:
            raise ValueError(f"samples[{index}] must have landmarks, got None")
        points = np.asarray(sample.landmarks, np.float64)
        visible = np.ones(len(points), bool) if sample.visibility is None else np.asarray(sample.visibility, bool)
        box = box_of(points) if sample.box is None else np.asarray(sample.box, np.float64)
        anchors, contours = stacked_contours(sample)
        return load_image(sample.image), points, visible, box, sample.markup, dict(sample.tags), anchors, contours
