"""The table of what was found names only what exists."""

import ast
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

from . import doors, soak

HERE = Path(__file__).resolve().parent
ROWS = yaml.safe_load((HERE / "found.yml").read_text(encoding="utf-8"))


@lru_cache
def functions_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)}


def test_every_row_is_there_once():
    assert [row["id"] for row in ROWS] == [f"{part}{n}" for part, count in (("A", 17), ("B", 11), ("C", 7), ("D", 7))
                                           for n in range(1, count + 1)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_what_holds_it_exists(row):
    assert row.keys() <= {"id", "found", "doors", "parts", "tests", "note"} and row["tests"] and row["found"].strip()
    for name in row["tests"]:
        path, function = name.split("::")
        assert function in functions_in(HERE.parent / path), name
    assert set(row.get("doors", ())) <= set(doors.DOORS)
    campaigns = soak.campaigns()
    for part in row.get("parts", ()):
        campaign, name = part.split(": ", 1)
        assert name in campaigns[campaign], part
