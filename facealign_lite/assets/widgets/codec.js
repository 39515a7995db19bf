// CodecFigure: one point becomes a heatmap; what do the decoders give back?
// The formulas are those of facealign_lite.heatmaps; tests/test_widgets.py holds the two together.

// Heat by u = squared distance over squared sigma.
const SHAPES = {
  gaussian: (u) => Math.exp(-u / 2),
  ged: (u) => Math.exp(-Math.pow(u, 1 / 1.1) / 2),
  student_t: (u) => Math.pow(1 + u / 3, -2),
  parabola: (u) => Math.max(0, 1 - 2 * u),
};

function encode([x, y], width, height, sigma, shape) {
  const map = new Float64Array(width * height), heat = SHAPES[shape];
  for (let j = 0; j < height; j++) {
    for (let i = 0; i < width; i++) map[j * width + i] = heat(((i - x) ** 2 + (j - y) ** 2) / (sigma * sigma));
  }
  return map;
}

// The first hottest pixel; the middle of a flat map.
function hottest(map, width, height) {
  let best = 0, least = Infinity;
  for (let i = 0; i < map.length; i++) {
    if (map[i] > map[best]) best = i;
    least = Math.min(least, map[i]);
  }
  if (!(map[best] > least)) best = (height >> 1) * width + (width >> 1);
  return [best % width, Math.floor(best / width)];
}

// Heat, clipped at 0, around a pixel, as rows of 2 * reach + 1; and which of it lies on the map.
function patchAt(map, width, height, [x, y], reach) {
  const side = 2 * reach + 1, patch = [], inside = [];
  for (let j = 0; j < side; j++) {
    patch.push([]);
    inside.push([]);
    for (let i = 0; i < side; i++) {
      const u = x + i - reach, v = y + j - reach, on = u >= 0 && u < width && v >= 0 && v < height;
      patch[j].push(on ? Math.max(0, map[v * width + u]) : 0);
      inside[j].push(on);
    }
  }
  return { patch, inside };
}

const SMALLEST = 1e-30;
const logHeat = (heat) => Math.log(Math.max(heat, SMALLEST));

// A patch carried on over the border: log h by the quadratic through the last three pixels, exact for a Gaussian.
function continued({ patch, inside }) {
  if (inside.every((row) => row.every(Boolean))) return patch;
  const n = patch.length, half = n >> 1;
  const log = patch.map((row) => row.map(logHeat));
  const known = patch.map((row, j) => row.map((heat, i) => inside[j][i] && heat > SMALLEST));
  const ceiling = Math.max(...log.flat()) + 2;
  for (const across of [true, false]) {                           // along the rows, then along the columns
    const get = (grid, line, i) => across ? grid[line][i] : grid[i][line];
    const put = (grid, line, i, value) => { if (across) grid[line][i] = value; else grid[i][line] = value; };
    for (const way of [1, -1]) {                                  // outwards from the peak
      for (let i = half + way; i >= 0 && i < n; i += way) {
        const [a, b, c] = [i - way, i - 2 * way, i - 3 * way];
        if (c < 0 || c >= n) continue;
        for (let line = 0; line < n; line++) {
          if (get(known, line, i) || ![a, b, c].every((k) => get(known, line, k))) continue;
          put(log, line, i, Math.min(3 * get(log, line, a) - 3 * get(log, line, b) + get(log, line, c), ceiling));
          put(known, line, i, true);
        }
      }
    }
  }
  return patch.map((row, j) => row.map((heat, i) => inside[j][i] ? heat : known[j][i] ? Math.exp(log[j][i]) : 0));
}

const DECODERS = {
  argmax: hottest,

  quarter: (map, width, height) => {
    const [x, y] = hottest(map, width, height), { patch, inside } = patchAt(map, width, height, [x, y], 1);
    return [
      x + (inside[1][0] && inside[1][2] ? 0.25 * Math.sign(patch[1][2] - patch[1][0]) : 0),
      y + (inside[0][1] && inside[2][1] ? 0.25 * Math.sign(patch[2][1] - patch[0][1]) : 0),
    ];
  },

  // The centre of the heat under a Gaussian window of width 1 that moves along until it sits on the centre.
  center_of_mass: (map, width, height) => {
    const at = hottest(map, width, height), reach = 4, heat = continued(patchAt(map, width, height, at, reach));
    if (!heat.some((row) => row.some((v) => v > 0))) return at;
    const t = Array.from(heat, (_, i) => i - reach), center = [0, 0];
    for (let round = 0; round < 5; round++) {
      const [wx, wy] = center.map((c) => t.map((v) => Math.exp(-((v - c) ** 2) / 2)));
      const columns = t.map((_, i) => wx[i] * t.reduce((sum, _, j) => sum + heat[j][i] * wy[j], 0));
      const lines = t.map((_, j) => wy[j] * t.reduce((sum, _, i) => sum + heat[j][i] * wx[i], 0));
      [columns, lines].forEach((mass, k) => {
        const total = Math.max(mass.reduce((a, b) => a + b, 0), SMALLEST);
        const mean = mass.reduce((sum, m, i) => sum + m * t[i], 0) / total;
        const variance = mass.reduce((sum, m, i) => sum + m * (t[i] - mean) ** 2, 0) / total;
        const step = (mean - center[k]) / Math.max(1 - variance, 0.1);
        center[k] = clamp(center[k] + clamp(step, -0.5, 0.5), -1, 1);
      });
    }
    return [at[0] + center[0], at[1] + center[1]];
  },

  // One Newton step on the logarithm of the heat: m - H^-1 g.
  dark: (map, width, height) => {
    const [x, y] = hottest(map, width, height), heat = continued(patchAt(map, width, height, [x, y], 2));
    const l = (i, j) => logHeat(heat[2 + j][2 + i]);
    const gx = (l(1, 0) - l(-1, 0)) / 2, gy = (l(0, 1) - l(0, -1)) / 2;
    const hxx = l(1, 0) - 2 * l(0, 0) + l(-1, 0), hyy = l(0, 1) - 2 * l(0, 0) + l(0, -1);
    const hxy = (l(1, 1) - l(-1, 1) - l(1, -1) + l(-1, -1)) / 4, determinant = hxx * hyy - hxy * hxy;
    if (!(hxx < 0 && determinant > 1e-12)) return [x, y];
    return [
      x - clamp((hyy * gx - hxy * gy) / determinant, -1, 1),
      y - clamp((hxx * gy - hxy * gx) / determinant, -1, 1),
    ];
  },
};

// Scaling keeps pixel centres: q = (p + 0.5) * s - 0.5.
const rescale = ([x, y], sx, sy) => [(x + 0.5) * sx - 0.5, (y + 0.5) * sy - 0.5];

const NAMES = { argmax: "argmax", quarter: "quarter", center_of_mass: "centre of mass", dark: "DARK" };
const REACH = 6;                                                  // the close-up shows 2 * REACH + 1 cells a side
const TRIALS = 100;

function render({ model, el }) {
  const data = unpack(model);
  const { width, height } = data;
  const state = {
    point: data.point, size: data.heatmap_size, sigma: data.sigma, shape: data.shape, round: false,
    window: null,                                                 // middle of the close-up while its ring is dragged
  };
  const fig = figure(el, {
    label: "A point, its heatmap, and what the decoders read back",
    help: "Drag the ring in either picture, tap a place, or focus the ring and use the arrow keys "
      + "(with Shift: ten times as far).",
  });
  const photo = data.image ? pictures(fig, [data.image]) : [null];
  const methods = Object.keys(DECODERS);
  const toMap = (p) => rescale(p, state.size / width, state.size / height);
  const toImage = (q) => rescale(q, width / state.size, height / state.size);

  // encode, decode, and the error in image pixels, for one point and in the mean over many
  const roundTrip = (point) => {
    let target = toMap(point);
    if (state.round) target = target.map((v) => clamp(Math.round(v), 0, state.size - 1));
    const map = encode(target, state.size, state.size, state.sigma, state.shape);
    const found = methods.map((method) => DECODERS[method](map, state.size, state.size));
    const errors = found.map((q) => { const [x, y] = toImage(q); return Math.hypot(x - point[0], y - point[1]); });
    return { map, found, errors };
  };
  // the same places for every setting, spread evenly by irrational steps
  const spread = (i, step, length) => (i * step) % 1 * length - 0.5;
  const trials = Array.from({ length: TRIALS }, (_, i) => i + 1);
  const places = trials.map((i) => [spread(i, 0.7548776662, width), spread(i, 0.569840291, height)]);
  let now, means, heat, asked = "";
  const update = () => {
    now = roundTrip(state.point);
    heat = {
      over: heatPicture(now.map, state.size, state.size, { overlay: true }),
      alone: heatPicture(now.map, state.size, state.size),
    };
    const setting = [state.size, state.sigma, state.shape, state.round].join();
    if (setting !== asked) {
      asked = setting;
      means = methods.map(() => 0);
      for (const p of places) roundTrip(p).errors.forEach((e, i) => { means[i] += e / TRIALS; });
    }
    const least = Math.min(...now.errors);
    const best = methods.filter((_, i) => now.errors[i] <= least + 5e-4).map((method) => NAMES[method]).join(" and ");
    const [x, y] = state.point.map((v) => fixed(v, 2));
    fig.say(`Point x ${x}, y ${y}: nearest ${best}, off by ${fixed(least, 3)} px`);
  };
  const move = (point) => { state.point = point; update(); };
  const edges = () => [-0.5, -0.5, width - 0.5, height - 0.5];

  const whole = canvas(fig, {
    label: "Image with the heatmap of the point above it",
    view: () => [-0.5, -0.5, width, height],
    draw: (context, unit) => {
      if (photo[0]) place(context, photo[0], -0.5, -0.5, width, height);
      else grid(context, -0.5, -0.5, width, height, width / 16, unit);
      place(context, heat.over, -0.5, -0.5, width, height);
    },
  });
  pane(fig, "Image with the heatmap", whole.box, 250);
  const close = () => {
    const [x, y] = state.window ?? toMap(state.point).map((v) => clamp(Math.round(v), 0, state.size - 1));
    return [x - REACH - 0.5, y - REACH - 0.5, 2 * REACH + 1, 2 * REACH + 1];
  };
  const near = canvas(fig, {
    label: "Heatmap pixels around the point, with what each decoder reads back",
    view: close,
    draw: (context, unit) => {
      place(context, heat.alone, -0.5, -0.5, state.size, state.size, false);
      const [left, top, wide, high] = close();
      context.save();
      context.beginPath();
      context.rect(-0.5, -0.5, state.size, state.size);
      context.clip();
      grid(context, left, top, wide, high, 1, unit);
      context.restore();
      now.found.forEach((q, i) => cross(context, q, {
        radius: (17 - 3.5 * i) * unit, color: MARKS[i], width: 2.2 * unit, turned: i % 2 === 1,
      }));
    },
  });
  pane(fig, `Close-up: ${2 * REACH + 1} \u00d7 ${2 * REACH + 1} heatmap pixels`, near.box, 250);
  handle(fig, whole, {
    label: "Point on the image", get: () => state.point, set: move, bounds: edges, step: 0.5,
    describe: () => `x ${fixed(state.point[0], 2)}, y ${fixed(state.point[1], 2)} image pixels`,
  });
  handle(fig, near, {
    label: "Point in the close-up", get: () => toMap(state.point), set: (q) => move(toImage(q)), step: 0.05,
    bounds: () => [-0.5, -0.5, state.size - 0.5, state.size - 0.5],
    describe: () => toMap(state.point).map((v, i) => `${"xy"[i]} ${fixed(v, 2)}`).join(", ") + " heatmap pixels",
    onGrab: () => { state.window = close().slice(0, 2).map((v) => v + REACH + 0.5); },
    onDrop: () => { state.window = null; },
  });
  const numbers = table(fig, {
    caption: `What comes back, in image pixels; mean: error over ${TRIALS} points all over the image`,
    head: ["decoder", "x", "y", "error", "mean"],
    rows: () => methods.map((method, i) => {
      const [x, y] = toImage(now.found[i]);
      const lost = [now.errors[i], means[i]].map((error) => fixed(error, 3));
      return { cells: [NAMES[method], fixed(x, 2), fixed(y, 2), ...lost], color: MARKS[i] };
    }),
  });
  numbers.style.setProperty("--fk-basis", "400px");
  fig.stage.append(numbers);
  slider(fig, {
    label: "sigma", min: 0.5, max: 5, step: 0.1, value: state.sigma, format: (v) => v.toFixed(1),
    onInput: (v) => { state.sigma = v; update(); },
  });
  choice(fig, {
    label: "shape",
    options: [["gaussian", "Gaussian"], ["ged", "GED"], ["student_t", "Student t"], ["parabola", "parabola"]],
    value: state.shape, onChange: (shape) => { state.shape = shape; update(); },
  });
  choice(fig, {
    label: "map", options: [16, 32, 64, 128].map((n) => [n, `${n}\u00b2`]), value: state.size,
    onChange: (size) => { state.size = size; update(); },
  });
  toggle(fig, {
    label: "round the target to a whole heatmap pixel first", value: false,
    onChange: (on) => { state.round = on; update(); },
  });
  update();
  return fig.stop;
}

const MARKS = ["#5ec8ff", "#ff8fd0", "#7dffb0", "#ffffff"];       // on the dark map: readable in both themes

function grid(context, left, top, width, height, cell, unit) {
  context.strokeStyle = "rgba(160,170,185,.35)";
  context.lineWidth = unit;
  context.beginPath();
  for (let x = left; x <= left + width + 1e-9; x += cell) { context.moveTo(x, top); context.lineTo(x, top + height); }
  for (let y = top; y <= top + height + 1e-9; y += cell) { context.moveTo(left, y); context.lineTo(left + width, y); }
  context.stroke();
}

export default { render };
