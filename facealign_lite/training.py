"""One training loop for every model of the book: fixed budget, atomic checkpoints, exact resume, several processes."""

import atexit
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm.auto import tqdm

from facealign_lite.data.files import write_atomic

CHECKPOINT = "checkpoint.safetensors"
FREE = ("device", "out", "checkpoint_every", "workers")  # fields that may change between a run and its continuation

Loss = Callable[[Any, Mapping[str, Tensor]], Tensor | Mapping[str, Tensor]]


@dataclass(frozen=True)
class TrainConfig:
    """A training run. Everything that decides its numbers is here, so a run can be named, repeated and resumed."""

    steps: int = 1000
    batch_size: int = 32                       # images a step over all processes
    lr: float = 2e-3
    optimizer: str = "adamw"                   # or "adam"
    schedule: str = "cosine"                   # to zero; or "steps": a tenth after 60 % and again after 85 %
    warmup: float = 0.05                       # fraction of the steps in which lr rises from zero
    weight_decay: float = 1e-4
    clip: float = 1.0                          # largest gradient norm; 0 leaves it alone
    ema: float = 0.0                           # decay of the averaged weights, e.g. 0.999; 0 keeps none
    frozen_norm: bool = False                  # batch norm with its running statistics, which stay as they are: in a
                                               # last stretch a network learns to live with those it will be used with
    seed: int = 0                              # order of the data; dropout
    amp: str = "auto"                          # "auto": bf16 on CUDA; "bf16" anywhere (twice as fast on a CPU that
                                               # computes in bf16, e.g. AVX512_BF16); "off"
    device: str = "auto"
    workers: int = 0
    checkpoint_every: int = 0                  # steps; 0 saves at the end only
    log_every: int = 50
    out: str | Path | None = None              # folder of the checkpoint; None saves nothing

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("checkpoint_every", "workers", "weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        for name in ("warmup", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name, known in (("optimizer", ("adamw", "adam")), ("schedule", ("cosine", "steps")),
                            ("amp", ("auto", "bf16", "off"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")


def fit(model: nn.Module, data: Dataset | Sequence[Any], loss: Loss, config: TrainConfig = TrainConfig(),
        resume: bool = False, progress: bool = True) -> list[dict[str, float]]:
    """Train ``model`` in place; on return it is in eval mode, with the averaged weights if ``config.ema``.

    Step t sees a batch that depends on (seed, t) alone, so on a CPU a run that was killed and resumed ends with the
    same bits as one that was not. Under ``torchrun`` every process takes its share of each batch.

    Args:
        model: called as ``model(batch["image"])``, or with all that it names in ``model.inputs``.
        data: map-style data of dicts of tensors with ``image`` (C, H, W); one with a method ``at(epoch, index)``, as
            ``data.Crops`` has, is asked for fresh augmentation each epoch.
        loss: ``loss(outputs, batch)`` -> scalar, or named scalars to be summed.
        config: the run.
        resume: continue from the checkpoint in ``config.out`` if there is one.
        progress: show a bar.

    Returns:
        one row every ``log_every`` steps: step, lr, loss (mean since the row before), and the named losses.

    Raises:
        ValueError: if ``data`` is empty, the batch cannot be shared among the processes, the checkpoint belongs to
            another model, run or data, or the loss is not finite.
        OSError: if the checkpoint cannot be written; the one before stays.
    """
    if len(data) == 0:
        raise ValueError("data must not be empty")
    if resume and config.out is None:
        raise ValueError("resume needs config.out, got None")
    device, rank, world = _processes(config)
    with torch.random.fork_rng():
        return _Run(model, data, loss, config, device, rank, world).go(resume, progress)


@torch.inference_mode()
def reestimate_normalization(model: nn.Module, data: Dataset | Sequence[Any], batches: int = 30,
                             batch_size: int = 32, epoch: int = 0) -> None:
    """Batch-norm statistics of ``model`` anew, as means over batches of ``data``; nothing else changes. In place.

    Running averages are those of the last batches of a training run, over all its domains alike; a network that is to
    be used on one domain does better with the statistics of that domain. No labels are looked at.

    Args:
        data: dicts with ``image``, as for ``fit``; batches run through it once and start anew.
        epoch: asked for, where ``data`` has a method ``at``.

    Raises:
        ValueError: if ``data`` is empty or there are no batches.

    Source: Li, Wang, Shi, Liu, Hou: Revisiting Batch Normalization for Practical Domain Adaptation, 2016.
    """
    if len(data) == 0 or batches < 1 or batch_size < 2:
        raise ValueError(f"data must not be empty, batches at least 1 and batch_size at least 2, got {len(data)}, "
                         f"{batches} and {batch_size}")
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    was, device = model.training, next(model.parameters()).device
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None                                                    # a plain mean over all batches
        norm.train()
    for k in range(batches):
        keys = [(epoch, i % len(data)) for i in range(k * batch_size, (k + 1) * batch_size)]
        batch = default_collate([_Epochs(data)[key] for key in keys])
        model(*model_inputs(model, batch, device))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.train(was)


class _Run:
    """The state of one run: model, optimiser, average, history."""

    def __init__(self, model: nn.Module, data: Any, loss: Loss, config: TrainConfig, device: torch.device, rank: int,
                 world: int):
        if config.batch_size % world:
            raise ValueError(f"batch_size must be a multiple of the {world} processes, got {config.batch_size}")
        self.data, self.loss, self.config, self.rank, self.world = data, loss, config, rank, world
        self.device = device
        self.model = model.to(device, memory_format=torch.channels_last)        # convolutions are faster so
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()} if config.ema else {}
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, Tensor] = {}                                       # since the last row of the history
        self.count = 0
        self.bf16 = config.amp == "bf16" or (config.amp == "auto" and device.type == "cuda")

    def go(self, resume: bool, progress: bool) -> list[dict[str, float]]:
        config, model = self.config, self.model
        start = self.load() if resume else 0
        if config.out is not None and self.rank == 0:
            for left in Path(config.out).glob(f".{CHECKPOINT}.*"):              # of a run killed while it saved
                left.unlink()
        parallel = model
        if dist.is_initialized() and self.world > 1:
            parallel = nn.parallel.DistributedDataParallel(model, [self.device] if self.device.type == "cuda" else None)
        model.train()
        for module in model.modules() if config.frozen_norm else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        bar = tqdm(total=config.steps, initial=start, disable=not progress or self.rank > 0, unit="step")
        for step, batch in enumerate(self.batches(start), start):
            torch.manual_seed(config.seed * 1_000_003 + step * self.world + self.rank)  # dropout: (seed, step) alone
            self.step(parallel, step, batch)
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                row = self.row(done)
                bar.set_postfix(loss=f"{row['loss']:.3f}")
            if done == config.steps or (config.checkpoint_every and done % config.checkpoint_every == 0):
                self.save(done)
            bar.update()
        bar.close()
        if self.average:
            model.load_state_dict(self.average)
        self.agree()
        model.eval()
        return self.history

    def step(self, parallel: nn.Module, step: int, batch: Mapping[str, Tensor]) -> None:
        """One descent: forward, backward, clip, update, average."""
        config = self.config
        lr = learning_rate(config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        batch = {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            outputs = parallel(*model_inputs(self.model, batch, self.device))
        parts = self.loss(outputs, batch)
        parts = dict(parts) if isinstance(parts, Mapping) else {"loss": parts}
        total = sum(parts.values())
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if config.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        if self.average:
            decay = min(config.ema, (1 + step) / (10 + step))                   # short at first: no trace of the start
            with torch.no_grad():
                for name, value in self.model.state_dict().items():
                    if value.dtype.is_floating_point:
                        self.average[name].lerp_(value, 1 - decay)
                    else:
                        self.average[name].copy_(value)
        parts["loss"] = total
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()
        self.count += 1

    def row(self, done: int) -> dict[str, float]:
        """Add a row to the history."""
        self.check(done)
        row = {"step": done, "lr": learning_rate(self.config, done - 1)}
        row |= {name: (total / self.count).item() for name, total in self.sums.items()}
        self.history.append(row)
        self.sums, self.count = {}, 0
        return row

    def check(self, done: int) -> None:
        """A run whose loss is gone must stop before it overwrites a good checkpoint."""
        if self.sums and not math.isfinite(total := self.sums["loss"].item()):
            raise ValueError(f"loss must be finite, got {total} in the {self.count} steps before step {done}")

    def batches(self, start: int) -> Iterator[dict[str, Tensor]]:
        """This process's share of the batches from step ``start`` on."""
        order = _Order(len(self.data), self.config, start, self.rank, self.world)
        return iter(DataLoader(_Epochs(self.data), batch_sampler=order, num_workers=self.config.workers,
                               pin_memory=self.device.type == "cuda"))

    def agree(self) -> None:
        """End with the same weights everywhere: normalisation statistics differ between processes."""
        if dist.is_initialized() and self.world > 1:
            for value in self.model.state_dict().values():
                flat = value.detach().clone(memory_format=torch.contiguous_format)  # gloo sends contiguous tensors only
                dist.broadcast(flat, 0)
                value.copy_(flat)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must have been made with."""
        config = {k: v for k, v in asdict(self.config).items() if k not in FREE and (k != "frozen_norm" or v)}
        shapes = {name: list(value.shape) for name, value in self.model.state_dict().items()}
        digest = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:12]
        return {"model": f"{type(self.model).__name__} {getattr(self.model, 'config', '')} (weights {digest})".strip(),
                "config": config, "data": f"{type(self.data).__name__} of {len(self.data)}", "processes": self.world}

    def save(self, done: int) -> None:
        """One file holds all, so that it is replaced as a whole."""
        self.check(done)
        if self.config.out is not None and self.rank == 0:
            tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
            tensors |= {f"average.{k}": v for k, v in self.average.items()}
            tensors |= {f"sums.{k}": v for k, v in self.sums.items()}
            for name, parameter in self.model.named_parameters():
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{key}.{name}"] = value
            tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
            state = {"step": done, "identity": self.identity(), "history": self.history, "count": self.count}
            payload = safetensors.torch.save(tensors, {"state": json.dumps(state)})
            write_atomic(Path(self.config.out) / CHECKPOINT, payload)
        if dist.is_initialized() and self.world > 1:
            dist.barrier()

    def load(self) -> int:
        """Take up the checkpoint, if there is one; the steps done."""
        path = Path(self.config.out) / CHECKPOINT
        if not path.exists():
            return 0
        state, tensors = read_checkpoint(path)
        mine = json.loads(json.dumps(self.identity()))
        for name, wanted in mine.items():
            if state["identity"][name] != wanted:
                raise ValueError(f"checkpoint {path} is of {name} {state['identity'][name]}, wanted {wanted}")
        with torch.no_grad():
            for prefix, own in (("model", self.model.state_dict()), ("average", self.average)):
                for name, value in own.items():
                    value.copy_(tensors[f"{prefix}.{name}"])
        for name, parameter in self.model.named_parameters():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (value := tensors.get(f"optimizer.{key}.{name}")) is not None:
                    like = torch.empty_like(parameter) if key != "step" else torch.empty((), device=self.device)
                    self.optimizer.state[parameter][key] = like.detach().copy_(value)  # keeps the memory format
        self.history, self.count = state["history"], state["count"]
        self.sums = {k.removeprefix("sums."): v.to(self.device) for k, v in tensors.items() if k.startswith("sums.")}
        return state["step"]


def model_inputs(model: nn.Module, batch: Mapping[str, Tensor], device: torch.device) -> list[Tensor]:
    """What ``model`` is called with: the image, or what it names in ``inputs``; pictures with channels last."""
    values = [batch[name].to(device) for name in getattr(model, "inputs", ("image",))]
    return [value.to(memory_format=torch.channels_last) if value.ndim == 4 else value for value in values]


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rate of 0-based ``step``: a linear rise, then half a cosine down to zero, or two drops."""
    rise = config.warmup * config.steps
    if step < rise:
        return config.lr * (step + 1) / (rise + 1)
    t = (step - rise) / (config.steps - rise)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * t))
    return config.lr * (0.1 if t >= 0.6 else 1) * (0.1 if t >= 0.85 else 1)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """State and tensors of a checkpoint.

    Raises:
        ValueError: if the file is not one of ours or is damaged.
        OSError: if it cannot be read.
    """
    Path(path).stat()
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            return state, {key: file.get_tensor(key) for key in file.keys()}
    except (safetensors.SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a training checkpoint: {error}") from error


class _Epochs(Dataset):
    """``data`` by (epoch, index)."""

    def __init__(self, data: Any):
        self.data = data

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        return self.data.at(epoch, index) if hasattr(self.data, "at") else self.data[index]


class _Order:
    """Batches of (epoch, index): a shuffle an epoch, batches running across epoch ends."""

    def __init__(self, count: int, config: TrainConfig, start: int, rank: int, world: int):
        self.count, self.config, self.start, self.rank, self.world = count, config, start, rank, world

    def __len__(self) -> int:
        return self.config.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0)
        for step in range(self.start, self.config.steps):
            keys = []
            for position in range(step * self.config.batch_size, (step + 1) * self.config.batch_size):
                if position // self.count != epoch:
                    epoch = position // self.count
                    order = np.random.default_rng((self.config.seed, epoch)).permutation(self.count)
                keys.append((epoch, int(order[position % self.count])))
            yield keys[self.rank::self.world]


def _processes(config: TrainConfig) -> tuple[torch.device, int, int]:
    """Device, rank and number of processes; joins those that ``torchrun`` started."""
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not dist.is_initialized():
        # joined once and left at exit: a second group in the same launch would find the first one's addresses and hang
        dist.init_process_group("nccl" if cuda else "gloo")
        atexit.register(dist.destroy_process_group)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    name = config.device if config.device != "auto" else "cuda" if cuda else "cpu"
    if cuda and world > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
        torch.cuda.set_device(name)
    return torch.device(name), rank, world
