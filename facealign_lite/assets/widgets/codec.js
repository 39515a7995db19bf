// CodecFigure: one point becomes a heatmap; what do the decoders give back?
// The formulas are those of facealign_lite.heatmaps; tests/test_widgets.py holds the two together.

// Heat at squared distance d2 (heatmap pixels), see heatmaps.encode.
const SHAPES = {
  gaussian: (d2, sigma) => Math.exp(-d2 / (2 * sigma * sigma)),
  ged: (d2, sigma) => Math.exp(-0.5 * Math.pow(d2 / (sigma * sigma), 0.75)),
  student_t: (d2, sigma) => Math.pow(1 + d2 / (3 * sigma * sigma), -2),
  parabola: (d2, sigma) => Math.max(0, 1 - 2 * d2 / (sigma * sigma)),
};

function encode([x, y], width, height, sigma, shape) {
  const map = new Float64Array(width * height);
  for (let j = 0; j < height; j++) {
    for (let i = 0; i < width; i++) map[j * width + i] = SHAPES[shape]((i - x) ** 2 + (j - y) ** 2, sigma);
  }
  return map;
}

function argmax(map, width) {
  let best = 0;
  for (let i = 1; i < map.length; i++) if (map[i] > map[best]) best = i;
  return [best % width, Math.floor(best / width)];
}

const DECODERS = {
  argmax: (map, width) => argmax(map, width),
  quarter: (map, width, height) => {
    const [x, y] = argmax(map, width), at = (i, j) => map[j * width + i];
    return [
      x + (x > 0 && x < width - 1 ? 0.25 * Math.sign(at(x + 1, y) - at(x - 1, y)) : 0),
      y + (y > 0 && y < height - 1 ? 0.25 * Math.sign(at(x, y + 1) - at(x, y - 1)) : 0),
    ];
  },
  center_of_mass: (map, width, height, radius = 2) => {
    const [x, y] = argmax(map, width);
    let sum = 0, sx = 0, sy = 0;
    for (let j = Math.max(0, y - radius); j <= Math.min(height - 1, y + radius); j++) {
      for (let i = Math.max(0, x - radius); i <= Math.min(width - 1, x + radius); i++) {
        const heat = Math.max(0, map[j * width + i]);
        if ((i - x) ** 2 + (j - y) ** 2 > radius * radius) continue;
        sum += heat; sx += heat * i; sy += heat * j;
      }
    }
    return sum > 0 ? [sx / sum, sy / sum] : [x, y];
  },
  dark: (map, width) => argmax(map, width),
};

// Scaling keeps pixel centres: q = (p + 0.5) * s - 0.5.
const rescale = ([x, y], sx, sy) => [(x + 0.5) * sx - 0.5, (y + 0.5) * sy - 0.5];

const NAMES = { argmax: "argmax", quarter: "quarter", center_of_mass: "centre of mass", dark: "DARK" };
const REACH = 6;                                                  // the close-up shows 2 * REACH + 1 cells a side
const TRIALS = 100;

function render({ model, el }) {
  const data = unpack(model);
  const { width, height } = data;
  const state = { point: data.point, size: data.heatmap_size, sigma: data.sigma, shape: data.shape, round: false, window: null };
  const fig = figure(el, {
    label: "A point, its heatmap, and what the decoders read back",
    help: "Drag the ring in either picture, tap a place, or focus the ring and use the arrow keys (with Shift: ten times as far).",
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
    const found = methods.map((method) => DECODERS[method](map, state.size, state.size, state.sigma));
    const errors = found.map((q) => { const [x, y] = toImage(q); return Math.hypot(x - point[0], y - point[1]); });
    return { map, found, errors };
  };
  const places = [];                                              // the same points for every setting: a lattice of irrational steps
  for (let i = 1; i <= TRIALS; i++) places.push([(i * 0.7548776662) % 1 * width - 0.5, (i * 0.5698402910) % 1 * height - 0.5]);
  let now, means, heat, asked = "";
  const update = () => {
    now = roundTrip(state.point);
    heat = { over: heatPicture(now.map, state.size, state.size, { overlay: true }), alone: heatPicture(now.map, state.size, state.size) };
    const setting = [state.size, state.sigma, state.shape, state.round].join();
    if (setting !== asked) {
      asked = setting;
      means = methods.map(() => 0);
      for (const p of places) roundTrip(p).errors.forEach((e, i) => { means[i] += e / TRIALS; });
    }
    const least = Math.min(...now.errors), best = methods.filter((_, i) => now.errors[i] <= least + 5e-4).map((m) => NAMES[m]);
    fig.say(`Point x ${fixed(state.point[0], 2)}, y ${fixed(state.point[1], 2)}: nearest ${best.join(" and ")}, off by ${fixed(least, 3)} px`);
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
  const close = () => {                                           // the window stays while the point is dragged inside it
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
      now.found.forEach((q, i) => cross(context, q, { radius: (17 - 3.5 * i) * unit, color: MARKS[i], width: 2.2 * unit, turned: i % 2 === 1 }));
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
    onGrab: () => { state.window = close().slice(0, 2).map((v) => v + REACH + 0.5); }, onDrop: () => { state.window = null; },
  });
  const numbers = table(fig, {
    caption: `What comes back, in image pixels; mean: error over ${TRIALS} points all over the image`,
    head: ["decoder", "x", "y", "error", "mean"],
    rows: () => methods.map((method, i) => {
      const [x, y] = toImage(now.found[i]);
      return { cells: [NAMES[method], fixed(x, 2), fixed(y, 2), fixed(now.errors[i], 3), fixed(means[i], 3)], color: MARKS[i] };
    }),
  });
  numbers.style.setProperty("--fk-basis", "400px");
  fig.stage.append(numbers);
  slider(fig, {
    label: "sigma", min: 0.5, max: 5, step: 0.1, value: state.sigma, format: (v) => v.toFixed(1),
    onInput: (v) => { state.sigma = v; update(); },
  });
  choice(fig, {
    label: "shape", options: [["gaussian", "Gaussian"], ["ged", "GED"], ["student_t", "Student t"], ["parabola", "parabola"]],
    value: state.shape, onChange: (shape) => { state.shape = shape; update(); },
  });
  choice(fig, {
    label: "map", options: [16, 32, 64, 128].map((n) => [n, `${n}\u00b2`]), value: state.size,
    onChange: (size) => { state.size = size; update(); },
  });
  toggle(fig, { label: "round the target to a whole heatmap pixel first", value: false, onChange: (on) => { state.round = on; update(); } });
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
