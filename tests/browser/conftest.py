"""One Chromium for all browser tests; without one they are skipped, and the summary says why."""

import functools
import http.server
import shutil
import threading

import pytest

from book.executed import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HTML = ROOT / "_build" / "html"


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/browser" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def launch():
    """Start a Chromium: launch(*switches) -> browser."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path, which playwright drives")
    from playwright.sync_api import sync_playwright

    # Chromium does not start with its sandbox where the tests run as root, as in most containers
    usual = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        yield lambda *switches: playwright.chromium.launch(executable_path=CHROMIUM, args=[*usual, *switches])


@pytest.fixture(scope="session")
def browser(launch):
    instance = launch()
    yield instance
    instance.close()


@pytest.fixture(scope="session")
def homes():
    """Where the book lies, by scheme."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    handler = functools.partial(Quiet, directory=str(HTML))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"http": f"http://127.0.0.1:{server.server_port}/", "file": HTML.as_uri() + "/"}
        server.shutdown()
