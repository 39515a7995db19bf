"""Records: one JSON a run, so that no figure in the book is typed; and arms, which never run twice.

A record keeps what was run, on which data, with which seeds and budget, at which commit, on which device, how long it
took, and its figures. Records written since there is a field ``clean`` say whether the tree was as committed; the book
refuses those that were not. Older records have no such field and are read as they are (their commit has a "+" where
files had changed).
"""

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from facealign_lite.data.files import sweep, write_atomic
from facealign_lite.data.locks import Held, hold
from facealign_lite.training import CHECKPOINT, read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
WORK = ROOT / "_build" / "experiments"            # checkpoints, faces rendered once, small weights
FIELDS = {"what": str, "data": str, "seeds": list, "budget": dict, "commit": str, "device": str,
          "seconds": (int, float), "figures": dict}
CODE = ("facealign_lite", "experiments", "tools", "benchmarks")    # what decides figures
HISTORY_ROWS = 50
Result = TypeVar("Result")
SMALL = 2_000_000                                 # bytes of weights that are kept


# ---- one record ----------------------------------------------------------------------------------------------------

def write_record(name: str, record: Mapping[str, Any], folder: str | Path = RESULTS) -> Path:
    """Write ``folder/name.json``, whole or not at all; ``clean`` is added, true where the commit is known and had not
    been changed, and ``source``, what ``source_digest`` says, unless it is there.

    Args:
        record: what, data, seeds (list), budget (dict), commit, device, seconds, figures (dict); more is kept too.

    Raises:
        ValueError: if it is no mapping, a field is missing or of another type, or a value is not finite or not JSON.
        OSError: if the disk refuses.
    """
    path = Path(folder) / f"{_name(name)}.json"
    if not isinstance(record, Mapping):
        raise ValueError(f"record {name!r} must be a mapping, got {type(record).__name__}")
    if wrong := _misfits(record):
        raise ValueError(f"record {name!r} must have {wrong}")
    clean = record["commit"] != "unknown" and not record["commit"].endswith("+")
    record = {"source": source_digest(), **record, "clean": clean}
    try:
        text = json.dumps(record, indent=1, allow_nan=False, default=_plain)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"record {name!r} must hold finite numbers, words, lists and dicts: {error}") from error
    write_atomic(path, (text + "\n").encode())
    return path


def read_record(name: str, folder: str | Path = RESULTS, clean: bool = False) -> dict[str, Any]:
    """The record of that name.

    Args:
        clean: refuse a record that says that its tree had been changed; one without the field ``clean`` is older than
            this rule and passes.

    Raises:
        OSError: if there is none.
        ValueError: if the file is damaged, lacks a field, has one of another type, or is refused.
    """
    path = Path(folder) / f"{_name(name)}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be JSON with finite numbers: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} must hold a record, got {type(record).__name__}")
    if wrong := _misfits(record):
        raise ValueError(f"{path} must have {wrong}")
    if clean and record.get("clean") is False:
        raise ValueError(f"{path} is of a changed tree (commit {record['commit']}): commit, remove it, run it again")
    return record


def read_seeds(arm: str, folder: str | Path = RESULTS, clean: bool = False) -> list[dict[str, Any]]:
    """The records of an arm, ``folder/<arm>-<seed>.json``, one for each seed, by seed; none if it has not been run.

    Raises:
        ValueError: as ``read_record``.
    """
    seeds = [path.stem.removeprefix(f"{_name(arm)}-") for path in Path(folder).glob(f"{arm}-*.json")]
    return [read_record(f"{arm}-{seed}", folder, clean) for seed in sorted(filter(str.isdigit, seeds), key=int)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds, as a table shows them; a single value alone, and "-" for none."""
    if not len(values):
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


# ---- where a record comes from -------------------------------------------------------------------------------------

def commit() -> str:
    """The commit the code is at, "+" behind it where files have changed; "unknown" outside a checkout of its own."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()
    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT.resolve():
            return "unknown"                      # installed somewhere inside another project's checkout
        changed = git("status", "--porcelain", "--", *CODE)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def source_digest(root: Path | None = None) -> str:
    """Hash of the library's and the experiments' Python files: on a machine without git it stands for the commit."""
    root, whole = root or ROOT, hashlib.sha256()
    for path in sorted(path for folder in CODE[:2] for path in (root / folder).rglob("*.py")):
        whole.update(f"{path.relative_to(root).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()[:16]


def describe_device(device: str = "auto") -> str:
    """Processor, threads and torch version, for a record.

    Raises:
        ValueError: for a device that torch does not know or that is not here.
    """
    try:
        kind = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu or cuda, got {device!r}") from error
    if kind.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device must be auto, cpu, cuda or mps, got {device!r}")
    if kind.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device must be here, got {device!r} without CUDA")
        return f"{torch.cuda.get_device_name(kind)}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


# ---- several processes, one folder ---------------------------------------------------------------------------------

def lock(folder: str | Path, wait: bool = False) -> AbstractContextManager[None]:
    """Keep others out of ``folder`` while the block runs, see ``data.locks.hold``."""
    return hold(Path(folder) / "lock", wait)


def shared(training: Callable[[], Generator[int, None, Result]]) -> Generator[int, None, Result]:
    """The steps of a training that several arms need: whoever comes first trains, the others wait and then read.

    Args:
        training: gives the steps, as ``training.steps(..., resume=True)`` does.

    Returns:
        what it returns.
    """
    while True:
        try:
            return (yield from training())
        except Held:
            time.sleep(0.01)
            yield 0


# ---- arms ----------------------------------------------------------------------------------------------------------

# seed and folder -> the figures, at once or from a generator that yields after every step
Arm = Callable[[int, Path], Mapping[str, Any] | Generator[int, None, Mapping[str, Any]]]


class OutOfTime(BaseException):
    """The clock has run out. Like KeyboardInterrupt it is no Exception: nothing may take it for a failed step."""


def run_arms(paper: str, arms: Mapping[str, Arm], seeds: Sequence[int], what: str, data: str,
             budget: Mapping[str, Any], folder: str | Path = RESULTS, work: str | Path | None = None,
             device: str = "auto", seconds: float | None = None,
             done: Callable[[Mapping[str, Mapping[str, Any]]], None] = lambda records: None, together: int = 1
             ) -> dict[str, dict[str, Any]]:
    """Run every arm with every seed once; what is finished is read, what was stopped goes on.

    Several processes may share the work: each arm is locked, and one that another process is at is passed by with a
    word on stderr.

    Args:
        paper: first part of the records' names, ``paper-arm-seed``.
        arms: name -> function of (seed, folder for its checkpoints) that returns the figures, the most important
            first; one that trains with ``fit`` or ``yield from steps`` and ``TrainConfig(out=folder), resume=True``
            resumes by itself.
        seeds: one run each; all arms of one seed first, so that an unfinished table is fair.
        what, data, budget: what the records shall say; the same for all arms. An arm that trains with a rate or a
            number of steps of its own does not show in it: that stands where the arm is defined, and in ``history``.
        folder: of the records.
        work: of the checkpoints; ``_build/experiments`` if None.
        device: what the arms run on, for the record.
        seconds: stop by then. An arm is passed by that would not be done in time, by what it or others took before on
            this device, unless it would not be done in ``seconds`` alone either; one that is at work then is stopped
            and goes on from its last checkpoint next time.
        done: told after each arm which records there are.
        together: arms that go on in turn, a step each, if they are generators: on a GPU they run beside each other.

    Returns:
        the records that there are, by name. Beside the fields of every record: arm, source (``source_digest``), and
        history, the thinned loss history of each training below its folder.

    Raises:
        ValueError: if a record of that name is of another setting: rename the arm or remove the record.
    """
    if not arms or not seeds:
        raise ValueError(f"arms and seeds must not be empty, got {list(arms)} and {list(seeds)}")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    if together < 1:
        raise ValueError(f"together must be at least 1, got {together}")
    begin, work = time.monotonic(), Path(WORK if work is None else work)
    setting = json.loads(json.dumps({"what": what, "data": data, "budget": dict(budget)}, default=_plain))
    # where the code that is running came from; an hour later the files may be others
    facts = {"commit": commit(), "source": source_digest(), "device": describe_device(device)}
    names = {f"{_name(paper)}-{_name(arm)}-{int(seed)}": (arm, int(seed)) for seed in seeds for arm in arms}
    records = {name: _of_setting(name, folder, setting) for name in names if _path(name, folder).exists()}

    def run(name: str) -> Iterator[int]:
        """One arm with one seed, a step at a time, to its record."""
        (arm, seed), place = names[name], work / name
        with lock(place):
            if _path(name, folder).exists():                # another process has done it meanwhile
                records[name] = _of_setting(name, folder, setting)
                return
            for path in (_path(name, folder), place / "seconds"):
                sweep(path)
            start = time.perf_counter() - _spent(place)
            try:
                figures = arms[arm](seed, place)
                if isinstance(figures, Generator):
                    figures = yield from figures
            finally:
                write_atomic(place / "seconds", str(time.perf_counter() - start).encode())
            record = {**setting, "arm": arm, "seeds": [seed], **facts,
                      "seconds": round(time.perf_counter() - start, 3), "figures": dict(figures),
                      "history": _histories(place)} | ({"together": together} if together > 1 else {})
            write_record(name, record, folder)
            records[name] = read_record(name, folder)
            _keep_weights(place)
            done(records)

    waiting, going = [name for name in names if name not in records], {}
    with ExitStack() as ending:
        ending.callback(lambda: [steps.close() for steps in going.values()])    # their locks go with them
        while waiting or going:
            left = None if seconds is None else seconds - (time.monotonic() - begin)
            if left is not None and left <= 0:
                print(f"out of time: {', '.join(going) or 'nothing'} was at work", file=sys.stderr)
                break
            while waiting and len(going) < together:
                name = waiting.pop(0)
                took = {n: r["seconds"] for n, r in records.items() if r["device"] == facts["device"]}
                needed = expected(names[name][0], took, names)
                if left is None or fits(left, seconds, needed, _spent(work / name)):
                    going[name] = run(name)
                else:
                    print(f"{name}: would not be done in the {left:.0f} s that are left", file=sys.stderr)
            if not going:
                break
            try:
                # between two steps if it can be, so that trainings save where they stand
                soon = None if left is None else time.monotonic() + left - min(5.0, 0.1 * seconds)
                with _alarm(left):
                    while going and (len(going) == together or not waiting):
                        if soon is not None and time.monotonic() >= soon:
                            raise OutOfTime
                        for name in list(going):
                            try:
                                next(going[name])
                            except StopIteration:
                                del going[name]
                            except Held as error:
                                print(f"{name}: {error}", file=sys.stderr)
                                del going[name]
            except OutOfTime:
                for name in going:
                    print(f"{name}: out of time, goes on from its last checkpoint", file=sys.stderr)
                break
    for name in names:                                      # what others have finished by now
        if name not in records and _path(name, folder).exists():
            records[name] = _of_setting(name, folder, setting)
    records = {name: records[name] for name in names if name in records}
    done(records)
    return records


def expected(arm: str, took: Mapping[str, float], names: Mapping[str, tuple[str, int]]) -> float | None:
    """Seconds that ``arm`` may take: the most that it took with another seed, else the mean of all; None if none."""
    own = [value for name, value in took.items() if names[name][0] == arm]
    return max(own) if own else float(np.mean(list(took.values()))) if took else None


def fits(left: float, whole: float, needed: float | None, spent: float = 0.0) -> bool:
    """Whether an arm should be started: it fits into what is left, or it fits no call, so that it must go in pieces.

    Args:
        left, whole: seconds of this call.
        needed: expected for the arm, None if unknown.
        spent: on it before.
    """
    return needed is None or needed - spent <= left or needed > whole


# ---- records that travel -------------------------------------------------------------------------------------------

def save_lines(records: Mapping[str, Mapping[str, Any]], path: str | Path) -> None:
    """Records as one file, JSON Lines with their names."""
    lines = [json.dumps({"name": name, **record}, allow_nan=False) for name, record in records.items()]
    write_atomic(path, "".join(line + "\n" for line in lines).encode())


def collect(path: str | Path, folder: str | Path = RESULTS) -> list[str]:
    """Copy the records of a file of ``save_lines`` into ``folder``; the names of those that were not there.

    A record made where git was missing or saw changes gets the commit of this tree, if the code here is the same to the
    byte.

    Raises:
        ValueError: if a line is no record, or another record of that name is there: nothing is written then.
        OSError: if the file cannot be read or the disk refuses.
    """
    found = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line, parse_constant=_refuse)
            name = _name(record.pop("name"))
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}, must be a record with its name: {error}") from error
        if wrong := _misfits(record):
            raise ValueError(f"{path}, line {number}, must have {wrong}")
        if (record["commit"] == "unknown" or record["commit"].endswith("+")) and \
                record.get("source") == source_digest():
            record["commit"] = commit()
        if _path(name, folder).exists():
            if read_record(name, folder)["figures"] != record["figures"]:
                raise ValueError(f"{path}, line {number}: another record {name!r} is in {folder}: remove one of them")
            continue
        found[name] = record
    for name, record in found.items():
        write_record(name, record, folder)
    return list(found)


# ---- the rest ------------------------------------------------------------------------------------------------------

@contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    """Raise ``OutOfTime`` in the block after that many seconds.

    A signal stops a training at any point of it, which a checkpoint outlives as it outlives a kill. Signals reach the
    main thread alone; elsewhere the block runs to its end.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(*_: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    # again every few seconds: Python drops an exception that is raised while an object is being destroyed
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _of_setting(name: str, folder: str | Path, setting: Mapping[str, Any]) -> dict[str, Any]:
    record = read_record(name, folder)
    if other := {k: record[k] for k, v in setting.items() if record[k] != v}:
        raise ValueError(f"record {name!r} is of another setting: {other}, wanted {setting}")
    return record


def _histories(place: Path) -> dict[str, list[dict[str, float]]]:
    """Loss history of each training whose checkpoint is in ``place`` or below, by folder, at most HISTORY_ROWS rows."""
    found = {}
    for path in sorted(place.rglob(CHECKPOINT)):
        rows = read_checkpoint(path)[0]["history"]
        kept = sorted(set(np.linspace(0, len(rows) - 1, min(HISTORY_ROWS, len(rows))).round().astype(int).tolist()))
        found[path.parent.relative_to(place).as_posix()] = [
            {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in rows[i].items()}
            for i in kept]
    return found


def _keep_weights(place: Path) -> None:
    """Beside each checkpoint its weights in half precision, where they are small: to be read anew in another way."""
    for path in place.rglob(CHECKPOINT):
        tensors = {key.removeprefix("model."): value.half() if value.is_floating_point() else value
                   for key, value in read_checkpoint(path)[1].items() if key.startswith("model.")}
        payload = safetensors.torch.save(tensors)
        if len(payload) < SMALL:
            sweep(kept := path.with_name("weights.safetensors"))
            write_atomic(kept, payload)


def _spent(place: Path) -> float:
    """Seconds that earlier, interrupted runs took (those that ended by an exception; a kill leaves no note)."""
    try:
        return float((place / "seconds").read_text())
    except (OSError, ValueError):
        return 0.0


def _misfits(record: Mapping[str, Any]) -> str:
    """What a record lacks, in words; empty if nothing."""
    if missing := [key for key in FIELDS if key not in record]:
        return f"the fields {list(FIELDS)}, missing {missing}"
    return "; ".join(f"{key} of type {kind}, got {record[key]!r}" for key, kind in FIELDS.items()
                     if not isinstance(record[key], kind) or isinstance(record[key], bool))


def _path(name: str, folder: str | Path) -> Path:
    return Path(folder) / f"{name}.json"


def _name(name: str) -> str:
    if not isinstance(name, str) or not name or name != os.path.basename(name) or name.startswith("."):
        raise ValueError(f"name must be a plain file name, got {name!r}")
    return name


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not finite")


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays, tensors and paths as JSON."""
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
