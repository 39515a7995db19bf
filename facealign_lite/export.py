"""A network as one file that other programs run: an ONNX graph from a crop to its landmarks.

Shapes: B crops, the one dimension left open; K landmarks. The inputs are those that ``forward`` takes, under the names
of ``network.inputs``:

- ``image`` (B, C, S, S) float32, values in [-0.5, 0.5] (a pixel of 8 bits over 255, less 0.5), grey for C = 1, else
  RGB. Of a face in the box (left, top, right, bottom) the crop shows the square of 1.3 times its longer side, about its
  middle: ``data.crop_matrix(box, S)`` is the map from picture to crop.
- of a network that borrows, ``reference`` (B, C, S/2, S/2), the same of another face, and ``reference_landmarks``
  (B, K, 2) in its pixels: ``network.lend(images)`` gives both.

The outputs are as ``network.read`` has them, of each crop by itself: ``points`` (B, K, 2), (x, y) in pixels of the
crop, 0 the middle of its first pixel; ``scores`` (B, K) in [0, 1]. A network of which more, or less, can be said in one
graph has ``graph``, which names its outputs. Numbers that are not finite are not refused, as no graph can: NaN gives
NaN. The file keeps in its metadata the network's configuration and what is said here.
"""

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facealign_lite.data import MARGIN, write_atomic
from facealign_lite.looks import check_readable, in_eval_mode

FORMATS = {"onnx": ".onnx"}
OPSET = 20                 # the first with an AffineGrid and a bilinear GridSample of our borders


class Graph(nn.Module):
    """A network and its reading as one function of tensors: the further outputs of ``network.graph``, if it has it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """What ``forward`` of the network takes -> outputs by name."""
        outputs = self.network(*inputs)
        if hasattr(self.network, "graph"):
            return self.network.graph(outputs)
        reading = self.network.read(outputs)
        return {"points": reading.points, "scores": reading.scores}


def export(network: nn.Module, path: str | os.PathLike, format: str = "onnx") -> Path:
    """Write a network and the reading of its outputs as a graph, whole or not at all.

    Args:
        network: as described in ``nets.reading``, on any device; afterwards it is as it was.
        path: ends in ``.onnx``.
        format: "onnx", the only one so far.

    Raises:
        ValueError: for another format or ending, or a network that does not say how it is read.
        ImportError: if the packages are missing that write ONNX: ``pip install "facealign-lite[onnx]"``.
        OSError: if the disk refuses; an old file is then left as it was.
    """
    path = Path(path)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {sorted(FORMATS)}, got {format!r}")
    if path.suffix != FORMATS[format]:
        raise ValueError(f"path must end in {FORMATS[format]} for format {format!r}, got {path}")
    check_readable(network)
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'ONNX is written by onnx and onnxscript: pip install "facealign-lite[onnx]" ({error})',
                          name=error.name) from error
    with in_eval_mode(network), torch.no_grad():
        write_atomic(path, _onnx(network))
    return path


def example(network: nn.Module, count: int = 2) -> tuple[Tensor, ...]:
    """What the network is called with, for ``count`` crops of noise, on its device."""
    config, device = network.config, next(iter(network.parameters())).device
    rng, landmarks, size = np.random.default_rng(0), getattr(config, "landmarks", 1), config.image_size

    def image(side: int) -> Tensor:
        return torch.from_numpy(rng.random((count, config.in_channels, side, side), np.float32)) - 0.5
    made = {"image": image(size), "reference": image(size // 2),
            "reference_landmarks": torch.from_numpy(rng.random((count, landmarks, 2), np.float32)) * (size // 2 - 1)}
    if unknown := [name for name in network.inputs if name not in made]:
        raise ValueError(f"network must take some of {', '.join(made)}, got one that takes {', '.join(unknown)}")
    return tuple(made[name].to(device) for name in network.inputs)


def _onnx(network: nn.Module) -> bytes:
    names, inputs = list(network.inputs), example(network)
    batch = torch.export.Dim("batch", min=1)
    with _quiet():
        program = torch.export.export(Graph(network), inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs),))
        outputs = list(Graph(network)(*inputs))
        written = torch.onnx.export(program, input_names=names, output_names=outputs, opset_version=OPSET,
                                    dynamo=True, verbose=False)
    model = written.model_proto
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"             # the exporter's own name for it is a number
    del model.graph.value_info[:]
    model.doc_string = __doc__
    facts: dict[str, Any] = {
        "architecture": type(network).__name__, "config": json.dumps(asdict(network.config)),
        "input_range": "[-0.5, 0.5]", "margin": str(MARGIN),
        "points": "(x, y) in pixels of the crop, 0-based pixel centres"}
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about its own workings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
