// ExemplarFigure: cover landmarks, and a dictionary of shapes puts them back.
// The formulas are those of facealign_lite.msm.ShapeDictionary; tests/test_widgets.py holds the two together.
// Shapes are flat: x, y of one landmark after the other. seen: true or false for each.

const LEAST_SPREAD = 0.05;

function meanShape(shapes) {
  return Array.from(shapes[0], (_, i) => shapes.reduce((sum, shape) => sum + shape[i], 0) / shapes.length);
}

// Sum of squared distances from their mean of the landmarks with a weight, and that mean.
function spread(shape, weights) {
  const total = Math.max(weights.reduce((a, b) => a + b, 0), 1), middle = [0, 0];
  weights.forEach((w, l) => { for (const k of [0, 1]) middle[k] += w * shape[2 * l + k] / total; });
  const sum = weights.reduce((s, w, l) => {
    return s + w * ((shape[2 * l] - middle[0]) ** 2 + (shape[2 * l + 1] - middle[1]) ** 2);
  }, 0);
  return { sum, middle };
}

// The similarity [a, b, x, y], q = (a + ib) p + (x + iy), that brings mean nearest to shape where weights say.
function poseOf(mean, shape, weights) {
  const from = spread(mean, weights), to = spread(shape, weights);
  let a = 0, b = 0;
  weights.forEach((w, l) => {
    const px = mean[2 * l] - from.middle[0], py = mean[2 * l + 1] - from.middle[1];
    const qx = shape[2 * l] - to.middle[0], qy = shape[2 * l + 1] - to.middle[1];
    a += w * (px * qx + py * qy) / from.sum;
    b += w * (px * qy - py * qx) / from.sum;
  });
  const [mx, my] = from.middle;
  return [a, b, to.middle[0] - a * mx + b * my, to.middle[1] - b * mx - a * my];
}

function into([a, b, x, y], shape) {
  return Float64Array.from(shape, (v, i) => {
    return i % 2 ? b * shape[i - 1] + a * v + y : a * v - b * shape[i + 1] + x;
  });
}

// The shape that pose would bring here.
function upright([a, b, x, y], shape) {
  const size = a * a + b * b;
  return into([a / size, -b / size, -(a * x + b * y) / size, (b * x - a * y) / size], shape);
}

// alpha of least |goal - sum alpha_j rows_j|^2 + ridge |alpha|^2, by Cholesky.
function ridgeSolve(rows, goal, ridge) {
  const n = rows.length, dot = (p, q) => p.reduce((sum, v, i) => sum + v * q[i], 0);
  const L = rows.map((p, i) => Array.from({ length: i + 1 }, (_, j) => dot(p, rows[j]) + (i === j ? ridge : 0)));
  const alpha = rows.map((p) => dot(p, goal));
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = L[i][j];
      for (let k = 0; k < j; k++) sum -= L[i][k] * L[j][k];
      L[i][j] = i === j ? Math.sqrt(sum) : sum / L[j][j];
    }
    for (let k = 0; k < i; k++) alpha[i] -= L[i][k] * alpha[k];
    alpha[i] /= L[i][i];
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let k = i + 1; k < n; k++) alpha[i] -= L[k][i] * alpha[k];
    alpha[i] /= L[i][i];
  }
  return alpha;
}

// The rebuilt shape; the exemplars that took part, in its pose, nearest first, and their coefficients.
function reconstruct(exemplars, mean, shape, seen, k, ridge) {
  const v = seen.map(Number), all = v.map(() => 1);
  const weights = spread(mean, v).sum < LEAST_SPREAD * spread(mean, all).sum ? all : v;
  const pose = poseOf(mean, shape, weights), target = upright(pose, shape);
  const near = exemplars.map((exemplar) => {
    const placed = upright(poseOf(mean, exemplar, weights), exemplar);
    return { placed, distance: placed.reduce((sum, x, i) => sum + v[i >> 1] * (x - target[i]) ** 2, 0) };
  }).sort((p, q) => p.distance - q.distance).slice(0, k).map(({ placed }) => placed);
  const only = (one) => one.map((x, i) => v[i >> 1] * x);
  const alpha = ridgeSolve(near.map(only), only(target), ridge);
  const found = Float64Array.from(mean, (m, i) => {
    return seen.some(Boolean) ? alpha.reduce((sum, a, j) => sum + a * near[j][i], 0) : m;
  });
  return { shape: into(pose, found), near: near.map((one) => into(pose, one)), alpha };
}

// ---- the figure --------------------------------------------------------------------------------------------------

const SEEN = "#7dffb0", GUESS = "#ffffff", BACK = "#ffb454";           // on photos, in both themes

function render({ model, el }) {
  const data = unpack(model), { width, height, length, chains, groups } = data;
  const truth = data.truth.data, wander = data.wander.data, count = truth.length / 2;
  const exemplars = Array.from({ length: data.exemplars.shape[0] }, (_, i) => item(data.exemplars, i));
  const mean = meanShape(exemplars);
  const state = {
    hand: data.hand, radius: data.radius, covered: new Set(), error: data.error, k: data.k, ridge: data.ridge,
  };
  const fig = figure(el, {
    label: "Landmarks that are covered, and the dictionary that puts them back",
    help: "Drag the hand over the face, or focus it and use the arrow keys (with Shift: ten times as far). "
      + "Green: seen; white: what is guessed below the hand; orange: put back by the dictionary.",
  });
  const photo = data.image ? pictures(fig, [data.image]) : [null];
  let now;
  const error = (shape, which) => {
    const off = which.map((l) => Math.hypot(shape[2 * l] - truth[2 * l], shape[2 * l + 1] - truth[2 * l + 1]));
    return off.length ? off.reduce((a, b) => a + b, 0) / off.length / length : NaN;
  };
  const update = () => {
    const [hx, hy] = state.hand, seen = [];
    for (let l = 0; l < count; l++) {
      const under = Math.hypot(truth[2 * l] - hx, truth[2 * l + 1] - hy) < state.radius * length;
      seen.push(!under && !groups.some(({ name, indices }) => state.covered.has(name) && indices.includes(l)));
    }
    const guess = Float64Array.from(truth, (x, i) => seen[i >> 1] ? x : x + state.error * length * wander[i]);
    const which = [seen.map((s, l) => s ? -1 : l), seen.map((s, l) => s ? l : -1)].map((w) => w.filter((l) => l >= 0));
    const found = reconstruct(exemplars, mean, guess, seen, state.k, state.ridge);
    now = { ...found, guess, seen, rows: which.map((w) => [w.length, error(guess, w), error(found.shape, w)]) };
    const [[hidden, before, after]] = now.rows;
    fig.say(hidden ? `${hidden} of ${count} landmarks covered: off by ${percent(before)}, put back to ${percent(after)} `
      + "of the distance between the eyes" : "No landmark is covered");
  };
  const lines = (context, shape, color, wide, rim) => {
    const points = pairs(shape);
    for (const chain of chains) stroke(context, chain.map((l) => points[l]), { color, width: wide, rim });
  };
  const face = canvas(fig, {
    label: "Face with seen, guessed and rebuilt landmarks",
    view: () => [-0.5, -0.5, width, height],
    draw: (context, unit) => {
      if (photo[0]) place(context, photo[0], -0.5, -0.5, width, height);
      context.fillStyle = "rgba(60,45,40,.72)";
      context.beginPath();
      context.arc(...state.hand, state.radius * length, 0, 2 * Math.PI);
      context.fill();
      lines(context, now.shape, BACK, 1.6 * unit);
      const points = pairs(now.guess), some = (wanted) => points.filter((_, l) => now.seen[l] === wanted);
      for (const p of some(false)) cross(context, p, { radius: 3.5 * unit, color: GUESS, width: 1.3 * unit, turned: true });
      dots(context, some(true), { radius: 2.6 * unit, fill: SEEN });
      dots(context, pairs(now.shape).filter((_, l) => !now.seen[l]), { radius: 2.6 * unit, fill: BACK });
    },
  });
  pane(fig, "What is seen, guessed and put back", face.box, 320);
  handle(fig, face, {
    label: "Hand", step: 0.02 * length, get: () => state.hand, set: (p) => { state.hand = p; update(); },
    bounds: () => [-0.5, -0.5, width - 0.5, height - 0.5],
  });
  const book = canvas(fig, {
    label: "The exemplars that take part, laid on the face; the orange one is their mixture",
    view: () => [-0.5, -0.5, width, height],
    draw: (context, unit) => {
      const ink = fig.color("ink"), top = Math.max(...now.alpha.map(Math.abs), 1e-12);
      now.near.forEach((shape, j) => {
        context.globalAlpha = 0.05 + 0.4 * Math.abs(now.alpha[j]) / top;
        lines(context, shape, ink, 0.9 * unit, null);
      });
      context.globalAlpha = 1;
      lines(context, now.shape, BACK, 2.2 * unit);
      dots(context, pairs(now.guess).filter((_, l) => now.seen[l]), { radius: 2.6 * unit, fill: SEEN });
    },
  });
  pane(fig, "The nearest exemplars, bolder the more they count", book.box, 320);
  const numbers = table(fig, {
    caption: "Mean error in percent of the distance between the outer eye corners",
    head: ["landmarks", "how many", "before", "after"],
    rows: () => now.rows.map(([n, before, after], i) => {
      return { cells: [i ? "seen" : "covered", String(n), percent(before, 2), percent(after, 2)] };
    }),
  });
  fig.stage.append(numbers);
  const whenever = (key) => (value) => { state[key] = value; update(); };
  slider(fig, {
    label: "size of the hand", min: 0, max: 1.5, step: 0.05, value: state.radius, format: (v) => v.toFixed(2),
    onInput: whenever("radius"),
  });
  slider(fig, {
    label: "error below it", min: 0, max: 0.5, step: 0.01, value: state.error, format: (v) => percent(v, 0),
    onInput: whenever("error"),
  });
  slider(fig, { label: "exemplars k", min: 1, max: exemplars.length, value: state.k, onInput: whenever("k") });
  slider(fig, {
    label: "ridge", min: -1, max: 5, step: 0.01, value: Math.log10(state.ridge), onInput: (v) => {
      state.ridge = 10 ** v;
      update();
    }, format: (v) => Number((10 ** v).toPrecision(2)).toString(),
  });
  for (const { name } of groups) {
    toggle(fig, {
      label: `cover the ${name}`, value: false, onChange: (on) => {
        state.covered[on ? "add" : "delete"](name);
        update();
      },
    });
  }
  update();
  return fig.stop;
}

export default { render };
