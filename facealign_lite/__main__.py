"""``python -m facealign_lite photo.jpg --out overlay.png``: find the face, draw its landmarks or its contours."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from facealign_lite import markups, zoo
from facealign_lite.align import Alignment, align
from facealign_lite.data import load_image, write_atomic
from facealign_lite.data.files import same_file

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
    try:
        _run(_arguments(arguments))
    except (ValueError, OSError) as error:
        print(f"facealign_lite: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="facealign_lite", description="Draw the landmarks of the face in a photo, or its contours.")
    parser.add_argument("image", type=Path, help="photo of one face, PNG, JPEG or what OpenCV reads")
    parser.add_argument("--out", type=Path, help="write the photo with its landmarks here, as PNG")
    parser.add_argument("--json", type=Path, help="write landmarks, scores and box here")
    parser.add_argument("--box", type=float, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
                        help="the face from brows to chin, in pixels; found by itself if not given")
    parser.add_argument("--model", default="hourglass", help=f"one of {', '.join(zoo.names())}, or a weights file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    return parser.parse_args(arguments)


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


def _check_outputs(options: argparse.Namespace) -> None:
    """Nothing that is read is written over, and nothing is written twice."""
    taken = {"the image": options.image, "--model": options.model}
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
    content = {"image": str(options.image), "model": options.model, "box": found.box.tolist(),
               "landmarks": found.landmarks.tolist(), "scores": found.scores.tolist(), "pose": pose_of(found)}
    if found.contours is not None:
        content |= {"anchors": dict(zip(markups.ANCHORS, found.anchors.tolist())),
                    "contours": {name: line.tolist() for name, line in found.contours.items()}}
    return json.dumps(content)


def pose_of(found: Alignment) -> dict[str, float] | None:
    """Yaw, pitch and roll in degrees; None where the landmarks tell none."""
    try:
        pose = found.pose()
    except ValueError:
        return None
    return {"yaw": pose.yaw, "pitch": pose.pitch, "roll": pose.roll}


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
