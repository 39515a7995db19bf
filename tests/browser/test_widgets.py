"""Every interactive figure in a real browser: by mouse, keyboard and finger, in both themes, on a phone's width.

The page holds nothing but the figure's own module and a model object that answers ``get``: what anywidget gives it.
"""
import base64
import re

import numpy as np
import pytest
import torch

from facealign_lite import contours, heatmaps, markups, metrics, msm, rht, scpan, tab, widgets

MOUNT = """async ({ esm, css, options, arrays, data, theme }) => {
  document.documentElement.dataset.theme = theme;
  document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
  document.body.style.background = theme === "dark" ? "#121212" : "#fff";
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  // an offset of three bytes, as a message from the kernel may have
  const odd = new Uint8Array(bytes.length + 3);
  odd.set(bytes, 3);
  const state = { options, arrays, data: new DataView(odd.buffer, 3) };
  const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  const { default: figure } = await import(url);
  const el = document.createElement("div");
  document.body.append(el);
  window.stop_figure = figure.render({ model: { get: (name) => state[name] }, el });
  await new Promise((done) => setTimeout(done, 60));
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
}"""


@pytest.fixture
def show(browser):
    """Open figures: show(widget, theme, width, touch, more=[...]) -> page. Any error or request fails the test."""
    opened, faults = [], []

    def open_page(widget, theme="light", width=700, touch=False, more=()):
        context = browser.new_context(viewport={"width": width, "height": 700}, has_touch=touch,
                                      device_scale_factor=2 if width < 400 else 1)
        page = context.new_page()
        opened.append(context)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("request", lambda r: faults.append(r.url) if not re.match("blob:|data:|about:", r.url) else None)
        page.set_content("<!doctype html><html lang='en'><meta name='viewport' content='width=device-width'><body>")
        for one in (widget, *more):
            page.evaluate(MOUNT, {"esm": one._esm, "css": one._css, "options": one.options, "arrays": one.arrays,
                                  "data": base64.b64encode(one.data).decode(), "theme": theme})
        return page

    yield open_page
    for context in opened:
        context.close()
    assert not faults


def rows(page, table=0):
    """The cells of a table, row by row."""
    return page.evaluate("n => [...document.querySelectorAll('table')[n].tBodies[0].rows]"
                         ".map(row => [...row.cells].map(cell => cell.textContent))", table)


def settle(page):
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def drag(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up()
    settle(page)


def middle(locator):
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def pixel(locator, point, size):
    """Where image pixel ``point`` of an image of side ``size`` lies on the page."""
    box = locator.bounding_box()
    return tuple(box[s] + (p + 0.5) / size * box[length] for s, length, p in zip("xy", ("width", "height"), point))


def snapshot(page, n=0):
    """The drawn pixels of a canvas."""
    return page.evaluate("n => document.querySelectorAll('canvas')[n].toDataURL()", n)


def press(locator, key, times=1):
    for _ in range(times):
        locator.press(key)
    settle(locator.page)


# ---- CodecFigure ------------------------------------------------------------------------------------------------

METHODS = ("argmax", "quarter", "center_of_mass", "dark")


def expected_codec(point, size, heatmap_size, sigma, shape):
    """[x, y, error] per decoder, from the library."""
    point = np.array([point], dtype=float)
    maps = heatmaps.encode(heatmaps.to_heatmap(point, size, heatmap_size), heatmap_size, sigma, shape)
    found = [heatmaps.to_image(heatmaps.decode(maps, method), heatmap_size, size)[0] for method in METHODS]
    return np.array([[*q, np.hypot(*(q - point[0]))] for q in found])


def shown_codec(page):
    return np.array([[float(cell) for cell in row[1:4]] for row in rows(page)])


def ring(page, which="Point on the image"):
    return page.get_by_role("slider", name=which)


def ring_point(page):
    return [float(v) for v in re.findall(r"-?\d+\.\d+", ring(page).get_attribute("aria-valuetext"))]


def test_codec_shows_what_the_library_decodes(show):
    page = show(widgets.CodecFigure(point=(103.25, 88.75), sigma=1.5))
    expected = expected_codec((103.25, 88.75), 256, 64, 1.5, "gaussian")
    np.testing.assert_allclose(shown_codec(page), expected, atol=0.0051)


def test_codec_point_is_dragged_by_mouse(show):
    page = show(widgets.CodecFigure(point=(100, 100)))
    picture = page.locator("canvas").first
    drag(page, middle(ring(page)), pixel(picture, (180, 60), 256))
    x, y = ring_point(page)
    assert abs(x - 180) < 1 and abs(y - 60) < 1
    np.testing.assert_allclose(shown_codec(page), expected_codec((x, y), 256, 64, 1.5, "gaussian"), atol=0.02)
    drag(page, pixel(picture, (30, 30), 256), pixel(picture, (-40, 40), 256))       # from anywhere, past the border
    x, y = ring_point(page)
    assert x == -0.5 and abs(y - 40) < 1


def test_codec_point_moves_by_keys(show):
    page = show(widgets.CodecFigure(point=(100, 100)))
    press(ring(page), "ArrowRight", 3)
    press(ring(page), "Shift+ArrowUp")
    assert ring_point(page) == [101.5, 95.0]
    press(ring(page, "Point in the close-up"), "ArrowDown")  # 0.05 heatmap pixels = 0.2 image pixels
    assert ring_point(page) == [101.5, 95.2]


def test_codec_point_moves_by_finger(show):
    page = show(widgets.CodecFigure(point=(100, 100)), width=390, touch=True)
    page.touchscreen.tap(*pixel(page.locator("canvas").first, (200, 40), 256))
    settle(page)
    x, y = ring_point(page)
    assert abs(x - 200) < 1 and abs(y - 40) < 1
    target = pixel(page.locator("canvas").first, (150, 90), 256)                   # a real touch drag on the ring
    touch = page.context.new_cdp_session(page)
    start = middle(ring(page))
    half = tuple((a + b) / 2 for a, b in zip(start, target))
    for kind, (px, py) in (("touchStart", start), ("touchMove", half), ("touchMove", target), ("touchEnd", target)):
        points = [] if kind == "touchEnd" else [{"x": px, "y": py}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    settle(page)
    x, y = ring_point(page)
    assert abs(x - 150) < 2 and abs(y - 90) < 2


def test_codec_settings(show):
    page = show(widgets.CodecFigure(point=(71.3, 140.9)))
    press(page.get_by_role("slider", name="sigma"), "ArrowRight", 5)
    for name, shape in (("GED", "ged"), ("Student t", "student_t"), ("parabola", "parabola")):
        press(page.get_by_role("radio", name=name), "Space")
        np.testing.assert_allclose(shown_codec(page), expected_codec((71.3, 140.9), 256, 64, 2.0, shape), atol=0.0051)
    press(page.get_by_role("radio", name="32²"), "Space")
    np.testing.assert_allclose(shown_codec(page), expected_codec((71.3, 140.9), 256, 32, 2.0, "parabola"), atol=0.0051)
    press(page.get_by_role("checkbox"), "Space")                                    # now even the best decoder is off
    rounded = heatmaps.to_image(np.round(heatmaps.to_heatmap(np.array([[71.3, 140.9]]), 256, 32)), 32, 256)[0]
    np.testing.assert_allclose(shown_codec(page)[2], [*rounded, np.hypot(*(rounded - [71.3, 140.9]))], atol=0.0051)


# ---- CedFigure --------------------------------------------------------------------------------------------------

ERRORS = {normalizer: {name: np.random.default_rng(seed).lognormal(np.log(scale), 0.5, 333)
                       for seed, name in enumerate(("ours", "peer"))}
          for normalizer, scale in (("inter_ocular", 0.06), ("box", 0.03))}


def expected_ced(errors, limit):
    return [[100 * values.mean(), 100 * metrics.failure_rate(values, limit), 100 * metrics.auc(values, limit)]
            for values in errors.values()]


def shown_ced(page):
    return [[float(cell.removesuffix("\u00a0%")) for cell in row[1:]] for row in rows(page)]


def limit_of(page):
    return float(page.get_by_role("slider", name="limit").input_value()) / 100


def test_ced_numbers_follow_the_limit(show):
    page = show(widgets.CedFigure(ERRORS, limit=0.1))
    np.testing.assert_allclose(shown_ced(page), expected_ced(ERRORS["inter_ocular"], 0.1), atol=0.0051)
    press(page.get_by_role("slider", name="limit"), "ArrowLeft", 7)
    np.testing.assert_allclose(shown_ced(page), expected_ced(ERRORS["inter_ocular"], 0.093), atol=0.0051)
    press(page.get_by_role("radio", name="box"), "Space")
    np.testing.assert_allclose(shown_ced(page), expected_ced(ERRORS["box"], 0.093), atol=0.0051)
    assert "peer" not in page.locator(".fk-status").text_content()
    press(page.get_by_role("radio", name="peer"), "Space")
    assert "peer" in page.locator(".fk-status").text_content()


@pytest.mark.parametrize("touch", [False, True])
def test_ced_limit_is_set_on_the_plot(show, touch):
    page = show(widgets.CedFigure(ERRORS), touch=touch)
    grid = page.locator(".fk-grid")
    ticks = page.evaluate("() => [...document.querySelectorAll('.fk-plot text')].map(t => t.textContent)")
    assert ticks[:3] == ["0", "2.5", "5"]
    there = middle(grid.nth(2))                                                      # the line at 5 %
    if touch:
        page.touchscreen.tap(*there)
        settle(page)
    else:
        drag(page, middle(page.locator(".fk-marker")), there)
    assert limit_of(page) == pytest.approx(0.05, abs=0.001)
    np.testing.assert_allclose(shown_ced(page), expected_ced(ERRORS["inter_ocular"], limit_of(page)), atol=0.0051)


# ---- FaceFigure -------------------------------------------------------------------------------------------------

def turning(n=5, size=64):
    """Squares that move to the right, with two landmarks and two contours on them."""
    frames, landmarks = [], []
    for i in range(n):
        frame = np.full((size, size, 3), 40, np.uint8)
        frame[20:40, 10 + 6 * i:20 + 6 * i] = (200, 180, 160)
        frames.append(frame)
        landmarks.append([[10 + 6 * i, 20], [20 + 6 * i, 40]])
    visible = np.ones((n, 2), bool)
    visible[3:, 1] = False
    chin = [np.array([[5, 50], [30 + i, 60], [60, 50]])[: 2 + i % 2] for i in range(n)]
    return widgets.FaceFigure(frames, landmarks, np.linspace(-60, 60, n), visible,
                              {"nose_ridge": landmarks, "chin_boundary": chin}, occluding=["chin_boundary"])


def test_face_turns_by_keys(show):
    page = show(turning())
    slider, status = page.get_by_role("slider", name="yaw"), page.locator(".fk-status")
    assert status.text_content() == "yaw 0°: 0 of 2 landmarks hidden"
    page.wait_for_timeout(700)
    assert page.locator("[aria-live]").text_content() == ""                           # a page that opens says nothing
    before = snapshot(page)
    press(slider, "End")
    assert status.text_content() == "yaw 60°: 1 of 2 landmarks hidden"
    assert slider.get_attribute("aria-valuetext") == "60°"
    assert snapshot(page) != before
    page.wait_for_function("document.querySelector('[aria-live]').textContent.startsWith('yaw 60°')", timeout=20_000)


def test_face_layers_are_switched(show):
    page = show(turning())
    press(page.get_by_role("slider", name="yaw"), "End")
    for name in ("landmarks", "contours", "mark hidden landmarks", "occluding contour"):
        before = snapshot(page)
        page.get_by_label(name, exact=True).click()
        settle(page)
        assert snapshot(page) != before, name
        page.get_by_label(name, exact=True).click()
        settle(page)
        assert snapshot(page) == before, name


def test_face_plays_and_pauses(show):
    page = show(turning())
    page.get_by_role("button", name="Play").click()                                   # it turns around at 60 degrees
    page.wait_for_function("document.querySelector('.fk-slider output').textContent === '-60°'", timeout=20_000)
    page.get_by_role("button", name="Pause").click()
    at = page.locator(".fk-slider output").text_content()
    page.wait_for_timeout(300)
    assert page.locator(".fk-slider output").text_content() == at


# ---- OverlayFigure ----------------------------------------------------------------------------------------------

POINTS = np.array([[20.0, 20], [80, 20], [50, 50], [30, 80], [70, 80]])


def overlay():
    y, x = np.mgrid[:25, :25]
    maps = np.stack([np.exp(-((x - p[0] / 4) ** 2 + (y - p[1] / 4) ** 2) / 4) for p in POINTS])
    image, scores = np.full((100, 100), 90, np.uint8), np.linspace(0.2, 1, 5)
    return widgets.OverlayFigure(image, POINTS, maps, scores, truth=POINTS + [3, 4])


def chosen(page):
    return int(re.match(r"Landmark (\d+)", page.locator(".fk-status").text_content())[1])


def test_overlay_chooses_under_the_mouse(show):
    page = show(overlay())
    photo = page.locator("canvas").first
    for k in (3, 1, 4, 0, 2):
        page.mouse.move(*pixel(photo, POINTS[k] + 2, 100))
        settle(page)
        assert chosen(page) == k
    assert dict(rows(page)) == {"landmark": "2", "x, y": "50.0, 50.0", "score": "0.60", "error": "5.0 px"}


def test_overlay_chooses_by_keys(show):
    page = show(overlay())
    photo = page.get_by_role("slider", name="Landmark chosen on the photo")
    seen = []
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "ArrowUp", "ArrowUp"):
        press(photo, key)
        seen.append(chosen(page))
    assert seen == [1, 4, 3, 2, 0, 0] or seen == [1, 4, 3, 0, 0, 0]
    press(page.get_by_role("slider", name="landmark", exact=True), "End")
    assert chosen(page) == 4 and photo.get_attribute("aria-valuenow") == "4"


def test_overlay_chooses_by_finger_and_draws_the_heat_there(show):
    page = show(overlay(), width=390, touch=True)
    photo = page.locator("canvas").first
    before = snapshot(page, 1)
    page.touchscreen.tap(*pixel(photo, POINTS[3] + 1, 100))
    settle(page)
    assert chosen(page) == 3 and snapshot(page, 1) != before
    # the map alone is brightest at the landmark's own place
    brightest = page.evaluate("""() => {
      const c = document.querySelectorAll('canvas')[1];
      const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      const light = (i) => d[i] + d[i + 1] + d[i + 2];
      let best = 0;
      for (let i = 0; i < d.length; i += 4) if (light(i) > light(best)) best = i;
      return [(best / 4 % c.width) / c.width, Math.floor(best / 4 / c.width) / c.height];
    }""")
    np.testing.assert_allclose(brightest, POINTS[3] / 100, atol=0.05)


def test_overlay_lays_the_map_where_the_matrix_says(show):
    to_map = np.array([[0.1, -0.25, 30.0], [0.2, 0.15, -4.0]])  # image to heatmap, turned and sheared
    place = np.array([40.0, 25.0])  # in the image, far from the landmark
    u, v = to_map @ [*place, 1]
    y, x = np.mgrid[:30, :40]
    heat = np.exp(-((x - u) ** 2 + (y - v) ** 2) / 2)[None]
    page = show(widgets.OverlayFigure(np.full((100, 100), 90, np.uint8), [[70, 80]], heat, matrix=to_map))
    page.get_by_label("all landmarks").click()
    settle(page)
    found = page.evaluate("""() => {
      const c = document.querySelector('canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
      let n = 0, sx = 0, sy = 0;
      for (let i = 0; i < d.length; i += 4) {
        const warm = Math.max(0, d[i] - d[i + 2] - 40);
        n += warm; sx += warm * (i / 4 % c.width); sy += warm * Math.floor(i / 4 / c.width);
      }
      return [(sx / n + 0.5) / c.width * 100 - 0.5, (sy / n + 0.5) / c.height * 100 - 0.5];
    }""")
    np.testing.assert_allclose(found, place, atol=1)


# ---- StepsFigure ------------------------------------------------------------------------------------------------

def training():
    truth = np.stack([POINTS, POINTS + 1]) / 2
    steps = [0, 50, 100, 400]
    off = np.array([8.0, 4, 2, 1])
    loss = [(s, 10 * 0.99**s + 0.1) for s in range(0, 401, 10)]
    predictions = truth[None] + [[[[o, 0]]] for o in off]
    return widgets.StepsFigure(np.full((2, 50, 50), 0.4), steps, predictions, loss, truth=truth)


def test_steps_follow_slider_and_plot(show):
    page = show(training())
    status = page.locator(".fk-status")
    assert status.text_content() == "Step 0: loss 10.1, mean error 8.00 px"
    press(page.get_by_role("slider", name="training step"), "ArrowRight", 2)
    assert status.text_content() == f"Step 100: loss {10 * 0.99**100 + 0.1:.2f}, mean error 2.00 px"
    before = snapshot(page)
    box = page.locator(".fk-plot").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 20, box["y"] + 100)
    settle(page)
    assert status.text_content().startswith("Step 400") and snapshot(page) != before
    page.get_by_label("true points").click()
    settle(page)


def test_steps_play_to_the_end(show):
    page = show(training())
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('.fk-status').textContent.startsWith('Step 400')", timeout=20_000)
    page.get_by_role("button", name="Play").wait_for(timeout=20_000)                  # and stops by itself


# ---- BaliFigure -------------------------------------------------------------------------------------------------

LID = np.array([[6.3, 9.1], [10.2, 6.4], [15.7, 6.1], [20.4, 9.6]])


def expected_bali(points, size, chosen, radius=3):
    """Errors of hottest pixel, centre of mass, all votes and near votes, for one landmark and in the mean."""
    chain = (tuple(range(len(points))),)
    offsets = scpan.landmark_offsets(scpan.bali_field(points, chain, size).offsets, chain, len(points))
    heat = torch.from_numpy(heatmaps.encode(points, size, 1.5))
    found = [heatmaps.decode(heat, "argmax"), scpan.decode_bali(heat, 0 * offsets, radius),
             scpan.decode_bali(heat, offsets, radius), scpan.decode_bali(heat, offsets, radius, 1.5)]
    errors = np.stack([np.linalg.norm(f.numpy() - points, axis=1) for f in found])
    return np.stack([errors[:, chosen], errors.mean(1)], 1)


def shown_bali(page):
    return np.array([[float(cell) for cell in row[1:]] for row in rows(page)])


def test_bali_shows_what_the_library_computes_while_a_landmark_moves(show):
    page = show(widgets.BaliFigure(LID, (16, 28)))
    np.testing.assert_allclose(shown_bali(page), expected_bali(LID, (16, 28), 0), atol=6e-4)
    second = page.get_by_role("slider", name="Landmark 2")
    press(second, "ArrowRight", 4)                                                   # 0.25 map pixels each
    moved = LID + np.array([0, 1, 0, 0])[:, None] * [1, 0]
    np.testing.assert_allclose(shown_bali(page), expected_bali(moved, (16, 28), 1), atol=6e-4)
    assert page.locator(".fk-status").text_content().startswith("Landmark 2: ")
    press(page.get_by_role("slider", name="r of the window"), "ArrowRight")
    np.testing.assert_allclose(shown_bali(page), expected_bali(moved, (16, 28), 1, 4), atol=6e-4)


def test_bali_rings_are_dragged_one_at_a_time(show):
    page = show(widgets.BaliFigure(LID, (16, 28)), width=900)
    before = [page.get_by_role("slider", name=f"Landmark {i}").get_attribute("aria-valuetext") for i in (1, 2, 3, 4)]
    third, box = page.get_by_role("slider", name="Landmark 3"), page.locator("canvas").first.bounding_box()
    x, y = middle(third)
    drag(page, (x, y), (x, y + 5 * box["width"] / 28))
    after = [page.get_by_role("slider", name=f"Landmark {i}").get_attribute("aria-valuetext") for i in (1, 2, 3, 4)]
    assert [a == b for a, b in zip(before, after)] == [True, True, False, True]
    assert float(after[2].split("y ")[1]) == pytest.approx(11.1, abs=0.1)
    page.mouse.click(box["x"] + 5, box["y"] + 5)                                     # beside all rings: nothing moves
    assert third.get_attribute("aria-valuetext") == after[2]


def test_bali_settings_are_seen(show):
    page = show(widgets.BaliFigure(LID, (16, 28), image=np.full((160, 280), 90, np.uint8)))
    for name in ("as printed", "squared", "rough", "nearly flat", "peak"):
        before = snapshot(page), snapshot(page, 1)
        press(page.get_by_role("radio", name=name), "Space")
        assert (snapshot(page), snapshot(page, 1)) != before, name
    for name in ("vectors", "confidence"):
        before = snapshot(page)
        page.get_by_label(name, exact=True).click()
        settle(page)
        assert snapshot(page) != before, name


# ---- PairFigure -------------------------------------------------------------------------------------------------

PAIR_POINTS = np.random.default_rng(6).uniform(40, 88, (68, 2)).astype(np.float32)


def expected_pair(degrees, scale, mirror, swap=True, again=True, answer=None):
    """Divergence of the moved answer from the twin's, and of the answer from the truth, on maps of 32 pixels."""
    flip = list(markups.get("68").flip)
    linear = scpan.linear_map(torch.tensor([np.deg2rad(degrees)]), torch.tensor([scale], dtype=torch.float64),
                              torch.tensor([mirror]))
    truth = torch.from_numpy(PAIR_POINTS).double()
    answer = answer or (lambda q: q)
    said = answer(truth)
    moved, there = (scpan.move_points(q[None], linear, 128, range(68))[0] for q in (said, truth))
    twin = answer(there[flip] if mirror else there)
    disturbed = moved[flip] if mirror and swap else moved
    width = 1.5 if again else 1.5 * scale

    def apart(a, b, sigma):
        on_map = (heatmaps.to_heatmap(q, 128, 32) for q in (a, b))
        return scpan.js_divergence(*(heatmaps.encode(q, 32, w) for q, w in zip(on_map, (sigma, 1.5)))).mean().item()
    return [apart(disturbed, twin, width), apart(said, truth, 1.5)]


def shown_pair(page):
    return [float(row[1]) for row in rows(page)]


def test_pair_shows_what_the_library_computes_for_every_answer(show):
    page = show(widgets.PairFigure(np.full((128, 128), 99, np.uint8), PAIR_POINTS))
    assert shown_pair(page) == pytest.approx([0, 0], abs=1e-3)                 # the twin is the picture
    press(page.get_by_role("slider", name="turn"), "ArrowRight", 28)
    press(page.get_by_role("slider", name="scale"), "ArrowLeft", 4)
    assert shown_pair(page) == pytest.approx([0, 0], abs=1e-3)
    for name, answer in (("all in the middle", lambda q: torch.full_like(q, 63.5)),
                         ("all on the nose", lambda q: q[30].expand_as(q)),
                         ("all too low", lambda q: q + torch.tensor([0.0, 20.0]))):
        press(page.get_by_role("radio", name=name), "Space")
        wanted = expected_pair(28, 0.8, False, answer=answer)
        assert shown_pair(page) == pytest.approx(wanted, abs=1e-3) and wanted[1] > 0.3
    assert wanted[0] > 0.1                              # a shift that does not turn with the picture is found out
    press(page.get_by_role("radio", name="knows faces"), "Space")
    page.get_by_label("mirrored").click()
    page.get_by_label("right and left change places").click()
    settle(page)
    named = shown_pair(page)
    assert named == pytest.approx(expected_pair(28, 0.8, True, swap=False), abs=1e-3) and named[0] > 0.3
    page.get_by_label("right and left change places").click()
    page.get_by_label("peaks blurred again").click()
    settle(page)
    assert shown_pair(page) == pytest.approx(expected_pair(28, 0.8, True, again=False), abs=1e-3)


def test_pair_draws_the_twin_where_the_landmarks_say(show):
    page = show(widgets.PairFigure(np.full((128, 128), 99, np.uint8), PAIR_POINTS))
    before = snapshot(page), snapshot(page, 1)
    press(page.get_by_role("slider", name="scale"), "ArrowLeft", 2)
    assert snapshot(page) == before[0] and snapshot(page, 1) != before[1]


# ---- ReferenceFigure --------------------------------------------------------------------------------------------

def reference_features():
    return np.random.default_rng(3).normal(size=(2, 2, 8, 10)).astype(np.float32)


def reference_figure():
    pictures = np.random.default_rng(4).integers(0, 255, (2, 64, 80), dtype=np.uint8)
    return widgets.ReferenceFigure(*pictures, *reference_features(), rht.correlate, place=(3, 4))


def expected_reference(place, patch):
    """The place that answers, and its cosine."""
    query, key = (torch.from_numpy(features)[None] for features in reference_features())
    confidence, index = rht.correlate(query, key, patch)
    k = place[1] * 10 + place[0]
    return [int(index[0, k]) % 10, int(index[0, k]) // 10, float(confidence.flatten()[k])]


def shown_reference(page):
    return [float(cell) for cell in rows(page)[0][1:]]


def test_reference_answers_as_the_library_does_by_keys_mouse_and_patch(show):
    page = show(reference_figure())
    np.testing.assert_allclose(shown_reference(page), expected_reference((3, 4), 3), atol=6e-4)
    ring = page.get_by_role("slider", name="Place on the target")
    press(ring, "ArrowRight", 2)
    press(ring, "ArrowUp")
    np.testing.assert_allclose(shown_reference(page), expected_reference((5, 3), 3), atol=6e-4)
    press(page.get_by_role("radio", name="1 × 1"), "Space")
    np.testing.assert_allclose(shown_reference(page), expected_reference((5, 3), 1), atol=6e-4)
    box = page.locator("canvas").first.bounding_box()
    drag(page, middle(ring), (box["x"] + 7.5 / 10 * box["width"], box["y"] + 6.5 / 8 * box["height"]))
    np.testing.assert_allclose(shown_reference(page), expected_reference((7, 6), 1), atol=6e-4)


def test_reference_settings_are_seen(show):
    page = show(reference_figure())
    for name, n in (("similarity", 1), ("weighed by confidence", 2)):
        before = snapshot(page, n)
        page.get_by_label(name, exact=True).click()
        settle(page)
        assert snapshot(page, n) != before, name


# ---- ExemplarFigure ---------------------------------------------------------------------------------------------

TRUTH = np.random.default_rng(6).uniform(10, 118, (68, 2)).astype(np.float32)
BOOK = msm.ShapeDictionary(TRUTH + np.random.default_rng(7).normal(0, 4, (30, 68, 2)).astype(np.float32))
LENGTH = float(np.linalg.norm(TRUTH[36] - TRUTH[45]))


def exemplar_figure():
    return widgets.ExemplarFigure(BOOK.exemplars, TRUTH, k=20, hand=(60, 60), radius=0.4, error=0.1)


def expected_exemplars(hand, k=20, radius=0.4, error=0.1, covered=()):
    """How many are covered and seen, and the errors of both in percent before and after."""
    seen = np.linalg.norm(TRUTH - hand, axis=1) >= radius * LENGTH
    seen[list(covered)] = False
    wander = np.random.default_rng(0).normal(size=TRUTH.shape)
    guess = np.where(seen[:, None], TRUTH, TRUTH + error * LENGTH * wander)
    after = BOOK.reconstruct(guess, seen, k)
    off = [np.linalg.norm(shape - TRUTH, axis=1) / LENGTH * 100 for shape in (guess, after)]
    return np.array([[which.sum(), *(e[which].mean() for e in off)] for which in (~seen, seen)])


def shown_exemplars(page):
    return np.array([[float(cell.replace("\u00a0%", "")) for cell in row[1:]] for row in rows(page)])


def test_exemplars_put_back_what_the_library_does_by_keys_and_settings(show):
    page = show(exemplar_figure())
    np.testing.assert_allclose(shown_exemplars(page), expected_exemplars((60, 60)), atol=6e-3)
    press(page.get_by_role("slider", name="Hand", exact=True), "ArrowRight", 5)      # a fiftieth of the length each
    hand = (60 + 0.1 * LENGTH, 60)
    np.testing.assert_allclose(shown_exemplars(page), expected_exemplars(hand), atol=6e-3)
    press(page.get_by_role("slider", name="exemplars k"), "ArrowLeft", 3)
    np.testing.assert_allclose(shown_exemplars(page), expected_exemplars(hand, 17), atol=6e-3)
    page.get_by_label("cover the jaw").click()
    settle(page)
    np.testing.assert_allclose(shown_exemplars(page), expected_exemplars(hand, 17, covered=range(17)), atol=6e-3)


def test_exemplars_hand_is_dragged_and_settings_are_seen(show):
    page = show(exemplar_figure(), width=900)
    hand, box = page.get_by_role("slider", name="Hand", exact=True), page.locator("canvas").first.bounding_box()
    x, y = middle(hand)
    drag(page, (x, y), (x + box["width"] / 4, y))
    np.testing.assert_allclose(shown_exemplars(page), expected_exemplars((92, 60)), atol=0.2)
    for name, seen in (("size of the hand", True), ("error below it", False), ("ridge", True)):
        before = snapshot(page), snapshot(page, 1)
        press(page.get_by_role("slider", name=name), "ArrowRight", 5)
        # what is guessed below the hand has no say in what is put back
        assert snapshot(page) != before[0] and (snapshot(page, 1) != before[1]) == seen, name


def test_two_figures_on_a_page_keep_their_own_choices(show):
    page = show(widgets.CodecFigure(), more=[widgets.CedFigure(ERRORS)])
    assert page.get_by_role("radio", checked=True).count() == 4  # shape and map, normaliser and shade
    press(page.get_by_role("radio", name="box"), "Space")
    assert page.get_by_role("radio", name="Gaussian").is_checked()


# ---- ExtractionFigure -------------------------------------------------------------------------------------------

ARC = np.stack([np.linspace(4, 36, 40), 20 - 8 * np.sin(np.linspace(0, np.pi, 40))], 1)


def extraction_figure(**settings):
    return widgets.ExtractionFigure(contours.encode(ARC, (32, 40), 2.0), ARC, **settings)


def test_extraction_follows_the_damage_and_the_thresholds(show):
    page = show(extraction_figure())
    before = snapshot(page)
    assert rows(page)[2][1] == "1" and rows(page)[4][1] == "0.0\u00a0%"
    assert float(rows(page)[3][1]) < 0.05
    press(page.get_by_role("slider", name="hole"), "ArrowRight", 10)
    assert rows(page)[2][1] == "2" and snapshot(page) != before
    press(page.get_by_role("slider", name="low"), "End")                             # nothing is ideal
    assert rows(page)[2][1] == "0" and page.locator(".fk-status").text_content() == "No curve is found"
    seen = set()
    for name in ("contourness", "normals", "curves", "ridge pixels"):
        press(page.get_by_role("slider", name="low"), "Home")
        press(page.get_by_role("radio", name=name), "Space")
        seen.add(snapshot(page, 1))
    assert len(seen) == 4


# ---- WeakLossFigure ---------------------------------------------------------------------------------------------

CHAIN = [[6.0, 20], [20, 20], [34, 20], [48, 20]]


def weak_loss_figure():
    return widgets.WeakLossFigure(CHAIN, (40, 56), reach=6)


def weak_costs(page):
    return {row[0].split(" ")[0]: float(row[1]) for row in rows(page)}


def test_weak_loss_follows_the_rings(show):
    page = show(weak_loss_figure())
    start = weak_costs(page)
    assert start["landmark"] < 0.01 and start["line"] < 0.05 and start["far"] == 0
    picture = page.locator("canvas").first
    box = picture.bounding_box()

    def place(x, y):
        return box["x"] + (x + 0.5) / 56 * box["width"], box["y"] + (y + 0.5) / 40 * box["height"]

    drag(page, place(27, 20), place(27, 16))                              # between two landmarks, within D
    bent = weak_costs(page)
    assert bent["far"] == 0 and bent["landmark"] < 0.2 and bent["full"] > start["full"] + 0.3
    press(page.get_by_role("slider", name="Contour at landmark 2"), "ArrowUp", 12)          # 3 px
    lifted = weak_costs(page)
    assert lifted["landmark"] > bent["landmark"] + 0.2
    page.get_by_role("radio", name="beyond D").check(force=True)
    settle(page)
    away = weak_costs(page)
    assert min(away["landmark"], away["line"]) > 0.8 and away["far"] > 0.5
    assert away["weak"] == pytest.approx(away["far"] + 0.1 * away["landmark"] + 0.1 * away["line"], abs=0.002)


def test_weak_loss_clutter_and_reach(show):
    page = show(weak_loss_figure())
    before = weak_costs(page)
    page.get_by_role("checkbox", name=re.compile("spot of heat")).check(force=True)
    settle(page)
    after = weak_costs(page)
    assert after["far"] > 0.2 and after["landmark"] == before["landmark"] and after["line"] == before["line"]
    page.get_by_role("checkbox", name=re.compile("spot of heat")).uncheck(force=True)
    page.get_by_role("radio", name="2 px aside").check(force=True)
    settle(page)
    assert weak_costs(page)["line"] < 0.1 < 0.8 < weak_costs(page)["landmark"]
    press(page.get_by_role("slider", name="D", exact=True), "Home")       # 1 px: two are too far now
    assert weak_costs(page)["line"] > 0.5


def test_weak_loss_at_the_place_itself(show):
    """Half a pixel off the rows, the exact contour costs 0.41 by the map and nothing by the template moved there."""
    page = show(widgets.WeakLossFigure([[x, y + 0.5] for x, y in CHAIN], (40, 56)))
    assert weak_costs(page)["landmark"] == pytest.approx(0.41, abs=0.01)
    page.get_by_role("checkbox", name=re.compile("score at the place")).check(force=True)
    settle(page)
    assert weak_costs(page)["landmark"] < 0.01


# ---- all of them ------------------------------------------------------------------------------------------------

def test_contourness_figure_follows_the_line(show):
    """Numbers are those of the library; the line turns by slider, ring and keys; the pixel looked at moves too."""
    page = show(widgets.ContournessFigure(angle=0))

    def shown():
        return np.array([[float(re.sub("[^0-9.-]", "", cell.replace("\u2212", "-"))) for cell in row[1:]]
                         for row in rows(page)[:3]])

    def wanted(degrees, at=(20, 20)):
        x, y = np.meshgrid(*[np.arange(41.0) - 20] * 2)
        angle = np.deg2rad(degrees)
        line = np.maximum(0, 1 - (y * np.cos(angle) - x * np.sin(angle)) ** 2 / 2)
        score, orientation = contours.contourness(torch.from_numpy(line), 2.0)
        return [score[at[1], at[0]].item(), np.rad2deg(orientation[at[1], at[0]].item()) % 180]

    np.testing.assert_allclose(shown()[0, :2], wanted(0), atol=0.06)
    assert shown()[0, 0] == 4.920 and shown()[1, 0] == 4.920
    end = page.get_by_role("slider", name="End of the line")
    drag(page, middle(end), pixel(page.locator("canvas").first, (20, 38), 41))
    np.testing.assert_allclose(shown()[0, :2], wanted(90), atol=0.6)
    page.get_by_label("angle", exact=True).fill("45")
    settle(page)
    assert shown()[0, 0] == 4.995 and shown()[0, 1] == 45
    press(page.get_by_role("slider", name="Pixel looked at"), "ArrowRight")
    np.testing.assert_allclose(shown()[0, :2], wanted(45, (21, 20)), atol=0.06)
    press(page.get_by_role("slider", name="Pixel looked at"), "ArrowLeft")
    page.get_by_label("a second line across").check()
    page.get_by_label("its angle", exact=True).fill("135")
    settle(page)
    assert shown()[0, 0] < 0                                        # a crossing scores less than nothing


FIGURES = {
    "codec": lambda: widgets.CodecFigure(np.full((64, 64, 3), 128, np.uint8), point=(30, 30)),
    "weak_loss": weak_loss_figure,
    "ced": lambda: widgets.CedFigure(ERRORS), "face": turning, "overlay": overlay, "steps": training,
    "reference": reference_figure, "exemplars": exemplar_figure,
    "contourness": widgets.ContournessFigure,
    "extraction": extraction_figure, "straighten": lambda: straighten_figure(),
}

LUMINANCE = """(names) => {
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const style = getComputedStyle(document.querySelector(".fk"));
  return names.map((name) => {
    probe.fillStyle = style.getPropertyValue("--fk-" + name).trim();
    probe.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...probe.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  });
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_read(show, theme):
    page = show(FIGURES["ced"](), theme)
    names = ["surface", "raised", "ink", "muted", "accent", "on-accent", "1", "2", "3", "4", "5", "6"]
    light = dict(zip(names, page.evaluate(LUMINANCE, names)))
    assert (light["surface"] < 0.05) == (theme == "dark")

    def contrast(a, b):
        low, high = sorted((light[a], light[b]))
        return (high + 0.05) / (low + 0.05)

    for text in ("ink", "muted", "accent"):  # WCAG 2.2: 4.5 for text, 3 for lines
        assert min(contrast(text, "surface"), contrast(text, "raised")) > 4.5, text
    assert contrast("on-accent", "accent") > 4.5
    for line in "123456":
        assert contrast(line, "surface") > 3, line


@pytest.mark.parametrize("name", FIGURES)
def test_fits_a_phone_and_names_every_control(show, name):
    page = show(FIGURES[name](), "dark", width=360, touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    faults = page.evaluate("""() => [...document.querySelectorAll("input, button, canvas, svg[role], [tabindex]")]
      .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.closest("label")?.textContent.trim()))
      .map((e) => e.outerHTML)""")
    assert faults == []
    small = page.evaluate("""() => [...document.querySelectorAll(".fk-controls label, .fk-stack label, button")]
      .filter((e) => e.getBoundingClientRect().height < 38).map((e) => e.outerHTML)""")
    assert small == []
    assert page.evaluate("document.querySelectorAll('canvas').length && document.querySelector('canvas').width "
                         "/ document.querySelector('canvas').clientWidth") in (0, 2)     # the screen's own pixels


@pytest.mark.parametrize("name", FIGURES)
def test_focus_is_seen_theme_follows_and_figure_stops(show, name):
    page = show(FIGURES[name]())
    stops = 0
    for _ in range(20):
        page.keyboard.press("Tab")
        seen = page.evaluate("""() => {
          const e = document.activeElement;
          if (!e || e === document.body) return null;
          const own = getComputedStyle(e), next = e.nextElementSibling && getComputedStyle(e.nextElementSibling);
          const knob = e.matches(".fk-handle") && getComputedStyle(e, "::before").borderTopWidth === "4px";
          return knob || own.outlineStyle !== "none" || (next && next.outlineStyle !== "none");
        }""")
        if seen is None:
            break
        assert seen, page.evaluate("document.activeElement.outerHTML")
        stops += 1
    assert stops >= 2
    theme = "() => document.querySelector('.fk').dataset.theme"
    assert page.evaluate(theme) == "light"
    page.evaluate("document.documentElement.dataset.theme = 'dark'")                  # the book
    page.wait_for_function(theme + " === 'dark'", timeout=20_000)
    page.evaluate("delete document.documentElement.dataset.theme; document.body.dataset.jpThemeLight = 'true'")  # Lab
    page.wait_for_function(theme + " === 'light'", timeout=20_000)
    page.evaluate("window.stop_figure(); document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(100)
    assert page.evaluate(theme) == "light"                                            # it no longer listens


# ---- BoundaryFigure ---------------------------------------------------------------------------------------------

BROW = np.array([[4.2, 9.1], [9.7, 5.4], [16.3, 4.1], [23.4, 7.6]])


def expected_boundary(points, sigma=1.0):
    """Mean square and overlap, in percent, of the map against the one at first."""
    now, first = (torch.where(d < 3 * sigma * (1 - 1e-6), torch.exp(-d.square() / (2 * sigma**2)), 0)[None]
                  for d in (contours.distances(tab.smooth(torch.tensor(p), 16), (14, 28), 3 * sigma)
                            for p in (points, BROW)))
    return tab.boundary_mse(now, first).item(), 100 * tab.boundary_overlap(now, first).item()


def test_boundary_shows_what_the_library_computes_while_a_landmark_moves(show):
    page = show(widgets.BoundaryFigure(BROW, (14, 28), image=np.full((140, 280), 90, np.uint8)))
    assert rows(page)[0][1:] == ["0.00000", "100.0\u00a0%"]
    press(page.get_by_role("slider", name="Landmark 2"), "ArrowDown", 6)                # 0.25 map pixels each
    error, overlap = expected_boundary(BROW + np.array([0, 1.5, 0, 0])[:, None] * [0, 1])
    shown = rows(page)[0]
    assert float(shown[1]) == pytest.approx(error, abs=6e-6)
    assert float(shown[2].split()[0]) == pytest.approx(overlap, abs=0.06)
    for name in ("straight", "snapped to pixels"):
        before = snapshot(page), snapshot(page, 1)
        press(page.get_by_role("radio", name=name), "Space")
        assert (snapshot(page), snapshot(page, 1)) != before, name


# ---- StraightenFigure -------------------------------------------------------------------------------------------

CROOKED = np.array([[0.9, -0.4, 0.1], [0.4, 0.9, -0.05]])


def straighten_figure():
    image = np.zeros((64, 64, 3), np.uint8)
    image[10:30, 20:50] = 255, 120, 0
    return widgets.StraightenFigure(image, CROOKED)


def test_straighten_shows_what_the_library_computes_while_the_frame_moves(show):
    page = show(straighten_figure())

    def check(theta):
        pose = msm.pose_residual(*(torch.tensor(value)[None] for value in (theta, CROOKED)))
        loss = msm.parameter_loss(*(torch.tensor(value)[None] for value in (theta, CROOKED))).item()
        shown = [float(row[1].split("\u00a0")[0].split()[0].rstrip("°")) for row in rows(page)[2:6]]
        wanted = [pose.rotation.item(), pose.scale.item(), 100 * pose.shift.item(), loss]
        np.testing.assert_allclose(shown, wanted, atol=0.0501)
    check(np.eye(2, 3))
    press(page.get_by_role("slider", name="Middle of the frame"), "ArrowRight", 8)            # half a pixel each
    check(np.array([[1, 0, 4 * 2 / 64], [0, 1, 0]]))
    before = snapshot(page, 1)
    press(page.get_by_role("slider", name="Right side of the frame"), "ArrowDown", 20)
    reach = np.array([32.0, 10.0]) / 32
    check(np.array([[reach[0], -reach[1], 0.125], [reach[1], reach[0], 0]]))
    assert snapshot(page, 1) != before
    press(page.get_by_role("button", name="Straight"), "Enter")
    check(CROOKED)
    assert rows(page)[5][1] == "0.000"
    for name in ("the right frame", "grid"):
        before = snapshot(page)
        press(page.get_by_role("checkbox", name=name), "Space")
        assert snapshot(page) != before, name
    press(page.get_by_role("button", name="As it came"), "Enter")
    check(np.eye(2, 3))
