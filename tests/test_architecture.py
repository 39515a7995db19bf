"""The house rules that a machine can check: floors, style, sizes, nothing of others committed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
PACKAGE = ROOT / "facealign_lite"


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_an_import_only_goes_down():
    done = subprocess.run([str(BIN / "lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


PAPERS = ("acenet", "tab", "scpan", "rht", "msm")


def classes_of(paper: str) -> set[str]:
    """Names of the public classes that a paper's module or package defines."""
    files = [PACKAGE / f"{paper}.py", *(PACKAGE / paper).glob("*.py")]
    return {node.name for path in files if path.exists() for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")}


def names_in(path: Path) -> set[str]:
    """Names that a module imports or uses, and parts of dotted ones, but for those that another library gave it."""
    found, foreign = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            words = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            ours = getattr(node, "level", 0) or any(word.split(".")[0] == "facealign_lite" for word in words)
            (found if ours else foreign).update(part for word in words for part in word.split("."))
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            found.update(() if owner == "torch" else (node.attr,))              # torch.Generator is nobody's of ours
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):    # type(network).__name__ == "Rht"
            found.add(node.value)
    return found - foreign


def above_the_papers() -> list[Path]:
    """Modules on the floors above, as the contract in pyproject.toml has them; the zoo apart."""
    text = (ROOT / "pyproject.toml").read_text()
    floors = re.search(r"layers = \[(.*?)\]", text, re.S)[1].split("acenet |")[0]
    modules = set(re.findall(r"\w+", floors)) - {"zoo"}
    return [path for name in sorted(modules) if (path := PACKAGE / f"{name}.py").exists()]


@pytest.mark.parametrize("path", above_the_papers(), ids=lambda path: path.stem)
def test_above_the_papers_nobody_names_a_paper_or_its_classes(path):
    """A network says itself how it is read (nets.reading), so that a sixth paper changes no line up there."""
    names = set(PAPERS).union(*map(classes_of, PAPERS))
    assert {"AceNet", "Rht", "Msm", "Scpan", "TAB"} <= names
    assert sorted(names_in(path) & names) == []


def test_the_zoo_is_seen_to_name_the_papers():
    assert set(PAPERS) | {"AceNet", "MsmConfig"} <= names_in(PACKAGE / "zoo.py")
    assert {"align", "detection", "evaluation", "widgets"} <= {path.stem for path in above_the_papers()}


def test_style():
    done = subprocess.run([str(BIN / "ruff"), "check", "--no-cache", "--output-format", "concise", "."], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_spelling():
    words = [str(p) for p in tracked() if p.suffix in {".py", ".md"}]
    done = subprocess.run([str(BIN / "codespell"), "-L", "fo,ist,nd,ot,te", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_large_files():
    sizes = {p: p.stat().st_size for p in tracked()}
    assert not [str(p) for p, size in sizes.items() if size > 2_000_000]
    assert sum(size for p, size in sizes.items() if "weights" in p.parts) < 25_000_000


def test_the_library_reads_no_network_and_no_pickle():
    """Weights come from safetensors, and nothing is fetched at run time."""
    for path in PACKAGE.rglob("*.py"):
        names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
        assert not names & {"urllib", "requests", "urlopen", "pickle"}, path
        assert not re.search(r"torch\.load\(|allow_pickle=True", path.read_text()), path


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_functions_are_typed_and_documented(path):
    tree = ast.parse(path.read_text())
    bare = []
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if node.returns is None or any(a.annotation is None for a in arguments):
                bare.append(f"{node.name}: types")
            continue
        if not ast.get_docstring(node):
            bare.append(f"{node.name}: docstring")
    assert not bare


def test_the_front_door_opens_without_what_only_others_need():
    """SciPy, scikit-image and matplotlib take a second to import, and a face in a given box needs none of them."""
    code = ("import sys, facealign_lite.align; print([name for name in ('scipy', 'skimage', 'matplotlib', 'onnx', "
            "'onnxruntime', 'onnxscript', 'h5py') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
