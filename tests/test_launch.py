"""Binder and Colab: the buttons, the cell that fetches the project, and what a chapter says that stands alone."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
import yaml

from book import pages
from book.executed import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BY_NAME = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
URL = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]


def first(path):
    """The first cell of code of a notebook."""
    return next(cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")


@BY_NAME
def test_every_notebook_begins_with_the_cell_that_fetches(path):
    cell = first(path)
    assert cell.id == "fetch" and "remove-cell" in cell.metadata.tags and cell.metadata.jupyter.source_hidden
    assert f'"{URL}"' in cell.source, "_config.yml and the notebook must say the same"
    assert cell.source.startswith(first(NOTEBOOKS[0]).source)
    rest = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code" and c.id != "fetch")
    reads = re.search(r"\bexperiments\b|\bbenchmarks\b|read_record|read_seeds|\.\./", rest)
    assert bool(reads) == ("FileNotFoundError" in cell.source)


@BY_NAME
def test_a_chapter_without_its_project_says_what_is_missing(path, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    cell = first(path).source
    if "FileNotFoundError" in cell:
        with pytest.raises(FileNotFoundError, match="folders results/ and experiments/.*Get the whole project"):
            exec(cell, {})
    (tmp_path / "results").mkdir()
    seen = list(sys.path)
    exec(cell, {})
    assert sys.path == seen and Path.cwd() == tmp_path / "notebooks"


@pytest.mark.parametrize("path", [NOTEBOOKS[0], ROOT / "notebooks" / "16_all_methods.ipynb"], ids=lambda p: p.stem)
def test_on_colab_the_project_is_fetched_once(path, tmp_path, monkeypatch):
    home, asked = tmp_path / "content" / "book", []

    def run(words, check):
        asked.append(words)
        if words[0] == "git":
            for folder in ("facealign_lite", "notebooks", "results"):
                (home / folder).mkdir(parents=True)

    (tmp_path / "content").mkdir()
    monkeypatch.chdir(tmp_path / "content")
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    cell = first(path).source.replace("/content/book", str(home))
    for _ in range(2):                                          # run again, it does nothing
        exec(cell, {})
        assert Path.cwd() == home / "notebooks" and sys.path[0] == str(home)
        assert asked == [["git", "clone", "--depth=1", URL, str(home)],
                         [sys.executable, "-m", "pip", "install", "--quiet", "-e", str(home)]]


def test_binder_has_what_it_needs():
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)
    assert re.fullmatch(r"python-3\.1\d\n", (ROOT / ".binder" / "runtime.txt").read_text())
    [install] = re.findall(r"^pip install .*", (ROOT / ".binder" / "postBuild").read_text(), re.M)
    assert install.endswith("-r requirements.txt -e .")
    subprocess.run(["bash", "-n", ROOT / ".binder" / "postBuild"], check=True)


def test_without_an_owner_there_are_no_buttons():
    ours = {"repository_url": "https://github.com/OWNER/facealign-lite", "launch_buttons": {"colab_url": "x"}}
    theirs = {"repository_url": "https://github.com/me/facealign-lite", "launch_buttons": {"colab_url": "x"}}
    for options in (ours, theirs):
        pages.buttons(options)
    assert "launch_buttons" not in ours and "launch_buttons" in theirs


@pytest.mark.parametrize("owner", ["OWNER", "me"])
def test_a_toy_book_has_buttons_that_lead_to_its_notebook(owner, tmp_path):
    """Built as the book is, with its own settings and extension."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["repository"]["url"] = URL.replace("OWNER", owner)
    config["execute"] = {"execute_notebooks": "off"}
    config["sphinx"]["local_extensions"] = {"book.pages": str(ROOT)}
    config["sphinx"]["config"]["html_static_path"] = [str(ROOT / "book" / "_static")]
    for name in ("logo", "bibtex_bibfiles"):
        config.pop(name)
    config["html"].pop("favicon")
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters: [{file: notebooks/x}]\n")
    (tmp_path / "intro.md").write_text("# Intro\n\nWords.\n")
    (tmp_path / "notebooks").mkdir()
    cells = [nbformat.v4.new_markdown_cell("# Title"), first(NOTEBOOKS[0])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "x.ipynb")
    done = subprocess.run([Path(sys.executable).with_name("jupyter-book"), "build", tmp_path, "-q", "-W"], check=False,
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "_build" / "html" / "notebooks" / "x.html").read_text()
    links = re.findall(r'href="(https://(?:mybinder|colab)[^"]*)"', page)
    assert "google.colab" not in page, "the cell that fetches is not shown"
    assert set(links) == (set() if owner == "OWNER" else {
        "https://mybinder.org/v2/gh/me/facealign-lite/main?urlpath=lab/tree/notebooks/x.ipynb",
        "https://colab.research.google.com/github/me/facealign-lite/blob/main/notebooks/x.ipynb"})
    assert re.findall(r'(?:src|<link[^>]*href)="(?:https?:)?//', page) == []          # none is asked when it is opened
