"""Readers of the public data sets: every one yields ``Sample``s with 0-based landmarks and the landmarks' own box.

Annotations made with MATLAB count pixels from 1: those readers subtract it. Images are named, not opened. A missing
folder or file raises ``FileNotFoundError``; a damaged file or line raises ``ValueError`` with file and line. What lies
in a folder and belongs to something else is skipped, and a warning counts it. Lists name images inside their folder: a
name that leads out of it, through a link too, raises ``ValueError``.
"""

import csv
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facealign_lite import markups

from .matlab import Value, read_mat
from .samples import MAX_PIXELS, Sample, load_image

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")       # in any capitals
LARGEST_TEXT = 1 << 28    # bytes; the list of WFLW has 13 million
WFLW_FLAGS = ("pose", "expression", "illumination", "make_up", "occlusion", "blur")


def read_pts(path: str | Path) -> NDArray[np.float64]:
    """Landmarks (K, 2) of one ``.pts`` file, 0-based.

    Raises:
        ValueError: with file and line, where the text is not version, n_points, { , K times "x y", }.
    """
    lines = [(i, line.strip()) for i, line in enumerate(_text(path).splitlines(), 1) if line.strip()]
    head = [line for _, line in lines[:3]]
    match = re.fullmatch(r"n_points\s*:\s*(\d+)", head[1]) if len(head) == 3 else None
    if match is None or not head[0].startswith("version") or head[2] != "{":
        raise ValueError(f"{path}, line 1: wanted 'version: 1', 'n_points: K', '{{', got {head}")
    count = int(match[1])
    body = lines[3:]
    if len(body) != count + 1 or body[-1][1] != "}":
        raise ValueError(f"{path}, line {lines[-1][0]}: wanted {count} points and '}}', got {len(body)} lines")
    return np.reshape([_numbers(line.split(), 2, path, i) for i, line in body[:-1]], (count, 2)) - 1.0


def read_300w(folder: str | Path, markup: str = "68") -> list[Sample]:
    """300-W, Menpo 2D and alike: every ``.pts`` below ``folder`` with its image beside it.

    Files with another number of points are skipped and counted: Menpo has 39 on profile faces, which are a set of their
    own, ``markup="39"``.

    Tags: ``set``, its folder; and in the published tree of 300-W ``split``: "train" (afw, helen/trainset and
    lfpw/trainset: 3,148 faces), "common" (helen/testset and lfpw/testset: 554), "challenging" (ibug: 135), "private"
    (01_Indoor and 02_Outdoor: 600).
    """
    folder, samples, foreign = _folder(folder), [], []
    for path in sorted(folder.rglob("*.pts")):
        if _hidden(path, folder) or len(points := read_pts(path)) != markups.get(markup).count:
            foreign.append(path)
            continue
        split = _split({folder.name.lower(), *(part.lower() for part in path.relative_to(folder).parts[:-1])})
        tags = {"set": path.parent.name} | ({"split": split} if split else {})
        samples.append(Sample(_image_beside(path), points, markup=markup, tags=tags))
    return _some(samples, folder, f"*.pts of {markup} points", foreign)


def _split(folders: set[str]) -> str | None:
    """Which part of 300-W lies in these folders, by the protocol of the papers; None if they do not say."""
    if "afw" in folders or ("trainset" in folders and folders & {"helen", "lfpw"}):
        return "train"
    if "testset" in folders and folders & {"helen", "lfpw"}:
        return "common"
    if "ibug" in folders:
        return "challenging"
    return "private" if folders & {"01_indoor", "02_outdoor"} else None


def read_300vw(folder: str | Path) -> list[Sample]:
    """300-VW: video folders with ``annot/NNNNNN.pts`` and frames in ``frames/`` (see ``extract_frames``).

    Tags: ``video`` and ``frame``.
    """
    folder, samples, foreign = _folder(folder), [], []
    for path in sorted(folder.glob("*/annot/*.pts")):
        if _hidden(path, folder) or not re.fullmatch("[0-9]+", path.stem):
            foreign.append(path)
            continue
        video = path.parent.parent
        image = _image_beside(video / "frames" / path.name, f"{path}: extract_frames makes the frames")
        tags = {"video": video.name, "frame": int(path.stem)}
        samples.append(Sample(image, _of(read_pts(path), "68", path), tags=tags))
    return _some(samples, folder, "*/annot/*.pts", foreign)


def extract_frames(video: str | Path, folder: str | Path) -> int:
    """Write the frames of a 300-VW ``.avi`` as ``folder/000001.png`` and on; their number.

    Raises:
        ValueError: if OpenCV cannot read the video.
        OSError: if a frame cannot be written.
    """
    capture, folder, count = cv2.VideoCapture(str(video)), Path(folder), 0
    folder.mkdir(parents=True, exist_ok=True)
    while (frame := capture.read())[0]:
        count += 1
        if not cv2.imwrite(str(folder / f"{count:06d}.png"), frame[1]):
            raise OSError(f"cannot write frame {count} of {video} to {folder}")
    if count == 0:
        raise ValueError(f"{video} must be a video that OpenCV can read, got none of its frames")
    return count


def read_wflw(annotations: str | Path, images: str | Path) -> list[Sample]:
    """WFLW: one line a face: 196 coordinates, 4 box corners, 6 flags, image name. Tags: the flags and ``given_box``."""
    samples = []
    for i, line in enumerate(_text(annotations).splitlines(), 1):
        words = line.split(maxsplit=206)
        if not words:
            continue
        if len(words) != 207:
            raise ValueError(f"{annotations}, line {i}: wanted 206 numbers and an image name, got {len(words)} words")
        numbers = _numbers(words[:206], 206, annotations, i)
        tags = {name: bool(flag) for name, flag in zip(WFLW_FLAGS, numbers[200:])}
        tags["given_box"] = tuple(numbers[196:200])
        samples.append(Sample(_image(images, words[206].strip(), annotations, i), np.reshape(numbers[:196], (98, 2)),
                              markup="98", tags=tags))
    return _some(samples, annotations, "lines")


def read_helen(folder: str | Path, images: str | Path) -> list[Sample]:
    """HELEN, 194 landmarks: text files of an image name, then "x , y" lines."""
    samples, folder, foreign = [], _folder(folder), []
    for path in sorted(folder.glob("*.txt"), key=lambda p: (len(p.stem), p.stem)):
        if _hidden(path, folder):
            foreign.append(path)
            continue
        first, *rest = [line.strip() for line in _text(path).splitlines() if line.strip()] or [""]
        points = np.array([_numbers(line.split(","), 2, path, i) for i, line in enumerate(rest, 2)])
        samples.append(Sample(_image(images, first, path, 1), _of(points, "194", path), markup="194"))
    return _some(samples, folder, "*.txt", foreign)


def read_csv(path: str | Path, images: str | Path | None = None) -> list[Sample]:
    """A table with columns image, [others,] x0, y0, x1, y1 ...; other columns become tags.

    Args:
        path: the table; the number of points decides the markup.
        images: folder of the images; ``images`` beside the table if None.
    """
    path = Path(path)
    lines = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        rows = [(lines.line_num, row) for row in lines if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
    names = rows[0][1] if rows else []
    count = sum(re.fullmatch(r"x\d+", name) is not None for name in names)
    columns = [name for i in range(count) for name in (f"x{i}", f"y{i}")]
    if "image" not in names or not count or any(name not in names for name in columns):
        raise ValueError(f"{path}, line 1: wanted columns image, x0, y0, x1 ..., got {','.join(names[:5])} ...")
    where = [names.index(name) for name in columns]
    others = [name for name in names if name not in columns and name != "image"]
    samples = []
    for i, row in rows[1:]:
        if len(row) != len(names):
            raise ValueError(f"{path}, line {i}: wanted {len(names)} columns, got {len(row)}")
        points = np.reshape(_numbers([row[j] for j in where], 2 * count, path, i), (count, 2))
        image = _image(path.parent / "images" if images is None else images, row[names.index("image")], path, i)
        tags = {name: row[names.index(name)] for name in others}
        samples.append(Sample(image, points, markup=_known(count, path), tags=tags))
    return _some(samples, path, "lines")


def read_cofw(path: str | Path, part: str = "test") -> list[Sample]:
    """COFW: 29 landmarks with occlusion flags, grey or colour images inside a MATLAB v7.3 file. Tag ``given_box``.

    Args:
        path: ``COFW_train.mat`` or ``COFW_test.mat`` (or ``COFW_train_color.mat``, ``COFW_test_color.mat``).
        part: "train" or "test".

    Raises:
        ImportError: if h5py is not installed.
    """
    end = {"train": "Tr", "test": "T"}.get(part)
    if end is None:
        raise ValueError(f"part must be 'train' or 'test', got {part!r}")
    samples = []
    with _cofw_file(path) as file:
        table = np.asarray(_own(file, f"phis{end}", 2), np.float64).T            # MATLAB's (N, 87) arrives transposed
        images = _own(file, f"Is{end}", 2)[0]
        if len(images) < len(table):
            raise ValueError(f"wanted {len(table)} images, got {len(images)}")
        boxes = np.asarray(_own(file, f"bboxes{end}", 2), np.float64).T if f"bboxes{end}" in file else None
        if boxes is not None and (boxes.shape != (len(table), 4) or not np.isfinite(boxes).all()):
            raise ValueError(f"wanted bboxes{end} to be {len(table)} finite boxes, got shape {boxes.shape}")
        for i, (row, pixels) in enumerate(zip(table, images), 1):
            if len(row) != 87 or not np.isfinite(row).all():
                raise ValueError(f"face {i}: wanted 87 finite numbers, got {np.isfinite(row).sum()}")
            tags = {} if boxes is None else {"given_box": _corners(boxes[i - 1])}
            samples.append(Sample(_cofw_image(file, pixels), np.column_stack([row[:29], row[29:58]]) - 1, row[58:] == 0,
                                  markup="29", tags=tags))
    return _some(samples, path, "faces")


def read_cofw68(folder: str | Path, images: str | Path) -> list[Sample]:
    """COFW-68: 68 landmarks with occlusion flags on the test faces of COFW. Tag ``given_box``.

    Args:
        folder: ``COFW68_Data``, with ``test_annotations/N_points.mat`` (Points, Occ; N counts from 1) and
            ``cofw68_test_bboxes.mat`` (bboxes: x, y, width, height).
        images: ``COFW_test.mat`` or ``COFW_test_color.mat``.

    Raises:
        ImportError: if h5py is not installed.
    """
    folder, samples, foreign = _folder(folder), [], []
    where = folder / "cofw68_test_bboxes.mat"
    boxes = _array(_mat(where, ["bboxes"]), "bboxes", where)
    if boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ValueError(f"{where}: wanted finite boxes (faces, 4), got shape {boxes.shape}")
    paths = {}
    for path in sorted(_folder(folder / "test_annotations").glob("*.mat")):
        number = re.fullmatch(r"([0-9]+)_points", path.stem)
        if number is None or _hidden(path, folder):
            foreign.append(path)
        else:
            paths[int(number[1])] = path
    with _cofw_file(images) as file:
        pixels = _own(file, "IsT", 2)[0]
        for i, path in sorted(paths.items()):
            if not 1 <= i <= min(len(pixels), len(boxes)):
                raise ValueError(f"{path}: wanted a face from 1 to {min(len(pixels), len(boxes))}")
            table = _mat(path, ["Points", "Occ"])
            points, hidden = _array(table, "Points", path), _array(table, "Occ", path).ravel()
            if len(hidden) != 68 or not np.isin(hidden, (0, 1)).all():
                raise ValueError(f"{path}: wanted Occ to be 68 flags, got {hidden[:5].tolist()} ... of {len(hidden)}")
            samples.append(Sample(_cofw_image(file, pixels[i - 1]), _of(points - 1, "68", path), hidden == 0,
                                  tags={"given_box": _corners(boxes[i - 1])}))
    return _some(samples, folder, "test_annotations/N_points.mat", foreign)


@contextmanager
def _cofw_file(path: str | Path) -> Iterator[Any]:
    """The opened HDF5 file; whatever goes wrong in the block is a ValueError that names it."""
    path = _file(path)
    try:
        import h5py
    except ImportError as error:
        raise ImportError("COFW is in HDF5 files: reading them needs `pip install h5py`") from error
    try:
        with h5py.File(path) as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, MemoryError) as error:
        raise ValueError(f"{path} must be COFW's MATLAB v7.3 (HDF5) file: {error}") from error


def _cofw_image(file: Any, pixels: Any) -> NDArray[np.uint8]:
    """An image behind a reference: (W, H) or (3, W, H) -> (H, W[, 3])."""
    return np.ascontiguousarray(np.asarray(_own(file, pixels, 2, 3), np.uint8).T)


def _corners(box: NDArray) -> tuple[float, ...]:
    """MATLAB's x, y, width, height from 1 -> left, top, right, bottom from 0."""
    x, y, width, height = box.tolist()
    return (x - 1, y - 1, x - 1 + width, y - 1 + height)


def _own(file: Any, name: Any, *dimensions: int) -> Any:
    """A data set, by name or reference, whose values lie in the file itself.

    HDF5 lets a file name any other file of the disk as the place of its values: by a link, by external storage, or
    as a virtual data set.
    """
    import h5py
    if isinstance(name, str):
        if name not in file.keys():
            raise ValueError(f"wanted a variable {name}, got {sorted(file)[:9]}")
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} must lie in the file itself, got a link")
    values = file[name]
    if not isinstance(values, h5py.Dataset) or values.ndim not in dimensions or values.size > MAX_PIXELS:
        raise ValueError(f"{values.name} must be an array of {dimensions} dimensions, got {values}")
    if values.external or values.is_virtual:
        raise ValueError(f"{values.name} must lie in the file itself, got a reference to other files")
    return values


def read_aflw(path: str | Path, images: str | Path, part: str = "test", frontal: bool = False) -> list[Sample]:
    """AFLW-full: 19 landmarks with visibility from ``AFLWinfo_release.mat``. Tag ``given_box``.

    Args:
        path: the MATLAB index.
        images: folder that its names are relative to.
        part: "train" (20,000) or "test" (4,386), in the order of the index's own permutation.
        frontal: only faces with all landmarks visible.
    """
    table = _mat(path, ("bbox", "data", "mask_new", "nameList", "ra"))
    split = {"train": slice(0, 20000), "test": slice(20000, None)}.get(part)
    if split is None:
        raise ValueError(f"part must be 'train' or 'test', got {part!r}")
    order, names, samples = np.ravel(_array(table, "ra", path)), table["nameList"], []
    count = len(names) if isinstance(names, list) else 0
    data, boxes, mask = (_array(table, name, path, (count, n))
                         for name, n in (("data", 38), ("bbox", 4), ("mask_new", 19)))
    if not np.isin(order, np.arange(1, count + 1)).all() or len(np.unique(order)) < len(order):
        raise ValueError(f"{path}: wanted ra to be an order of {count} names, got {order[:5].tolist()} ...")
    for i in order[split].astype(int) - 1:
        visible = mask[i] > 0
        if frontal and not visible.all():
            continue
        if not np.isfinite(data[i]).all():
            raise ValueError(f"{path}, face {i + 1}: wanted 38 finite numbers, got {data[i].tolist()}")
        left, right, top, bottom = boxes[i].tolist()
        if not isinstance(names[i], str) or not np.isfinite(boxes[i]).all():
            raise ValueError(f"{path}, face {i + 1}: wanted a name and a finite box, got {names[i]!r:.60} and "
                             f"{boxes[i].tolist()}")
        samples.append(Sample(_image(images, names[i], path, i + 1), data[i].reshape(2, 19).T - 1, visible, markup="19",
                              tags={"given_box": (left - 1, top - 1, right - 1, bottom - 1)}))
    return _some(samples, path, "faces")


def read_aflw2000(folder: str | Path, flipped: bool = False) -> list[Sample]:
    """AFLW2000-3D and 300W-LP: ``.mat`` files, images beside them.

    AFLW2000-3D has its landmarks as ``pt3d_68`` (3, 68): the jaw follows the skull behind the cheek, not the visible
    outline. In 300W-LP ``pt2d`` belongs to the photo before it was turned: where there is a folder ``landmarks``, the
    picture's own are taken from there, ``landmarks/SET/NAME_pts.mat``, ``pts_2d`` (68, 2). Files that hold no landmarks
    are skipped.

    Tags: ``variable``, which of the three it was; and where there is a ``Pose_Para``: ``angles``, (pitch, yaw, roll) in
    degrees, and ``yaw``, its size as "0-30", "30-60", "60-90" or "over 90", the rows of the papers' tables.

    Args:
        folder: of either set.
        flipped: whether to read the folders ``SET_Flip`` of 300W-LP, too, which hold the mirror image of every face:
            without them there are 61,225. Where ``landmarks`` has none of theirs, those of ``SET`` are mirrored.
    """
    folder, samples, foreign = _folder(folder), [], []
    for path in sorted(folder.rglob("*.mat")):
        parts = path.relative_to(folder).parts[:-1]
        if "landmarks" in parts:
            continue
        mirrored = path.parent.name.endswith("_Flip")
        if mirrored and not flipped:
            foreign.append(path)
            continue
        try:
            table = {} if _hidden(path, folder) else _variables(path, {"pt3d_68", "pt2d", "Pose_Para"})
        except ValueError:
            if _beside(path) is not None:
                raise
            table = {}
        name = next((name for name in ("pt3d_68", "pt2d") if name in table), None)
        if name is None:
            foreign.append(path)
            continue
        points, name = _own_landmarks(path, mirrored) if name == "pt2d" else (None, name)
        if points is None:
            points = _of(_array(table, name, path)[:2].T - 1, "68", path)
        samples.append(Sample(_image_beside(path), points, tags={"variable": name} | _angles(table, path)))
    return _some(samples, folder, "*.mat with pt3d_68 or pt2d", foreign)


def _own_landmarks(path: Path, mirrored: bool) -> tuple[NDArray | None, str]:
    """Landmarks of a picture of 300W-LP in its folder ``landmarks``, and the name of the variable that has them."""
    root, group = path.parent.parent / "landmarks", path.parent.name
    own, other = (root / name / f"{path.stem}_pts.mat" for name in (group, group.removesuffix("_Flip")))
    for where in (own, other) if mirrored else (own,):
        if where.is_file():
            points = _of(_array(_variables(where, {"pts_2d"}), "pts_2d", where) - 1, "68", where)
            if mirrored and where != own:
                # x in the mirror is W - 1 - x
                width = load_image(_image_beside(path)).shape[1]
                points = (points * [-1, 1] + [width - 1, 0])[list(markups.get("68").flip)]
            return points, "pts_2d"
    return None, "pt2d"


def _angles(table: Mapping[str, Value], path: Path) -> dict[str, Any]:
    """Tags of ``Pose_Para``, (1, 7): pitch, yaw and roll in radians, then a shift and a scale."""
    if "Pose_Para" not in table:
        return {}
    values = _array(table, "Pose_Para", path).ravel()
    if len(values) < 3 or not np.isfinite(values).all():
        raise ValueError(f"{path}: wanted Pose_Para to be 7 finite numbers, got {values.tolist()}")
    angles = tuple(np.degrees(values[:3]).round(4).tolist())
    size = abs(angles[1])
    return {"angles": angles, "yaw": next((f"{low}-{low + 30}" for low in (0, 30, 60) if size <= low + 30), "over 90")}


def read_images(folder: str | Path) -> list[Sample]:
    """Unlabelled images (CelebA): no landmarks, no box."""
    folder = _folder(folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGES and path.is_file()]
    foreign = [path for path in paths if _hidden(path, folder)]
    return _some([Sample(path) for path in paths if not _hidden(path, folder)], folder, "images", foreign)


WFLW_LIST = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{}.txt"    # as published


def _wflw(folder: Path, part: str) -> list[Sample]:
    """WFLW as published, or with short names."""
    images = _first(folder, "WFLW_images", "images")
    return read_wflw(_first(folder, WFLW_LIST.format(part), f"list_98pt_rect_attr_{part}.txt", f"{part}.txt"), images)


def _cofw(folder: Path, part: str) -> Path:
    return _first(folder, f"COFW_{part}_color.mat", f"COFW_{part}.mat")


def _first(folder: Path, *names: str) -> Path:
    """The first of these that is there, else the last."""
    return next((folder / name for name in names if (folder / name).exists()), folder / names[-1])


# set: (folder under the root, what must be there, how to read it)
SETS: dict[str, tuple[str, str, Callable[[Path], Sequence[Sample]]]] = {
    "300-W": ("300w", "*.pts beside the images", read_300w),
    "Menpo 2D": ("menpo", "*.pts beside the images", read_300w),
    "Menpo 2D profile": ("menpo", "*.pts of 39 points beside the images", lambda f: read_300w(f, "39")),
    "300-VW": ("300vw", "*/annot/*.pts and */frames", read_300vw),
    "WFLW train": ("wflw", f"{WFLW_LIST.format('train')} and WFLW_images/, or train.txt and images/",
                   lambda f: _wflw(f, "train")),
    "WFLW test": ("wflw", f"{WFLW_LIST.format('test')} and WFLW_images/, or test.txt and images/",
                  lambda f: _wflw(f, "test")),
    "COFW train": ("cofw", "COFW_train_color.mat or COFW_train.mat", lambda f: read_cofw(_cofw(f, "train"), "train")),
    "COFW test": ("cofw", "COFW_test_color.mat or COFW_test.mat", lambda f: read_cofw(_cofw(f, "test"), "test")),
    "COFW-68": ("cofw", "COFW68_Data/ and COFW_test_color.mat or COFW_test.mat",
                lambda f: read_cofw68(f / "COFW68_Data", _cofw(f, "test"))),
    "AFLW train": ("aflw", "AFLWinfo_release.mat and images/",
                   lambda f: read_aflw(f / "AFLWinfo_release.mat", f / "images", "train")),
    "AFLW test": ("aflw", "AFLWinfo_release.mat and images/",
                  lambda f: read_aflw(f / "AFLWinfo_release.mat", f / "images")),
    "HELEN": ("helen", "annotation/ and images/", lambda f: read_helen(f / "annotation", f / "images")),
    "AFLW2000-3D": ("aflw2000", "*.mat beside the images", read_aflw2000),
    "300W-LP": ("300w_lp", "SET/*.mat beside the images, and landmarks/", read_aflw2000),
    "CelebA": ("celeba", "images", read_images),
    "YTF-68 train": ("ytf68", "train.csv and images/", lambda f: read_csv(f / "train.csv")),
    "YTF-68 val": ("ytf68", "val.csv and images/", lambda f: read_csv(f / "val.csv")),
}


def inventory(root: str | Path) -> list[dict[str, object]]:
    """What lies under ``root``: one row a set: set, faces (0 if missing), why there are none or what was skipped."""
    rows = []
    for name, (folder, wanted, read) in SETS.items():
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                faces = len(read(Path(root) / folder))
            rows.append({"set": name, "faces": faces, "missing": "; ".join(str(each.message) for each in said)})
        except FileNotFoundError:
            rows.append({"set": name, "faces": 0, "missing": f"{folder}: {wanted}"})
        except (ValueError, OSError, ImportError) as error:
            rows.append({"set": name, "faces": 0, "missing": str(error)})
    return rows


def inventory_table(rows: Sequence[dict[str, object]]) -> str:
    """The inventory as text, one line a set."""
    head = [{"set": "set", "faces": "faces", "missing": "missing"}]
    return "\n".join(f"{r['set']:14s} {r['faces']:>7}  {r['missing']}".rstrip() for r in [*head, *rows])


def _folder(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no folder {path}")
    return path


def _file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    return path


def _text(path: str | Path) -> str:
    try:
        with open(_file(path), "rb") as file:
            data = file.read(LARGEST_TEXT + 1)
        if len(data) > LARGEST_TEXT:
            raise ValueError(f"{path} must be text of at most {LARGEST_TEXT} bytes")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text, got bytes that are not: {error.reason}") from error


def _numbers(words: Sequence[str], count: int, path: str | Path, line: int) -> list[float]:
    """``count`` finite numbers, or a ValueError that names file and line."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{path}, line {line}: wanted {count} numbers, got {' '.join(words)[:60]!r}") from None
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"{path}, line {line}: wanted {count} finite numbers, got {' '.join(words)[:60]!r}")
    return numbers


def _of(points: NDArray, markup: str, path: Path) -> NDArray:
    """The points, if they are as many as the markup has and finite."""
    count = markups.get(markup).count
    if points.shape != (count, 2) or not np.isfinite(points).all():
        raise ValueError(f"{path}: wanted {count} finite points (markup {markup!r}), got shape {points.shape}")
    return points


def _known(count: int, path: Path) -> str:
    if str(count) not in markups.MARKUPS:
        raise ValueError(f"{path}, line 1: no markup of {count} points, known are {', '.join(markups.MARKUPS)}")
    return str(count)


def _image(folder: str | Path, name: str, source: str | Path, line: int) -> Path:
    """The file of that name, with or without its ending, inside the folder."""
    path, root = Path(folder) / name, os.path.realpath(folder)
    try:
        for candidate in (path, *(path.with_name(path.name + end) for end in _endings())) if path.name else ():
            if candidate.is_file():
                if not Path(os.path.realpath(candidate)).is_relative_to(root):
                    raise ValueError(f"{source}, line {line}: {name!r:.200} leads out of the folder {folder}")
                return candidate
    except OSError as error:                                                    # a name that is too long
        raise ValueError(f"{source}, line {line}: no image {name!r:.200}: {error.strerror}") from None
    raise ValueError(f"{source}, line {line}: no image {path}")


def _image_beside(path: Path, hint: str = "") -> Path:
    found = _beside(path)
    if found is None:
        raise ValueError(f"{path}: no image beside it ({', '.join(IMAGES)}) {hint}".rstrip())
    return found


def _beside(path: Path) -> Path | None:
    for end in _endings():
        if (candidate := path.with_suffix(end)).is_file():
            return candidate
    if path.parent.is_dir():
        for candidate in sorted(path.parent.iterdir()):                         # .jPeG
            if candidate.stem == path.stem and candidate.suffix.lower() in IMAGES and candidate.is_file():
                return candidate
    return None


def _endings() -> Iterator[str]:
    for change in (str.lower, str.upper, str.title):
        yield from (change(end) for end in IMAGES)


def _hidden(path: Path, folder: Path) -> bool:
    """What the system keeps for itself: ``._x.pts`` is a Mac's note about ``x.pts``."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)


def _variables(path: str | Path, wanted: set[str]) -> dict[str, Value]:
    return read_mat(_file(path), wanted)


def _mat(path: str | Path, wanted: Sequence[str]) -> dict[str, Value]:
    """Variables of a MATLAB file up to version 7, all of them."""
    variables = _variables(path, set(wanted))
    if missing := [name for name in wanted if name not in variables]:
        raise ValueError(f"{path}: wanted variables {list(wanted)}, missing {missing}")
    return variables


def _array(table: Mapping[str, Value], name: str, path: str | Path, shape: tuple[int, int] | None = None) -> NDArray:
    """A matrix of numbers of a MATLAB file, of that shape if one is given."""
    values = table.get(name)
    if not isinstance(values, np.ndarray) or values.ndim != 2 or shape not in (None, values.shape):
        raise ValueError(f"{path}: wanted {name} to be numbers of shape {shape or '(rows, columns)'}, got "
                         f"{values.shape if isinstance(values, np.ndarray) else type(values).__name__}")
    return values.astype(np.float64)


def _some(samples: list[Sample], source: str | Path, what: str, foreign: Sequence[Path] = ()) -> list[Sample]:
    skipped = f"skipped {len(foreign)} other files, {foreign[0]} the first" if foreign else ""
    if not samples:
        raise ValueError(f"{source}: wanted {what}, got none" + (f"; {skipped}" if skipped else ""))
    if skipped:
        warnings.warn(f"{source}: {skipped}", stacklevel=3)
    return samples
