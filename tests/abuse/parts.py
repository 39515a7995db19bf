"""Parts of a long campaign: each is run once, kept with its counts, and all of them together make a record.

A part that is kept was made by the code that is here now: kept parts lie in a folder named after that code. So a
campaign that was stopped goes on where it stood, and one of other code starts anew.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from facealign_lite.data.files import write_atomic
from facealign_lite.records import ROOT, commit, describe_device, source_digest, write_record

HERE = Path(__file__).resolve().parent


def code() -> str:
    """A name for the code that decides what a campaign counts: the library and the campaigns themselves."""
    whole = hashlib.sha256(source_digest().encode())
    for path in sorted(HERE.glob("*.py")):
        whole.update(path.read_bytes())
    return whole.hexdigest()[:12]


def kept(form: str, campaign: str, name: str) -> Path:
    """Where the counts of a part lie; ``form`` is "long" or "short"."""
    return ROOT / "_build" / "soak" / form / code() / campaign / f"{name.replace('/', ' ')}.json"


def keep(form: str, campaign: str, name: str, count: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The counts of a part: those kept, or those that ``count()`` gives, which are kept if it ends."""
    path = kept(form, campaign, name)
    if form == "long" and path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    start = time.perf_counter()
    facts = {"commit": commit(), "device": describe_device("cpu")}
    part = {"figures": count(), "seconds": round(time.perf_counter() - start, 1), **facts}
    write_atomic(path, json.dumps(part).encode())
    return part


def record(campaign: str, names: Iterable[str], what: str, data: str, budget: dict[str, Any]) -> Path | None:
    """Write ``results/<campaign>.json`` if all its parts are kept; None, with a word, if some are missing."""
    names = list(names)
    if missing := [name for name in names if not kept("long", campaign, name).exists()]:
        print(f"{campaign}: {len(missing)} of {len(names)} parts are still to be run, first {missing[0]}")
        return None
    parts = {name: json.loads(kept("long", campaign, name).read_text(encoding="utf-8")) for name in names}
    first = next(iter(parts.values()))
    commits = {part["commit"] for part in parts.values()}
    return write_record(campaign, {
        "what": what, "data": data, "seeds": [0], "budget": budget, "device": first["device"],
        "commit": first["commit"] if len(commits) == 1 else sorted(commits)[0].rstrip("+") + "+",
        "seconds": round(sum(part["seconds"] for part in parts.values()), 1),
        "figures": {name: part["figures"] for name, part in parts.items()}})
