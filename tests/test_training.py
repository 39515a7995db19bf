"""The loop: same numbers whatever happens to the process, and no half-written file."""

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toy_run import CONFIG, SHARED, Toy, toy_loss, toy_model, train
from tqdm.auto import tqdm

from facealign_lite.heatmaps import decode, to_image
from facealign_lite.nets import HourglassConfig, StackedHourglass, landmark_loss
from facealign_lite.training import (
    BEFORE,
    CHECKPOINT,
    TrainConfig,
    fit,
    learning_rate,
    of_budget,
    read_checkpoint,
    reestimate_normalization,
    steps,
)

HERE = Path(__file__).parent

def same(a, b):
    """Bit-equal parameters and buffers."""
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def toy_process(*words, launcher=()):
    """Run toy_run.py in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
                                "OMP_NUM_THREADS": str(torch.get_num_threads())}
    if sys.platform == "linux":
        environment["GLOO_SOCKET_IFNAME"] = "lo"         # machines whose own name does not resolve
    return subprocess.Popen([sys.executable, *launcher, str(HERE / "toy_run.py"), *map(str, words)], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stopped(config, step, **kind):
    """A run that is interrupted as ``step`` begins; not in the first epoch, whose items name the data."""
    epoch, place = divmod(step * config.batch_size, 13)
    first = epoch, int(np.random.default_rng((config.seed, epoch)).permutation(13)[place])
    assert epoch > 0

    class Stops(Toy):
        def at(self, epoch, index):
            if (epoch, index) == first:
                raise KeyboardInterrupt
            return super().at(epoch, index)
    Stops.__name__ = "Toy"
    with pytest.raises(KeyboardInterrupt):
        train(config, data=Stops(), **kind)


# Learning

def test_it_learns_and_says_so():
    model, history = train(replace(CONFIG, steps=150))
    assert [row["step"] for row in history] == [*range(7, 150, 7), 150]
    assert history[-1]["loss"] < 0.25 * history[0]["loss"]
    assert not model.training
    batch = [Toy().at(99, i) for i in range(13)]
    error = model(torch.stack([b["image"] for b in batch]))[:, 0] - torch.stack([b["slope"] for b in batch])
    assert error.abs().mean() < 0.2


@pytest.mark.parametrize("optimizer, reference", [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_the_loop_is_the_one_in_the_textbook(optimizer, reference):
    """The same steps written out by hand."""
    config = replace(CONFIG, steps=9, ema=0, optimizer=optimizer, weight_decay=0.1, clip=0.5)
    model, history = train(config, toy_model(norm=False, drop=0))
    other = toy_model(norm=False, drop=0).train()
    descent = reference(other.parameters(), lr=config.lr, weight_decay=0.1)
    losses = []
    for step in range(9):
        keys = []
        for position in range(4 * step, 4 * step + 4):
            epoch, place = divmod(position, 13)
            keys.append((epoch, int(np.random.default_rng((0, epoch)).permutation(13)[place])))
        items = [Toy().at(*key) for key in keys]
        for group in descent.param_groups:
            group["lr"] = learning_rate(config, step)
        batch = {name: torch.stack([item[name] for item in items]) for name in ("image", "slope")}
        loss = toy_loss(other(batch["image"]), batch)
        descent.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum(p.grad.square().sum() for p in other.parameters()))
        for p in other.parameters():
            p.grad *= min(1, 0.5 / norm)
        descent.step()
        losses.append(loss.item())
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)
    assert history[0]["loss"] == pytest.approx(np.mean(losses[:7]), rel=1e-3)


def test_every_face_is_seen_once_an_epoch():
    seen = []

    class Watched(Toy):
        def at(self, epoch, index):
            seen.append((epoch, index))
            return super().at(epoch, index)
    train(replace(CONFIG, steps=13), data=Watched())
    assert sorted(seen) == [(e, i) for e in range(4) for i in range(13)]
    assert [i for e, i in seen if e == 0] != [i for e, i in seen if e == 1] != list(range(13))


def test_data_may_say_in_which_order_it_comes():
    seen = []

    class Ordered(Toy):
        def order(self, rng):
            return np.roll(np.arange(13), int(rng.integers(13)))

        def at(self, epoch, index):
            seen.append((epoch, index))
            return super().at(epoch, index)
    train(replace(CONFIG, steps=13), data=Ordered())
    for epoch in range(4):
        mine = [index for e, index in seen if e == epoch]
        assert sorted(mine) == list(range(13)) and set(np.diff(mine) % 13) == {1}


def test_schedules():
    config = TrainConfig(steps=100, lr=1.0, warmup=0.1)
    rates = [learning_rate(config, s) for s in range(100)]
    assert max(rates) == rates[10] == 1 and rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:])[::-1]
    assert rates[0] == pytest.approx(1 / 11) and rates[55] == pytest.approx(0.5) and 0 < rates[99] < 0.001
    steps = [learning_rate(replace(config, schedule="steps", warmup=0), s) for s in (0, 59, 60, 84, 85, 99)]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_schedules_of_the_papers():
    def rates(at, **kind):
        config = TrainConfig(steps=200, lr=1.0, warmup=0, **kind)
        return [learning_rate(config, step) for step in at]
    # SCPAN: 200,000 iterations, divided by 5, 2 and 2 after 10, 40 and 100 thousand
    scpan = rates((9, 10, 39, 40, 99, 100, 199), schedule="steps", milestones=(0.05, 0.2, 0.5), factors=(0.2, 0.5, 0.5))
    assert scpan == pytest.approx([1, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05])
    # RHT: a cosine from 1e-4 to 1e-5
    rht = rates((0, 100, 199), floor=0.1)
    assert rht == pytest.approx([1, 0.55, 0.1], abs=1e-3)


def test_parts_have_rates_of_their_own():
    """With Adam a weight's first step is its rate, whatever the gradient."""
    config = replace(CONFIG, steps=1, batch_size=4, warmup=0, optimizer="adam", weight_decay=0, ema=0,
                     rates={"0": 0.0, "4.bias": 0.5})
    before = toy_model(norm=False, drop=0)
    model, _ = train(config, toy_model(norm=False, drop=0))
    moved = {name: (a - b).abs().max().item() for (name, a), b in zip(model.named_parameters(), before.parameters())}
    rate = pytest.approx(config.lr, rel=1e-3)
    assert moved["0.weight"] == moved["0.bias"] == 0
    assert moved["4.weight"] == rate and 2 * moved["4.bias"] == rate
    with pytest.raises(ValueError, match="rates must name parts of Sequential, got .'9'"):
        train(replace(config, rates={"9": 1.0}))


def test_each_group_is_clipped_by_itself(monkeypatch):
    """Two players in one model: a huge gradient of one must not silence the other."""
    class Two(nn.Module):
        def __init__(self, apart):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
            if apart:
                self.parameter_groups = lambda: {"a": [self.a], "b": [self.b]}

        def forward(self, x):
            return self.a, self.b
    def clipped(apart):
        model, sizes = Two(apart), []

        class Watched(torch.optim.AdamW):
            def step(self, *args, **kwargs):
                sizes.extend([model.a.grad.norm().item(), model.b.grad.norm().item()])
                return super().step(*args, **kwargs)
        monkeypatch.setattr(torch.optim, "AdamW", Watched)
        train(replace(CONFIG, steps=1, clip=1.0, ema=0), model, lambda o, b: 1e6 * o[0].sum() + 0.1 * o[1].sum())
        monkeypatch.undo()
        return sizes
    seen = {apart: clipped(apart) for apart in (False, True)}
    assert seen[False][0] == pytest.approx(1, rel=1e-4) and seen[False][1] < 1e-6
    assert seen[True] == pytest.approx([1, 0.1 * 3**0.5], rel=1e-4)


def test_runs_side_by_side_end_as_they_do_alone():
    configs = [CONFIG, replace(CONFIG, steps=23, seed=5), replace(CONFIG, steps=31, lr=0.01)]
    together = [toy_model() for _ in configs]
    going = {model: steps(model, Toy(), toy_loss, config, progress=False) for model, config in zip(together, configs)}
    histories = {}
    while going:
        for model, run in list(going.items()):
            try:
                next(run)
            except StopIteration as end:
                histories[model] = going.pop(model) and end.value
    for model, config in zip(together, configs):
        alone, rows = train(config)
        assert same(model, alone) and rows == histories[model]


def test_a_run_that_is_closed_goes_on_where_it_stood(tmp_path):
    config = replace(CONFIG, checkpoint_every=0, out=tmp_path)
    run = steps(toy_model(), Toy(), toy_loss, config, progress=False)
    for _ in range(17):
        next(run)
    run.close()
    assert read_checkpoint(tmp_path / CHECKPOINT)[0]["step"] == 17
    model, history = train(config, resume=True)
    whole, rows = train()
    assert same(model, whole) and history == rows


class Batched(Toy):
    """The same data, whole batches at a time from numbers drawn before."""

    def draws(self, keys):
        assert all(isinstance(part, int) for key in keys for part in key)
        return {"key": torch.tensor(keys)}

    def batch(self, draws):
        items = [super(Batched, self).at(*key) for key in draws["key"].tolist()]
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def to(self, device):
        return self


def test_data_that_makes_whole_batches_gives_the_same_numbers(tmp_path):
    model, history = train(data=Batched())
    assert same(model, train()[0]) and history == train()[1]


def test_averaged_weights_are_the_average():
    """Against the recursion written out, on a loss whose only weight moves by a known path."""
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            path.append(self.w.item())
            return self.w
    path = []
    config = replace(CONFIG, steps=30, ema=0.8)
    plain, _ = train(replace(config, ema=0), One(), lambda o, b: (o - 3).square().sum())
    path.append(plain.w.item())
    weights, path[:] = path[1:], []
    averaged, _ = train(config, One(), lambda o, b: (o - 3).square().sum())
    value = 0.0
    for step, w in enumerate(weights):
        decay = min(0.8, (1 + step) / (10 + step))
        value = decay * value + (1 - decay) * w
    assert averaged.w.item() == pytest.approx(value, rel=1e-5) and value != pytest.approx(weights[-1], rel=1e-3)


def test_named_losses_are_summed_and_kept():
    _, history = train(replace(CONFIG, steps=7),
                       loss=lambda o, b: {"near": toy_loss(o, b), "small": 0.1 * o.square().mean()})
    assert history[0]["loss"] == pytest.approx(history[0]["near"] + history[0]["small"])


def test_the_caller_keeps_its_dice():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    torch.manual_seed(3)
    train(replace(CONFIG, steps=2), model)
    assert torch.equal(torch.rand(2), wanted)


def test_bf16_trains_too():
    _, history = train(replace(CONFIG, amp="bf16", steps=100), toy_model(drop=0))
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]


def test_an_hourglass_learns_four_faces():
    torch.manual_seed(0)
    points = torch.rand(4, 3, 2) * 20 + 6
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    blobs = torch.exp(-((x - points[..., :1, None]) ** 2 + (y - points[..., 1:, None]) ** 2) / 8)   # (4, 3, 32, 32)
    images = (blobs * torch.tensor([1.0, 0.6, -0.8])[:, None, None]).sum(1, keepdim=True)
    data = [{"image": i, "landmarks": p} for i, p in zip(images, points, strict=True)]
    net = StackedHourglass(HourglassConfig(landmarks=3, image_size=32, channels=16, depth=2, stem=(8, 16, 16)))
    fit(net, data, landmark_loss, TrainConfig(steps=60, batch_size=4, lr=5e-3, device="cpu"),
        progress=False)
    error = to_image(decode(net(images)[-1], "soft_argmax"), 8, 32) - points              # image pixels
    assert error.abs().mean() < 1.5


# Resuming

def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    whole, history = train()
    config = replace(CONFIG, out=tmp_path)
    for step in (10, 25):                                                       # twice, between checkpoints
        stopped(config, step, resume=True)
    done = read_checkpoint(tmp_path / CHECKPOINT)[0]["step"]
    assert done == 24
    torch.manual_seed(123)
    fresh = toy_model()
    for p in fresh.parameters():
        nn.init.normal_(p)                                                      # resuming must not need the start
    model, again = train(config, fresh, resume=True)
    assert same(model, whole) and again == history
    finished, once_more = train(config, resume=True)                            # nothing left to do
    assert same(finished, whole) and once_more == history


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    whole, history = train()
    out = tmp_path / "run"
    process = toy_process("kill", out)
    path, limit = out / CHECKPOINT, time.monotonic() + 120
    while time.monotonic() < limit and process.poll() is None and not path.exists():
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    error = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, error
    assert 0 < read_checkpoint(path)[0]["step"] < CONFIG.steps                  # whole, and not the last
    (out / f".{CHECKPOINT}.left").write_bytes(b"what a kill in the midst of saving leaves")
    model, again = train(replace(CONFIG, out=out), resume=True)
    assert same(model, whole) and again == history
    assert sorted(os.listdir(out)) == [BEFORE, CHECKPOINT]


def test_workers_and_checkpoints_change_no_number(tmp_path):
    whole, history = train(replace(CONFIG, steps=12))
    for kind in ({"workers": 1}, {"checkpoint_every": 0, "out": tmp_path}):
        model, again = train(replace(CONFIG, steps=12, **kind))
        assert same(model, whole) and again == history
    assert not same(train(replace(CONFIG, steps=12, seed=1))[0], whole)


def test_two_processes_share_each_batch(tmp_path):
    """Without normalisation and dropout, two halves of a batch are the batch; with them, both still end alike."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = toy_process("share", tmp_path, launcher=torchrun)
    output = process.communicate(timeout=240)
    assert process.returncode == 0, output[1]
    (plain, full), (plain_1, full_1) = [torch.load(tmp_path / f"{r}.pt") for r in (0, 1)]
    for a, b in ((plain, plain_1), (full, full_1)):
        assert all(torch.equal(a[k], b[k]) for k in a)
    alone, _ = train(SHARED, toy_model(norm=False, drop=0))
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(plain[name], value, atol=1e-4, rtol=1e-3)
    assert read_checkpoint(tmp_path / "plain" / CHECKPOINT)[0]["identity"]["processes"] == 2


# Bad input

def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    """The system itself refuses: no file of this process may grow beyond a limit below the checkpoint's size."""
    config = replace(CONFIG, steps=6, checkpoint_every=2, out=tmp_path)
    stopped(config, 4)
    before = (tmp_path / CHECKPOINT).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OSError, match=CHECKPOINT) as caught:
            train(config, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert (tmp_path / CHECKPOINT).read_bytes() == before and sorted(os.listdir(tmp_path)) == [BEFORE, CHECKPOINT]


@pytest.mark.parametrize("change, named", [
    ({"model": toy_model(norm=False)}, "model Sequential"),
    ({"config": replace(CONFIG, steps=5, lr=0.5)}, "config.*0.5"),
    ({"data": [Toy().at(0, 0)] * 4}, r"data Toy of 13 \(.*wanted list of 4"),
    ({"data": Toy(level=0.2)}, "data Toy of 13"),
    ({"loss": lambda o, b: o.square().mean()}, "loss toy_loss, wanted .*lambda"),
], ids=["model", "config", "data", "augmentation", "loss"])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, named):
    train(replace(CONFIG, steps=5, out=tmp_path))
    kind = {"config": replace(CONFIG, steps=5)} | change
    kind["config"] = replace(kind["config"], out=tmp_path)
    model = kind.get("model") or toy_model()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=f"(?s){CHECKPOINT} is of .*{named}"):
        train(**(kind | {"model": model}), resume=True)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("damage", [lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b"no safetensors at all" * 9])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    config = replace(CONFIG, steps=3, out=tmp_path)
    train(config)
    path = tmp_path / CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=CHECKPOINT):
        train(config, resume=True)


class NoSlope(torch.autograd.Function):
    """The identity, whose gradient is not a number."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan")


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("spoil, what", [(lambda o: o * float("nan"), "loss"), (NoSlope.apply, "gradient")])
def test_a_lost_loss_or_gradient_stops_the_run_and_spares_the_checkpoint(tmp_path, spoil, what, clip):
    calls = []

    def loss(outputs, batch):
        calls.append(1)
        return toy_loss(spoil(outputs) if len(calls) == 6 else outputs, batch)
    config = replace(CONFIG, steps=6, checkpoint_every=3, clip=clip, out=tmp_path)
    with pytest.raises(ValueError, match=f"{what}.* must be finite"):
        train(config, loss=loss)
    state, tensors = read_checkpoint(tmp_path / CHECKPOINT)
    assert state["step"] == 3 and all(torch.isfinite(value).all() for value in tensors.values())


@pytest.mark.parametrize("out", [True, False])
def test_statistics_that_are_lost_stop_the_run_though_the_loss_is_well(tmp_path, out):
    """One picture of 1e20 has no finite variance in single precision."""
    data = [{"image": torch.full((1, 8, 8), 1e20 if i == 1 else 0.1 * i), "slope": torch.tensor(0.1)} for i in range(4)]
    config = replace(CONFIG, steps=1, out=tmp_path if out else None)
    with pytest.raises(ValueError, match="weights must be finite.*running_var"):
        train(config, data=data, loss=lambda outputs, batch: torch.tanh(outputs).mean())
    assert not (tmp_path / CHECKPOINT).exists()


def test_a_fresh_run_never_replaces_an_old_one(tmp_path):
    config = replace(CONFIG, steps=3, out=tmp_path)
    train(config)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match="out must hold no checkpoint"):
        train(config)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_flipped_bit_is_noticed(tmp_path):
    config = replace(CONFIG, steps=3, out=tmp_path)
    train(config)
    path = tmp_path / CHECKPOINT
    whole = bytearray(path.read_bytes())
    for at in (-1, -500, -2000):
        other = whole.copy()
        other[at] ^= 0x10
        path.write_bytes(other)
        with pytest.raises(ValueError, match="damaged"):
            train(config, resume=True)


def test_a_flipped_bit_in_what_a_checkpoint_says_is_noticed(tmp_path):
    config = replace(CONFIG, steps=3, out=tmp_path)
    train(config)
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    for word in (b'step\\": 3', b'count\\": 0'):
        assert whole.count(word) >= 1
        at = whole.rindex(word) + len(word) - 1
        path.write_bytes(whole[:at] + b"1" + whole[at + 1:])
        with pytest.raises(ValueError, match="damaged"):
            read_checkpoint(path)


def test_a_run_whose_both_checkpoints_are_damaged_says_so(tmp_path):
    config = replace(CONFIG, steps=7, out=tmp_path)
    train(config)
    for name in (CHECKPOINT, BEFORE):
        (tmp_path / name).write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match=f"{CHECKPOINT}.*nor can the one before it.*{BEFORE}"):
        train(config, resume=True)


@pytest.mark.parametrize("fits, told", [(3, "2 fit"), (1, "1 fit"), (0, "try half")])
def test_a_batch_too_large_for_the_memory_says_which_would_fit(fits, told):
    """A card that holds so many items, as torch would say it."""
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(64))
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, image):
            self.seen.add_(1)
            if len(image) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
            return image.flatten(1) @ self.weight[:, None]
    model = Small()
    with pytest.raises(ValueError, match=f"batch_size must fit into the memory of cpu, got 8.*: {told}"):
        train(replace(CONFIG, steps=2, batch_size=8), model)
    assert model.seen == 1                                      # what was tried leaves no trace


def test_two_runs_in_one_folder(tmp_path):
    """The second says who holds it, and neither file suffers; a lock whose holder is dead holds nobody."""
    process = toy_process("kill", tmp_path)
    try:
        limit = time.monotonic() + 120
        while time.monotonic() < limit and not (tmp_path / CHECKPOINT).exists():
            time.sleep(0.01)
        with pytest.raises(ValueError, match=f"held by process {process.pid}"):
            train(replace(CONFIG, out=tmp_path), resume=True)
    finally:
        process.kill()
        process.communicate()
    model, _ = train(replace(CONFIG, out=tmp_path), resume=True)
    assert same(model, train()[0])


def test_a_launch_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE is 2 but RANK, MASTER_ADDR, MASTER_PORT are not set"):
        train()


@pytest.mark.parametrize("kind", [{"steps": 0}, {"batch_size": 0}, {"lr": 0}, {"lr": float("nan")}, {"warmup": 1.0},
                                  {"optimizer": "sgd"}, {"schedule": "flat"}, {"amp": "fp8"}, {"ema": 1.0},
                                  {"clip": -1}, {"log_every": 0}, {"steps": 1.5}, {"lr": float("inf")},
                                  {"clip": float("nan")},
                                  {"weight_decay": float("inf")}, {"seed": 0.5}, {"floor": 1.0},
                                  {"milestones": (0.8, 0.6)}, {"factors": (0.1,)}, {"rates": {"0": -1.0}},
                                  {"milestones": None}, {"factors": ("a", "b")}, {"rates": None}, {"rates": {"0": "1"}},
                                  {"rates": {0: 1.0}}, {"device": "abacus"}, {"device": None}, {"out": 3}, {"out": ""},
                                  {"capture": "no"}, {"frozen_norm": None}, {"seed": -1}, {"seed": 2**80},
                                  {"workers": 2**31}], ids=str)
def test_configurations_that_cannot_be(kind):
    with pytest.raises(ValueError, match=next(iter(kind))):
        TrainConfig(**kind)


def test_numbers_of_numpy_are_numbers(tmp_path):
    """A run by them ends with a checkpoint, which holds JSON, and goes on as one by plain numbers."""
    kind = {"steps": np.int64(4), "seed": np.int32(3), "lr": np.float32(0.5), "milestones": np.array([0.25, 0.5]),
            "factors": [np.float32(0.5), 1], "rates": {"0": np.float32(0.5)}, "frozen_norm": np.True_}
    config = TrainConfig(batch_size=4, device="cpu", schedule="steps", out=tmp_path, **kind)
    history = train(config)[1]
    plain = {"steps": 4, "seed": 3, "lr": 0.5, "milestones": (0.25, 0.5), "factors": (0.5, 1.0), "rates": {"0": 0.5},
             "frozen_norm": True}
    assert train(replace(config, **plain), resume=True)[1] == history


class Apart(nn.Module):
    """Two layers, in the groups that are given."""

    def __init__(self, groups):
        super().__init__()
        self.a, self.b, self.groups = nn.Linear(64, 1), nn.Linear(64, 1), groups

    def parameter_groups(self):
        return {name: getattr(self, name).parameters() if name else self.parameters() for name in self.groups}

    def forward(self, x):
        return self.a(x.flatten(1)) + self.b(x.flatten(1))


def test_groups_may_be_what_parameters_gives_but_must_not_overlap():
    """``parameters()`` can be read once: read twice, it would leave every gradient as it is."""
    config = replace(CONFIG, steps=1, clip=1e-6)
    assert train(config, Apart("ab"))[1][-1]["gradient_norm"] > 0
    with pytest.raises(ValueError, match="every parameter of Apart once"):
        train(config, Apart(["a", ""]))


@pytest.mark.parametrize("loss", [lambda o, b: None, lambda o, b: {}, lambda o, b: o[:, 0], lambda o, b: {"a": 1.0},
                                  lambda o, b: o.mean() * 1j, lambda o, b: o.mean().detach(),
                                  *(lambda o, b, name=name: {name: o.mean(), "a": o.mean()} for name in
                                    ("loss", "step", "lr", "gradient_norm"))])
def test_losses_that_are_none_are_named(loss):
    with pytest.raises(ValueError, match="loss"):
        train(replace(CONFIG, steps=1), loss=loss)


@pytest.mark.parametrize("order", [[0, 1], [13] * 13, [-1] * 13, [0.5] * 13, None])
def test_an_order_that_is_none_is_named(order):
    class Ordered(Toy):
        def order(self, rng):
            return order
    with pytest.raises(ValueError, match="order must give 13"):
        train(replace(CONFIG, steps=1), data=Ordered())


def test_a_failed_run_leaves_no_process_and_no_bar():
    """Also while somebody looks at its exception, which keeps all that its functions had at hand."""
    seen = []

    def loss(outputs, batch):
        seen.append(len(multiprocessing.active_children()))
        raise RuntimeError("in the middle")
    bars = len(tqdm._instances)
    with pytest.raises(RuntimeError, match="in the middle") as kept:
        fit(toy_model(), Toy(), loss, replace(CONFIG, workers=1))
    assert seen == [1] and multiprocessing.active_children() == [] and len(tqdm._instances) == bars
    assert kept.value is not None


def test_fit_refuses_nonsense(tmp_path):
    with pytest.raises(ValueError, match="model must have parameters"):
        train(model=nn.Flatten())
    with pytest.raises(ValueError, match="empty"):
        fit(toy_model(), [], toy_loss)
    with pytest.raises(ValueError, match=r"config\.out"):
        train(resume=True)
    with pytest.raises(OSError):
        read_checkpoint(tmp_path / "none.safetensors")


class Flat:
    """Images of two channels whose mean and variance are known."""

    def __init__(self, shift):
        self.shift = shift

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return {"image": torch.stack([torch.full((4, 4), index + self.shift), torch.full((4, 4), -2.0 * index)])}


def test_statistics_are_those_of_the_data_and_nothing_else_changes():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.Dropout(0.5), torch.nn.Conv2d(2, 3, 1))
    weights = {k: v.clone() for k, v in net.state_dict().items() if "running" not in k and "tracked" not in k}
    net[0].running_mean += 7
    net.train()
    reestimate_normalization(net, Flat(3.0), batches=2, batch_size=5)
    assert net.training and net[0].momentum == 0.1
    torch.testing.assert_close(net[0].running_mean, torch.tensor([5.0, -4.0]))
    torch.testing.assert_close(net[0].running_var, torch.tensor([2.0, 8.0]) * 80 / 79)   # unbiased
    assert all(torch.equal(net.state_dict()[k], v) for k, v in weights.items())
    for wrong in ({"batches": 0}, {"batch_size": 1}, {"batches": 2.5}, {"batch_size": "3"}, {"epoch": -1}):
        with pytest.raises(ValueError, match="at least"):
            reestimate_normalization(net, Flat(0.0), **wrong)
    with pytest.raises(ValueError, match="model must have parameters"):
        reestimate_normalization(torch.nn.Flatten(), Flat(0.0))


def test_statistics_leave_every_part_in_its_mode_also_when_data_fail():
    """A part that was in eval mode while the others train, as a frozen one is, stays so."""
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2), torch.nn.Conv2d(2, 3, 1)).train()
    net[1].eval()
    reestimate_normalization(net, Flat(0.0), batches=1, batch_size=2)
    assert [part.training for part in net] == [True, False, True] and net.training

    class Missing(Flat):
        def __getitem__(self, index):
            raise OSError("no such picture")
    with pytest.raises(OSError, match="no such picture"):
        reestimate_normalization(net, Missing(0.0), batches=1, batch_size=2)
    assert [part.training for part in net] == [True, False, True] and net[0].momentum == 0.1


def test_frozen_statistics_stay_and_weights_learn():
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.Conv2d(2, 1, 1))
    for frozen in (True, False):
        before = {k: v.clone() for k, v in net.state_dict().items()}
        fit(net, Flat(1.0), lambda out, batch: out.square().mean(), TrainConfig(steps=3, batch_size=5, lr=0.1,
                                                                              device="cpu", frozen_norm=frozen),
            progress=False)
        after = net.state_dict()
        assert torch.equal(before["0.running_mean"], after["0.running_mean"]) == frozen
        assert not torch.equal(before["1.weight"], after["1.weight"])
        assert not torch.equal(before["0.weight"], after["0.weight"])


def test_a_budget_names_one_of_the_amounts():
    assert [of_budget(name, {"lite": 120, "gpu": 4000}) for name in ("lite", "gpu")] == [120, 4000]
    assert of_budget("gpu", 7) == 7                             # what was set by hand holds at both
    for budget in ("full", None, "LITE"):
        with pytest.raises(ValueError, match="budget must be one of .*'lite', 'gpu'.*, got"):
            of_budget(budget, {"lite": 120, "gpu": 4000})
    with pytest.raises(ValueError, match="amounts must have one for the budget 'gpu'"):
        of_budget("gpu", {"lite": 120})
