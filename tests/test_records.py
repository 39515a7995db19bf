"""Records that come back, arms that never run twice, processes that keep out of each other's way, and the clock."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from facealign_lite import records
from facealign_lite.data.locks import Held, hold
from facealign_lite.records import commit, expected, fits, lock, read_record, run_arms, shared, write_record
from facealign_lite.training import TrainConfig, fit

ROOT = Path(__file__).resolve().parents[1]
RECORD = {"what": "a test", "data": "none", "seeds": [0], "budget": {"steps": 1}, "commit": "abc", "device": "cpu",
          "seconds": 0.5, "figures": {"nme": 0.05}}


# ---- one record ----------------------------------------------------------------------------------------------------

def test_records_come_back(tmp_path):
    figures = {"nme": np.float64(0.05), "each": np.arange(3), "where": Path("a/b")}
    path = write_record("one", RECORD | {"figures": figures, "note": "kept"}, tmp_path)
    assert os.listdir(tmp_path) == ["one.json"] and path.read_text().endswith("}\n")
    record = read_record("one", tmp_path)
    assert record["figures"] == {"nme": 0.05, "each": [0, 1, 2], "where": "a/b"} and record["note"] == "kept"


@pytest.mark.parametrize("change", [{"seeds": 0}, {"figures": None}, {"commit": 7}, {"figures": {"nme": float("nan")}},
                                    {"seconds": "long"}, {"seconds": True}, {"figures": {"nme": object()}},
                                    {"figures": {(1, 2): 3}}], ids=lambda change: next(iter(change)))
def test_unfit_records_are_not_written(tmp_path, change):
    with pytest.raises(ValueError, match="record 'one'"):
        write_record("one", RECORD | change, tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_is_no_record_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="mapping"):
        write_record("one", [1], tmp_path)


def test_unreadable_records_are_named(tmp_path):
    with pytest.raises(OSError, match="one.json"):
        read_record("one", tmp_path)
    listed = json.dumps(list(RECORD))
    for text, seen in (("{", "JSON"), ('{"what": "x"}', "missing.*seeds"), ("null", "NoneType"), ("3", "int"),
                       ("[" * 100_000, "JSON"), (listed, "list"), (json.dumps(" ".join(RECORD)), "str"),
                       (json.dumps(RECORD | {"seeds": 3}), "seeds"),
                       (json.dumps(RECORD | {"figures": {"nme": float("nan")}}), "finite"),
                       ('{"a": Infinity}', "finite")):
        (tmp_path / "one.json").write_text(text)
        with pytest.raises(ValueError, match=f"one.json.*{seen}"):
            read_record("one", tmp_path)
    for name in ("../one", "", ".one", "a/b"):
        with pytest.raises(ValueError, match="name"):
            read_record(name, tmp_path)


@pytest.mark.parametrize(("at", "clean"), [("abc", True), ("abc+", False), ("unknown", False)])
def test_a_record_of_a_changed_tree_is_refused_for_the_book(tmp_path, at, clean):
    write_record("a-0", RECORD | {"commit": at}, tmp_path)
    assert read_record("a-0", tmp_path)["clean"] is clean
    for read in (lambda: read_record("a-0", tmp_path, clean=True),
                 lambda: records.read_seeds("a", tmp_path, clean=True)[0]):
        if clean:
            assert read()["commit"] == at
        else:
            with pytest.raises(ValueError, match="a-0.json is of a changed tree"):
                read()


def test_records_older_than_that_rule_are_read(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps(RECORD | {"commit": "abc+"}))
    assert read_record("old", tmp_path, clean=True)["commit"] == "abc+"


def test_every_record_of_the_repository_can_be_read_for_the_book():
    for path in records.RESULTS.glob("*.json"):
        read_record(path.stem, clean=True)


def test_the_records_of_an_arm_come_by_seed_and_no_other_arms(tmp_path):
    for name, value in (("a-10", 0.3), ("a-2", 0.1), ("a-b-2", 0.9)):
        write_record(name, RECORD | {"figures": {"nme": value}}, tmp_path)
    assert [run["figures"]["nme"] for run in records.read_seeds("a", tmp_path)] == [0.1, 0.3]
    assert [run["figures"]["nme"] for run in records.read_seeds("a-b", tmp_path)] == [0.9]
    assert records.read_seeds("c", tmp_path) == []


def test_a_spread_is_mean_and_standard_deviation():
    assert records.spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00" and records.spread([1.0, 3.0], 1) == "2.0 ± 1.4"
    assert records.spread([1.234]) == "1.23" and records.spread([]) == "-"


# ---- where it comes from -------------------------------------------------------------------------------------------

def test_commit_and_device_say_something():
    assert commit() == "unknown" or len(commit().rstrip("+")) == 12
    assert torch.__version__ in records.describe_device()
    with pytest.raises(ValueError, match="device must be"):
        records.describe_device("a toaster")


def git(folder, *words):
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True,
                   capture_output=True)


def test_a_commit_says_whether_the_code_was_changed_and_is_nobody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "ROOT", tmp_path)
    assert commit() == "unknown"                                        # no checkout
    code = tmp_path / "facealign_lite" / "a.py"
    code.parent.mkdir()
    code.write_text("a = 1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    first, digest = commit(), records.source_digest()
    assert len(first) == 12
    (tmp_path / "notes.md").write_text("is no code")
    assert commit() == first and records.source_digest() == digest
    code.write_text("a = 2")
    assert commit() == first + "+" and records.source_digest() != digest
    code.write_text("a = 1")
    assert commit() == first and records.source_digest() == digest
    (code.parent / "new.py").write_text("")                             # not added, but imported all the same
    assert commit() == first + "+" and records.source_digest() != digest
    inside = tmp_path / "venv" / "site-packages"
    inside.mkdir(parents=True)
    monkeypatch.setattr(records, "ROOT", inside)                        # installed inside another project's checkout
    assert commit() == "unknown"


# ---- arms ----------------------------------------------------------------------------------------------------------

def arms_of(calls, fail_at=None):
    def arm(name):
        def run(seed, folder):
            calls.append((name, seed))
            if (name, seed) == fail_at:
                (folder / "half").write_text("work")
                raise KeyboardInterrupt
            return {"nme": seed + len(name), "resumed": (folder / "half").exists()}
        return run
    return {"ours": arm("ours"), "plain": arm("plain")}


def test_a_finished_arm_is_never_run_again_and_a_killed_one_goes_on(tmp_path):
    setting = {"seeds": [0, 1], "what": "w", "data": "d", "budget": {"steps": 3}, "folder": tmp_path,
               "work": tmp_path / "work"}
    calls = []
    with pytest.raises(KeyboardInterrupt):
        run_arms("paper", arms_of(calls, ("ours", 1)), **setting)
    assert calls == [("ours", 0), ("plain", 0), ("ours", 1)]
    calls.clear()
    found = run_arms("paper", arms_of(calls), **setting)
    assert calls == [("ours", 1), ("plain", 1)]
    assert list(found) == ["paper-ours-0", "paper-plain-0", "paper-ours-1", "paper-plain-1"]
    assert found["paper-ours-1"]["figures"] == {"nme": 5, "resumed": True}
    assert found["paper-plain-1"]["figures"] == {"nme": 6, "resumed": False}
    calls.clear()
    assert run_arms("paper", arms_of(calls), **setting) == found and calls == []
    assert found["paper-ours-0"]["arm"] == "ours" and found["paper-ours-0"]["seeds"] == [0]


def test_records_of_another_setting_are_not_mistaken_for_this_one(tmp_path):
    setting = {"seeds": [0], "what": "w", "data": "d", "folder": tmp_path, "work": tmp_path / "work"}
    run_arms("paper", arms_of([]), budget={"steps": 3}, **setting)
    with pytest.raises(ValueError, match=r"paper-ours-0.*another setting.*3.*wanted.*4"):
        run_arms("paper", arms_of([]), budget={"steps": 4}, **setting)
    with pytest.raises(ValueError, match="empty"):
        run_arms("paper", {}, budget={}, **setting)
    for seconds in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="seconds must be positive"):
            run_arms("paper", arms_of([]), budget={"steps": 3}, seconds=seconds, **setting)


class Faces:
    """Four pictures and their brightness."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return {"image": torch.full((1, 2, 2), float(i)), "target": torch.tensor(float(i))}


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return self.weight * images.mean((1, 2, 3))


def trained(folder, steps, loss=None):
    model = Mean()
    config = TrainConfig(steps, 2, 0.1, log_every=1, checkpoint_every=1, out=folder, device="cpu")
    fit(model, Faces(), loss or (lambda out, batch: ((out - batch["target"]) ** 2).mean()), config, resume=True,
        progress=False)
    return model


def test_an_arm_keeps_its_loss_history_and_small_weights(tmp_path):
    def run(seed, folder):
        trained(folder, 120)
        trained(folder / "last", 3)
        return {"nme": 0}
    work = tmp_path / "work"
    found = run_arms("toy", {"a": run}, [0], "w", "d", {}, tmp_path, work)["toy-a-0"]
    history = found["history"]
    assert set(history) == {".", "last"} and [row["step"] for row in history["last"]] == [1, 2, 3]
    steps = [row["step"] for row in history["."]]
    assert len(steps) == records.HISTORY_ROWS and steps[0] == 1 and steps[-1] == 120 and steps == sorted(set(steps))
    assert history["."][-1]["loss"] < history["."][0]["loss"]
    assert not list(tmp_path.glob("*.safetensors"))                     # never beside the records
    kept = records.safetensors.torch.load_file(work / "toy-a-0" / "weights.safetensors")
    assert kept["weight"].dtype == torch.float16
    assert kept["weight"].item() == pytest.approx(trained(work / "toy-a-0", 120).weight.item(), rel=1e-3)
    assert found["source"] == records.source_digest() and found["commit"] == commit()


# ---- the clock -----------------------------------------------------------------------------------------------------

def test_what_an_arm_may_take_is_known_from_those_before():
    names = {"p-a-0": ("a", 0), "p-b-0": ("b", 0), "p-a-1": ("a", 1), "p-c-0": ("c", 0)}
    took = {"p-a-0": 10.0, "p-a-1": 14.0, "p-b-0": 3.0}
    assert expected("a", took, names) == 14 and expected("b", took, names) == 3
    assert expected("c", took, names) == 9 and expected("c", {}, names) is None


def test_an_arm_is_started_that_can_be_done_in_time_or_in_no_call_at_all():
    assert fits(50, 100, None) and fits(50, 100, 50) and not fits(50, 100, 51)
    assert fits(50, 100, 70, spent=20)                                  # part of it is done
    assert fits(50, 100, 101)                                           # must go in pieces


def test_time_goes_to_what_can_be_done(tmp_path, monkeypatch):
    """Arms of seed 0 took 5 and 60 seconds; with 30 left of 100 the long one is passed by, the short one is not."""
    calls, clock = [], [0.0]
    monkeypatch.setattr(records.time, "monotonic", lambda: clock[0])

    def arm(name):
        def run(seed, folder):
            calls.append((name, seed))
            clock[0] += 30
            return {"nme": 0}
        return run
    arms = {name: arm(name) for name in ("long", "short", "other")}
    setting = {"what": "w", "data": "d", "budget": {}, "folder": tmp_path, "work": tmp_path / "work"}
    for name, seconds in (("long", 60), ("short", 5), ("other", 5)):
        write_record(f"p-{name}-0", RECORD | {"what": "w", "data": "d", "budget": {}, "seconds": seconds,
                                              "device": records.describe_device()}, tmp_path)
    found = run_arms("p", arms, [0, 1], seconds=100, **setting)
    assert calls == [("long", 1), ("short", 1), ("other", 1)] and len(found) == 6
    for path in tmp_path.glob("p-*-1.json"):
        path.unlink()
    calls.clear()
    clock[0] = 0
    arms["first"] = arm("first")
    found = run_arms("p", {"first": arms["first"], **arms}, [0, 1], seconds=70, **setting)
    assert calls == [("first", 0), ("first", 1), ("short", 1)]          # to 30, 60 and 90 s: then the time is over
    assert "p-long-1" not in found and "p-other-1" not in found


def test_a_training_is_stopped_when_time_is_up_and_goes_on_next_time(tmp_path, capsys):
    steps = []

    def slow(out, batch):
        steps.append(1)
        time.sleep(0.02)
        return ((out - batch["target"]) ** 2).mean()

    def run(seed, folder):
        return {"weight": trained(folder, 60, slow).weight.item()}
    setting = {"what": "w", "data": "d", "budget": {}, "folder": tmp_path, "work": tmp_path / "work"}
    before = signal.getsignal(signal.SIGALRM)
    assert run_arms("toy", {"a": run, "b": run}, [0], seconds=0.5, **setting) == {}
    first = len(steps)
    assert 0 < first < 60 and "toy-a-0: out of time" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    found = run_arms("toy", {"a": run}, [0], **setting)
    assert 60 <= len(steps) <= 61                                       # at most the step that was cut off ran twice
    assert found["toy-a-0"]["figures"]["weight"] == trained(tmp_path / "whole", 60).weight.item()
    assert found["toy-a-0"]["seconds"] > 60 * 0.02                      # both parts


# ---- several processes ---------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from facealign_lite.records import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
WORKER = """
import sys, time
from pathlib import Path
from facealign_lite.records import run_arms
here = Path(sys.argv[1])

def arm(name):
    def run(seed, folder):
        with open(here / "calls", "a") as calls:
            calls.write(f"{name}-{seed}\\n")
        (folder / "at work").write_text("")
        if name == "slow":
            while not (here / "go").exists():
                time.sleep(0.02)
        return {"nme": seed}
    return run

found = run_arms("p", {"slow": arm("slow"), "quick": arm("quick")}, [0, 1], "w", "d", {}, here, here / "work")
print(*found)
"""


def process(code, *words):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, cwd=ROOT)


def wait_for(path, worker):
    for _ in range(3000):
        if path.exists():
            return
        assert worker.poll() is None, worker.communicate()
        time.sleep(0.02)
    raise AssertionError(f"{path} has not come")


def test_a_lock_says_who_holds_it_and_dies_with_its_process(tmp_path):
    holder = process(HOLDER, tmp_path)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Held, match=f"held by process {holder.pid} on {os.uname().nodename}"), lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with lock(tmp_path):                                                # what a dead process left is nobody's
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")
    with lock(tmp_path):
        pass


def test_two_processes_on_one_folder_share_the_work(tmp_path):
    workers = [process(WORKER, tmp_path)]
    try:
        wait_for(tmp_path / "work" / "p-slow-0" / "at work", workers[0])
        workers.append(process(WORKER, tmp_path))                       # p-slow-0 is taken: does the other three
        wait_for(tmp_path / "work" / "p-slow-1" / "at work", workers[1])
        (tmp_path / "go").write_text("")
        said = [one.communicate(timeout=60) for one in workers]
    finally:
        for one in workers:
            one.kill()
    first, second = workers
    assert first.returncode == second.returncode == 0, said
    assert f"p-slow-0: {tmp_path}/work/p-slow-0 is held by process {first.pid} on" in said[1][1]
    calls = (tmp_path / "calls").read_text().split()
    assert sorted(calls) == ["quick-0", "quick-1", "slow-0", "slow-1"]  # each once
    assert sorted(p.stem for p in tmp_path.glob("*.json")) == ["p-quick-0", "p-quick-1", "p-slow-0", "p-slow-1"]


# ---- records that travel -------------------------------------------------------------------------------------------

def test_records_travel_in_one_file(tmp_path):
    found = run_arms("p", arms_of([]), [0], "w", "d", {}, tmp_path / "there", tmp_path / "work")
    records.save_lines(found, tmp_path / "out" / "lines")
    assert records.collect(tmp_path / "out" / "lines", tmp_path / "here") == ["p-ours-0", "p-plain-0"]
    for name, record in found.items():
        assert read_record(name, tmp_path / "here") == record
    assert records.collect(tmp_path / "out" / "lines", tmp_path / "here") == []         # nothing new
    other = {name: record | {"figures": {"nme": 9}} for name, record in found.items()}
    records.save_lines(other, tmp_path / "lines")
    with pytest.raises(ValueError, match="line 1: another record 'p-ours-0'"):
        records.collect(tmp_path / "lines", tmp_path / "here")


@pytest.mark.parametrize("line", ["{", "3", "null", '{"what": 1}', '{"name": "../x"}', '{"name": "x"}', '{"name": 3}',
                                  '{"name": "x", "a": NaN}'])
def test_a_line_that_is_no_record_is_refused_before_anything_is_written(tmp_path, line):
    good = json.dumps({"name": "good", **RECORD})
    (tmp_path / "lines").write_text(f"{good}\n{line}\n")
    with pytest.raises(ValueError, match="line 2"):
        records.collect(tmp_path / "lines", tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_record_made_without_git_gets_the_commit_of_the_same_code(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "commit", lambda: "0123456789ab")
    same = RECORD | {"commit": "unknown", "source": records.source_digest()}
    other = RECORD | {"commit": "unknown", "source": "something else"}
    records.save_lines({"same": same, "other": other}, tmp_path / "lines")
    records.collect(tmp_path / "lines", tmp_path / "here")
    assert read_record("same", tmp_path / "here", clean=True)["commit"] == "0123456789ab"
    with pytest.raises(ValueError, match="changed tree"):
        read_record("other", tmp_path / "here", clean=True)


# ---- in turn -------------------------------------------------------------------------------------------------------

def test_arms_go_on_in_turn_and_each_ends_with_its_own_record(tmp_path):
    seen = []

    def arm(name, count):
        def run(seed, folder):
            for step in range(count):
                seen.append((name, step))
                yield step
            return {"nme": count}
        return run
    arms = {"a": arm("a", 3), "b": arm("b", 2), "at_once": lambda seed, folder: {"nme": 0}, "c": arm("c", 1)}
    found = run_arms("toy", arms, [0], "w", "d", {}, tmp_path / "r", tmp_path / "w", "cpu", together=2)
    assert seen == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("c", 0)]
    assert {name: record["figures"]["nme"] for name, record in found.items()} == {
        "toy-a-0": 3, "toy-b-0": 2, "toy-at_once-0": 0, "toy-c-0": 1}
    assert all(record["together"] == 2 for record in found.values())


def test_what_two_arms_share_is_made_once(tmp_path):
    made = []

    def part():
        with hold(tmp_path / "part"):
            if not made:
                yield 0
                made.append(1)
        return "part"

    def run(seed, folder):
        what = yield from shared(part)
        return {"nme": len(made), "what": what}
    found = run_arms("toy", {"a": run, "b": run}, [0], "w", "d", {}, tmp_path / "r", tmp_path / "w", "cpu", together=2)
    assert len(made) == 1 and {record["figures"]["what"] for record in found.values()} == {"part"}


def test_when_time_is_up_arms_in_turn_let_go_of_their_locks(tmp_path):
    def run(seed, folder):
        while True:
            time.sleep(0.01)
            yield 0
    arms = {"a": run, "b": run}
    places = tmp_path / "r", tmp_path / "w"
    assert run_arms("toy", arms, [0], "w", "d", {}, *places, "cpu", seconds=0.3, together=2) == {}
    for name in arms:
        with lock(tmp_path / "w" / f"toy-{name}-0"):
            pass
