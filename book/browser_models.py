"""What the page "Your own photo" computes with, as scripts: networks as graphs, the library's numbers, a photo.

A page that is opened from the disk may not fetch a file, but it may run a script: so each is a script that puts its
contents, packed and written in base64, under a name of ``window.yourPhoto``. Nothing of it is committed. The graphs
are written anew when the weights or the code that they are made of change.
"""

import base64
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facealign_lite import acenet, detection, export, markups, tracking, widgets, zoo
from facealign_lite.data import MARGIN, write_atomic
from facealign_lite.nets import blazeface

from .executed import ROOT, digest

FOLDER = ROOT / "_build" / "static" / "photo"      # what the page loads, as _static/photo
NETWORKS = FOLDER / "networks.js"                  # those that the page begins with
CONTOURS = FOLDER / "contours.js"                  # ACE-Net, loaded when it is asked for
MARK = FOLDER / "networks.sha256"                  # what the graphs were made of
NAME = "window.yourPhoto"
SAMPLE = np.s_[30:300, 90:360]                     # the face of scikit-image's astronaut, and what is around it


# ---- graphs --------------------------------------------------------------------------------------------------------

class Maps(nn.Module):
    """A network whose graph ends at its maps, which the page shows and reads itself."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.config, self.inputs, self.read = network, network.config, network.inputs, network.read

    def forward(self, *inputs: Tensor) -> Any:
        """As the network's."""
        return self.network(*inputs)

    def graph(self, outputs: Any) -> dict[str, Tensor]:
        """The maps (B, K, h, w) of its last stage."""
        return {"maps": outputs[-1]}


def hourglass(path: Path) -> Path:
    """The shipped hourglass: image (B, 1, 128, 128) in [-0.5, 0.5] -> maps (B, 68, 32, 32), logits."""
    return export.export(Maps(zoo.load("hourglass", "cpu")), path)


def contours(path: Path) -> Path:
    """The shipped ACE-Net: the same image -> maps (B, 25, 64, 64), heat of 12 anchors and 13 contours."""
    return export.export(Maps(zoo.load("acenet", "cpu")), path)


def face_finder(path: Path) -> Path:
    """The shipped detector: image (1, 3, H, W) in [-1, 1], sides multiples of 16 -> scores, boxes, points."""
    height, width = (torch.export.Dim(side, min=8, max=160) for side in ("height", "width"))
    step, example = blazeface.MULTIPLE, torch.zeros(1, 3, 256, 288)
    with torch.no_grad():
        program = torch.export.export(blazeface.load("cpu"), (example,),
                                      dynamic_shapes=({2: step * height, 3: step * width},))
        written = torch.onnx.export(program, input_names=["image"], output_names=["scores", "boxes", "points"],
                                    opset_version=export.OPSET, dynamo=True, verbose=False)
    write_atomic(path, written.model_proto.SerializeToString())
    return path


GRAPHS = {"hourglass": hourglass, "finder": face_finder, "contours": contours}


# ---- scripts -------------------------------------------------------------------------------------------------------

def packed(data: bytes) -> str:
    """Bytes as the page unpacks them: base64 of gzip."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


def script(parts: Mapping[str, Any]) -> str:
    """A script that adds parts, by name, to what the page has."""
    return f"{NAME} = Object.assign({NAME} ?? {{}}, {json.dumps(dict(parts))});\n"


def settings() -> dict[str, Any]:
    """The numbers of the library that the page computes with."""
    table = markups.get("68")
    one = {name: getattr(detection, name) for name in (
        "FACE", "SURE", "WELL", "APART", "SEARCHED", "HALVED", "PROPOSED", "LEVEL", "OVERLAP")}
    two = {name: getattr(tracking, name) for name in ("LOW", "SETTLED", "INSIDE", "LOOKS", "RETRY")}
    smooth = tracking.OneEuro()
    ace = zoo.load("acenet", "cpu").config
    return {"margin": MARGIN, "size": ace.image_size, "flip": table.flip, "map_flip": acenet.MAP_FLIP,
            "anchors": acenet.ANCHORS, "contours": list(markups.CONTOURS), "read_sigma": ace.read_sigma,
            "contour_low": ace.low, "contour_high": ace.high, "join": ace.join,
            "eyes": table.normalizers["inter_ocular"], "groups": dict(table.groups), "multiple": blazeface.MULTIPLE,
            **{name.lower(): value for name, value in (one | two).items()},
            "smallest": tracking.SMALLEST, "euro": [smooth.min_cutoff, smooth.beta, smooth.speed_cutoff]}


def kit() -> str:
    """The kit of the book's figures, and what finds contours on maps, as a plain script."""
    names = ("clamp fixed make figure pane slider choice toggle table canvas handle HEAT SCORE colorAt legend place "
             "dots stroke heatPicture extract")
    module, end = widgets.script("contour", "extraction"), "export default { render };"
    if end not in module:
        raise ValueError(f"a figure's script must end in {end!r}")
    inner = f"{module.replace(end, '')}\nreturn {{ {', '.join(names.split())} }};"
    return f"{NAME} = Object.assign({NAME} ?? {{}}, {{ kit: (() => {{\n{inner}\n}})() }});\n"


def made_of() -> str:
    """Hash of all that the graphs depend on."""
    code = ("nets", "export.py", "heatmaps.py", "acenet.py", "assets/weights/hourglass.safetensors",
            "assets/weights/acenet.safetensors", "assets/blazeface.safetensors")
    return digest([*(ROOT / "facealign_lite" / name for name in code), ROOT / "requirements.txt", Path(__file__)])


def is_fresh() -> bool:
    """Whether the graphs are there, made of what is here now."""
    return all(file.exists() for file in (NETWORKS, CONTOURS, MARK)) and MARK.read_text() == made_of()


def write_networks() -> None:
    """The graphs and the sample photo, as scripts."""
    from skimage.data import astronaut

    MARK.unlink(missing_ok=True)
    before, parts = made_of(), {}
    for name, write in GRAPHS.items():
        file = write(FOLDER / f"{name}.onnx")
        parts[name] = packed(file.read_bytes())
        file.unlink()
    write_atomic(CONTOURS, script({"contours": parts.pop("contours")}).encode())
    parts["sample"] = base64.b64encode(widgets.picture(astronaut()[SAMPLE])).decode()
    write_atomic(NETWORKS, script({"networks": parts}).encode())
    MARK.write_text(before)


def write() -> str | None:
    """Fill ``FOLDER``; returns why the networks could not be written, or None."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "kit.js").write_text(kit() + script({"settings": settings()}), encoding="utf-8")
    (FOLDER / "kit.css").write_text((widgets.SCRIPTS / "kit.css").read_text(encoding="utf-8"), encoding="utf-8")
    if is_fresh():
        return None
    for file in (NETWORKS, CONTOURS):            # rather none, of which the page says so, than others
        file.unlink(missing_ok=True)
    # in a process of its own, for notebooks run meanwhile and the exporter's silence would be theirs
    done = subprocess.run([sys.executable, "-m", "book.browser_models"], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, check=False)
    return f"the networks were not exported:\n{done.stderr.strip()[-800:]}" if done.returncode else None


if __name__ == "__main__":
    write_networks()
