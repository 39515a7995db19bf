"""Trained lite networks by name, and the one file format they are kept in.

A weights file is safetensors: nothing in it is ever executed. Its metadata names the architecture and holds the
configuration and a training record as JSON, so that a file alone is enough to build its network. What the
configuration asks for is compared with the tensors that are there before any memory is taken for it. ``SHA256SUMS``
beside the shipped files, as ``sha256sum`` writes it, is compared with them when one is loaded by name.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from facealign_lite import export as graphs
from facealign_lite.acenet import AceConfig, AceNet
from facealign_lite.data import write_atomic
from facealign_lite.data.tensors import read_tensors
from facealign_lite.msm import Msm, MsmConfig
from facealign_lite.nets import HourglassConfig, StackedHourglass, pick_device
from facealign_lite.rht import Rht, RhtConfig
from facealign_lite.scpan import Scpan, ScpanConfig
from facealign_lite.tab import TAB, TabConfig

FORMAT = "facealign-lite 1"
FOLDER = Path(__file__).parent / "assets" / "weights"
MODELS = {"hourglass": "one hourglass, 68 landmarks, trained on rendered faces only",
          "acenet": "12 anchors and 13 contours, trained on the exact contours of rendered faces, by no weak loss",
          "acenet_weak": "the same, trained as the paper does it: by the weak loss on 68 landmarks of rendered faces "
                         "like photos, and on the exact contours of smooth rendered faces",
          "rht": "68 landmarks, borrowing from a rendered face or one that you give, trained on rendered faces only",
          "tab": "15 boundaries and 68 landmarks, trained on rendered faces only",
          "scpan": "68 landmarks, learnt beside fields that point to them, trained on rendered faces only",
          "msm": "68 landmarks of turned, loosely boxed or half hidden faces, trained on rendered faces only; its "
                 "generator without a discriminator, so that it is no ST-GAN"}
ARCHITECTURES = {"StackedHourglass": (HourglassConfig, StackedHourglass), "AceNet": (AceConfig, AceNet),
                 "Rht": (RhtConfig, Rht), "Msm": (MsmConfig, Msm),
                 "Scpan": (ScpanConfig, Scpan), "TAB": (TabConfig, TAB)}
SUMS = "SHA256SUMS"
LARGEST_HALF = 65504.0
LARGEST_NUMBER, LARGEST_CROP = 1 << 16, 1 << 12      # in a configuration that is read from a file


def names() -> list[str]:
    """Names that ``load`` knows."""
    return sorted(MODELS)


def load(name: str | os.PathLike, device: str | torch.device = "auto") -> nn.Module:
    """A trained network in eval mode.

    Args:
        name: one of ``names()``, or the path of a ``.safetensors`` file written by ``save``.
        device: "auto" for the fastest there is, or what ``torch.device`` takes.

    Raises:
        ValueError: for an unknown name, a shipped file that is not what was shipped, or a file that is not a network of
            this library.
        OSError: if the weights file is missing or unreadable.
    """
    device = pick_device(device)
    if isinstance(name, os.PathLike) or str(name).endswith(".safetensors"):
        return read(name)[0].to(device)
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(f"model must be one of {names()} or the path of a .safetensors file, got {name!r}")
    return read(_shipped(name))[0].to(device)


def record(name: str) -> dict[str, Any]:
    """What was written about the training of model ``name``: data, steps, seed, figures."""
    if name not in MODELS:
        raise ValueError(f"model must be one of {names()}, got {name!r}")
    return read(_shipped(name))[1]


def save(model: nn.Module, path: str | os.PathLike, record: Mapping[str, Any] | None = None,
         half: bool = True) -> Path:
    """Write ``model`` whole or not at all.

    Args:
        model: an instance of one of ``ARCHITECTURES``, on any device.
        path: ends in ``.safetensors``.
        record: JSON-able facts about the training.
        half: keep matrices and kernels as float16, half the size. Vectors stay float32: among them are batch-norm
            variances, which float16 cannot always hold.

    Raises:
        ValueError: for another class of model, NaN or infinite weights, another ending, or a record that is not JSON.
        OSError: if the disk refuses; an old file is then left as it was.
    """
    if not isinstance(half, (bool, np.bool_)):
        raise ValueError(f"half must be True or False, got {half!r}")
    if record is not None and not isinstance(record, Mapping):
        raise ValueError(f"record must be JSON by name, got {type(record).__name__}")
    path, kind = Path(path), type(model).__name__
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {path}")
    if kind not in ARCHITECTURES:
        raise ValueError(f"model must be one of {sorted(ARCHITECTURES)}, got {kind}")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _check_finite(tensors, path)
    if half:
        tensors = {name: tensor.half() if _fits_half(tensor) else tensor for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "architecture": kind, "config": json.dumps(asdict(model.config)),
                "record": _written(record or {})}
    write_atomic(path, to_bytes(tensors, metadata))
    return path


def export(name: str | os.PathLike | nn.Module, path: str | os.PathLike, format: str = "onnx") -> Path:
    """Write a network as a graph that other programs run, crops in, landmarks and scores out; see ``export``.

    Args:
        name: one of ``names()``, the path of a weights file, or a network.
        path: ends in ``.onnx``.
        format: "onnx", the only one so far.

    Raises:
        ValueError: as ``load``, or for another format or ending.
        ImportError: if the packages are missing that write ONNX: ``pip install "facealign-lite[onnx]"``.
        OSError: if the disk refuses; an old file is then left as it was.
    """
    return graphs.export(name if isinstance(name, nn.Module) else load(name, "cpu"), path, format)


def read(path: str | os.PathLike) -> tuple[nn.Module, dict[str, Any]]:
    """The network in eval mode on the CPU, and the record of its training.

    Raises:
        OSError: if the file is missing or unreadable.
        ValueError: if it is no safetensors file, was not written by ``save``, or its weights do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights at {path}; tools/train_zoo.py trains and writes them")
    tensors, metadata = read_tensors(path)
    with torch.device("meta"):                       # shapes without numbers: no memory is taken
        wanted = _build(metadata, path, len(tensors))
    config, wanted = wanted.config, wanted.state_dict()
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    wrong = sorted(name for name in wanted.keys() | tensors.keys()
                   if name not in wanted or name not in tensors or wanted[name].shape != tensors[name].shape
                   or wanted[name].is_floating_point() != tensors[name].is_floating_point())
    if wrong:
        raise ValueError(f"{path} must hold the weights of {config}; {len(wrong)} are missing, foreign or of "
                         f"another shape, first {wrong[0]!r}")
    _check_finite(tensors, path)
    model = _build(metadata, path, len(tensors))
    model.load_state_dict(tensors)
    return model.eval(), _json(metadata.get("record", "{}"), "record", path)


def _shipped(name: str) -> Path:
    """The weights file of that name, if it is still what was shipped."""
    path, sums = FOLDER / f"{name}.safetensors", FOLDER / SUMS
    if path.is_file() and sums.is_file():
        wanted = dict(line.split()[::-1] for line in sums.read_text().splitlines()).get(path.name)
        if hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
            raise ValueError(f"{path} must be the file whose SHA-256 is in {SUMS} beside it, and is damaged or another:"
                             " install the library anew, or call zoo.write_sums() if you have trained it")
    return path


def write_sums() -> None:
    """Note the SHA-256 of all weights in ``FOLDER``: for whoever has trained them anew."""
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
             for path in sorted(FOLDER.glob("*.safetensors"))]
    write_atomic(FOLDER / SUMS, "".join(lines).encode())


def _written(record: Mapping[str, Any]) -> str:
    def number(value: Any) -> Any:
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError(f"it holds a {type(value).__name__}")
    try:
        return json.dumps(dict(record), default=number, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"record must be JSON: plain numbers without NaN, text, lists and names ({error})") from None


def _json(text: str, name: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must hold its {name} as JSON in its metadata, got {text!r:.80} ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold its {name} by name in its metadata, got {text!r:.80}")
    return found


def _build(metadata: Mapping[str, str], path: Path, parameters: int) -> nn.Module:
    """An untrained network of the configuration that the file names, as long as it has at most so many parameters."""
    if metadata.get("format") != FORMAT or metadata.get("architecture") not in ARCHITECTURES:
        raise ValueError(f"{path} must say format {FORMAT!r} and one of {sorted(ARCHITECTURES)} in its metadata, "
                         f"got {metadata.get('format')!r} and {metadata.get('architecture')!r}")
    config, architecture = ARCHITECTURES[metadata["architecture"]]
    fields = _json(metadata.get("config", ""), "config", path)
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    counted, here = 0, threading.get_ident()

    def count(*_: Any) -> None:
        nonlocal counted
        counted += threading.get_ident() == here
        if counted > parameters:
            raise ValueError(f"its network has more than the {parameters} tensors of the file")

    guard = register_module_parameter_registration_hook(count)      # a hundred thousand layers take minutes to build
    try:
        for name, value in fields.items():
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, (int, float)) and not abs(number) <= LARGEST_NUMBER:
                    raise ValueError(f"{name} must be at most {LARGEST_NUMBER}")
        if isinstance(size := fields.get("image_size"), int) and size > LARGEST_CROP:
            raise ValueError(f"image_size must be at most {LARGEST_CROP}")
        return architecture(config(**fields))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError, ArithmeticError, MemoryError,
            RecursionError) as error:
        raise ValueError(f"{path} must hold a {config.__name__} in its metadata, "
                         f"got {metadata['config']!r:.400} ({error})") from None
    finally:
        guard.remove()


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ValueError(f"weights for {path} must be finite, got NaN or infinity in {len(bad)}, first {bad[0]!r}")


def _fits_half(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.ndim > 1 and tensor.abs().max().item() <= LARGEST_HALF
