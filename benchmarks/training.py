"""How fast networks train, from packed faces to updated weights: ``python benchmarks/training.py [--device auto]``.

On a GPU the plain loop (every kernel launched by Python, fp32) beside the captured one in bf16, at several batch sizes,
and several runs side by side; on a CPU ``fit`` as the recipes use it. An item is a crop; of SCPAN, a pair of two.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facealign_lite import acenet, msm, nets, rht, scpan, tab
from facealign_lite.data import Augmentation, BatchedCrops, Crops, Further, Halves, PackedFaces, save_packed
from facealign_lite.records import commit, describe_device, write_record
from facealign_lite.synthetic import SyntheticFaces
from facealign_lite.training import TrainConfig, steps
from facealign_lite.zoo import pick_device

ROOT = Path(__file__).resolve().parents[1]
FACES, FACE_SIZE, SEED = 1500, 160, 1
Recipe = tuple[nn.Module, Any, Callable[..., Any]]                      # model, data, loss


def faces(count: int) -> PackedFaces:
    """Rendered faces, packed on the first call."""
    path = ROOT / "_build" / "faces" / f"benchmark{SEED}_{FACE_SIZE}_{count}"
    try:
        return PackedFaces(path)
    except OSError:
        return save_packed(path, SyntheticFaces(count, FACE_SIZE, SEED), workers=torch.get_num_threads())


# ---- what trains ---------------------------------------------------------------------------------------------------

def hourglass(samples: PackedFaces, cut: Callable, size: nets.HourglassConfig = nets.LITE) -> Recipe:
    crops = cut(samples, size.image_size, Augmentation(), colour=size.in_channels == 3)
    return nets.StackedHourglass(size), crops, nets.landmark_loss


def ace(samples: PackedFaces, cut: Callable) -> Recipe:
    size = acenet.LITE.image_size
    first, second = (cut(samples, size, Augmentation(), seed) for seed in (0, 1))
    both = Halves(first, second, "synthetic") if cut is BatchedCrops else acenet.TwoDomains(first, second)
    return acenet.AceNet(acenet.LITE), both, acenet.ace_loss()


def boundaries(samples: PackedFaces, cut: Callable) -> Recipe:
    return tab.SCBE(tab.LITE), cut(samples, tab.LITE.image_size, Augmentation()), tab.boundary_loss()


def landmarks(samples: PackedFaces, cut: Callable) -> Recipe:
    return tab.TAB(tab.LITE).freeze(), cut(samples, tab.LITE.image_size, Augmentation()), tab.transform_loss()


def twins(samples: PackedFaces, cut: Callable, image_size: int = 128) -> Recipe:
    config = replace(scpan.LITE.scaled(image_size), stages=2)
    crops, change = cut(samples, image_size, Augmentation()), scpan.Twins()
    pairs = Further(crops, change.count, change) if cut is BatchedCrops else scpan.Pairs(crops)
    return scpan.Scpan(config), pairs, scpan.scpan_loss(config, labelled_count=1 << 20)     # all have labels


def borrowers(samples: PackedFaces, cut: Callable) -> Recipe:
    size = rht.LITE.image_size
    lent = rht.References.of([samples[i] for i in range(0, len(samples), 10)], rht.LITE.heatmap_size)
    pairs = (Further(cut(samples, size, Augmentation()), 1, rht.Lender(lent)) if cut is BatchedCrops else
             rht.Pairs(samples, lent, size=size, augment=Augmentation()))
    return rht.Rht(rht.LITE), pairs, rht.rht_loss(rht.LITE)


def straightener(samples: PackedFaces, cut: Callable) -> Recipe:
    gan, mean = msm.StGan(), msm.mean_face(np.asarray(samples.landmarks))
    rough = cut(samples, msm.stgan.EDGE, replace(Augmentation(), shift=0.1))
    return gan, rough, msm.stgan_loss(gan, torch.from_numpy(mean).float())


def straight(samples: PackedFaces, cut: Callable) -> Recipe:
    crops = cut(samples, msm.HEAT_LITE.image_size, Augmentation())
    kind = msm.StraightBatches if cut is BatchedCrops else msm.StraightCrops
    return msm.HeatNet(), kind(crops, msm.mean_face(np.asarray(samples.landmarks))), nets.landmark_loss


# name -> recipe, batch size of the recipe that ships
LITE: Mapping[str, tuple[Callable[[PackedFaces, Callable], Recipe], int]] = {
    "hourglass": (hourglass, 32), "acenet": (ace, 16), "tab boundaries": (boundaries, 16),
    "tab landmarks": (landmarks, 16), "scpan": (twins, 8), "rht": (borrowers, 16), "msm generator": (straightener, 16),
    "msm hourglass": (straight, 16)}
LARGE = (128, 512)                   # batches that fill a card better


def paper_hourglass(samples: PackedFaces, cut: Callable) -> Recipe:
    return hourglass(samples, cut, replace(nets.PAPER, stacks=2))


# ---- measuring -----------------------------------------------------------------------------------------------------

def seconds_a_step(recipes: Sequence[Recipe], batch_size: int, device: torch.device, count: int, warm: int = 8,
                   **settings: Any) -> float:
    """Mean time of a step of every run, all in turn."""
    config = TrainConfig(warm + 2 * count, batch_size, lr=1e-4, log_every=10_000, ema=0.999, device=str(device),
                         **settings)
    going = [steps(model, data, loss, config, progress=False) for model, data, loss in recipes]

    def on(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            for run in going:
                next(run)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / times
    on(warm)
    taken = min(on(count) for _ in range(2))
    for run in going:
        run.close()
    return taken


def bare(model: nn.Module, images: Tensor, count: int = 20) -> float:
    """Seconds of forward and backward of a model alone in bf16, replayed as a graph: no training step is faster."""
    model = model.to(images.device, memory_format=torch.channels_last).train()
    images = images.contiguous(memory_format=torch.channels_last)

    def work() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            sum(maps.float().square().mean() for maps in model(images)).backward()
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            work()
    torch.cuda.synchronize()
    model.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph, stream=stream):
        work()
    graph.replay()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        graph.replay()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def on_cpu(samples: PackedFaces, count: int) -> dict[str, dict[str, float]]:
    """Milliseconds a step of every recipe, crops included, as ``tools/train_zoo.py`` trains them."""
    figures = {}
    for name, (make, batch) in LITE.items():
        torch.manual_seed(SEED)
        spent = seconds_a_step([make(samples, Crops)], batch, torch.device("cpu"), count, warm=2, amp="off")
        figures[name] = {"batch": batch, "ms_a_step": round(1e3 * spent, 1), "items_a_second": round(batch / spent, 1)}
        print(name, figures[name], flush=True)
    return figures


def on_gpu(samples: PackedFaces, device: torch.device, count: int) -> dict[str, dict[str, float]]:
    """Milliseconds a step, eager in fp32 and captured in bf16, and items a second at each batch size."""
    figures: dict[str, dict[str, float]] = {}

    def rate(make: Callable, batch: int, runs: int = 1, **settings: Any) -> tuple[float, float]:
        torch.manual_seed(SEED)
        items = batch // 2 if make is ace else batch                            # an item of Halves is two crops
        spent = seconds_a_step([make(samples, BatchedCrops) for _ in range(runs)], items, device, count, **settings)
        torch.cuda.empty_cache()
        return round(1e3 * spent, 3), round(runs * batch / spent, 1)

    for name, (make, batch) in LITE.items():
        row: dict[str, float] = {"batch": batch}
        row["eager_ms"], row["eager_a_second"] = rate(make, batch, capture=False, amp="off")
        row["captured_ms"], row["captured_a_second"] = rate(make, batch)
        for large in LARGE if make in (hourglass, twins, borrowers) else LARGE[:1]:
            row[f"captured_{large}_ms"], row[f"captured_{large}_a_second"] = rate(make, large // (2 if make is twins
                                                                                                  else 1))
        figures[name] = row
        print(name, row, flush=True)
    for runs in (2, 4, 8):
        figures[f"hourglass, {runs} runs in turn"] = dict(zip(("captured_ms", "captured_a_second"),
                                                              rate(hourglass, 32, runs)), batch=32)
        print(runs, "runs", figures[f"hourglass, {runs} runs in turn"], flush=True)
    model, data, _ = paper_hourglass(samples, BatchedCrops)
    row = {"batch": 32}
    row["captured_ms"], row["captured_a_second"] = rate(paper_hourglass, 32)
    row["bare_ms"] = round(1e3 * bare(model, torch.rand(32, 3, 256, 256, device=device) - 0.5), 3)
    figures["hourglass of the paper's size"] = row
    print("paper size", row, flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=0, help="measured twice; 30 on a GPU, 4 on a CPU")
    parser.add_argument("--faces", type=int, default=FACES)
    options = parser.parse_args()
    device, samples, start = pick_device(options.device), faces(options.faces), time.perf_counter()
    gpu = device.type == "cuda"
    count = options.steps or (30 if gpu else 4)
    figures = on_gpu(samples, device, count) if gpu else on_cpu(samples, count)
    write_record(f"training_speed_{device.type}", {
        "what": "training speed from packed faces to updated weights, the smaller mean of two stretches of steps",
        "data": f"SyntheticFaces({options.faces}, size={FACE_SIZE}, seed={SEED})", "seeds": [SEED],
        "budget": {"steps": count}, "commit": commit(), "device": describe_device(str(device)),
        "seconds": round(time.perf_counter() - start, 1), "figures": figures})


if __name__ == "__main__":
    main()
