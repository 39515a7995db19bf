"""``python -m facealign_lite photo.jpg --out overlay.png``: find the face, draw its landmarks or its contours.

Many at once, files, folders or globs: ``python -m facealign_lite photos/ --all --format jsonl --out faces.jsonl``.
``python -m facealign_lite --video clip.mp4 --out annotated.mp4`` follows the face of a video, or of a camera.
"""

import argparse
import contextlib
import csv
import glob
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from facealign_lite import markups, zoo
from facealign_lite.align import Alignment, align, align_all, align_many
from facealign_lite.data import load_image, write_atomic
from facealign_lite.data.files import same_file
from facealign_lite.tracking import Tracked, Video, follow

PARTS = (((0, 17), (86, 180, 233)), ((17, 27), (230, 159, 0)), ((27, 36), (0, 158, 115)), ((36, 48), (240, 228, 66)),
         ((48, 68), (204, 121, 167)))       # Okabe and Ito's colours, as in plots.py, which needs matplotlib
CONTOUR_COLOURS = {"chin": PARTS[0][1], "brow": PARTS[1][1], "nose": PARTS[2][1], "eye": PARTS[3][1],
                   "mouth": PARTS[4][1]}
WHITE = (255, 255, 255)
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".jp2", ".pgm", ".ppm")
FORMATS = ("json", "jsonl", "csv", "pts")
LOW = 0.3             # of the mean score: below it landmarks are often wrong, see ``align.Alignment``
BATCH = 16            # photos that are read together


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 if all went well; 1 if some of several photos could not be aligned, each named in a line on stderr, the
        others done, or if what was written could not be told; 2 with one line on stderr if something is wrong with what
        was asked for. Of two files that one photo asks for the first stays if the second cannot be written; the line
        names the second.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)     # OpenCV would add lines
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")                   # and so would FFmpeg inside it
    try:
        options = _arguments(arguments)
        if options.video is not None:
            _run_video(options)
            return 0
        photos = expand(options.images)
        single = photos == options.images and len(photos) == 1
        if single and not (options.all or options.format or options.overlays):
            _run(options)
            return 0
        return _run_many(options, photos)
    except Unsaid as error:
        _complain(str(error))
        return 1
    except (ValueError, OSError) as error:
        _complain(str(error))
        return 2


class Unsaid(Exception):
    """The work is done and its files are written; only stdout could not be told."""


def _complain(text: str) -> None:
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    text = f"facealign_lite: {' '.join(text.split())}"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="facealign_lite", description="Draw the landmarks of the faces in photos, or their contours.")
    parser.add_argument("images", type=Path, nargs="*", metavar="image",
                        help="photo, PNG, JPEG or what OpenCV reads; a folder of them, or a glob")
    parser.add_argument("--video", metavar="FILE_OR_NUMBER",
                        help="instead of a photo a video, or a camera by its number until Ctrl-C: its face is followed")
    parser.add_argument("--raw", action="store_true", help="do not smooth the landmarks of a video")
    parser.add_argument("--out", type=Path, help="without --format: the photo with its landmarks, as PNG, or a folder "
                        "for those of several photos; with it: a file, or a folder, for the numbers; of a video an MP4")
    parser.add_argument("--json", type=Path, help="write landmarks, scores and box of one photo here; of a video a "
                        "line a frame")
    parser.add_argument("--format", choices=FORMATS, help="of the numbers; without --out they are printed; pts, one "
                        "file a face as 300-W has them, needs a folder")
    parser.add_argument("--overlays", type=Path, help="write every photo with its landmarks into this folder, as PNG")
    parser.add_argument("--all", action="store_true", help="every face of a photo, not only the largest")
    parser.add_argument("--box", type=float, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
                        help="the face from brows to chin, in pixels; found by itself if not given")
    parser.add_argument("--model", default="hourglass", help=f"one of {', '.join(zoo.names())}, or a weights file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    options = parser.parse_args(arguments)
    if bool(options.images) == (options.video is not None):
        raise ValueError("a photo or --video must be given" + ", not both" * bool(options.images))
    if options.video is not None and options.box is not None:
        raise ValueError("--box must not be given with --video: its face is found")
    if options.video is not None and (options.all or options.format or options.overlays):
        raise ValueError("--all, --format and --overlays must not be given with --video: it writes --out and --json")
    if options.video is None and options.raw:
        raise ValueError("--raw must be given with --video alone")
    return options


def expand(given: Sequence[Path]) -> list[Path]:
    """The photos that files, folders and globs stand for, each once, in order; folders are not searched in depth.

    Raises:
        ValueError: if a folder holds no photo or a glob stands for none.
    """
    photos = []
    for path in given:
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("."))
        elif not path.exists() and glob.has_magic(str(path)):
            found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(name)]
        else:
            found = [path]
        if not found:
            raise ValueError(f"image must be a photo, or a folder or glob of photos, got none in {path}")
        photos += found
    return list(dict.fromkeys(photos))


def _run(options: argparse.Namespace) -> None:
    if options.out is not None and options.out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {options.out}")
    options.image = options.images[0]
    _check_outputs(options)
    picture = load_image(options.image)
    found = align(picture, options.box, options.model, options.device)
    if options.out is not None:
        _write_png(options.out, overlay(picture, [found]))
    if options.json is not None:
        write_atomic(options.json, (json.dumps(as_row(found, options.image, options.model)) + "\n").encode())
    wrote = "".join(f", wrote {path}" for path in (options.out, options.json) if path is not None)
    _tell(_line(options.image, [found]) + wrote, bool(wrote))


def _line(image: Path, faces: Sequence[Alignment]) -> str:
    """What is said of a photo."""
    told = "; ".join(f"box {np.round(face.box, 1).tolist()}, mean score {face.scores.mean():.2f}"
                     + ": low, the landmarks may be wrong" * bool(face.scores.mean() < LOW) for face in faces)
    seen = faces[0].faces
    return f"{image}: {told}" + (f" ({len(faces)} of {seen} faces)" if seen is not None and seen > 1 else "")


def _run_many(options: argparse.Namespace, photos: list[Path]) -> int:
    """Align the photos, name the bad ones, write the rest; 1 if there were bad ones."""
    if options.json is not None:
        raise ValueError("--json is for one photo and its largest face; use --format json --out FILE")
    if options.box is not None and (len(photos) > 1 or options.all):
        raise ValueError("--box is for one photo and one face")
    out, overlays = options.out, options.overlays
    if options.format is None and out is not None:
        if overlays is not None:
            raise ValueError("--out must go with --format where there is --overlays")
        out, overlays = None, out
    if options.format == "pts" and (out is None or out.is_file()):
        raise ValueError(f"--out must be a folder for --format pts, got {out}")
    if overlays is not None and overlays.is_file():
        raise ValueError(f"the photos with their landmarks go into a folder, got the file {overlays}")
    if options.format not in (None, "pts") and out is not None and out.is_dir():
        out = out / f"landmarks.{options.format}"
    claimed, names = _Claims([*photos, Path(options.model)]), stems(photos)
    for path in [out] * (options.format not in (None, "pts") and out is not None):
        claimed.add(path)
    for name in names:
        for folder, suffix in ((overlays, "png"), (out if options.format == "pts" else None, "pts")):
            if folder is not None:
                claimed.add(folder / f"{name}.{suffix}")
    rows, bad, unsaid = [], 0, None
    aligned = zip(photos, names, _aligned(photos, options))
    for photo, name, faces in tqdm(aligned, total=len(photos), unit="photo", disable=None, file=sys.stderr):
        try:
            if isinstance(faces, Exception):
                raise faces
            if options.format == "pts":
                for i, face in enumerate(faces):
                    path = out / (f"{name}_{i}.pts" if i else f"{name}.pts")
                    if i:
                        claimed.add(path)
                    write_atomic(path, as_pts(face).encode())
            if overlays is not None:
                _write_png(overlays / f"{name}.png", overlay(load_image(photo), faces))
        except (ValueError, OSError) as error:
            bad += 1
            _complain(str(error) if str(photo) in str(error) else f"{photo}: {error}")
            continue
        rows += [as_row(face, photo, options.model) | {"face": i, "faces": face.faces} for i, face in enumerate(faces)]
        if (options.format is None or out is not None) and unsaid is None:
            try:
                drawn = f", wrote {overlays / name}.png" if overlays is not None else ""
                _tell(_line(photo, faces) + drawn, out is not None or overlays is not None)
            except Unsaid as error:                         # the other photos are done all the same
                unsaid = error
    if options.format not in (None, "pts"):
        text = as_text(rows, options.format)
        if out is None:
            _say(text, end="")
        else:
            write_atomic(out, text.encode())
    if unsaid is not None:
        raise unsaid
    return 1 if bad else 0


def _aligned(photos: list[Path], options: argparse.Namespace) -> Iterator[list[Alignment] | ValueError | OSError]:
    """The faces of each photo, or why there are none."""
    if not options.all:
        boxes = None if options.box is None else [options.box]
        for result in align_many(photos, boxes, BATCH, options.model, options.device):
            yield result if isinstance(result, Exception) else [result]
        return
    list(align_many([], None, BATCH, options.model, options.device))              # a bad model is told once, before all
    for photo in photos:
        try:
            faces = align_all(photo, model=options.model, device=options.device)
            yield faces or ValueError(f"no face was found in {photo}")
        except (ValueError, OSError) as error:
            yield error


class _Claims:
    """Files that are read or will be written: none is written over, and none twice."""

    def __init__(self, read: Sequence[Path]):
        self.taken = {key for path in read for key in self._keys(path)}

    @staticmethod
    def _keys(path: Path) -> list:
        """A file by its name, through links and whatever its capitals, and by its place on the disk, if it is there."""
        keys: list = [os.path.realpath(path).casefold()]
        if path.exists():
            keys.append((path.stat().st_dev, path.stat().st_ino))
        return keys

    def add(self, path: Path) -> None:
        """Claim a file for writing. Raises ValueError if it is taken."""
        keys = self._keys(path)
        if self.taken.intersection(keys):
            raise ValueError(f"{path} must be another file than those that are read or written beside it")
        self.taken.update(keys)


def stems(photos: Sequence[Path]) -> list[str]:
    """Names for what is written of each photo: its own without the ending; with it where two would be the same."""
    plain = [photo.stem.casefold() for photo in photos]
    return [photo.stem if plain.count(stem) == 1 else photo.name.replace(".", "_")
            for photo, stem in zip(photos, plain)]


def _run_video(options: argparse.Namespace) -> None:
    """Follow the face of a video or a camera; Ctrl-C ends a camera, and what was written is kept."""
    if options.out is not None and options.out.suffix.lower() != ".mp4":
        raise ValueError(f"--out must end in .mp4, got {options.out}")
    _check_outputs(options)
    video = Video(int(options.video) if options.video.isdecimal() else options.video)
    frames = faces = anew = 0
    with closing(video), ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=video.count, unit=" frames", disable=None))     # on stderr, a terminal's
        lines = options.json and stack.enter_context(open(stack.enter_context(_unfinished(options.json)), "w"))
        path, writer = options.out and stack.enter_context(_unfinished(options.out)), None
        try:
            for picture, seen in follow(video, options.model, options.device, smooth=not options.raw):
                frames, faces, anew = frames + 1, faces + (seen.face is not None), anew + seen.detected
                if lines:
                    lines.write(as_json_line(seen) + "\n")
                if path is not None:
                    if writer is None:
                        writer = stack.enter_context(_writer(path, video.fps, picture))
                    drawn = picture if seen.face is None else overlay(picture, seen.face)
                    writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR if drawn.ndim == 3 else cv2.COLOR_GRAY2BGR))
                bar.update()
        except KeyboardInterrupt:
            if not (video.camera and frames):
                raise
    wrote = "".join(f", wrote {path}" for path in (options.out, options.json) if path is not None)
    _tell(f"{options.video}: {frames} frames, a face in {faces}, found anew {anew} times{wrote}", bool(wrote))


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to: afterwards it is that of ``path``, and after an error it is gone."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(f"cannot write {path}: it is there and is no ordinary file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    temporary = target.with_name(f".{target.stem[:40]}.{os.getpid()}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _writer(path: Path, fps: float, picture: NDArray) -> Iterator[cv2.VideoWriter]:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, picture.shape[1::-1])
    if not writer.isOpened():
        raise OSError(f"cannot write a video of {picture.shape[1]} x {picture.shape[0]} to {path.parent}")
    try:
        yield writer
    finally:
        writer.release()


def _check_outputs(options: argparse.Namespace) -> None:
    """Nothing that is read is written over, and nothing is written twice."""
    taken = {"the image": options.image, "--model": options.model} if options.video is None else {
        "--video": options.video, "--model": options.model}
    for name, path in (("--out", options.out), ("--json", options.json)):
        if path is None:
            continue
        for other, there in taken.items():
            if same_file(path, there):
                raise ValueError(f"{name} must be another file than {other}, got {path}")
        taken[name] = path


def _say(text: str, end: str = "\n") -> None:
    """Print what the console can show; characters that it cannot as their numbers."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end=end, flush=True)


def _tell(text: str, wrote: bool) -> None:
    """Say what was done; Unsaid if stdout takes nothing, but files were written."""
    try:
        _say(text)
    except OSError as error:
        if not wrote:
            raise
        raise Unsaid(f"{text}; stdout takes nothing: {error}") from error


def as_row(found: Alignment, image: Path, model: str) -> dict:
    """The alignment as plain lists and numbers; pixels of the image, 0-based centres."""
    return {"image": str(image), "model": model} | as_dict(found)


def as_dict(found: Alignment) -> dict[str, Any]:
    """What is written of a face."""
    content = {"box": found.box.tolist(), "landmarks": found.landmarks.tolist(), "scores": found.scores.tolist(),
               "pose": pose_of(found)}
    if found.contours is not None:
        content |= {"anchors": dict(zip(markups.ANCHORS, found.anchors.tolist())),
                    "contours": {name: line.tolist() for name, line in found.contours.items()}}
    return content


def as_json_line(seen: Tracked) -> str:
    """A frame of a video as JSON; the face is null where there is none."""
    face = seen.face
    content = {"frame": seen.index, "seconds": round(seen.seconds, 6), "detected": seen.detected,
               "face": face and as_dict(face)}
    return json.dumps(content)


def pose_of(found: Alignment) -> dict[str, float] | None:
    """Yaw, pitch and roll in degrees; None where the landmarks tell none."""
    try:
        pose = found.pose()
    except ValueError:
        return None
    return {"yaw": pose.yaw, "pitch": pose.pitch, "roll": pose.roll}


def as_text(rows: Sequence[dict], form: str) -> str:
    """Rows as one JSON list, as JSON Lines, or as CSV (no contours; the score is the mean one)."""
    if form == "json":
        return json.dumps(list(rows)) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows)
    count = len(rows[0]["landmarks"]) if rows else 0
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "face", "left", "top", "right", "bottom", "score",
                    *(f"{axis}{i}" for i in range(count) for axis in "xy")])
    for row in rows:
        table.writerow([row["image"], row["face"], *np.round(row["box"], 3), round(float(np.mean(row["scores"])), 4),
                        *np.round(row["landmarks"], 3).ravel()])
    return text.getvalue()


def as_pts(found: Alignment) -> str:
    """Landmarks as 300-W writes them: pixels are counted from 1."""
    lines = "".join(f"{x:.4f} {y:.4f}\n" for x, y in found.landmarks + 1)
    return f"version: 1\nn_points: {len(found.landmarks)}\n{{\n{lines}}}\n"


def _write_png(path: Path, picture: NDArray) -> None:
    write_atomic(path, cv2.imencode(".png", picture[..., ::-1])[1].tobytes())


def overlay(picture: NDArray, faces: Alignment | Sequence[Alignment]) -> NDArray[np.uint8]:
    """A copy of the picture, (H, W, 3) RGB, with a dot on every landmark of the faces, and lines along contours."""
    picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB) if picture.ndim == 2 else picture.copy()
    for found in [faces] if isinstance(faces, Alignment) else faces:
        _draw(picture, found)
    return picture


def _draw(picture: NDArray, found: Alignment) -> None:
    radius = max(1.0, 0.011 * np.ptp(found.landmarks, axis=0).max())
    colours = [colour for (first, last), colour in PARTS for _ in range(first, last)]
    if found.contours is not None:
        radius = max(1.0, 0.007 * (found.box[2:] - found.box[:2]).max())
        colours = [WHITE] * len(found.landmarks)
        for rim in (True, False):
            for name, line in found.contours.items():
                colour = next(colour for word, colour in CONTOUR_COLOURS.items() if word in name)
                cv2.polylines(picture, [np.round(line * 16).astype(np.int32)], False, (0, 0, 0) if rim else colour,
                              max(1, round(radius * (1.8 if rim else 0.9))), cv2.LINE_AA, 4)
    for edge in (True, False):                                          # black rims below, all dots above
        for point, colour in zip(found.landmarks, colours):
            # OpenCV draws in 1/16 pixels when asked to shift by 4 bits
            centre = tuple(int(v) for v in np.round(point * 16))
            cv2.circle(picture, centre, int(16 * radius * (1.45 if edge else 1)), (0, 0, 0) if edge else colour, -1,
                       cv2.LINE_AA, 4)


def _alone_on_stderr() -> None:
    """What C libraries write to stderr by themselves, such as libpng of a damaged picture, is not seen."""
    sys.stderr.flush()
    kept = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    os.close(silence)
    sys.stderr = open(kept, "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors)


if __name__ == "__main__":
    with contextlib.suppress(OSError, ValueError, AttributeError):           # there may be none
        _alone_on_stderr()
    code = main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    if code:                                                # a stdout that is full or closed would complain at the end
        sys.stdout = None
    sys.exit(code)
