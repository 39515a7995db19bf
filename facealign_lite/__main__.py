"""``python -m facealign_lite photo.jpg --out overlay.png``: find the face, draw its landmarks or its contours.

``python -m facealign_lite --video clip.mp4 --out annotated.mp4`` follows the face of a video, or of a camera.
"""

import argparse
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
from facealign_lite.align import Alignment, align
from facealign_lite.data import load_image, write_atomic
from facealign_lite.data.files import same_file
from facealign_lite.tracking import Tracked, Video, follow

PARTS = (((0, 17), (86, 180, 233)), ((17, 27), (230, 159, 0)), ((27, 36), (0, 158, 115)), ((36, 48), (240, 228, 66)),
         ((48, 68), (204, 121, 167)))       # Okabe and Ito's colours, as in plots.py, which needs matplotlib
CONTOUR_COLOURS = {"chin": PARTS[0][1], "brow": PARTS[1][1], "nose": PARTS[2][1], "eye": PARTS[3][1],
                   "mouth": PARTS[4][1]}
WHITE = (255, 255, 255)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 if all went well, 2 with one line on stderr if not."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)     # OpenCV would add lines
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")                   # and so would FFmpeg inside it
    try:
        options = _arguments(arguments)
        (_run if options.video is None else _run_video)(options)
    except (ValueError, OSError) as error:
        print(f"facealign_lite: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="facealign_lite", description="Draw the landmarks of the face in a photo, or its contours.")
    parser.add_argument("image", type=Path, nargs="?", help="photo of one face, PNG, JPEG or what OpenCV reads")
    parser.add_argument("--video", metavar="FILE_OR_NUMBER",
                        help="instead of a photo a video, or a camera by its number until Ctrl-C: its face is followed")
    parser.add_argument("--raw", action="store_true", help="do not smooth the landmarks of a video")
    parser.add_argument("--out", type=Path, help="write the photo with its landmarks here, as PNG; a video as MP4")
    parser.add_argument("--json", type=Path, help="write landmarks, scores and box here; of a video a line a frame")
    parser.add_argument("--box", type=float, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
                        help="the face from brows to chin, in pixels; found by itself if not given")
    parser.add_argument("--model", default="hourglass", help=f"one of {', '.join(zoo.names())}, or a weights file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    options = parser.parse_args(arguments)
    if (options.image is None) == (options.video is None):
        raise ValueError("a photo or --video must be given" + ", not both" * (options.image is not None))
    if options.video is not None and options.box is not None:
        raise ValueError("--box must not be given with --video: its face is found")
    if options.video is None and options.raw:
        raise ValueError("--raw must be given with --video alone")
    return options


def _run(options: argparse.Namespace) -> None:
    if options.out is not None and options.out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, got {options.out}")
    _check_outputs(options)
    picture = load_image(options.image)
    found = align(picture, options.box, options.model, options.device)
    if options.out is not None:
        write_atomic(options.out, cv2.imencode(".png", overlay(picture, found)[..., ::-1])[1].tobytes())
    if options.json is not None:
        write_atomic(options.json, (as_json(found, options) + "\n").encode())
    _say(f"{options.image}: box {np.round(found.box, 1).tolist()}, mean score {found.scores.mean():.2f}"
         + "".join(f", wrote {path}" for path in (options.out, options.json) if path is not None))


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
    _say(f"{options.video}: {frames} frames, a face in {faces}, found anew {anew} times"
         + "".join(f", wrote {path}" for path in (options.out, options.json) if path is not None))


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


def _say(text: str) -> None:
    """Print what the console can show; characters that it cannot as their numbers."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def as_json(found: Alignment, options: argparse.Namespace) -> str:
    """The alignment as JSON; pixels of the image, 0-based centres."""
    return json.dumps({"image": str(options.image), "model": options.model} | as_dict(found))


def as_dict(found: Alignment) -> dict[str, Any]:
    """What is written of a face."""
    content = {"box": found.box.tolist(), "landmarks": found.landmarks.tolist(), "scores": found.scores.tolist()}
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


def overlay(picture: NDArray, found: Alignment) -> NDArray[np.uint8]:
    """A copy of the picture, (H, W, 3) RGB, with a dot on every landmark, and lines along contours."""
    picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB) if picture.ndim == 2 else picture.copy()
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
    return picture


if __name__ == "__main__":
    sys.exit(main())
