"""One training loop for every model of the book: fixed budget, exact resume, captured steps on a GPU, many processes.

On a GPU a step of a small network is a thousand kernels of a few microseconds each, and Python needs longer to launch
them than the card to run them. So the whole step, from the draws of the augmentation to the averaged weights, is
captured once as a CUDA graph and replayed. A CPU runs the same lines one by one.
"""

import atexit
import contextlib
import errno
import hashlib
import json
import math
import numbers
import os
import secrets
import shutil
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm.auto import tqdm

from facealign_lite.data.files import write_atomic
from facealign_lite.data.locks import hold
from facealign_lite.data.tensors import exact, read_tensors, sent
from facealign_lite.data.workers import MOST_WORKERS, deaths_named
from facealign_lite.nets import pick_device

CHECKPOINT = "checkpoint.safetensors"
BEFORE = "checkpoint.before.safetensors"    # the one before it, for the day that the newest is damaged
# fields that may change between a run and its continuation
FREE = ("device", "out", "checkpoint_every", "workers", "capture", "compile")
WARM = 3                       # steps on a GPU before the capture: libraries choose their kernels, moments are made
AHEAD = 4                      # batches whose draws are made in advance
BUDGETS = ("lite", "gpu")      # of what the book trains: for two CPU cores, or for a graphics card
PATIENCE = timedelta(minutes=5)  # that processes of one launch wait for each other
COLUMNS = ("step", "lr", "gradient_norm")   # of the history, which no loss may be named

Result = TypeVar("Result")
Loss = Callable[[Any, Mapping[str, Tensor]], Tensor | Mapping[str, Tensor]]


@dataclass(frozen=True)
class TrainConfig:
    """A training run. Everything that decides its numbers is here, so a run can be named, repeated and resumed."""

    steps: int = 1000
    batch_size: int = 32                       # items a step over all processes
    lr: float = 2e-3
    optimizer: str = "adamw"                   # or "adam"
    schedule: str = "cosine"                   # to ``floor``; or "steps": times a factor at each milestone
    floor: float = 0.0                         # rate at the end of the cosine, a share of lr
    milestones: tuple[float, ...] = (0.6, 0.85)   # shares of the steps, for "steps"
    factors: tuple[float, ...] = (0.1, 0.1)    # one for each milestone; (0.5, 0.5, 0.5) halves three times
    rates: Mapping[str, float] = field(default_factory=dict)   # factors on lr of parts of the model, by the first words
                                               # of their parameters' names ("encoder") or by their parameter group
    warmup: float = 0.05                       # fraction of the steps in which lr rises from zero
    weight_decay: float = 1e-4
    clip: float = 1.0                          # largest gradient norm, of each parameter group; 0 leaves it alone
    ema: float = 0.0                           # decay of the averaged weights, e.g. 0.999; 0 keeps none
    frozen_norm: bool = False                  # batch norm with its running statistics, which stay as they are: in a
                                               # last stretch a network learns to live with those it will be used with
    seed: int = 0                              # order of the data; dropout
    amp: str = "auto"                          # "auto": bf16 on CUDA; "bf16" anywhere (twice as fast on a CPU that
                                               # computes in bf16, e.g. AVX512_BF16); "off"
    device: str = "auto"
    capture: bool = True                       # on CUDA: replay the step as one graph
    compile: bool = False                      # on CUDA: let torch.compile fuse the model's kernels first; worth its
                                               # minute only in long runs
    workers: int = 0
    checkpoint_every: int = 0                  # steps; 0 saves at the end only
    log_every: int = 50
    out: str | Path | None = None              # folder of the checkpoint; None saves nothing

    def __post_init__(self) -> None:
        def keep(name: str, value: Any) -> None:                                # NumPy's numbers are no JSON
            object.__setattr__(self, name, value)
        for name, least in (("steps", 1), ("batch_size", 1), ("log_every", 1), ("checkpoint_every", 0), ("workers", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
            keep(name, int(value))
        if self.workers > MOST_WORKERS:
            raise ValueError(f"workers must be at most {MOST_WORKERS}, got {self.workers}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, numbers.Integral) or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be a whole number in [0, 2**32), got {self.seed!r}")
        keep("seed", int(self.seed))
        for name, least, below in (("lr", 0, math.inf), ("weight_decay", 0, math.inf), ("clip", 0, math.inf),
                                   ("warmup", 0, 1), ("ema", 0, 1), ("floor", 0, 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not least <= value < below:
                raise ValueError(f"{name} must be a number in [{least}, {below}), got {value!r}")
            keep(name, value if isinstance(value, int) else float(value))
        for name in ("frozen_norm", "capture", "compile"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
            keep(name, bool(getattr(self, name)))
        if self.out is not None and (not isinstance(self.out, (str, os.PathLike)) or not str(self.out)):
            raise ValueError(f"out must be a folder or None, got {self.out!r}")
        if self.lr == 0:
            raise ValueError("lr must be positive, got 0")
        for name, known in (("optimizer", ("adamw", "adam")), ("schedule", ("cosine", "steps")),
                            ("amp", ("auto", "bf16", "off"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.device != "auto":
            try:
                torch.device(self.device)
            except (RuntimeError, TypeError) as error:
                raise ValueError(f"device must be auto or one that torch knows, got {self.device!r}") from error
        for name in ("milestones", "factors"):
            try:
                keep(name, tuple(float(value) for value in getattr(self, name)))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} must be numbers, got {getattr(self, name)!r}") from error
        if any(not 0 < t < 1 for t in self.milestones) or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must be rising shares of the steps, in (0, 1), got {self.milestones}")
        if len(self.factors) != len(self.milestones) or any(not 0 < f < math.inf for f in self.factors):
            raise ValueError(f"factors must be {len(self.milestones)} positive numbers, one for each milestone, "
                             f"got {self.factors}")
        if not isinstance(self.rates, Mapping) or any(
                not isinstance(name, str) or isinstance(f, bool) or not isinstance(f, numbers.Real)
                or not 0 <= f < math.inf for name, f in self.rates.items()):
            raise ValueError(f"rates must be numbers by name, not negative or infinite, got {self.rates!r}")
        keep("rates", {name: float(f) for name, f in self.rates.items()})


def fit(model: nn.Module, data: Dataset | Sequence[Any], loss: Loss, config: TrainConfig = TrainConfig(),
        resume: bool = False, progress: bool = True) -> list[dict[str, float]]:
    """Train ``model`` in place; on return it is in eval mode, with the averaged weights if ``config.ema``.

    A run that ends by an exception leaves it in training mode, with the weights of its last step.

    Step t sees a batch that depends on (seed, t) alone, so on a CPU a run that was killed and resumed ends with the
    same bits as one that was not. Under ``torchrun`` every process takes its share of each batch.

    Args:
        model: called as ``model(batch["image"])``, or with all that it names in ``model.inputs``. One with a method
            ``parameter_groups()``, name -> parameters, has the gradient of each group clipped by itself.
        data: map-style data of dicts of tensors with ``image`` (C, H, W); one with a method ``at(epoch, index)``, as
            ``data.Crops`` has, is asked for fresh augmentation each epoch. One with ``draws(keys)`` and
            ``batch(draws)``, as ``data.BatchedCrops`` has, makes its batches on the device. One with ``order(rng)``
            says in which order its items come in an epoch; others are shuffled.
        loss: ``loss(outputs, batch)`` -> scalar, or named scalars to be summed, by other names than ``COLUMNS``.
        config: the run.
        resume: continue from the checkpoint in ``config.out`` if there is one.
        progress: show a bar.

    Returns:
        one row every ``log_every`` steps: step, lr, loss (mean since the row before), the named losses, and
        gradient_norm. Of several processes each has the losses of its own share; the checkpoint has the first one's.

    Two checkpoints are kept, the newest and the one before; where the newest is damaged, a run goes on from the other,
    with a warning.

    Raises:
        ValueError: if ``data`` is empty, the batch cannot be shared among the processes, there is a checkpoint but
            ``resume`` is not said, the checkpoint belongs to another model, run, loss or data or both are damaged,
            another process trains in the same folder, a loss, gradient or weight is not finite, or the device is not
            here or its memory too small for the batch (which one fits is then said).
        OSError: if the checkpoint cannot be written; the one before stays. If a worker process dies.
    """
    with deaths_named():                        # torch may tell it between two steps, too
        return complete(steps(model, data, loss, config, resume, progress))


def steps(model: nn.Module, data: Dataset | Sequence[Any], loss: Loss, config: TrainConfig = TrainConfig(),
          resume: bool = False, progress: bool = True) -> Generator[int, None, list[dict[str, float]]]:
    """As ``fit``, step by step: a generator of the steps done that returns the history.

    So several runs can go on in turn, and on a GPU beside each other, each on a stream of its own: a small network
    leaves most of a card idle, and processes share a card by taking turns (measured in ``benchmarks/training.py``).
    Each run ends with the numbers that it has alone.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch module, got {type(model).__name__}")
    if not isinstance(config, TrainConfig):
        raise ValueError(f"config must be a TrainConfig, got {type(config).__name__}")
    if not isinstance(resume, (bool, np.bool_)):
        raise ValueError(f"resume must be True or False, got {type(resume).__name__}")
    ways = ("__getitem__", "at", "draws")
    if not any(hasattr(data, way) for way in ways) or isinstance(data, (str, bytes, Mapping)):
        raise ValueError(f"data must give items by number, got {type(data).__name__}")
    if len(data) == 0:
        raise ValueError("data must not be empty")
    if resume and config.out is None:
        raise ValueError("resume needs config.out, got None")
    run = _Run(model, data, loss, config)
    alone = hold(Path(config.out) / ".lock") if config.out is not None and run.rank == 0 else contextlib.nullcontext()
    with alone, deaths_named():
        yield from run.go(resume, progress)
    return run.history


def of_budget(budget: str, amounts: Mapping[str, Result] | Result) -> Result:
    """What of ``amounts`` a budget has: ``of_budget("gpu", {"lite": 120, "gpu": 4000})`` is 4000.

    Args:
        budget: "lite" or "gpu".
        amounts: one for each budget; what is no mapping holds for both.

    Raises:
        ValueError: for another budget, or one that ``amounts`` has not.
    """
    if budget not in BUDGETS:
        raise ValueError(f"budget must be one of {BUDGETS}, got {budget!r}")
    if not isinstance(amounts, Mapping):
        return amounts
    if budget not in amounts:
        raise ValueError(f"amounts must have one for the budget {budget!r}, got {dict(amounts)}")
    return amounts[budget]


def complete(going: Generator[int, None, Result]) -> Result:
    """Run ``steps``, or what yields from them, to the end; what is returned there."""
    while True:
        try:
            next(going)
        except StopIteration as end:
            return end.value


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
        ValueError: if ``data`` is empty, a number is too small, or the model has no parameters.

    Source: Li, Wang, Shi, Liu, Hou: Revisiting Batch Normalization for Practical Domain Adaptation, 2016.
    """
    for name, value, least in (("batches", batches, 1), ("batch_size", batch_size, 2), ("epoch", epoch, 0)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if len(data) == 0:
        raise ValueError("data must not be empty")
    device = next((parameter.device for parameter in model.parameters()), None)
    if device is None:
        raise ValueError(f"model must have parameters, {type(model).__name__} has none")
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta, modes = [norm.momentum for norm in norms], [(module, module.training) for module in model.modules()]
    data = data.to(device) if _is_batched(data) else data
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None                                                # a plain mean over all batches
            norm.train()
        for k in range(batches):
            keys = [(epoch, i % len(data)) for i in range(k * batch_size, (k + 1) * batch_size)]
            model(*model_inputs(model, _fetched(data, keys, device), device))
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        for module, training in modes:
            module.training = training


class _Run:
    """The state of one run: model, optimiser, average, history."""

    def __init__(self, model: nn.Module, data: Any, loss: Loss, config: TrainConfig):
        self.device, self.rank, self.world = _processes(config)
        if config.batch_size % self.world:
            raise ValueError(f"batch_size must be a multiple of the {self.world} processes, got {config.batch_size}")
        self.loss, self.config = loss, config
        self.cuda = self.device.type == "cuda"
        self.stream = torch.cuda.Stream(self.device) if self.cuda else None
        self.model = model.to(self.device, memory_format=torch.channels_last)   # convolutions are faster so
        self.call: nn.Module = torch.compile(model) if config.compile and self.cuda else model
        self.data = data.to(self.device) if _is_batched(data) else data
        self.groups, parts = _groups(model, config)
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        for part in parts:                                                      # a graph reads its rate from the card
            part["lr"] = torch.tensor(config.lr, device=self.device) if self.cuda else config.lr
        self.optimizer = kind(parts, lr=parts[0]["lr"], weight_decay=config.weight_decay, fused=True,
                              capturable=self.cuda)
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()} if config.ema else {}
        self.keep = torch.zeros((), device=self.device)                         # 1 - decay of the average
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, Tensor] = {}                                       # since the last row of the history
        self.count = 0
        self.sound = True                                                       # whether the checkpoint there is
        self.bf16 = config.amp == "bf16" or (config.amp == "auto" and self.cuda)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.fixed: dict[str, Tensor] = {}                                      # where the graph finds what it is given

    def go(self, resume: bool, progress: bool) -> Iterator[int]:
        """Train; yields after every step."""
        config, model = self.config, self.model
        start = self.begin(resume)
        if self.cuda:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))     # the weights are there
        parallel = self.call
        if self.world > 1:
            parallel = nn.parallel.DistributedDataParallel(model, [self.device] if self.cuda else None)
        model.train()
        for module in model.modules() if config.frozen_norm else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        bar = tqdm(total=config.steps, initial=start, disable=not progress or self.rank > 0, unit="step")
        capture = self.cuda and config.capture and self.world == 1
        # closed at once, however the run ends: a traceback that somebody keeps would keep processes and threads, too
        with bar, contextlib.closing(self.batches(start)) as batches:
            for step in range(start, config.steps):
                given = next(batches)
                with torch.random.fork_rng([self.device] if self.cuda else []), self.on_stream():
                    self.prepare(step)
                    if capture and step == start + WARM:
                        capture = self.record(parallel, given)
                    try:
                        if self.graph is None:
                            self.descend(parallel, self.to_device(given))
                        else:
                            for name, value in given.items():
                                self.fixed[name].copy_(value, non_blocking=True)
                            self.graph.replay()
                    except torch.OutOfMemoryError as error:
                        traceback.clear_frames(error.__traceback__)             # they hold what did not fit
                        raise ValueError(self.too_large(given)) from error
                    self.count += 1
                    done = step + 1
                    if done % config.log_every == 0 or done == config.steps:
                        bar.set_postfix(loss=f"{self.row(done)['loss']:.3f}")
                    if done == config.steps or (config.checkpoint_every and done % config.checkpoint_every == 0):
                        self.save(done)
                bar.update()
                try:
                    yield done
                except GeneratorExit:               # closed between two steps, when its time is up: nothing is lost
                    if done < config.steps:
                        self.save(done)
                    raise
        self.graph, self.fixed = None, {}
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            model.load_state_dict(self.average)
        self.agree()
        model.eval()
        if self.cuda:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)     # whoever reads the weights waits

    def begin(self, resume: bool) -> int:
        """Take up the checkpoint, or see that there is none; the steps done."""
        if self.config.out is None:
            return 0
        folder = Path(self.config.out)
        if not resume and (there := [name for name in (CHECKPOINT, BEFORE) if (folder / name).exists()]):
            raise ValueError(f"out must hold no checkpoint of an earlier run, got {folder / there[0]}; say "
                             "resume=True to go on with it, or name another folder")
        start = self.load() if resume else 0
        if self.rank == 0:
            for left in folder.glob(f".{CHECKPOINT}.*"):                        # of a run killed while it saved
                left.unlink()
        return start

    def on_stream(self) -> contextlib.AbstractContextManager:
        """Work goes to this run's stream on a GPU."""
        return torch.cuda.stream(self.stream) if self.cuda else contextlib.nullcontext()

    def too_large(self, given: Mapping[str, Tensor]) -> str:
        """That the device's memory is too small for a batch, and for which one it is not, as tried."""
        buffers = [(b, b.clone()) for b in self.model.buffers()]

        def descend(count: int) -> None:
            try:
                self.backward(self.model, self.to_device({name: value[:count] for name, value in given.items()}))
            finally:
                self.optimizer.zero_grad(set_to_none=True)
        self.graph, self.fixed = None, {}
        self.optimizer.zero_grad(set_to_none=True)
        count = largest_part(descend, len(next(iter(given.values()))))
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        return no_room("batch_size", self.config.batch_size, count * self.world, self.device)

    def to_device(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: sent(v, self.device) for k, v in given.items()}

    def prepare(self, step: int) -> None:
        """What changes from step to step and is no data: dice, rates, the average's decay."""
        config = self.config
        torch.manual_seed(config.seed * 1_000_003 + step * self.world + self.rank)      # dropout: (seed, step) alone
        lr = learning_rate(config, step)
        for group in self.optimizer.param_groups:
            if self.cuda:
                group["lr"].fill_(lr * group["factor"])
            else:
                group["lr"] = lr * group["factor"]
        self.keep.fill_(1 - min(config.ema, (1 + step) / (10 + step)))          # short at first: no trace of the start

    def backward(self, parallel: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of a batch, and their gradients."""
        batch = self.data.batch(given) if _is_batched(self.data) else given
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            outputs = parallel(*model_inputs(self.model, batch, self.device))
        parts = self.loss(outputs, batch)
        parts = dict(parts) if isinstance(parts, Mapping) else {"loss": parts}
        if not parts or not all(isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()
                                for value in parts.values()):
            raise ValueError(f"loss must give a scalar tensor of floats, or some by name, got {parts}")
        if wrong := [name for name in parts if name in COLUMNS or (name == "loss" and len(parts) > 1)]:
            raise ValueError(f"named losses must not be called {', '.join(wrong)}: the history has other numbers there")
        total = sum(parts.values())
        if not total.requires_grad:
            raise ValueError("loss must depend on the model's weights, got one without a gradient")
        total.backward()
        return {name: value.detach() for name, value in (parts | {"loss": total}).items()}

    def descend(self, parallel: nn.Module, given: Mapping[str, Tensor]) -> None:
        """One descent: forward, backward, clip, update, average. No line of it waits for the device."""
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.backward(parallel, given)
        squares = []
        for group in self.groups:
            gradients = [p.grad for p in group if p.grad is not None]
            if not gradients:
                continue
            norm = nn.utils.get_total_norm(gradients)
            squares.append(norm.square())
            if self.config.clip:
                nn.utils.clip_grads_with_norm_(group, self.config.clip, norm)
        self.optimizer.step()
        if self.average:
            self.follow()
        parts["gradient_norm"] = sum(squares, torch.zeros((), device=self.device)).sqrt()
        for name, value in parts.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=exact(self.device), device=self.device)
            self.sums[name].add_(value)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the average towards the weights: a += (1 - decay) (w - a)."""
        now, then = [], []
        for name, value in self.model.state_dict().items():
            if value.dtype.is_floating_point:
                now.append(value)
                then.append(self.average[name])
            else:
                self.average[name].copy_(value)
        step = torch._foreach_sub(now, then)
        torch._foreach_mul_(step, self.keep)
        torch._foreach_add_(then, step)

    def record(self, parallel: nn.Module, given: Mapping[str, Tensor]) -> bool:
        """Capture a step as a graph; False, with a warning, where model or loss cannot be captured."""
        self.fixed = self.to_device(given)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            self.rehearse(parallel)
            torch.cuda.synchronize(self.device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.descend(parallel, self.fixed)
            self.graph = graph
        except RuntimeError as error:
            self.optimizer.zero_grad(set_to_none=True)
            where = [f"{Path(at.filename).name}:{at.lineno}" for at in traceback.extract_tb(error.__traceback__)]
            warnings.warn(f"the training step is not captured and runs slower: {str(error).splitlines()[0]} "
                          f"({' < '.join(reversed(where[-3:]))})", stacklevel=2)
            return False
        return True

    def rehearse(self, parallel: nn.Module) -> None:
        """Raise if a step would wait for the device, and leave everything as it was."""
        buffers = [(b, b.clone()) for b in self.model.buffers()]
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        try:
            self.backward(parallel, self.fixed)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            self.optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)

    def row(self, done: int) -> dict[str, float]:
        """Add a row to the history."""
        self.check(done)
        row = {"step": done, "lr": learning_rate(self.config, done - 1)}
        row |= {name: (total / self.count).item() for name, total in self.sums.items()}
        self.history.append(row)
        for total in self.sums.values():                                        # in place: a graph adds to them
            total.zero_()
        self.count = 0
        return row

    def check(self, done: int) -> None:
        """A run whose loss or gradient is gone must stop before it overwrites a good checkpoint."""
        for name in ("loss", "gradient_norm") if self.count else ():
            if not math.isfinite(total := self.sums[name].item()):
                what = "the gradient's norm" if name == "gradient_norm" else "loss"
                raise ValueError(f"{what} must be finite, got {total} in the {self.count} steps before step {done}")

    def batches(self, start: int) -> Iterator[dict[str, Tensor]]:
        """This process's share of the batches from step ``start`` on; of batched data, their draws."""
        order = _Order(self.data, self.config, start, self.rank, self.world)
        if not _is_batched(self.data):
            yield from DataLoader(
                _Epochs(self.data), batch_sampler=order, num_workers=self.config.workers, collate_fn=_collated,
                pin_memory=self.cuda, generator=torch.Generator())                       # leaves the caller its dice
            return

        def draw(keys: list[tuple[int, int]]) -> dict[str, Tensor]:
            draws = self.data.draws(keys)
            return {k: v.pin_memory() for k, v in draws.items()} if self.cuda else draws
        with ThreadPoolExecutor(1) as thread:
            waiting = []
            for keys in order:
                waiting.append(thread.submit(draw, keys))
                if len(waiting) > AHEAD:
                    yield waiting.pop(0).result()
            for one in waiting:
                yield one.result()

    def agree(self) -> None:
        """End with the same weights everywhere: normalisation statistics differ between processes."""
        if self.world > 1:
            for value in self.model.state_dict().values():
                flat = value.detach().clone(memory_format=torch.contiguous_format)  # gloo sends contiguous tensors only
                dist.broadcast(flat, 0)
                value.copy_(flat)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must have been made with."""
        config = {k: v for k, v in asdict(self.config).items() if k not in FREE}
        shapes = {name: list(value.shape) for name, value in self.model.state_dict().items()}
        digest = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:12]
        return {"model": f"{type(self.model).__name__} {getattr(self.model, 'config', '')} (weights {digest})".strip(),
                "config": config, "loss": _describe(self.loss), "processes": self.world,
                "data": f"{type(self.data).__name__} of {len(self.data)} ({_sample_digest(self.data, self.device)})"}

    def save(self, done: int) -> None:
        """One file holds all, so that it is replaced as a whole. What is not finite is neither saved nor returned."""
        self.check(done)
        held = {**self.model.state_dict(), **{f"average.{name}": value for name, value in self.average.items()},
                **{f"{key} of {name}": value for name, parameter in self.model.named_parameters()
                   for key, value in self.optimizer.state.get(parameter, {}).items()}}
        if bad := [name for name, value in held.items() if not torch.isfinite(value).all()]:
            raise ValueError(f"weights must be finite, got NaN or infinity in {len(bad)} tensors before step {done}, "
                             f"first {bad[0]!r}")
        if self.config.out is not None and self.rank == 0:
            tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
            tensors |= {f"average.{k}": v for k, v in self.average.items()}
            tensors |= {f"sums.{k}": v for k, v in self.sums.items()}
            for name, parameter in self.model.named_parameters():
                for key, value in self.optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{key}.{name}"] = value
            tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
            state = {"step": done, "identity": self.identity(), "history": self.history, "count": self.count}
            payload = safetensors.torch.save(tensors, {"state": json.dumps(signed(state, tensors))})
            path = Path(self.config.out) / CHECKPOINT
            if self.sound:
                _keep_before(path)
            write_atomic(path, payload)
            self.sound = True
        if self.world > 1:
            dist.barrier()

    def load(self) -> int:
        """Take up the checkpoint, if there is one, or the one before it; the steps done."""
        path, before = Path(self.config.out) / CHECKPOINT, Path(self.config.out) / BEFORE
        if not path.exists() and not before.exists():
            return 0
        try:
            state, tensors = read_checkpoint(path)
        except (ValueError, FileNotFoundError) as error:
            if not before.exists():
                raise
            try:
                state, tensors = read_checkpoint(before)
            except ValueError as other:
                raise ValueError(f"{error}; nor can the one before it be used: {other}") from error
            warnings.warn(f"{error}; the run goes on from the one before it, of step {state['step']}", stacklevel=2)
            path, self.sound = before, False
        mine = json.loads(json.dumps(self.identity()))
        for name, wanted in mine.items():
            if state["identity"].get(name) != wanted:
                raise ValueError(f"checkpoint {path} is of {name} {state['identity'].get(name)}, wanted {wanted}")
        for prefix, own in (("model", self.model.state_dict()), ("average", self.average)):
            wrong = [name for name, value in own.items()
                     if getattr(tensors.get(f"{prefix}.{name}"), "shape", None) != value.shape]
            if wrong:
                raise ValueError(f"checkpoint {path} must hold the weights of the model, {len(wrong)} are missing or "
                                 f"of another shape, first {prefix}.{wrong[0]}")
        self.check_state(path, state, tensors)
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
        self.sums = {k.removeprefix("sums."): sent(v, self.device) for k, v in tensors.items() if k.startswith("sums.")}
        return state["step"]

    def check_state(self, path: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """A checkpoint that fits this run must also make sense: whoever can sign one can write anything into it."""
        bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
        if bad:
            raise ValueError(f"checkpoint {path} must be finite, got NaN or infinity in {bad[0]}")
        if not 0 <= state["step"] <= self.config.steps or not 0 <= state["count"] <= state["step"]:
            raise ValueError(f"checkpoint {path} must be of a step in 0 .. {self.config.steps}, got {state['step']}, "
                             f"and {state['count']} since the last row")
        wanted = {f"optimizer.{key}.{name}": value.shape if key != "step" else torch.Size()
                  for name, value in self.model.named_parameters() for key in ("step", "exp_avg", "exp_avg_sq")}
        wanted |= {name: torch.Size() for name in tensors if name.startswith("sums.")}
        wrong = [name for name, shape in wanted.items() if name in tensors
                 and (tensors[name].shape != shape or not tensors[name].is_floating_point())]
        wrong += [name for name in tensors if name.startswith("optimizer.") and name not in wanted]
        if wrong or (state["step"] and not any(name.startswith("optimizer.") for name in tensors)):
            raise ValueError(f"checkpoint {path} must hold the optimiser's state of the model, got another "
                             f"{wrong[0] if wrong else 'without any'}")


def model_inputs(model: nn.Module, batch: Mapping[str, Tensor], device: torch.device) -> list[Tensor]:
    """What ``model`` is called with: the image, or what it names in ``inputs``; pictures with channels last."""
    names = getattr(model, "inputs", ("image",))
    if missing := [name for name in names if name not in batch]:
        raise ValueError(f"data must have what the model takes, {', '.join(names)}, got {list(batch)}: {missing} is "
                         "missing")
    values = [batch[name].to(device) for name in names]
    return [value.to(memory_format=torch.channels_last) if value.ndim == 4 else value for value in values]


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rate of 0-based ``step``: a linear rise, then half a cosine down to the floor, or a factor at each milestone."""
    rise = config.warmup * config.steps
    if step < rise:
        return config.lr * (step + 1) / (rise + 1)
    if config.schedule == "cosine":
        t = (step - rise) / (config.steps - rise)
        return config.lr * (config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * t)))
    return config.lr * math.prod(f for t, f in zip(config.milestones, config.factors) if step >= t * config.steps)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """State and tensors of a checkpoint.

    Raises:
        ValueError: if the file is not one of ours or is damaged.
        OSError: if it cannot be read.
    """
    tensors, said = read_tensors(path)
    try:
        state = json.loads(said["state"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a training checkpoint: {error}") from error
    kinds = {"step": int, "identity": dict, "history": list, "count": int, "digest": str}
    state = state if isinstance(state, dict) else {}
    wrong = [name for name, kind in kinds.items() if not isinstance(state.get(name), kind)]
    wrong += [name for name in ("step", "count") if isinstance(state.get(name), bool)]
    if wrong:
        raise ValueError(f"{path} is not a training checkpoint: it says no {', '.join(wrong)}")
    mine = signed(state, tensors)
    if mine["digest"] != state["digest"]:
        raise ValueError(f"{path} is damaged: its tensors are not those that were saved")
    if state.get("signature", mine["signature"]) != mine["signature"]:        # older checkpoints have none
        raise ValueError(f"{path} is damaged: what it says of the run is not what was saved")
    if not all(isinstance(row, dict) and row and all(_is_finite(value) for value in row.values())
               for row in state["history"]):
        raise ValueError(f"{path} is not a training checkpoint: its history must be rows of finite numbers")
    return state, tensors


def signed(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state of a run with ``digest``, a fingerprint of its tensors, and ``signature``, one of all that it says."""
    state = {name: value for name, value in state.items() if name != "signature"} | {"digest": _digest(tensors)}
    said = json.dumps(state, sort_keys=True)
    return state | {"signature": hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]}


def largest_part(attempt: Callable[[int], Any], count: int) -> int:
    """The most of count / 2, count / 4, ... items with which ``attempt`` does not run out of memory; 0 if none."""
    while (count := count // 2) > 0:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            attempt(count)
            return count
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)
        except (ValueError, RuntimeError):              # a normalisation of one item, say: nothing is known then
            return 0
    return 0


def no_room(name: str, count: int, fitting: int, device: torch.device | str) -> str:
    """In words: the device's memory is too small for ``count`` items, and ``fitting`` fit (0 if it is not known)."""
    told = f"{fitting} fit" if fitting else "try half as many"
    return f"{name} must fit into the memory of {device}, got {count}, which do not: {told}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def _keep_before(path: Path) -> None:
    """Give the checkpoint that is there a second name, so that the next one does not take it away."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            os.link(path, temporary)
        except FileNotFoundError:
            return
        except OSError as error:                        # no such thing as a second name on this disk
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            shutil.copyfile(path, temporary)
        os.replace(temporary, path.with_name(BEFORE))
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """A fingerprint of names, types, shapes and bits."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _sample_digest(data: Any, device: torch.device) -> str:
    """A fingerprint of what ``data`` gives for three of its items: other data, size or augmentation gives others."""
    total, indices = hashlib.sha256(), sorted({0, len(data) // 2, len(data) - 1})
    batch = _fetched(data, [(0, index) for index in indices], device)
    for name, value in sorted(batch.items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        for row in value.detach().cpu().double().reshape(len(value), -1).nan_to_num().abs().mean(1).tolist():
            total.update(f"{row:.3g}".encode())         # rounded: machines differ in the last bits of a picture
    return total.hexdigest()[:12]


def _fetched(data: Any, keys: Sequence[tuple[int, int]], device: torch.device) -> dict[str, Tensor]:
    """The batch of some (epoch, index)."""
    if _is_batched(data):
        return data.batch({name: value.to(device) for name, value in data.draws(keys).items()})
    return _collated([_Epochs(data)[key] for key in keys])


def _collated(items: Sequence[Any]) -> dict[str, Tensor]:
    """Items as one batch."""
    if not all(isinstance(item, Mapping) for item in items):
        raise ValueError(f"data must give tensors by name, got {[type(item).__name__ for item in items]}")
    try:
        batch = default_collate(items)
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(f"data must give items of the same names, types and shapes: {error}") from error
    if wrong := [name for name, value in batch.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"data must give tensors by name, got another thing for {wrong[0]!r}")
    return batch


def _describe(loss: Any) -> str:
    """The name of a loss and, if a function made it, the plain values it was made with."""
    name = getattr(loss, "__qualname__", type(loss).__qualname__)
    cells = zip(getattr(getattr(loss, "__code__", None), "co_freevars", ()), getattr(loss, "__closure__", None) or ())
    plain = {key: cell.cell_contents for key, cell in cells if isinstance(cell.cell_contents, (int, float, str, tuple))
             or is_dataclass(cell.cell_contents)}
    return f"{name} {plain}" if plain else name


def _groups(model: nn.Module, config: TrainConfig) -> tuple[list[list[nn.Parameter]], list[dict[str, Any]]]:
    """Parameters that are clipped together, and those that have one rate, as an optimiser takes them."""
    named = dict(model.named_parameters())
    if not named:
        raise ValueError(f"model must have parameters, {type(model).__name__} has none")
    groups = model.parameter_groups() if hasattr(model, "parameter_groups") else {"": named.values()}
    groups = {name: list(group) for name, group in groups.items()}             # ``parameters()`` can be read once only
    of = {id(p): name for name, group in groups.items() for p in group}
    if sorted(id(p) for group in groups.values() for p in group) != sorted(id(p) for p in named.values()):
        raise ValueError(f"parameter_groups() must hold every parameter of {type(model).__name__} once")
    parts: dict[float, list[nn.Parameter]] = {}
    unused = set(config.rates)
    for name, parameter in named.items():
        words = [key for key in config.rates if key == of[id(parameter)] or f"{name}.".startswith(f"{key}.")]
        unused -= set(words)
        factor = config.rates[max(words, key=len)] if words else 1.0            # the longest says it best
        parts.setdefault(factor, []).append(parameter)
    if unused:
        raise ValueError(f"rates must name parts of {type(model).__name__}, got {sorted(unused)}")
    return list(groups.values()), [{"params": p, "factor": factor} for factor, p in parts.items()]


def _is_batched(data: Any) -> bool:
    """Whether ``data`` makes whole batches on a device from draws made on the host."""
    return hasattr(data, "draws") and hasattr(data, "batch")


class _Epochs(Dataset):
    """``data`` by (epoch, index)."""

    def __init__(self, data: Any):
        self.data = data

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        return self.data.at(epoch, index) if hasattr(self.data, "at") else self.data[index]


class _Order:
    """Batches of (epoch, index): a shuffle an epoch, or the order that the data asks for; across epoch ends."""

    def __init__(self, data: Any, config: TrainConfig, start: int, rank: int, world: int):
        self.count, self.config, self.start, self.rank, self.world = len(data), config, start, rank, world
        self.shuffled = getattr(data, "order", lambda rng: rng.permutation(len(data)))

    def __len__(self) -> int:
        return self.config.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0)
        for step in range(self.start, self.config.steps):
            keys = []
            for position in range(step * self.config.batch_size, (step + 1) * self.config.batch_size):
                if position // self.count != epoch:
                    epoch = position // self.count
                    order = np.asarray(self.shuffled(np.random.default_rng((self.config.seed, epoch))))
                    if order.dtype.kind not in "iu" or order.shape != (self.count,) or not (
                            0 <= order.min() and order.max() < self.count):
                        raise ValueError(f"data.order must give {self.count} indices below {self.count}, got {order}")
                keys.append((epoch, int(order[position % self.count])))
            share = len(keys) // self.world                                     # neighbours stay together
            yield keys[self.rank * share:(self.rank + 1) * share]


def _processes(config: TrainConfig) -> tuple[torch.device, int, int]:
    """Device, rank and number of processes; joins those that ``torchrun`` started."""
    cuda = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    try:
        world = int(os.environ.get("WORLD_SIZE", 1))
    except ValueError:
        raise ValueError(f"WORLD_SIZE must be a whole number, got {os.environ['WORLD_SIZE']!r}") from None
    if world > 1 and not dist.is_initialized():
        if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise ValueError(f"WORLD_SIZE is {world} but {', '.join(missing)} are not set: start the processes with "
                             "torchrun, or unset WORLD_SIZE")
        print(f"waiting for {world} processes at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}", flush=True)
        # joined once and left at exit: a second group in the same launch would find the first one's addresses and hang
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    name = config.device if config.device != "auto" else "cuda" if cuda else "cpu"
    if cuda and world > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
        torch.cuda.set_device(name)
    return pick_device(name), rank, world
