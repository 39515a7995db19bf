// The kit every interactive figure is made of. widgets.py puts it in front of one figure's own script, so that the two
// make a single module. No library, no network. Coordinates: 0-based pixel centres, x to the right, y down.

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const fixed = (value, digits) => Number.isFinite(value) ? value.toFixed(digits) : "\u2013";
const percent = (value, digits = 1) => Number.isFinite(value) ? (100 * value).toFixed(digits) + "\u00a0%" : "\u2013";

// ---- data from Python --------------------------------------------------------------------------------------------

// widgets.py packs arrays into one buffer; here they come out as {name: {data, shape}}, encoded pictures as Blobs.
function unpack(model) {
  const raw = model.get("data");
  const bytes = raw instanceof ArrayBuffer ? new Uint8Array(raw)
    : new Uint8Array(raw.buffer, raw.byteOffset, raw.byteLength);
  const types = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };
  const arrays = {};
  for (const [name, { dtype, shape, offset, size }] of Object.entries(model.get("arrays"))) {
    const part = bytes.slice(offset, offset + size);             // a copy, so that floats are aligned
    arrays[name] = dtype in types ? { data: new types[dtype](part.buffer), shape }
      : { blob: new Blob([part], { type: dtype }) };
  }
  return { ...model.get("options"), ...arrays };
}

// Row i of an array whose first axis counts items: a view, no copy.
function item({ data, shape }, i) {
  const step = shape.slice(1).reduce((a, b) => a * b, 1);
  return data.subarray(i * step, (i + 1) * step);
}

// [[x, y], ...] of a flat row.
function pairs(row) {
  const points = [];
  for (let i = 0; i < row.length; i += 2) points.push([row[i], row[i + 1]]);
  return points;
}

// ---- elements ----------------------------------------------------------------------------------------------------

const SVG = new Set(["svg", "path", "line", "rect", "circle", "text", "g", "polyline", "polygon"]);

function make(tag, attributes = {}, ...children) {
  const node = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== undefined && child !== null));
  return node;
}

// The book says its theme on <html>, JupyterLab on <body>; elsewhere the system decides.
function theme() {
  const book = document.documentElement.dataset.theme;
  if (book === "dark" || book === "light") return book;
  const lab = document.body.dataset.jpThemeLight;
  if (lab !== undefined) return lab === "false" ? "dark" : "light";
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

// The frame of a figure: stage for pictures, controls below, one status line that is also read aloud.
// paint() asks for one repaint in the next frame; onPaint(f) adds a painter; stop() ends timers and observers.
function figure(el, { label, help }) {
  const stage = make("div", { class: "fk-stage" });
  const controls = make("div", { class: "fk-controls" });
  const status = make("p", { class: "fk-status", "aria-hidden": "true" });
  const spoken = make("p", { class: "fk-hidden", "aria-live": "polite" });
  // JupyterLab leaves the keys alone below an element with this attribute.
  const root = make("section", { class: "fk", "aria-label": label, "data-lm-suppress-shortcuts": "true" },
    stage, controls, status, spoken, help ? make("p", { class: "fk-help" }, help) : null);
  el.style.width = "100%";                                        // JupyterLab lays outputs out as a row
  el.replaceChildren(root);

  const painters = [], ends = [];
  let asked = 0, late = 0;
  const paintNow = () => { asked = 0; for (const painter of painters) painter(); };
  const fig = {
    root, stage, controls,
    paint: () => { asked ||= requestAnimationFrame(paintNow); },
    onPaint: (painter) => { painters.push(painter); fig.paint(); },
    onStop: (end) => ends.push(end),
    color: (name) => getComputedStyle(root).getPropertyValue("--fk-" + name).trim(),
    say: (text) => {                                            // shown at once, spoken when the hand rests,
      const first = !status.textContent;                          // but not while the page opens
      status.textContent = text;
      clearTimeout(late);
      if (!first) late = setTimeout(() => { spoken.textContent = text; }, 600);
    },
    stop: () => { clearTimeout(late); cancelAnimationFrame(asked); for (const end of ends) end(); },
  };

  const dress = () => { root.dataset.theme = theme(); fig.paint(); };
  dress();
  const watch = new MutationObserver(dress);
  watch.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", dress);
  const sized = new ResizeObserver(fig.paint);
  sized.observe(root);
  fig.onStop(() => { watch.disconnect(); sized.disconnect(); system.removeEventListener("change", dress); });
  return fig;
}

// A captioned place on the stage; basis: the width in CSS pixels below which it takes a line of its own.
function pane(fig, caption, content, basis = 260) {
  const node = make("figure", { class: "fk-pane", style: `--fk-basis:${basis}px` },
    caption ? make("figcaption", {}, caption) : null, content);
  fig.stage.append(node);
  return node;
}

// ---- controls ----------------------------------------------------------------------------------------------------

function slider(fig, { label, min, max, step = 1, value, format = String, onInput }) {
  const input = make("input", { type: "range", min, max, step, value, "aria-label": label });
  const out = make("output", {}, format(value));
  const show = () => {
    out.textContent = format(+input.value);
    input.setAttribute("aria-valuetext", out.textContent);
  };
  input.addEventListener("input", () => { show(); onInput(+input.value); fig.paint(); });
  fig.controls.append(make("label", { class: "fk-slider" }, make("span", {}, label), input, out));
  show();
  return { input, get value() { return +input.value; }, set value(v) { input.value = v; show(); } };
}

// One of a few: native radio buttons, so arrow keys and screen readers work. options: [[value, text], ...]
function choice(fig, { label, options, value, onChange, parent = fig.controls }) {
  const name = "fk-" + Math.random().toString(36).slice(2);       // radio groups are known page-wide, figures are many
  const box = make("div", { class: "fk-options" });
  for (const [key, text] of options) {
    const onchange = () => { onChange(key); fig.paint(); };
    const input = make("input", { type: "radio", name, value: key, checked: key === value, onchange });
    box.append(make("label", {}, input, make("span", {}, text)));
  }
  parent.append(make("fieldset", {}, make("legend", {}, label), box));
}

function toggle(fig, { label, value, color, onChange, parent = fig.controls }) {
  const onchange = () => { onChange(input.checked); fig.paint(); };
  const input = make("input", { type: "checkbox", checked: value, onchange });
  const swatch = color ? make("span", { class: "fk-swatch", style: `background:${color}` }) : null;
  parent.append(make("label", { class: "fk-toggle" }, input, make("span", {}, swatch, label)));
  return input;
}

// Plays a stack: steps a slider through its range. bounce: turns around at the ends, else stops at the last.
function player(fig, control, { fps = 12, bounce = false, onStep }) {
  const { min, max, step } = control.input;
  const icon = make("path"), text = make("span");
  let timer = 0, way = +step;
  const show = () => {
    icon.setAttribute("d", timer ? "M2 1h4v12H2zM8 1h4v12H8z" : "M2 0l11 7-11 7z");
    text.textContent = timer ? "Pause" : "Play";
  };
  const halt = () => { clearInterval(timer); timer = 0; show(); };
  const tick = () => {
    if (!fig.root.isConnected) return halt();
    let next = control.value + way;
    if (next > +max || next < +min) {
      if (!bounce) return halt();
      way = -way;
      next = control.value + way;
    }
    control.value = next;
    onStep(next);
    fig.paint();
  };
  const button = make("button", {
    type: "button", class: "fk-button", onclick: () => {
      if (timer) return halt();
      if (!bounce && control.value >= +max) control.value = +min - way;
      timer = setInterval(tick, 1000 / fps);
      show();
    },
  }, make("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, icon), text);
  control.input.addEventListener("pointerdown", halt);
  control.input.addEventListener("keydown", halt);
  fig.controls.prepend(button);
  fig.onStop(halt);
  show();
  return { halt };
}

// A table of live numbers; without a head, names and values. rows(): [{cells, color, strong}, ...].
function table(fig, { caption, head, rows }) {
  const body = make("tbody");
  const node = make("div", { class: "fk-table" }, make("table", {}, make("caption", {}, caption),
    head && make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)))), body));
  fig.onPaint(() => {
    const now = rows();
    while (body.rows.length > now.length) body.deleteRow(-1);
    now.forEach(({ cells, color, strong }, i) => {
      const row = body.rows[i] ?? body.insertRow();
      row.className = strong ? "fk-strong" : "";
      cells.forEach((text, j) => {
        const cell = row.cells[j] ?? row.appendChild(make(j ? "td" : "th", j ? {} : { scope: "row" }));
        if (cell.dataset.text === text && cell.dataset.color === (color ?? "")) return;
        cell.dataset.text = text;
        cell.dataset.color = color ?? "";
        cell.replaceChildren(text);
        if (color && !j) cell.prepend(make("span", { class: "fk-swatch", style: `background:${color}` }));
      });
    });
  });
  return node;
}

// ---- canvas ------------------------------------------------------------------------------------------------------

// A canvas drawn in data coordinates at the screen's own resolution.
// view(): [left, top, width, height] of what is seen, in data coordinates (edges: a map of width w starts at -0.5).
// draw(context, unit): unit is the length of one CSS pixel in data coordinates, for marks of constant size.
function canvas(fig, { label, view, draw }) {
  const node = make("canvas", { role: "img", "aria-label": label });
  const box = make("div", { class: "fk-canvas" }, node);
  const pad = { box, node, view, handles: [] };
  pad.toData = (event) => {
    const seen = box.getBoundingClientRect(), [left, top, width, height] = view();
    const u = (event.clientX - seen.left) / seen.width, v = (event.clientY - seen.top) / seen.height;
    return [left + u * width, top + v * height];
  };
  fig.onPaint(() => {
    const [left, top, width, height] = view();
    box.style.aspectRatio = `${width} / ${height}`;
    const ratio = window.devicePixelRatio || 1, seen = box.clientWidth;
    if (!seen) return;                                           // hidden: painted when it gets a size
    const w = Math.round(seen * ratio), h = Math.round(seen * height / width * ratio);
    if (node.width !== w || node.height !== h) { node.width = w; node.height = h; }
    const context = node.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, w, h);
    context.setTransform(w / width, 0, 0, h / height, -left * w / width, -top * h / height);
    draw(context, width / seen);
    for (const place of pad.handles) place();
  });
  return pad;
}

// A point the reader moves: by mouse and touch on it or beside it, by arrow keys (Shift: ten steps at once).
// get(): [x, y], set([x, y]); bounds(): [left, top, right, bottom]; onGrab, onDrop: before and after a drag;
// anywhere: a press beside it takes it too; false where a canvas holds several.
function handle(fig, pad, {
  label, get, set, step = 0.5, bounds, describe, onGrab = () => {}, onDrop = () => {}, anywhere = true,
}) {
  const knob = make("button", {
    type: "button", class: "fk-handle", role: "slider", "aria-label": label, "aria-roledescription": "movable point",
  });
  pad.box.append(knob);
  const move = ([x, y]) => {
    const [left, top, right, bottom] = bounds();
    set([clamp(x, left, right), clamp(y, top, bottom)]);
    fig.paint();
  };
  let grip = null;                                               // from the pointer to the point, while dragged
  const grab = (event, offset) => {
    grip = offset;
    knob.setPointerCapture(event.pointerId);
    knob.focus({ preventScroll: true });
    onGrab();
    event.preventDefault();
  };
  knob.addEventListener("pointerdown", (event) => {
    const [x, y] = pad.toData(event), [px, py] = get();
    grab(event, [px - x, py - y]);
  });
  knob.addEventListener("pointermove", (event) => {
    if (!grip) return;
    const [x, y] = pad.toData(event);
    move([x + grip[0], y + grip[1]]);
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    knob.addEventListener(end, () => { if (grip) { grip = null; onDrop(); fig.paint(); } });
  }
  if (anywhere) {
    pad.node.addEventListener("pointerdown", (event) => {        // a mouse drags from anywhere; a finger taps,
      if (event.pointerType !== "mouse" || event.button) return; // so that the page can still be scrolled
      move(pad.toData(event));
      grab(event, [0, 0]);
    });
    pad.node.addEventListener("click", (event) => {
      if (event.pointerType !== "mouse") { onGrab(); move(pad.toData(event)); onDrop(); }
    });
  }
  knob.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    const [x, y] = get(), far = step * (event.shiftKey ? 10 : 1);
    move([x + way[0] * far, y + way[1] * far]);
    onDrop();
  });
  pad.handles.push(() => {
    const [x, y] = get(), [left, top, width, height] = pad.view();
    const u = (x - left) / width, v = (y - top) / height;
    knob.style.left = `${100 * u}%`;
    knob.style.top = `${100 * v}%`;
    knob.hidden = u < 0 || u > 1 || v < 0 || v > 1;
    knob.setAttribute("aria-valuenow", x.toFixed(2));
    knob.setAttribute("aria-valuetext", describe ? describe() : `x ${x.toFixed(2)}, y ${y.toFixed(2)}`);
  });
  return knob;
}

// Encoded pictures decode in the background; the list fills as they arrive and the figure repaints.
function pictures(fig, arrays) {
  const ready = arrays.map(() => null);
  arrays.forEach(({ blob }, i) => createImageBitmap(blob).then((picture) => { ready[i] = picture; fig.paint(); }));
  return ready;
}

// Black, violet, orange, cream: dark to light without a jump, also in grey and for the colour-blind.
const HEAT = [[4, 4, 18], [52, 15, 95], [120, 28, 109], [185, 50, 85], [237, 105, 37], [252, 176, 60], [252, 253, 191]];

// The same idea for a score on a photo: violet, teal, yellow.
const SCORE = [[150, 95, 255], [60, 195, 190], [255, 230, 80]];

// The colour at value, 0 to 1, of such a list: [r, g, b].
function colorAt(map, value) {
  const at = clamp(value, 0, 1) * (map.length - 1), i = Math.min(Math.floor(at), map.length - 2), t = at - i;
  return map[i].map((a, k) => Math.round(a + (map[i + 1][k] - a) * t));
}

// The key to a colour map: its two ends named.
function legend(map, low, high) {
  const stops = map.map((rgb) => `rgb(${rgb})`).join();
  const bar = make("span", { style: `background:linear-gradient(90deg,${stops})` });
  return make("p", { class: "fk-legend" }, low, bar, high);
}

// A heatmap as a picture of its own size: values run from 0 to top; over a photo, low heat is transparent.
function heatPicture(values, width, height, { top = 1, overlay = false } = {}) {
  const picture = make("canvas", { width, height });
  const context = picture.getContext("2d"), pixels = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const value = clamp(values[i] / top, 0, 1), [r, g, b] = colorAt(HEAT, overlay ? 0.35 + 0.65 * value : value);
    pixels.data.set([r, g, b, overlay ? 235 * value : 255], 4 * i);
  }
  context.putImageData(pixels, 0, 0);
  return picture;
}

// Draw a picture so that its outer edges lie on the given rectangle.
function place(context, picture, left, top, width, height, smooth = true) {
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, left, top, width, height);
}

// Dots with a dark rim, readable on any photo.
function dots(context, points, { radius, fill, rim = "rgba(0,0,0,.75)", width = radius * 0.45 }) {
  context.lineWidth = width;
  context.strokeStyle = rim;
  points.forEach(([x, y], i) => {
    if (!Number.isFinite(x + y)) return;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fillStyle = typeof fill === "function" ? fill(i) : fill;
    context.stroke();
    context.fill();
  });
}

function stroke(context, points, { color, width, rim = "rgba(0,0,0,.55)", dash = [] }) {
  context.beginPath();
  let pen = false;
  for (const [x, y] of points) {
    if (!Number.isFinite(x + y)) { pen = false; continue; }
    if (pen) context.lineTo(x, y); else context.moveTo(x, y);
    pen = true;
  }
  context.lineJoin = context.lineCap = "round";
  if (rim) { context.lineWidth = width * 1.9; context.strokeStyle = rim; context.stroke(); }
  context.setLineDash(dash);
  context.lineWidth = width;
  context.strokeStyle = color;
  context.stroke();
  context.setLineDash([]);
}

function cross(context, [x, y], { radius, color, width, turned = false }) {
  const a = turned ? radius * Math.SQRT1_2 : 0, b = turned ? a : radius;
  const lines = turned ? [[-a, -a, a, a], [-a, a, a, -a]] : [[-b, 0, b, 0], [0, -b, 0, b]];
  for (const [style, w] of [["rgba(0,0,0,.8)", width * 2.2], [color, width]]) {
    context.strokeStyle = style;
    context.lineWidth = w;
    context.lineCap = "round";
    context.beginPath();
    for (const [x0, y0, x1, y1] of lines) { context.moveTo(x + x0, y + y0); context.lineTo(x + x1, y + y1); }
    context.stroke();
  }
}

// ---- plot --------------------------------------------------------------------------------------------------------

// Round numbers between low and high, about `count` of them.
function ticks(low, high, count) {
  const raw = (high - low) / count, power = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = [1, 2, 2.5, 5, 10].find((m) => m * power >= raw * 0.999) * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

// Marks of a logarithmic axis: the powers of ten, and 2 and 5 times them where there are few.
function decades(low, high) {
  const found = [];
  const steps = high / low > 1000 ? [1] : [1, 2, 5];
  for (let e = Math.floor(Math.log10(low)); 10 ** e <= high; e++) found.push(...steps.map((m) => m * 10 ** e));
  return found.filter((v) => v >= low * 0.999 && v <= high * 1.001);
}

// Lines with axes, as SVG. axes(): {x: {min, max, label, format}, y: {..., log}};
// lines(): [{points: [[x, y]...], color, dash, dot: [x, y], under: points of a shaded area}];
// marker(): x of a vertical line, or null.
// onPick(x): the reader clicks or drags across; give the same thing to the keyboard through a slider.
function plot(fig, { label, height = 260, axes, lines, marker = () => null, onPick }) {
  const box = make("div", { class: "fk-plot" + (onPick ? " fk-pick" : "") });
  let scale = null;
  fig.onPaint(() => {
    const wide = box.clientWidth;
    if (!wide) return;
    const { x, y } = axes(), pad = { left: 54, right: 14, top: 22, bottom: 44 };
    const level = y.log ? Math.log10 : (v) => v;
    const [low, high] = [level(y.min), level(y.max)];
    const foot = height - pad.bottom;
    const X = (v) => pad.left + (v - x.min) / (x.max - x.min) * (wide - pad.left - pad.right);
    const Y = (v) => foot - (clamp(level(v), low - 1, high + 1) - low) / (high - low) * (foot - pad.top);
    scale = { x, pad, wide };
    const at = (n) => n.toFixed(1), centred = { "text-anchor": "middle" };
    const svg = make("svg", { role: "img", "aria-label": label, height, viewBox: `0 0 ${wide} ${height}` });
    for (const v of ticks(x.min, x.max, wide < 420 ? 4 : 8)) {
      svg.append(make("line", { class: "fk-grid", x1: at(X(v)), x2: at(X(v)), y1: pad.top, y2: foot }),
        make("text", { x: at(X(v)), y: foot + 18, "text-anchor": "middle" }, (x.format ?? String)(v)));
    }
    const rungs = y.log ? decades(y.min, y.max) : ticks(y.min, y.max, 5);
    for (const v of rungs) {
      svg.append(make("line", { class: "fk-grid", x1: pad.left, x2: wide - pad.right, y1: at(Y(v)), y2: at(Y(v)) }),
        make("text", { x: pad.left - 8, y: at(Y(v) + 4), "text-anchor": "end" }, (y.format ?? String)(v)));
    }
    svg.append(make("path", { class: "fk-axis", d: `M${pad.left} ${pad.top}V${foot}H${wide - pad.right}` }),
      make("text", { x: (pad.left + wide - pad.right) / 2, y: height - 6, "text-anchor": "middle" }, x.label),
      make("text", { transform: `translate(13 ${(pad.top + foot) / 2}) rotate(-90)`, ...centred }, y.label));
    const drawn = lines();
    for (const line of drawn) {
      if (line.under) {
        const d = line.under.map(([u, v]) => `L${at(X(u))} ${at(Y(v))}`).join("");
        svg.append(make("path", { class: "fk-area", fill: line.color,
          d: `M${at(X(line.under[0][0]))} ${foot}${d}L${at(X(line.under.at(-1)[0]))} ${foot}Z` }));
      }
      svg.append(make("polyline", { class: "fk-curve", stroke: line.color, "stroke-dasharray": line.dash ?? "none",
        points: line.points.map(([u, v]) => `${at(X(u))},${at(Y(v))}`).join(" ") }));
    }
    const here = marker();
    if (here !== null) {
      svg.append(make("line", { class: "fk-marker", x1: at(X(here)), x2: at(X(here)), y1: pad.top, y2: foot }));
      if (onPick) svg.append(make("path", { class: "fk-grip", d: `M${at(X(here))} ${pad.top + 2}l-8 -12h16z` }));
    }
    for (const { dot, color } of drawn) {
      if (dot) svg.append(make("circle", { class: "fk-dot", fill: color, r: 5, cx: at(X(dot[0])), cy: at(Y(dot[1])) }));
    }
    box.replaceChildren(svg);
  });
  if (onPick) {
    const pick = (event) => {
      if (!scale) return;
      const { x, pad, wide } = scale, from = event.clientX - box.getBoundingClientRect().left - pad.left;
      onPick(clamp(x.min + from / (wide - pad.left - pad.right) * (x.max - x.min), x.min, x.max));
      fig.paint();
    };
    let held = false;
    box.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      held = true;
      box.setPointerCapture(event.pointerId);
      if (event.pointerType === "mouse") pick(event);
    });
    box.addEventListener("pointermove", (event) => { if (held) pick(event); });
    box.addEventListener("click", pick);
    for (const end of ["pointerup", "pointercancel"]) box.addEventListener(end, () => { held = false; });
  }
  return box;
}
