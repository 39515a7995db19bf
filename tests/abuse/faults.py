"""What happens to a machine: processes are killed, disks fill up, folders are closed, files rot, two do the same work.

A ``Job`` is some work on the files of a folder. It is done in a copy of this process (a fork), where the fault happens;
then this process looks at what is left, does the work again and looks whether all is as if nothing had been. Each
campaign gives how often it tried, how often all was well, and what was wrong in words.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from facealign_lite import records, training, zoo
from facealign_lite.align import align
from facealign_lite.data import PackedFaces, Sample, save_packed
from facealign_lite.data.locks import Held

from . import load
from .doors import PHOTO, RECORD, tiny, toy_data, toy_model, training_loss
from .hostile import damaged

DONE, REFUSED, BROKEN = 0, 3, 4          # how a copy ends by itself
EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.mkdir", "open"}
NOBODY = 65534
CLOSE = 0.01                             # pixels between what one thread and two find
PATIENCE = 300                           # seconds after which a process counts as hung
CONFIG = training.TrainConfig(steps=10, batch_size=2, checkpoint_every=2, log_every=3, device="cpu", ema=0.9)


@dataclass(frozen=True)
class Job:
    """Some work on a folder."""

    before: Callable[[Path], None]       # what is there before
    work: Callable[[Path], None]         # what is done
    whole: Callable[[Path], None]        # asserts, whenever the work stopped, that nothing was lost
    done: Callable[[Path], None]         # asserts, once it is done again, that all is right and nothing is left over


# ---- jobs ----------------------------------------------------------------------------------------------------------

class Slow(list):
    """Data that take their time, so that a kill comes in the middle of things."""

    def __getitem__(self, index: Any) -> Any:
        time.sleep(0.001)
        return super().__getitem__(index)


def train(folder: Path, **changes: Any) -> tuple[list, dict]:
    model = toy_model()
    config = replace(CONFIG, out=folder / "run" if "out" not in changes else changes.pop("out"), **changes)
    history = training.fit(model, Slow(toy_data()), training_loss, config, config.out is not None, progress=False)
    return history, {name: value.clone() for name, value in model.state_dict().items()}


def same(one: tuple[list, dict], other: tuple[list, dict]) -> bool:
    return one[0] == other[0] and all(torch.equal(one[1][name], value) for name, value in other[1].items())


def _names(folder: Path, *also: str) -> set[str]:
    """Names of files in a folder but for those that may be there: a killed run leaves a lock, which holds nobody."""
    return {path.name for path in folder.iterdir()} - {".lock", "lock", *also} if folder.exists() else set()


def training_job(**changes: Any) -> Job:
    wanted = train(Path(), out=None)

    def whole(folder: Path) -> None:
        for name in (training.CHECKPOINT, training.BEFORE):
            if (folder / "run" / name).exists():
                training.read_checkpoint(folder / "run" / name)

    def done(folder: Path) -> None:
        assert same(train(folder), wanted), "the numbers are not those of a run that nobody stopped"
        assert not (left := _names(folder / "run", training.CHECKPOINT, training.BEFORE)), left
    return Job(lambda folder: None, lambda folder: train(folder, **changes) and None, whole, done)


def faces(first: int, count: int) -> list[Sample]:
    rng = np.random.default_rng(first)
    return [Sample(rng.integers(0, 256, (24, 24, 3), np.uint8), rng.uniform(2, 20, (68, 2)), tags={"n": first})
            for _ in range(count)]


def packing_job() -> Job:
    old, new = faces(1, 2), faces(2, 30)

    def check(pack: PackedFaces) -> None:
        wanted = old if len(pack) == len(old) else new
        assert len(pack) == len(wanted)
        for one, other in zip(pack, wanted):
            assert np.array_equal(one.image, other.image) and np.array_equal(one.landmarks, other.landmarks)

    def done(folder: Path) -> None:
        save_packed(folder / "pack", new)
        check(pack := PackedFaces(folder / "pack"))
        assert len(pack) == len(new)
        left = _names(folder, "pack")                      # half of a new one stays until a day later
        assert all(name.endswith(".partial") or name == ".pack.lock" for name in left), left
    return Job(lambda folder: save_packed(folder / "pack", old) and None,
               lambda folder: save_packed(folder / "pack", Slow(new)) and None,
               lambda folder: check(PackedFaces(folder / "pack")), done)


def arms_job() -> Job:
    def arm(steps: int) -> Callable:
        def run(seed: int, place: Path) -> dict[str, Any]:
            history, _ = train(place, steps=steps, seed=seed)
            return {"loss": history[-1]["loss"]}
        return run

    def work(folder: Path) -> dict:
        return records.run_arms("p", {"short": arm(6), "long": arm(10)}, [0, 1], "w", "d", {}, folder, folder / "work")
    wanted = {}

    def done(folder: Path) -> None:
        found = {name: (record["figures"], record["history"]) for name, record in work(folder).items()}
        assert found == wanted, "the figures are not those of a run that nobody stopped"
        assert not (left := _names(folder, "work", *(f"{name}.json" for name in found))), left
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(_temporary())
        wanted.update({name: (record["figures"], record["history"]) for name, record in work(place).items()})

    def whole(folder: Path) -> None:
        for path in folder.glob("*.json"):
            records.read_record(path.stem, folder)
    return Job(lambda folder: None, lambda folder: work(folder) and None, whole, done)


def weights_job() -> Job:
    old, new = tiny(), tiny()
    torch.nn.init.constant_(next(new.parameters()), 0.5)

    def whole(folder: Path) -> None:
        found = next(zoo.read(folder / "a.safetensors")[0].parameters())
        assert any(torch.equal(found, next(model.parameters()).half().float()) for model in (old, new))

    def done(folder: Path) -> None:
        zoo.save(new, folder / "a.safetensors")
        whole(folder)
        left = _names(folder, "a.safetensors")
        assert all(name.startswith(".a.safetensors.") for name in left) and len(left) <= 1, left
    return Job(lambda folder: zoo.save(old, folder / "a.safetensors") and None,
               lambda folder: zoo.save(new, folder / "a.safetensors") and None, whole, done)


def record_job() -> Job:
    new = RECORD | {"figures": {"nme": 0.04}}

    def whole(folder: Path) -> None:
        assert records.read_record("a", folder)["figures"] in (RECORD["figures"], new["figures"])

    def done(folder: Path) -> None:
        records.write_record("a", new, folder)
        assert records.read_record("a", folder)["figures"] == new["figures"]
    return Job(lambda folder: records.write_record("a", RECORD, folder) and None,
               lambda folder: records.write_record("a", new, folder) and None, whole, done)


JOBS: dict[str, Callable[[], Job]] = {"training": training_job, "packing faces": packing_job, "running arms": arms_job,
                                      "saving weights": weights_job, "writing a record": record_job}


# ---- faults --------------------------------------------------------------------------------------------------------

def copy(work: Callable[[], None], fault: Callable[[], None] = lambda: None) -> int:
    """Start ``work`` in a copy of this process, in which ``fault`` is set up before; its process id."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = BROKEN
    try:
        signal.alarm(PATIENCE)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        fault()
        work()
        code = DONE
    except (ValueError, OSError, KeyboardInterrupt):
        code = REFUSED
    except BaseException:      # noqa: BLE001    the parent must learn of it, whatever it is
        traceback.print_exc()
    finally:
        os._exit(code)


def end(pid: int) -> int:
    """How a copy ended: its code, or the negative number of a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at_event(number: int, act: Callable[[], None]) -> Callable[[], None]:
    """Set up that ``act`` happens just before the ``number``th change of a file or name."""
    def fault() -> None:
        left = number

        def hook(event: str, given: tuple) -> None:
            nonlocal left
            if event in EVENTS and (event != "open" or _writes(given)):
                left -= 1
                if left == 0:
                    act()
        sys.addaudithook(hook)
    return fault


def _writes(given: tuple) -> bool:
    flags = given[2] if len(given) > 2 and isinstance(given[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


class Count:
    """How often a fault was tried and survived, and how the others went."""

    def __init__(self) -> None:
        self.tried, self.survived, self.told = 0, 0, []

    def one(self, words: str, check: Callable[[], None]) -> None:
        """Count one try; ``check`` raises if something is wrong."""
        self.tried += 1
        try:
            check()
            self.survived += 1
        except Exception as error:      # noqa: BLE001    to be told
            self.told.append(f"{words}: {type(error).__name__}: {error}"[:600])

    def figures(self) -> dict[str, Any]:
        return {"tried": self.tried, "survived": self.survived, "told": self.told[:5]}


def _after(job: Job, folder: Path, code: int, fine: tuple[int, ...]) -> None:
    assert code in fine, f"the process ended with {code}, wanted one of {fine}"
    job.whole(folder)
    job.done(folder)


def at_every_change(name: str, act: Callable[[], None], fine: tuple[int, ...], folder: Path, most: int = 400
                    ) -> dict[str, Any]:
    """The fault just before the first change of a file or name, before the second, ... until none is left."""
    job, count = JOBS[name](), Count()
    for number in range(1, most + 1):
        place = folder / str(number)
        place.mkdir()
        job.before(place)
        code = end(copy(lambda job=job, place=place: job.work(place), at_event(number, act)))
        count.one(f"{name}, change {number}", lambda code=code, place=place: _after(job, place, code, (DONE, *fine)))
        shutil.rmtree(place, ignore_errors=True)
        if code == DONE:
            break
    return count.figures()


def killed(name: str, times: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """kill -9 at random moments of the work, from before it begins until after it has ended."""
    job, count, rng = JOBS[name](), Count(), np.random.default_rng(seed)
    (folder / "whole").mkdir()
    job.before(folder / "whole")
    start = time.perf_counter()
    assert end(copy(lambda: job.work(folder / "whole"))) == DONE
    took = time.perf_counter() - start
    for number in range(times):
        place = folder / str(number)
        place.mkdir()
        job.before(place)
        pid, moment = copy(lambda job=job, place=place: job.work(place)), rng.uniform(0, 1.05 * took)
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        code = end(pid)
        count.one(f"{name}, killed after {moment:.3f} s",
                  lambda code=code, place=place: _after(job, place, code, (DONE, -signal.SIGKILL)))
        shutil.rmtree(place, ignore_errors=True)
    return count.figures()


def full_disk(name: str, times: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """No file may grow beyond a limit, as on a disk that is full: an error is said, and what was there is there."""
    job, count, rng = JOBS[name](), Count(), np.random.default_rng(seed)

    def limit(size: int) -> Callable[[], None]:
        def fault() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return fault
    for number in range(times):
        place, size = folder / str(number), int(2 ** rng.uniform(0, 15))
        place.mkdir()
        job.before(place)
        code = end(copy(lambda job=job, place=place: job.work(place), limit(size)))
        count.one(f"{name}, files of at most {size} bytes",
                  lambda code=code, place=place: _after(job, place, code, (DONE, REFUSED)))
        shutil.rmtree(place, ignore_errors=True)
    return count.figures()


def closed_folder(name: str, folder: Path) -> dict[str, Any]:
    """A folder in which nothing may be changed: an error is said."""
    job, count = JOBS[name](), Count()
    with _temporary() as place:
        job.before(place)
        modes = [(path, path.stat().st_mode) for path in (place, *place.rglob("*"))]
        for path, mode in modes:
            path.chmod(mode & 0o555 | (0o555 if path.is_dir() else 0o444))
        code = end(copy(lambda: job.work(place), lambda: os.setuid(NOBODY) if os.geteuid() == 0 else None))
        for path, mode in modes:
            path.chmod(mode)
        count.one(f"{name} in a closed folder", lambda: _after(job, place, code, (REFUSED,)))
    return count.figures()


def at_once(name: str, times: int, folder: Path, number: int = 2) -> dict[str, Any]:
    """Several processes do the same work in one folder: each does it, or says that another is at it."""
    job, count = JOBS[name](), Count()
    for time_ in range(times):
        place = folder / str(time_)
        place.mkdir()
        job.before(place)
        pids = [copy(lambda job=job, place=place: job.work(place)) for _ in range(number)]
        codes = [end(pid) for pid in pids]

        def check(codes: list[int] = codes, place: Path = place) -> None:
            assert DONE in codes and set(codes) <= {DONE, REFUSED}, codes
            job.done(place)
        count.one(f"{name}, {number} at once", check)
        shutil.rmtree(place, ignore_errors=True)
    return count.figures()


def rotten(times: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """A checkpoint that is damaged: the run says so and goes on from the one before it, to the same numbers."""
    wanted, count, rng = train(Path(), out=None), Count(), np.random.default_rng(seed)
    going = training.steps(toy_model(), Slow(toy_data()), training_loss, replace(CONFIG, out=folder / "run"),
                           progress=False)
    for _ in range(9):
        next(going)
    going.close()
    kept = {name: (folder / "run" / name).read_bytes() for name in (training.CHECKPOINT, training.BEFORE)}
    for number in range(times):
        shutil.rmtree(folder / "run")
        (folder / "run").mkdir()
        spoiled = damaged(rng, kept[training.CHECKPOINT])
        (folder / "run" / training.BEFORE).write_bytes(kept[training.BEFORE])
        (folder / "run" / training.CHECKPOINT).write_bytes(spoiled)

        def check(spoiled: bytes = spoiled) -> None:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                assert same(train(folder), wanted)
            told = [str(each.message) for each in said]
            assert spoiled == kept[training.CHECKPOINT] or any("goes on from the one before" in text for text in told)
        count.one(f"damage {number}", check)
    return count.figures()


def lost_worker(times: int, folder: Path) -> dict[str, Any]:
    """A process that fetches data is killed: the run ends and names it, and goes on from its checkpoint."""
    count, wanted, parent = Count(), train(Path(), out=None), os.getpid()
    for number in range(times):
        place = folder / str(number)

        class Deadly(Slow):
            place: Path

            def __getitem__(self, index: Any) -> Any:
                if os.getpid() != parent and (self.place / "run" / training.CHECKPOINT).exists():
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().__getitem__(index)
        Deadly.place = place
        Deadly.__name__ = "Slow"                            # the same data to whoever looks

        def check(place: Path = place, data: Any = Deadly) -> None:
            config = replace(CONFIG, out=place / "run", workers=1)
            try:
                training.fit(toy_model(), data(toy_data()), training_loss, config, progress=False)
            except ChildProcessError as error:
                assert "pid" in str(error), error
            else:
                raise AssertionError("nobody noticed")
            assert same(train(place), wanted)
        count.one(f"worker {number}", check)
    return count.figures()


def lost_packer(times: int, folder: Path) -> dict[str, Any]:
    """A process that renders faces for a pack is killed: it is named, and the old pack is there."""
    job, count, parent = packing_job(), Count(), os.getpid()

    class Deadly(list):
        def __getitem__(self, index: Any) -> Any:
            if os.getpid() != parent and index == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(index)
    for number in range(times):
        place = folder / str(number)
        place.mkdir()
        job.before(place)

        def check(place: Path = place) -> None:
            try:
                save_packed(place / "pack", Deadly(faces(2, 30)), workers=1)
            except ChildProcessError as error:
                assert "pid" in str(error), error
            else:
                raise AssertionError("nobody noticed")
            _after(job, place, REFUSED, (REFUSED,))
        count.one(f"worker {number}", check)
    return count.figures()


def no_home(times: int, folder: Path) -> dict[str, Any]:
    """No HOME, nor anything else in the environment: the command line aligns a photo all the same."""
    count = Count()
    Image.fromarray(PHOTO.image).save(folder / "a.png")
    for number, home in enumerate(({}, {"HOME": "/nonexistent"}, {"HOME": str(folder / "a.png")})[:times]):
        def check(home: dict[str, str] = home, number: int = number) -> None:
            out = folder / f"{number}.json"
            words = [sys.executable, "-m", "facealign_lite", str(folder / "a.png"), "--json", str(out), "--box",
                     *(f"{v:.1f}" for v in PHOTO.box)]
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE,
                                  env={"PYTHONPATH": str(records.ROOT), "OMP_NUM_THREADS": "1", **home})
            assert done.returncode == 0 and out.exists() and not done.stderr, done
        count.one(f"home {home}", check)
    return count.figures()


def spoiled_loss(times: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """A loss or gradient that turns NaN at a random step: the run stops, and the checkpoint is a good one."""
    count, rng = Count(), np.random.default_rng(seed)
    for number in range(times):
        place, step, way = folder / str(number), int(rng.integers(1, CONFIG.steps + 1)), int(rng.integers(2))

        def check(place: Path = place, step: int = step, way: int = way) -> None:
            calls = 0

            def loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
                nonlocal calls
                calls += 1
                value = training_loss(outputs, batch)
                if calls == step and way == 0:
                    return value * torch.nan
                if calls == step:
                    outputs.register_hook(lambda gradient: gradient * torch.nan)
                return value
            try:
                training.fit(toy_model(), toy_data(), loss, replace(CONFIG, out=place / "run"), progress=False)
            except ValueError as error:
                assert "finite" in str(error), error
            else:
                raise AssertionError("nobody noticed")
            if (place / "run" / training.CHECKPOINT).exists():
                state, tensors = training.read_checkpoint(place / "run" / training.CHECKPOINT)
                assert state["step"] < step and all(torch.isfinite(value).all() for value in tensors.values())
        count.one(f"step {step}, {('loss', 'gradient')[way]}", check)
    return count.figures()


def same_training(times: int, folder: Path) -> dict[str, Any]:
    """The same seed gives the same bits: again, and with 0, 1 or 2 processes that fetch data."""
    count = Count()
    for number in range(times):
        wanted = train(Path(), out=None, seed=number)
        for workers in (0, 1, 2):
            def check(wanted: Any = wanted, workers: int = workers, number: int = number) -> None:
                assert same(train(Path(), out=None, seed=number, workers=workers), wanted)
            count.one(f"seed {number}, {workers} workers", check)
    return count.figures()


def threads_apart(times: int, folder: Path) -> dict[str, Any]:
    """What nobody promises: 1 thread and 2 add in another order. By how many pixels landmarks then differ is told."""
    count, samples, largest, before = Count(), load.faces(5), 0.0, torch.get_num_threads()
    try:
        for number in range(times):
            picture, found = load.varied(samples, number), []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                found.append(align(*picture).landmarks)
            largest = max(largest, float(np.abs(found[0] - found[1]).max()))

            def check(found: list = found) -> None:
                assert np.abs(found[0] - found[1]).max() < CLOSE
            count.one(f"picture {number}", check)
    finally:
        torch.set_num_threads(before)
    return count.figures() | {"largest_difference_px": float(f"{largest:.2g}")}


def held(folder: Path) -> str:
    """What the second of two runs in one folder is told."""
    with records.lock(folder):
        try:
            with records.lock(folder):
                return ""
        except Held as error:
            return str(error)


# part: how it is run; tries in the long form and in the short one
Part = Callable[[int, Path], dict[str, Any]]
PARTS: dict[str, tuple[Part, int, int]] = {
    **{f"{name}: killed before each change of a file": (
        lambda times, folder, name=name: at_every_change(name, kill, (-signal.SIGKILL,), folder, times), 400,
        8 if name == "running arms" else 24) for name in JOBS},
    **{f"{name}: interrupted before each change of a file": (
        lambda times, folder, name=name: at_every_change(name, interrupt, (REFUSED,), folder, times), 400,
        4 if name == "running arms" else 24) for name in JOBS},
    **{f"{name}: kill -9 at random moments": (
        lambda times, folder, name=name: killed(name, times, folder), 50, 3) for name in JOBS},
    **{f"{name}: full disk": (lambda times, folder, name=name: full_disk(name, times, folder), 50, 5) for name in JOBS},
    **{f"{name}: folder that may not be written": (
        lambda times, folder, name=name: closed_folder(name, folder), 1, 1) for name in JOBS},
    **{f"{name}: two processes in one folder": (
        lambda times, folder, name=name: at_once(name, times, folder), 25, 2) for name in JOBS},
    "training: damaged checkpoint": (rotten, 300, 10),
    "training: a worker process is killed": (lost_worker, 10, 1),
    "training: loss or gradient turns NaN": (spoiled_loss, 50, 6),
    "packing faces: a worker process is killed": (lost_packer, 10, 1),
    "command line: no home folder": (no_home, 3, 1),
    "same numbers: training, again and with 0, 1, 2 workers": (same_training, 10, 1),
    "same numbers: landmarks with 1 and 2 threads, to a hundredth of a pixel": (threads_apart, 200, 3),
}
