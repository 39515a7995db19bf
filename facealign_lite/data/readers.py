"""Readers of the public data sets: every one yields ``Sample``s with 0-based landmarks and the landmarks' own box.

Annotations made with MATLAB count pixels from 1: those readers subtract it. Images are named, not opened. A missing
folder or file raises ``FileNotFoundError``; a damaged line raises ``ValueError`` with file and line.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facealign_lite import markups

from .samples import Sample

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".JPG", ".PNG")
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
    return np.array([_numbers(line.split(), 2, path, i) for i, line in body[:-1]]) - 1


def read_300w(folder: str | Path, markup: str = "68") -> list[Sample]:
    """300-W, Menpo 2D and alike: every ``.pts`` below ``folder`` with its image beside it. Tag ``set``: its folder."""
    folder, samples = _folder(folder), []
    for path in sorted(folder.rglob("*.pts")):
        points = _of(read_pts(path), markup, path)
        samples.append(Sample(_image_beside(path), points, markup=markup, tags={"set": path.parent.name}))
    return _some(samples, folder, "*.pts")


def read_300vw(folder: str | Path) -> list[Sample]:
    """300-VW: video folders with ``annot/NNNNNN.pts`` and frames in ``frames/`` (see ``extract_frames``).

    Tags: ``video`` and ``frame``.
    """
    folder, samples = _folder(folder), []
    for path in sorted(folder.glob("*/annot/*.pts")):
        video = path.parent.parent
        image = _image_beside(video / "frames" / path.name, f"{path}: extract_frames makes the frames")
        tags = {"video": video.name, "frame": int(path.stem)}
        samples.append(Sample(image, _of(read_pts(path), "68", path), tags=tags))
    return _some(samples, folder, "*/annot/*.pts")


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
    samples, folder = [], _folder(folder)
    for path in sorted(folder.glob("*.txt"), key=lambda p: (len(p.stem), p.stem)):
        first, *rest = [line.strip() for line in _text(path).splitlines() if line.strip()] or [""]
        points = np.array([_numbers(line.split(","), 2, path, i) for i, line in enumerate(rest, 2)])
        samples.append(Sample(_image(images, first, path, 1), _of(points, "194", path), markup="194"))
    return _some(samples, folder, "*.txt")


def read_csv(path: str | Path, images: str | Path | None = None) -> list[Sample]:
    """A table with columns image, [others,] x0, y0, x1, y1 ...; other columns become tags.

    Args:
        path: the table; the number of points decides the markup.
        images: folder of the images; ``images`` beside the table if None.
    """
    path = Path(path)
    rows = list(csv.reader(_text(path).splitlines()))
    names = rows[0] if rows else []
    count = sum(re.fullmatch(r"x\d+", name) is not None for name in names)
    columns = [name for i in range(count) for name in (f"x{i}", f"y{i}")]
    if "image" not in names or not count or any(name not in names for name in columns):
        raise ValueError(f"{path}, line 1: wanted columns image, x0, y0, x1 ..., got {','.join(names[:5])} ...")
    where = [names.index(name) for name in columns]
    others = [name for name in names if name not in columns and name != "image"]
    samples = []
    for i, row in enumerate(rows[1:], 2):
        if len(row) != len(names):
            raise ValueError(f"{path}, line {i}: wanted {len(names)} columns, got {len(row)}")
        points = np.reshape(_numbers([row[j] for j in where], 2 * count, path, i), (count, 2))
        image = _image(path.parent / "images" if images is None else images, row[names.index("image")], path, i)
        tags = {name: row[names.index(name)] for name in others}
        samples.append(Sample(image, points, markup=_known(count, path), tags=tags))
    return _some(samples, path, "lines")


def read_cofw(path: str | Path, part: str = "test") -> list[Sample]:
    """COFW: 29 landmarks with occlusion flags, grey or colour images inside a MATLAB v7.3 file.

    Args:
        path: ``COFW_train.mat`` or ``COFW_test.mat`` (or the colour ones).
        part: "train" or "test".

    Raises:
        ImportError: if h5py is not installed.
    """
    path = _file(path)
    try:
        import h5py
    except ImportError as error:
        raise ImportError("COFW is in HDF5 files: reading them needs `pip install h5py`") from error
    end = {"train": "Tr", "test": "T"}.get(part)
    if end is None:
        raise ValueError(f"part must be 'train' or 'test', got {part!r}")
    samples = []
    try:
        file = h5py.File(path)
    except OSError as error:
        raise ValueError(f"{path} must be a MATLAB v7.3 (HDF5) file: {error}") from error
    with file:
        for name in (f"phis{end}", f"Is{end}"):
            if name not in file:
                raise ValueError(f"{path}: wanted a variable {name}, got {sorted(file)}")
        table = np.asarray(file[f"phis{end}"], np.float64).T                     # MATLAB's (N, 87) arrives transposed
        for i, row in enumerate(table, 1):
            if len(row) != 87 or not np.isfinite(row).all():
                raise ValueError(f"{path}, face {i}: wanted 87 finite numbers, got {np.isfinite(row).sum()}")
            pixels = np.asarray(file[file[f"Is{end}"][0, i - 1]])
            image = np.ascontiguousarray(pixels.T, np.uint8)                     # (W, H) or (3, W, H) -> (H, W[, 3])
            samples.append(Sample(image, np.column_stack([row[:29], row[29:58]]) - 1, row[58:] == 0, markup="29"))
    return _some(samples, path, "faces")


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
    samples = []
    for i in np.ravel(table["ra"])[split].astype(int) - 1:
        visible = np.ravel(table["mask_new"][i]) > 0
        if frontal and not visible.all():
            continue
        numbers = np.ravel(table["data"][i]).astype(np.float64)
        if numbers.shape != (38,) or not np.isfinite(numbers).all():
            raise ValueError(f"{path}, face {i + 1}: wanted 38 finite numbers, got {numbers.tolist()}")
        name = str(np.ravel(np.ravel(table["nameList"])[i])[0])
        left, right, top, bottom = np.ravel(table["bbox"][i]).astype(float)
        samples.append(Sample(_image(images, name, path, i + 1), numbers.reshape(2, 19).T - 1, visible, markup="19",
                              tags={"given_box": (left - 1, top - 1, right - 1, bottom - 1)}))
    return _some(samples, path, "faces")


def read_aflw2000(folder: str | Path) -> list[Sample]:
    """AFLW2000-3D and 300W-LP: ``.mat`` files with ``pt3d_68`` (3, 68) or ``pt2d`` (2, 68), images beside them.

    The jaw follows the skull behind the cheek, not the visible outline.
    """
    folder, samples = _folder(folder), []
    for path in sorted(folder.rglob("*.mat")):
        table = _mat(path, ())
        points = table.get("pt3d_68", table.get("pt2d"))
        if points is None:
            raise ValueError(f"{path}: wanted a variable pt3d_68 or pt2d, got {sorted(table)}")
        samples.append(Sample(_image_beside(path), _of(np.asarray(points, np.float64)[:2].T - 1, "68", path)))
    return _some(samples, folder, "*.mat")


def read_images(folder: str | Path) -> list[Sample]:
    """Unlabelled images (CelebA): no landmarks, no box."""
    folder = _folder(folder)
    return _some([Sample(path) for path in sorted(folder.rglob("*")) if path.suffix in IMAGES], folder, "images")


# set: (folder under the root, what must be there, how to read it)
SETS: dict[str, tuple[str, str, Callable[[Path], Sequence[Sample]]]] = {
    "300-W": ("300w", "*.pts beside the images", read_300w),
    "Menpo 2D": ("menpo", "*.pts beside the images", read_300w),
    "300-VW": ("300vw", "*/annot/*.pts and */frames", read_300vw),
    "WFLW train": ("wflw", "train.txt and images/", lambda f: read_wflw(f / "train.txt", f / "images")),
    "WFLW test": ("wflw", "test.txt and images/", lambda f: read_wflw(f / "test.txt", f / "images")),
    "COFW train": ("cofw", "COFW_train.mat", lambda f: read_cofw(f / "COFW_train.mat", "train")),
    "COFW test": ("cofw", "COFW_test.mat", lambda f: read_cofw(f / "COFW_test.mat", "test")),
    "AFLW train": ("aflw", "AFLWinfo_release.mat and images/",
                   lambda f: read_aflw(f / "AFLWinfo_release.mat", f / "images", "train")),
    "AFLW test": ("aflw", "AFLWinfo_release.mat and images/",
                  lambda f: read_aflw(f / "AFLWinfo_release.mat", f / "images")),
    "HELEN": ("helen", "annotation/ and images/", lambda f: read_helen(f / "annotation", f / "images")),
    "AFLW2000-3D": ("aflw2000", "*.mat beside the images", read_aflw2000),
    "CelebA": ("celeba", "images", read_images),
    "YTF-68 train": ("ytf68", "train.csv and images/", lambda f: read_csv(f / "train.csv")),
    "YTF-68 val": ("ytf68", "val.csv and images/", lambda f: read_csv(f / "val.csv")),
}


def inventory(root: str | Path) -> list[dict[str, object]]:
    """What lies under ``root``: one row a set: set, faces (0 if missing), and why there are none."""
    rows = []
    for name, (folder, wanted, read) in SETS.items():
        try:
            rows.append({"set": name, "faces": len(read(Path(root) / folder)), "missing": ""})
        except FileNotFoundError:
            rows.append({"set": name, "faces": 0, "missing": f"{folder}: {wanted}"})
        except (ValueError, ImportError) as error:
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
        return _file(path).read_text(encoding="utf-8-sig")
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
    """The file of that name, with or without its ending."""
    for candidate in _candidates(Path(folder) / name):
        if candidate.is_file():
            return candidate
    raise ValueError(f"{source}, line {line}: no image {Path(folder) / name}")


def _image_beside(path: Path, hint: str = "") -> Path:
    for end in IMAGES:
        if (candidate := path.with_suffix(end)).is_file():
            return candidate
    raise ValueError(f"{path}: no image beside it ({', '.join(IMAGES)}) {hint}".rstrip())


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(path.name + end) for end in IMAGES)


def _mat(path: str | Path, wanted: Sequence[str]) -> dict:
    """Variables of a MATLAB file up to version 7."""
    from scipy.io import loadmat
    try:
        variables = loadmat(_file(path))
    except (NotImplementedError, ValueError, TypeError) as error:
        raise ValueError(f"{path} must be a MATLAB file up to version 7: {error}") from error
    if missing := [name for name in wanted if name not in variables]:
        raise ValueError(f"{path}: wanted variables {list(wanted)}, missing {missing}")
    return variables


def _some(samples: list[Sample], source: str | Path, what: str) -> list[Sample]:
    if not samples:
        raise ValueError(f"{source}: wanted {what}, got none")
    return samples
