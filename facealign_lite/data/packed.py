"""A folder of arrays that holds rendered faces, so that training never waits for the renderer."""

import errno
import glob
import json
import os
import re
import secrets
import shutil
import time
import tokenize
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from facealign_lite import markups

from .files import write_atomic
from .locks import hold
from .samples import CONTOUR_POINTS, Sample, box_of, check_sample, load_image, stacked_contours
from .workers import MOST_WORKERS, deaths_named

FORMAT = 1
ARRAYS = ("images", "landmarks", "visibility", "boxes", "anchors", "contours")
FILES = {"pack.json", *(f"{name}.npy" for name in ARRAYS)}


class PackedFaces(Sequence):
    """Faces saved by ``save_packed``, read through a memory map: ``Sample`` by index.

    Raises:
        OSError: if the folder does not hold a finished pack.
        ValueError: if it holds another format, or arrays that are damaged, not finite or do not fit each other.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        for last in (False, False, False, True):           # another process may put a new pack in its place meanwhile
            before = _identity(self.path)
            try:
                self._read()
            except (OSError, ValueError):
                if last or _identity(self.path) == before:
                    raise
            else:
                if _identity(self.path) == before:
                    return
        raise OSError(errno.EBUSY, f"{self.path} is being replaced again and again")

    def _read(self) -> None:
        folder, meta = _finished(self.path)
        self.markup, self.tags = meta["markup"], meta["tags"]
        n, points = len(self.tags), markups.get(self.markup).count
        self.images = _array(folder, "images", np.uint8, (n, None, None))                      # (N, S, S[, 3]) uint8
        self.landmarks = np.array(_array(folder, "landmarks", np.float64, (n, points, 2)))
        self.visibility = np.array(_array(folder, "visibility", np.bool_, (n, points)))
        self.boxes = np.array(_array(folder, "boxes", np.float64, (n, 4)))
        self.anchors = self.contours = None
        if meta["contours"]:
            self.anchors = np.array(_array(folder, "anchors", np.float64, (n, len(markups.ANCHORS), 2)))
            self.contours = np.array(_array(folder, "contours", np.float32,
                                            (n, len(markups.CONTOURS), CONTOUR_POINTS, 2)))
        for name in ("landmarks", "boxes", "anchors", "contours"):
            if (those := getattr(self, name)) is not None and not np.isfinite(those).all():
                raise ValueError(f"{folder / name}.npy must be finite, got NaN or infinity")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.asarray(self.images[index]), self.landmarks[index], self.visibility[index],
                      self.boxes[index], self.markup, self.tags[index],
                      None if self.anchors is None else self.anchors[index],
                      None if self.contours is None else dict(zip(markups.CONTOURS, self.contours[index])))


def save_packed(path: str | Path, samples: Sequence[Any], workers: int = 0, progress: bool = False) -> PackedFaces:
    """Save samples of one image size and markup; the folder appears under its name only when complete.

    Contours are kept as ``CONTOUR_POINTS`` points at equal arcs each, where every sample has them. A pack that is there
    is kept until the new one is complete, and ``PackedFaces`` finds one of the two whenever this process is stopped.

    Args:
        path: new folder; an empty one, or a pack, that is there is replaced.
        samples: objects with the attributes of ``Sample``, landmarks included.
        workers: processes that fetch (render) samples.

    Raises:
        ValueError: if there are none, one is none, or sizes or markups differ.
        OSError: if the disk refuses, ``path`` is there and holds anything but a pack, or a worker process dies.
    """
    if len(samples) == 0:
        raise ValueError("samples must not be empty")
    if isinstance(samples, (str, bytes, Mapping)) or not hasattr(samples, "__getitem__"):
        raise ValueError(f"samples must be a sequence, got {type(samples).__name__}")
    if isinstance(workers, bool) or not isinstance(workers, Integral) or not 0 <= workers <= MOST_WORKERS:
        raise ValueError(f"workers must be a whole number in 0 .. {MOST_WORKERS}, got {workers!r}")
    path = Path(os.path.realpath(path))                    # where a link points to, so that it stays a link
    lock = path.with_name(f".{path.name}.lock")
    with hold(lock, wait=True):                            # or what is looked at goes away between two looks
        _refuse_foreign(path)
        _refuse_foreign(_aside(path), whole=False)
        _sweep(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    partial.mkdir(parents=True)
    try:
        _write(partial, samples, workers, progress)
        with hold(lock, wait=True):
            _refuse_foreign(path)                          # rendering takes hours
            _swap(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return PackedFaces(path)


def _aside(path: Path) -> Path:
    """Where the old pack waits while the new one takes its name."""
    return path.with_name(f".{path.name}.old")


def _identity(path: Path) -> list[tuple[int, int, int] | None]:
    """Tells one pack of that name from the next."""
    def of(folder: Path) -> tuple[int, int, int] | None:
        try:
            found = os.stat(folder / "pack.json")
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns
    return [of(path), of(_aside(Path(os.path.realpath(path))))]


def _is_pack(path: Path) -> bool:
    return (path / "pack.json").is_file()


def _swap(partial: Path, path: Path) -> None:
    """Give the finished pack ``partial`` the name ``path``. At every moment a whole pack is at ``path`` or aside."""
    aside = _aside(path)
    if _is_pack(path):
        _remove(aside)
        os.rename(path, aside)
    elif path.exists():                                    # empty
        path.rmdir()
    try:
        os.rename(partial, path)
    except OSError:
        if _is_pack(aside) and not path.exists():
            os.rename(aside, path)
        raise
    _remove(aside)


def _remove(pack: Path) -> None:
    """First what makes it a pack, so that half of one is none."""
    (pack / "pack.json").unlink(missing_ok=True)
    shutil.rmtree(pack, ignore_errors=True)


def _refuse_foreign(path: Path, whole: bool = True) -> None:
    """An OSError if ``path`` is there and replacing it would take more away than a pack, or what is left of one."""
    if not os.path.lexists(path):
        return
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else {path.name}
    if not path.is_dir() or names - FILES or (whole and names and "pack.json" not in names):
        raise FileExistsError(errno.EEXIST, f"{path} is there and is no pack of faces, which alone would be replaced; "
                              f"it holds {sorted(names - FILES or names)[:3]}")


def _sweep(path: Path) -> None:
    """Take away what runs left that were killed more than a day ago; a run that goes on writes all the time."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        if not re.fullmatch(r"\.[0-9a-f]{16}\.partial", left.name[len(path.name) + 1:]):
            continue
        try:
            age = time.time() - (left / "images.npy").stat().st_mtime
        except FileNotFoundError:                          # its run has just ended
            continue
        if age > 86400:
            shutil.rmtree(left, ignore_errors=True)


def _write(folder: Path, samples: Sequence[Any], workers: int, progress: bool) -> None:
    # arrays as they are: as tensors, each would come through shared memory and keep a file open
    loader = DataLoader(_Plain(samples), batch_size=None, num_workers=int(workers), collate_fn=_same)
    if progress:
        from tqdm.auto import tqdm
        loader = tqdm(loader, unit="face", total=len(samples))
    first = None
    landmarks, visibility, boxes, tags, anchors, contours = [], [], [], [], [], []
    # written, not mapped: a full disk kills a process that writes into a map, and raises OSError here
    with open(folder / "images.npy", "xb") as images, deaths_named():
        for i, (image, points, visible, box, markup, tag, anchor, contour) in enumerate(loader):
            if first is None:
                first = (image.shape, markup)
                np.lib.format.write_array_header_1_0(images, {"descr": "|u1", "fortran_order": False,
                                                              "shape": (len(samples), *image.shape)})
            if (image.shape, markup) != first:
                raise ValueError(f"samples[{i}] must have image shape and markup {first}, got {(image.shape, markup)}")
            images.write(image.tobytes())
            for rows, value in ((landmarks, points), (visibility, visible), (boxes, box), (tags, tag)):
                rows.append(value)
            if contour is not None:
                anchors.append(anchor)
                contours.append(contour)
        _to_disk(images)
    if len(tags) != len(samples):
        raise ValueError(f"samples must be as many as their length, {len(samples)}, got {len(tags)}")
    complete = len(contours) == len(samples)
    arrays = {"landmarks": landmarks, "visibility": visibility, "boxes": boxes}
    for name, rows in (arrays | ({"anchors": anchors, "contours": contours} if complete else {})).items():
        with open(folder / f"{name}.npy", "xb") as file:
            np.save(file, np.stack(rows))
            _to_disk(file)
    meta = {"format": FORMAT, "markup": first[1], "tags": tags, "contours": complete}
    write_atomic(folder / "pack.json", json.dumps(meta, default=lambda v: v.item()).encode())  # last: all is there


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _finished(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a finished pack and its pack.json: ``path``, or what ``save_packed`` put aside when it stopped."""
    aside = _aside(Path(os.path.realpath(path)))
    folder = aside if not _is_pack(path) and _is_pack(aside) else path
    if not _is_pack(folder):
        raise FileNotFoundError(f"{path} is not a finished pack of faces: pack.json is missing")
    try:
        meta = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / 'pack.json'} must be JSON: {error}") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ValueError(f"{path} must be of pack format {FORMAT}, "
                         f"got {meta.get('format') if isinstance(meta, dict) else meta!r:.40}")
    for name, kind in (("markup", str), ("tags", list), ("contours", bool)):
        meta.setdefault("contours", False)
        if not isinstance(meta.get(name), kind):
            raise ValueError(f"{folder / 'pack.json'} must hold {name} as {kind.__name__}, got {meta.get(name)!r:.40}")
    if not all(isinstance(tags, dict) for tags in meta["tags"]):
        raise ValueError(f"{folder / 'pack.json'} must hold the tags of each face by name")
    return folder, meta


def _array(folder: Path, name: str, kind: type, shape: Sequence[int | None]) -> NDArray:
    """The map of one array file, if it is of that type and shape; images may have a third axis more."""
    path = folder / f"{name}.npy"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a finished pack of faces: {path.name} is missing")
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, TypeError, KeyError, EOFError, OverflowError, MemoryError, RecursionError, SyntaxError,
            tokenize.TokenError) as error:
        raise ValueError(f"{path} is not a readable array: {error}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} must be one array, got an archive")
    seen = array.shape[:3] if name == "images" and array.shape[3:] == (3,) else array.shape
    if array.dtype != kind or len(seen) != len(shape) or any(w not in (None, s) for w, s in zip(shape, seen)):
        raise ValueError(f"{path} must be {np.dtype(kind)} of shape {tuple(shape)}, got {array.dtype} {array.shape}")
    return array


def _same(item: tuple) -> tuple:
    return item


class _Plain:
    """Samples as tuples of arrays: what worker processes can send."""

    def __init__(self, samples: Sequence[Any]):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple:
        sample = check_sample(self.samples[index], f"samples[{index}]")
        if sample.landmarks is None:
            raise ValueError(f"samples[{index}] must have landmarks, got None")
        points = np.asarray(sample.landmarks, np.float64)
        visible = np.ones(len(points), bool) if sample.visibility is None else np.asarray(sample.visibility, bool)
        box = box_of(points) if sample.box is None else np.asarray(sample.box, np.float64)
        anchors, contours = stacked_contours(sample)
        tags = dict(getattr(sample, "tags", {}))
        return load_image(sample.image), points, visible, box, sample.markup, tags, anchors, contours
