"""One face through each network at the size of its paper: ``python benchmarks/latency.py [--device auto]``.

On a GPU eagerly in fp32, and captured as a graph (``nets.captured``) in fp32, with TF32 and in bf16; medians of many
runs, and what each paper reports for its own card. On a CPU eagerly only.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from facealign_lite import acenet, msm, nets, rht, scpan, tab
from facealign_lite.records import commit, describe_device, write_record
from facealign_lite.zoo import pick_device

SEED = 0
# network at the paper's size, and the milliseconds that the paper reports, on the card it names
NETWORKS: dict[str, tuple[Callable[[], nn.Module], float | None, str]] = {
    "hourglass": (lambda: nets.StackedHourglass(replace(nets.PAPER, stacks=2)), None, ""),
    "acenet": (lambda: acenet.AceNet(acenet.PAPER), 17, "GTX 1080"),
    "tab": (lambda: tab.TAB(tab.PAPER), 27, "TITAN X"),
    "scpan": (lambda: scpan.Scpan(scpan.PAPER), 25, "V100"),
    "rht": (lambda: rht.Rht(rht.PAPER), None, ""),
    "rht_h": (lambda: rht.Rht(rht.PAPER_H), None, ""),
    "msm_generator": (lambda: msm.Generator(msm.stgan.PAPER), None, ""),
    "msm_hourglass": (lambda: msm.HeatNet(msm.HEAT_PAPER), 50, "for the three stages"),
}


def example(network: nn.Module, device: torch.device) -> list[torch.Tensor]:
    """What ``network`` is called with, for one face."""
    config = network.config
    size = getattr(config, "image_size", msm.stgan.EDGE)
    image = torch.rand(1, config.in_channels, size, size, device=device) - 0.5
    if len(getattr(network, "inputs", ("image",))) == 1:
        return [image]
    side = config.heatmap_size
    return [image, torch.rand(1, config.in_channels, side, side, device=device) - 0.5,
            torch.rand(1, config.landmarks, 2, device=device) * (side - 1)]


def milliseconds(run: Callable[..., Any], inputs: list[torch.Tensor], device: torch.device, runs: int) -> float:
    """Median time of one call, its end included."""
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    for _ in range(3):
        run(*inputs)
    taken = []
    for _ in range(runs):
        wait()
        start = time.perf_counter()
        run(*inputs)
        wait()
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args()
    device, start, figures = pick_device(options.device), time.perf_counter(), {}
    for name, (make, paper, card) in NETWORKS.items():
        torch.manual_seed(SEED)
        network = make().eval().to(device, memory_format=torch.channels_last)
        inputs, row = example(network, device), {"parameters": nets.parameter_count(network)}
        with torch.inference_mode():
            row["eager"] = milliseconds(network, inputs, device, max(5, options.runs // 5))
        if device.type == "cuda":
            for way, tf32, dtype in (("captured", False, None), ("captured_tf32", True, None),
                                     ("captured_bf16", False, torch.bfloat16)):
                torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
                try:
                    run = nets.captured(network, *inputs, dtype=dtype)
                    row[way] = milliseconds(run, inputs, device, options.runs)
                except RuntimeError as error:
                    print(f"{name}: {way}: {str(error).splitlines()[0]}")
                    break
        figures[name] = {key: round(value, 3) for key, value in row.items()} | (
            {"paper": paper, "paper_card": card} if paper else {})
        print(name, figures[name], flush=True)
    write_record("latency", {
        "what": "milliseconds of one face through each network at its paper's size, medians", "data": "noise",
        "seeds": [SEED], "budget": {"runs": options.runs}, "commit": commit(), "device": describe_device(str(device)),
        "seconds": round(time.perf_counter() - start, 1), "figures": figures})


if __name__ == "__main__":
    main()
