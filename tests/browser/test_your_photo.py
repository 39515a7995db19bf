"""The page "Your own photo" in a real browser: it finds and reads what the library does, and says what goes wrong."""

import base64
import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from book import assets, browser_models
from book.executed import ROOT
from facealign_lite import geometry, looks, zoo
from facealign_lite.align import align
from facealign_lite.data import crop, crop_matrix, grey

HTML = ROOT / "_build" / "html"
NAME = "book/your_photo.html"
PHOTO = astronaut()                                # 512 x 512
BOX = (179.0, 87.0, 271.0, 177.0)                  # of its face, from brows to chin

pytestmark = [
    pytest.mark.book,
    pytest.mark.skipif(not (assets.present() and browser_models.is_fresh()), reason="the book was built without the "
                       "scripts npm fetches, or without the networks"),
]


@pytest.fixture
def visit(browser, homes):
    """Open the page: visit(scheme, before=..., width=..., **context) -> page. It must raise no error and ask no one."""
    opened, faults = [], []

    def load(scheme="file", before=lambda page: None, width=1280, faulty=False, using=browser, **settings):
        context = using.new_context(viewport={"width": width, "height": 900}, **settings)
        opened.append(context)
        context.set_default_timeout(120_000)
        page, home = context.new_page(), homes[scheme]
        if not faulty:
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda asked: faults.append(asked.url) if not asked.url.startswith((home, "blob:", "data:"))
                else None)
        before(page)
        page.goto(home + NAME)
        page.evaluate("async () => { await yourPhoto.ready; await yourPhoto.page?.idle(); }")
        return page

    yield load
    for context in opened:
        context.close()
    assert not faults


@pytest.fixture(scope="module")
def shared(browser, homes):
    """One page from the disk for the tests that only compute."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(240_000)
    page = context.new_page()
    page.goto(homes["file"] + NAME)
    page.evaluate("async () => { await yourPhoto.ready; await yourPhoto.page.idle(); }")
    yield page
    context.close()


def png(image):
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def show(page, image):
    """Give the page a picture as a file, and wait until it has read it."""
    give(page, png(image))
    return reading(page)


def give(page, data, name="photo.png"):
    page.set_input_files("#your-photo input[type=file]", {"name": name, "mimeType": "image/png", "buffer": data})
    idle(page)


def idle(page):
    page.wait_for_timeout(50)
    page.evaluate("yourPhoto.page.idle()")


def reading(page):
    """Box, landmarks and scores that the page has now; None without a face."""
    return page.evaluate("""() => {
      const { face, box } = yourPhoto.page.state;
      return face && { box, landmarks: face.landmarks, scores: face.scores };
    }""")


def status(page):
    return page.locator("#your-photo .fk-status").text_content()


def assert_same(found, wanted):
    """Within 0.1 pixel, as the library."""
    np.testing.assert_allclose(found["box"], wanted.box, atol=0.1)
    np.testing.assert_allclose(found["landmarks"], wanted.landmarks, atol=0.1)
    assert_same_scores(found["scores"], wanted.scores)


def assert_same_scores(found, wanted):
    """A score counts the heat about the hottest pixel, and jumps where two are all but equal: so on average."""
    assert np.abs(np.subtract(found, wanted)).mean() < 0.003


# ---- the library's numbers -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("scheme", ["file", "http"])
def test_a_face_is_found_and_read_as_by_the_library(visit, scheme):
    page = visit(scheme)
    assert_same(show(page, PHOTO), align(PHOTO))
    assert "Found" in status(page) and "Mean score 0.5" in status(page)


def put(page, image):
    """The pixels of a picture as ``window.put``, grey in ``window.plain``."""
    page.evaluate("""async (text) => {
      const shown = await createImageBitmap(new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]));
      const canvas = Object.assign(document.createElement("canvas"), { width: shown.width, height: shown.height });
      canvas.getContext("2d").drawImage(shown, 0, 0);
      window.put = yourPhoto.page.fromCanvas(canvas, shown.width, shown.height);
      window.plain = yourPhoto.page.grey(window.put);
    }""", base64.b64encode(png(image)).decode())


@pytest.mark.parametrize("image, box, times", [
    (PHOTO, BOX, 2),
    (PHOTO, BOX, 1),
    (PHOTO, (170.0, 80.5, 284.0, 190.25), 2),                                       # loose
    (PHOTO[100:, 200:], (-21.0, -13.0, 71.0, 77.0), 2),                             # half beyond the border
    (cv2.resize(PHOTO, (1800, 1800), interpolation=cv2.INTER_CUBIC), tuple(3.5 * v for v in BOX), 2),   # averaged first
    (cv2.resize(PHOTO, (150, 150), interpolation=cv2.INTER_AREA), tuple(0.293 * v for v in BOX), 2),    # enlarged
], ids=["tight", "one look", "loose", "cut off", "large", "small"])
def test_a_given_box_is_read_as_by_the_library(shared, image, box, times):
    put(shared, image)
    found = shared.evaluate("""([box, looks]) => yourPhoto.page.lookTwice(plain, box, 0, looks)
      .then(({ box, landmarks, scores }) => ({ box, landmarks, scores }))""", [box, times])
    assert_same(found, align(image, box, looks=times))


@pytest.mark.parametrize("image", [
    np.rot90(PHOTO[20:340, 65:385]).copy(),                                         # a quarter turn
    np.hstack([PHOTO[40:240, 130:330], cv2.resize(PHOTO[40:240, 130:330], (200, 200))[:, ::-1]]),       # two faces
    PHOTO[:401, 60:363],                                                            # sides that are not even
], ids=["turned", "two faces", "odd"])
def test_faces_are_found_as_by_the_library(shared, image):
    put(shared, image)
    found = shared.evaluate("""() => yourPhoto.page.find(put).then((face) => yourPhoto.page.lookTwice(
      plain, face.box, face.angle).then(({ box, landmarks, scores }) => (
      { box, landmarks, scores, count: face.count })))""")
    wanted = align(image)
    assert_same(found, wanted)
    assert found["count"] == wanted.faces


@pytest.mark.parametrize("box", [(150, 60, 300, 210), (-40, 20, 200, 500), (-200, -300, 700, 600)])
def test_crops_are_the_librarys_to_a_grey_level(shared, box):
    put(shared, PHOTO)
    matrix = crop_matrix(box, 128, angle=0.3)
    found = shared.evaluate("matrix => Array.from(yourPhoto.page.crop(plain, matrix))", matrix.ravel().tolist())
    wanted = crop(grey(PHOTO), matrix, 128).astype(float)
    assert np.abs((np.reshape(found, (128, 128)) + 0.5) * 255 - wanted).max() < 1.01


@pytest.mark.parametrize("width, height", [(256, 256), (320, 200), (171, 511)])
def test_pictures_are_made_smaller_as_by_opencv(shared, width, height):
    put(shared, PHOTO)
    found = shared.evaluate("([w, h]) => Array.from(yourPhoto.page.shrink(put, w, h).data)", [width, height])
    wanted = cv2.resize(PHOTO, (width, height), interpolation=cv2.INTER_AREA)
    assert np.abs(np.reshape(found, wanted.shape) - wanted.astype(int)).max() <= 1


@pytest.mark.parametrize("times", [1, 2])
def test_contours_are_those_of_the_library(shared, times):
    put(shared, PHOTO)
    found = shared.evaluate("""([box, looks]) => yourPhoto.page.openContours().then(() =>
      yourPhoto.page.contoursTwice(plain, box, 0, looks)).then(({ landmarks, scores, contours }) => (
      { landmarks, scores, contours }))""", [BOX, times])
    wanted = align(PHOTO, BOX, model="acenet", looks=times)
    np.testing.assert_allclose(found["landmarks"], wanted.anchors, atol=0.1)
    assert_same_scores(found["scores"], wanted.scores)
    assert list(found["contours"]) == list(wanted.contours)
    # a grey level more or less may put one more ridge pixel into a curve, which then bends there by a part of a pixel
    off = np.concatenate([apart(found["contours"][name], line) for name, line in wanted.contours.items()])
    assert np.quantile(off, 0.98) < 0.1 and off.max() < 0.5


def apart(one, other):
    return np.linalg.norm(geometry.resample(one, 50) - geometry.resample(other, 50), axis=1)


def test_the_same_maps_are_the_same_contours(shared):
    """With no grey level between them: what is traced in JavaScript is what is traced in Python."""
    network = zoo.load("acenet", "cpu")
    with torch.inference_mode():
        maps = network(looks.cut(PHOTO, [crop_matrix(BOX, 128)], network))[-1]
        wanted = network.read([maps])
    text = base64.b64encode(maps.numpy().astype("<f4").tobytes()).decode()
    found = shared.evaluate("""text => yourPhoto.page.readContours(
      new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer), 64)""", text)
    np.testing.assert_allclose(found["points"], wanted.points[0].numpy(), atol=1e-3)
    np.testing.assert_allclose(found["scores"], wanted.scores[0].numpy(), atol=1e-5)
    assert list(found["curves"]) == list(wanted.contours[0])
    for name, line in wanted.contours[0].items():
        assert apart(found["curves"][name], line).max() < 0.01, name


# ---- the figure ----------------------------------------------------------------------------------------------------

def snapshot(page, n=0):
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.evaluate("n => document.querySelectorAll('#your-photo canvas')[n].toDataURL()", n)


def test_the_sample_is_read_before_the_reader_does_anything(visit):
    page = visit()
    assert len(reading(page)["landmarks"]) == 68 and "Found" in status(page)
    names = page.locator("#your-photo thead th").all_text_contents()
    scores = page.locator("#your-photo tbody td").all_text_contents()
    assert names == ["", "jaw", "brows", "eyes", "nose", "mouth", "all"] and len(scores) == 6
    assert all(float(score) > 0.3 for score in scores)


def test_the_box_is_moved_by_mouse_and_keys(visit):
    page = visit("http")
    show(page, PHOTO)
    whole, before = page.get_by_role("slider", name="The whole box"), reading(page)["box"]
    grip = whole.bounding_box()
    x, y = grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 5, y + 3)
    page.mouse.move(x + 9, y - 6)
    page.mouse.up()
    idle(page)
    found = reading(page)
    step = np.subtract(found["box"], before)
    assert step[0] == pytest.approx(step[2]) and step[1] == pytest.approx(step[3]) and step[0] > 3 and step[1] < -2
    assert_same(found, align(PHOTO, found["box"]))
    corner = page.get_by_role("slider", name="Lower right corner")
    for key in ("ArrowRight", "Shift+ArrowDown"):
        corner.press(key)
    idle(page)
    now = reading(page)
    np.testing.assert_allclose(np.subtract(now["box"], found["box"]), [0, 0, 1, 10], atol=1e-9)
    assert_same(now, align(PHOTO, now["box"]))
    assert "box of" in corner.get_attribute("aria-valuetext")
    page.get_by_role("button", name="Find the face").click()
    idle(page)
    np.testing.assert_allclose(reading(page)["box"], before, atol=1e-9)


def test_every_control_changes_the_picture(visit):
    page = visit()
    for control in ("landmarks", "heatmaps"):
        seen = snapshot(page)
        page.get_by_role("checkbox", name=control).press("Space")
        assert snapshot(page) != seen
        page.get_by_role("checkbox", name=control).press("Space")
        assert snapshot(page) == seen
    for name, key in (("heatmap of", "ArrowRight"), ("strength", "ArrowLeft")):
        seen = snapshot(page)
        page.get_by_role("slider", name=name).press(key)
        assert snapshot(page) != seen
    seen = reading(page)["landmarks"]
    page.get_by_role("radio", name="one", exact=True).press("Space")
    idle(page)
    assert np.abs(np.subtract(reading(page)["landmarks"], seen)).max() > 0.05


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_all_of_it_in_both_themes(visit, theme):
    page = visit(width=390, color_scheme=theme, has_touch=True)
    figure = page.locator("#your-photo .fk")
    assert figure.get_attribute("data-theme") == theme
    page.wait_for_function("document.documentElement.scrollWidth <= 390")
    for part in figure.locator("canvas, button:not(.fk-handle), input:not([hidden]), table").all():
        box = part.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_a_dropped_picture_is_read(visit):
    page = visit()
    page.evaluate("""text => {
      const dataTransfer = new DataTransfer(), bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      dataTransfer.items.add(new File([bytes], "photo.png", { type: "image/png" }));
      const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
      document.querySelector("#your-photo canvas").dispatchEvent(event);
    }""", base64.b64encode(png(PHOTO)).decode())
    idle(page)
    assert_same(reading(page), align(PHOTO))


def test_a_photo_on_its_side_is_shown_upright_by_its_note(visit):
    page, file = visit(), io.BytesIO()
    note = Image.Exif()
    note[0x112] = 6                                 # to be turned by 90 degrees with the clock
    Image.fromarray(np.rot90(PHOTO[:, 50:450]).copy()).save(file, "JPEG", quality=95, exif=note)
    give(page, file.getvalue())
    wanted = align(Image.open(file))
    # decoders of JPEG differ by some grey levels
    np.testing.assert_allclose(reading(page)["landmarks"], wanted.landmarks, atol=0.5)
    assert page.evaluate("[yourPhoto.page.state.shown.width, yourPhoto.page.state.shown.height]") == [400, 512]


# ---- what goes wrong -----------------------------------------------------------------------------------------------

def test_without_a_face_the_reader_is_given_a_box(visit):
    page = visit()
    assert show(page, np.full((300, 400, 3), 128, np.uint8)) is None
    assert status(page).startswith("No face was found. Drag the yellow box")
    page.get_by_role("slider", name="The whole box").press("ArrowLeft")
    idle(page)
    found = reading(page)
    assert found["box"] == [124, 75, 274, 225] and len(found["landmarks"]) == 68


def test_a_file_that_is_no_picture_is_named(visit):
    page = visit()
    give(page, b"no picture", "photo.heic")
    assert status(page).startswith("This file could not be read as a picture.") and "JPEG" in status(page)


def test_a_camera_that_is_refused_is_explained(visit):
    page = visit("http")
    page.get_by_role("button", name="Open the camera").click()
    idle(page)
    assert any(status(page).startswith(said) for said in ("The camera was refused.", "No camera was found."))
    assert page.get_by_role("button", name="Open the camera").count() == 1


def test_a_browser_without_webassembly_is_told(visit):
    page = visit(before=lambda page: page.add_init_script("delete window.WebAssembly"))
    assert "cannot run the networks" in page.locator("#your-photo").text_content()


def test_a_book_built_without_npm_says_so(visit):
    page = visit("http", before=lambda page: page.route("**/lib/onnxruntime-web.js", lambda route: route.abort()),
                 faulty=True)
    assert "was built without" in page.locator("#your-photo").text_content()
    assert page.get_by_role("heading", name="What to try").is_visible()


# ---- the camera ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def filmed(launch, tmp_path_factory):
    """A Chromium whose camera shows the photo, moving back and forth: 640 x 480."""
    film = tmp_path_factory.mktemp("camera") / "film.mjpeg"
    frames = []
    for i in range(60):
        way = np.array([[2.0, 0, -110 + 40 * np.sin(np.pi * i / 30)], [0, 2.0, -60]])
        frame = cv2.warpAffine(PHOTO, way, (640, 480), borderMode=cv2.BORDER_REPLICATE)
        frames.append(cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes())
    film.write_bytes(b"".join(frames))
    instance = launch("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
                      f"--use-file-for-fake-video-capture={film}")
    yield instance
    instance.close()


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_a_face_before_the_camera_is_followed(visit, filmed, scheme):
    page = visit(scheme, using=filmed)
    page.get_by_role("button", name="Open the camera").click()
    page.wait_for_function("document.querySelector('#your-photo .fk-status').textContent.startsWith('Following')")
    page.wait_for_timeout(1500)
    middle = []
    for _ in range(12):
        page.wait_for_timeout(150)
        seen = page.evaluate("yourPhoto.page.state.face?.landmarks")
        if seen:
            middle.append(np.mean(seen, axis=0))
    assert len(middle) >= 10, "it is followed all the time"
    # a mirror: the face, 256 px of its own photo from the left at most, is at the right of the 640
    across, down = np.array(middle).T
    assert np.ptp(across) > 10 and np.ptp(down) < 15 and np.abs(across - 300).max() < 80
    assert page.get_by_role("slider", name="The whole box").count() == 0            # hidden
    print(f"{scheme}: {page.evaluate('yourPhoto.page.state.rate'):.1f} frames a second")
    page.get_by_role("radio", name="contours").press("Space")
    page.wait_for_function("yourPhoto.page.state.face?.landmarks.length === 12")
    assert status(page).startswith("Following")
    page.get_by_role("button", name="Close the camera").click()
    idle(page)
    assert status(page) == "The camera is closed."
