// BaliFigure: the field of one boundary, and the vote that finds a landmark again.
// The formulas are those of facealign_lite.scpan.fields; tests/test_widgets.py holds the two together.

// ---- the curve ---------------------------------------------------------------------------------------------------

// First index and values of the degree + 1 B-splines that are not zero at x.
function basis(knots, degree, count, x) {
  let span = degree;
  while (span < count - 1 && x >= knots[span + 1]) span++;
  const values = [1];
  for (let k = 1; k <= degree; k++) {
    let saved = 0;
    for (let j = 0; j < k; j++) {
      const right = knots[span + j + 1], left = knots[span + 1 - k + j], part = values[j] / (right - left);
      values[j] = saved + (right - x) * part;
      saved = (x - left) * part;
    }
    values[k] = saved;
  }
  return [span - degree, values];
}

// x of A x = b for rows of A and of b, by Gauss with pivots.
function solve(A, b) {
  const rows = A.map((row, i) => [...row, ...b[i]]), n = rows.length;
  for (let k = 0; k < n; k++) {
    let best = k;
    for (let i = k; i < n; i++) if (Math.abs(rows[i][k]) > Math.abs(rows[best][k])) best = i;
    [rows[k], rows[best]] = [rows[best], rows[k]];
    rows[k] = rows[k].map((v) => v / rows[k][k]);
    for (let i = 0; i < n; i++) {
      if (i === k || !rows[i][k]) continue;
      const factor = rows[i][k];
      rows[i] = rows[i].map((v, j) => v - factor * rows[k][j]);
    }
  }
  return rows.map((row) => row.slice(n));
}

// n points of the quadratic spline through points, by chord length; knots halfway between all but the outer points.
function curve(points, n = 64) {
  points = points.filter((p, i) => !i || Math.hypot(p[0] - points[i - 1][0], p[1] - points[i - 1][1]) > 1e-3);
  const count = points.length, degree = Math.min(2, count - 1);
  if (!degree) return Array(n).fill(points[0]);
  const chord = [0];
  for (let i = 1; i < count; i++) {
    chord.push(chord[i - 1] + Math.hypot(points[i][0] - points[i - 1][0], points[i][1] - points[i - 1][1]));
  }
  const between = degree === 1 ? chord.slice(1, -1) : chord.slice(1).map((v, i) => (v + chord[i]) / 2).slice(1, -1);
  const knots = [...Array(degree + 1).fill(0), ...between, ...Array(degree + 1).fill(chord.at(-1))];
  const weights = chord.map((x) => {
    const row = Array(count).fill(0), [first, values] = basis(knots, degree, count, x);
    values.forEach((v, j) => { row[first + j] = v; });
    return row;
  });
  const controls = solve(weights, points);
  return Array.from({ length: n }, (_, i) => {
    const [first, values] = basis(knots, degree, count, chord.at(-1) * i / (n - 1));
    return [0, 1].map((k) => values.reduce((sum, v, j) => sum + v * controls[first + j][k], 0));
  });
}

// ---- the field and the vote --------------------------------------------------------------------------------------

const READINGS = {                                                // Eq. 3 by distance and sigma
  gaussian: (d, s) => Math.exp(-d * d / (2 * s * s)),
  printed: (d, s) => Math.exp(-d / (2 * s * s)),
};

function distance([x, y], line) {
  let least = Infinity;
  for (let i = 1; i < line.length; i++) {
    const [ax, ay] = line[i - 1], bx = line[i][0] - ax, by = line[i][1] - ay, long = bx * bx + by * by;
    const t = long ? clamp(((x - ax) * bx + (y - ay) * by) / long, 0, 1) : 0;
    least = Math.min(least, (x - ax - t * bx) ** 2 + (y - ay - t * by) ** 2);
  }
  return Math.sqrt(least);
}

// Confidence; vectors u, v to the nearest landmark; which one that is, -1 outside the squares. Flat, row by row.
function baliField(points, width, height, { radius, sigma, reading }) {
  const line = curve(points), field = { confidence: [], u: [], v: [], owner: [] };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const d = distance([x, y], line);
      field.confidence.push(d < 2 * sigma ? READINGS[reading](d, sigma) : 0);
      let owner = 0, inside = false;
      points.forEach(([px, py], i) => {
        const [qx, qy] = points[owner];
        if ((px - x) ** 2 + (py - y) ** 2 < (qx - x) ** 2 + (qy - y) ** 2) owner = i;
        inside ||= Math.abs(Math.floor(px + 0.5) - x) <= radius && Math.abs(Math.floor(py + 0.5) - y) <= radius;
      });
      field.owner.push(inside ? owner : -1);
      field.u.push(inside ? points[owner][0] - x : 0);
      field.v.push(inside ? points[owner][1] - y : 0);
    }
  }
  return field;
}

// The hottest pixel, what each pixel of the window around it says, [x, y, weight, index], and the weighted mean. Where
// no vote lands within reach none is heard: the pixels themselves count.
function vote(heat, u, v, width, height, radius, reach = Infinity) {
  let best = 0;
  heat.forEach((h, i) => { if (h > heat[best]) best = i; });
  if (heat.every((h) => h === heat[0])) best = (height >> 1) * width + (width >> 1);
  const at = [best % width, Math.floor(best / width)], votes = [];
  for (let y = Math.max(0, at[1] - radius); y <= Math.min(height - 1, at[1] + radius); y++) {
    for (let x = Math.max(0, at[0] - radius); x <= Math.min(width - 1, at[0] + radius); x++) {
      const i = y * width + x;
      votes.push([x + u[i], y + v[i], 0, i]);
    }
  }
  const near = votes.filter(([x, y]) => Math.hypot(x - at[0], y - at[1]) <= reach);
  if (!near.length) for (const one of votes) [one[0], one[1]] = [one[3] % width, Math.floor(one[3] / width)];
  const counted = near.length ? near : votes, top = Math.max(0, ...counted.map((one) => heat[one[3]]));
  for (const one of counted) one[2] = top > 0 ? Math.max(0, heat[one[3]]) / top : 1;
  const total = votes.reduce((sum, one) => sum + one[2], 0);
  return { at, votes, point: [0, 1].map((k) => votes.reduce((sum, one) => sum + one[2] * one[k], 0) / total) };
}

// The same numbers for every reader (mulberry32).
function uniform(seed) {
  let a = (seed * 0x9e3779b9) | 0;
  a = (a + 0x6d2b79f5) | 0;
  let t = Math.imul(a ^ (a >>> 15), 1 | a);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}

const HEAT_WIDTH = 1.5;
const HEATS = {
  peak: (d2) => Math.exp(-d2 / (2 * HEAT_WIDTH ** 2)),
  rough: (d2, i) => Math.exp(-d2 / (2 * HEAT_WIDTH ** 2)) * (0.3 + 0.7 * uniform(i)),
  flat: (d2) => 1 / (1 + 1e-3 * d2),
};

function heatOf([x, y], width, height, kind) {
  return Array.from({ length: width * height }, (_, i) => {
    return HEATS[kind]((i % width - x) ** 2 + (Math.floor(i / width) - y) ** 2, i);
  });
}

// ---- the figure --------------------------------------------------------------------------------------------------

const REACH = 1.5;
const WAYS = { argmax: "hottest pixel", mass: "centre of mass", bali: "all votes (Eq. 5)", near: "votes within 1.5 px" };
const INKS = ["#5ec8ff", "#ff8fd0", "#7dffb0", "#ffd166", "#c9a2ff", "#ff9e64"];    // on the dark map, in both themes
const CROSSES = ["#ffffff", "#ffd166", "#ff8fd0", "#7dffb0"];

function render({ model, el }) {
  const data = unpack(model), { width, height } = data;
  const state = {
    points: pairs(data.points.data), chosen: data.start, radius: data.radius, window: data.decode_radius,
    sigma: data.sigma, reading: "gaussian", heat: "peak", arrows: true, confidence: true,
  };
  const fig = figure(el, {
    label: "The field of a boundary, and the vote for one of its landmarks",
    help: "Drag a ring, or focus it and use the arrow keys (with Shift: ten times as far). "
      + "The ring touched last is the landmark that is looked for.",
  });
  const photo = data.image ? pictures(fig, [data.image]) : [null];
  const none = Array(width * height).fill(0);
  const ink = (i) => INKS[i % INKS.length];
  const look = (i) => {
    const heat = heatOf(state.points[i], width, height, state.heat), { u, v } = now.field, r = state.window;
    const bali = vote(heat, u, v, width, height, r);
    const found = {
      argmax: bali.at, mass: vote(heat, none, none, width, height, r).point, bali: bali.point,
      near: vote(heat, u, v, width, height, r, REACH).point,
    };
    const [x, y] = state.points[i];
    const errors = Object.values(found).map(([fx, fy]) => Math.hypot(fx - x, fy - y));
    return { heat, bali, found: Object.values(found), errors };
  };
  let now = {}, means, shown;
  const update = () => {
    now.field = baliField(state.points, width, height, state);
    const all = state.points.map((_, i) => look(i));
    now = { ...now, ...all[state.chosen] };
    means = Object.keys(WAYS).map((_, k) => all.reduce((sum, { errors }) => sum + errors[k], 0) / all.length);
    shown = {
      confidence: heatPicture(now.field.confidence, width, height, { overlay: Boolean(data.image) }),
      heat: heatPicture(now.heat, width, height),
    };
    const strangers = now.bali.votes.filter(([, , weight, i]) => {
      return weight > 0 && now.field.owner[i] >= 0 && now.field.owner[i] !== state.chosen;
    }).length;
    fig.say(`Landmark ${state.chosen + 1}: ${strangers} of ${now.bali.votes.length} pixels vote for a neighbour, `
      + `the mean of all votes is off by ${fixed(now.errors[2], 2)} px, the centre of mass by ${fixed(now.errors[1], 2)} px`);
  };

  const arrow = (context, i, length, unit) => {
    const x = i % width, y = Math.floor(i / width), dx = now.field.u[i] * length, dy = now.field.v[i] * length;
    context.moveTo(x, y);
    context.lineTo(x + dx, y + dy);
    const long = Math.hypot(dx, dy), head = Math.min(3.5 * unit, long / 2);
    if (!long) return;
    for (const side of [0.5, -0.5]) {
      const c = Math.cos(side), s = Math.sin(side);
      context.moveTo(x + dx, y + dy);
      context.lineTo(x + dx - head * (c * dx - s * dy) / long, y + dy - head * (s * dx + c * dy) / long);
    }
  };
  const arrows = (context, unit, indices, length) => {
    context.lineCap = "round";
    for (let k = 0; k < state.points.length; k++) {
      for (const [color, wide] of [["rgba(0,0,0,.6)", 2.6], [ink(k), 1.2]]) {
        context.beginPath();
        for (const i of indices) if (now.field.owner[i] === k) arrow(context, i, length, unit);
        context.strokeStyle = color;
        context.lineWidth = wide * unit;
        context.stroke();
      }
    }
  };
  const every = none.map((_, i) => i);
  const whole = canvas(fig, {
    label: "Confidence of the boundary, and vectors to its nearest landmark",
    view: () => [-0.5, -0.5, width, height],
    draw: (context, unit) => {
      if (photo[0]) place(context, photo[0], -0.5, -0.5, width, height);
      if (state.confidence) place(context, shown.confidence, -0.5, -0.5, width, height, false);
      if (state.arrows) arrows(context, unit, every, 0.3);
      dots(context, state.points, { radius: 4 * unit, fill: ink });
    },
  });
  pane(fig, "Confidence, and a third of each vector", whole.box, 360);
  state.points.forEach((_, i) => handle(fig, whole, {
    label: `Landmark ${i + 1}`, step: 0.25, anywhere: false,
    get: () => state.points[i], set: (p) => { state.points[i] = p; state.chosen = i; update(); },
    bounds: () => [-0.5, -0.5, width - 0.5, height - 0.5],
    onGrab: () => { state.chosen = i; update(); fig.paint(); },
  }));
  const close = () => {
    const wide = 2 * Math.max(state.window, 2) + 4, [x, y] = now.bali.at;
    return [x - wide / 2, y - wide / 2, wide, wide];
  };
  const near = canvas(fig, {
    label: "Heat around the hottest pixel, the votes of its window and what comes out",
    view: close,
    draw: (context, unit) => {
      place(context, shown.heat, -0.5, -0.5, width, height, false);
      const [x, y] = now.bali.at, r = state.window + 0.5;
      context.strokeStyle = "rgba(255,255,255,.8)";
      context.lineWidth = 1.5 * unit;
      context.strokeRect(x - r, y - r, 2 * r, 2 * r);
      if (state.arrows) arrows(context, unit, now.bali.votes.map((one) => one[3]), 1);
      dots(context, [state.points[state.chosen]], { radius: 5 * unit, fill: ink(state.chosen) });
      now.found.forEach((p, k) => cross(context, p, {
        radius: (15 - 3 * k) * unit, color: CROSSES[k], width: 2.2 * unit, turned: k % 2 === 1,
      }));
    },
  });
  pane(fig, "The window that votes, over the landmark's heat", near.box, 250);
  const numbers = table(fig, {
    caption: "Error in map pixels; mean: over the landmarks of the boundary",
    head: ["read by", "error", "mean"],
    rows: () => Object.values(WAYS).map((name, k) => {
      return { cells: [name, fixed(now.errors[k], 3), fixed(means[k], 3)], color: CROSSES[k] };
    }),
  });
  numbers.style.setProperty("--fk-basis", "320px");
  fig.stage.append(numbers);
  const whenever = (key) => (value) => { state[key] = value; update(); };
  slider(fig, { label: "R of the squares", min: 1, max: 7, value: state.radius, onInput: whenever("radius") });
  slider(fig, { label: "r of the window", min: 0, max: 5, value: state.window, onInput: whenever("window") });
  slider(fig, {
    label: "sigma", min: 0.5, max: 4, step: 0.1, value: state.sigma, format: (v) => v.toFixed(1),
    onInput: whenever("sigma"),
  });
  choice(fig, {
    label: "Eq. 3", options: [["gaussian", "squared"], ["printed", "as printed"]], value: state.reading,
    onChange: whenever("reading"),
  });
  choice(fig, {
    label: "heat", options: [["peak", "peak"], ["rough", "rough"], ["flat", "nearly flat"]], value: state.heat,
    onChange: whenever("heat"),
  });
  toggle(fig, { label: "vectors", value: true, onChange: whenever("arrows") });
  toggle(fig, { label: "confidence", value: true, onChange: whenever("confidence") });
  update();
  return fig.stop;
}

export default { render };
