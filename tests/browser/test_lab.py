"""lab.ipynb as its reader has it: JupyterLab in a real browser, a kernel behind it, no other server."""

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request

import cv2
import numpy as np
import pytest
from skimage import data

from book.executed import ROOT

TOKEN = "lab"
LONG = 180_000            # milliseconds: a machine of two busy cores may take them to start all of it


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """JupyterLab on a copy of the notebook, with settings of its own: its address."""
    home = tmp_path_factory.mktemp("lab")
    (home / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "lab.ipynb", home / "notebooks")
    own = {name: str(home / name.lower()) for name in
           ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asks = home / "jupyterlab_settings_dir" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    asks.parent.mkdir(parents=True)
    asks.write_text('{"fetchNews": "false"}')                   # or it asks whether to, in a corner of the page
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={home}"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT,
                                   env={**os.environ, **own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/api?token={TOKEN}", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (home / "log").read_text()
                try:
                    process.wait(0.4)
                except subprocess.TimeoutExpired:
                    pass
        yield url
    finally:
        process.terminate()                                     # it ends its kernels, too
        process.wait(60)


def upload(page, path):
    """Bring a file by the button, as a reader does."""
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name=re.compile("upload a photo")).click()
    chosen.value.set_files(path)


def frames(page):
    """What the networks answered, as it is shown."""
    return page.locator("img[alt^='Mean ']")


def told(page, start):
    """Wait until the line above the answers begins so, and a new picture of them is there."""
    page.wait_for_function("start => [...document.querySelectorAll('.widget-html-content')]"
                           ".some(e => e.textContent.trim().startsWith(start))", arg=start)


def after(page, act, networks=None):
    """The answers once they are others than before ``act``; columns tell how many networks there are."""
    before = frames(page).get_attribute("src")
    act()
    page.wait_for_function("""before => {
      const now = document.querySelector("img[alt^='Mean ']");
      return now && now.src !== before && now.complete && now.naturalWidth > 0;
    }""", arg=before)
    if networks:
        assert frames(page).evaluate("e => e.naturalWidth") == 324 * networks
    return frames(page).get_attribute("alt")


def test_the_lab_answers_to_every_control(server, launch, tmp_path):
    browser = launch("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(LONG)
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda words: faults.append(words.text) if words.type == "error" else None)
    try:
        page.goto(f"{server}/lab/tree/notebooks/lab.ipynb?token={TOKEN}", timeout=LONG)
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        page.get_by_title("Change kernel for lab.ipynb").filter(has_text="Idle").wait_for()       # else it asks for one
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()
        page.locator(".jp-OutputArea-output", has_text="(68, 2)").wait_for()            # the last cell has run
        frames(page).wait_for()
        assert frames(page).evaluate("e => e.naturalWidth") == 2 * 324

        # the picture and what moves it stand side by side, in one view
        scene = page.locator(".fk canvas")
        scene.scroll_into_view_if_needed()
        left, right = scene.bounding_box(), frames(page).bounding_box()
        assert left["x"] + left["width"] <= right["x"] and right["x"] + right["width"] <= 1280
        assert abs(left["y"] - right["y"]) < 60 and right["height"] < 700

        # networks, views
        assert "tab" in after(page, page.get_by_role("checkbox", name="tab", exact=True).check, 3)
        above, below = frames(page).bounding_box(), scene.bounding_box()
        assert above["y"] + above["height"] <= below["y"] and above["x"] + above["width"] <= 1280
        after(page, page.get_by_role("checkbox", name="acenet", exact=True).uncheck, 2)
        after(page, page.get_by_role("checkbox", name="tab", exact=True).uncheck, 1)
        high = frames(page).bounding_box()["height"]
        after(page, page.get_by_role("checkbox", name="last crops").check)
        assert frames(page).bounding_box()["height"] > 1.3 * high
        after(page, page.get_by_role("checkbox", name="last crops").uncheck)

        # the box by mouse and by keys, the cover, and back
        start = frames(page).get_attribute("src")
        grip = page.get_by_role("slider", name="The whole box").bounding_box()
        x, y = grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2

        def drag():
            page.mouse.move(x, y)
            page.mouse.down()
            page.mouse.move(x + 10, y + 5)
            page.mouse.move(x + 25, y + 12)
            page.mouse.up()

        after(page, drag)
        after(page, lambda: page.get_by_role("slider", name="Lower right corner of the box").press("Shift+ArrowLeft"))
        after(page, page.get_by_role("checkbox", name="cover a part").check)
        assert "of it covered" in page.locator(".fk-status").inner_text()
        after(page, lambda: page.get_by_role("slider", name="The whole cover").press("Shift+ArrowUp"))
        page.get_by_role("checkbox", name="whole picture").check()
        after(page, page.get_by_role("button", name="box and cover as before").click)
        page.wait_for_function("start => document.querySelector(\"img[alt^='Mean ']\").src === start", arg=start)
        assert not page.get_by_role("checkbox", name="cover a part").is_checked()

        # another face; the sample; a photo of one's own, which is the sample mirrored; a file that is none; the camera
        after(page, page.get_by_role("button", name="another face").click)
        told(page, "Mean errors")
        sample = after(page, page.get_by_role("button", name="sample photo").click)
        own = tmp_path / "own.png"
        cv2.imwrite(str(own), np.ascontiguousarray(data.astronaut()[:, ::-1, ::-1]))
        said = after(page, lambda: upload(page, own))
        score, other = (float(re.search(r"hourglass (0\.\d+)", words)[1]) for words in (sample, said))
        assert abs(score - other) < 0.1
        wrong = tmp_path / "wrong.png"
        wrong.write_bytes(b"no picture")
        upload(page, wrong)
        told(page, "This file could not be read as a picture.")
        page.get_by_role("button", name="Open the camera").click()
        after(page, page.get_by_role("button", name="Take the picture").click)
        told(page, "Mean scores")                            # of Chromium's test film, which shows no face
        assert "No face was found" in page.locator(".widget-html-content").first.inner_text()
        assert page.get_by_role("button", name="Open the camera").count() == 1

        assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        assert [url for url in asked if not url.startswith((server, "data:", "blob:"))] == []
        assert faults == []
    except Exception:
        page.screenshot(path=tmp_path / "lab.png")
        raise
    finally:
        browser.close()
