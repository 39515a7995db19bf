// WeakLossFigure: bend a contour between and at its landmarks; what do the three rules of the weak loss charge?
// The losses are those of facealign_lite.acenet; tests/test_widgets.py holds the two together.

const BEST = 4.92, SLOPE = 1.5, PER_SEGMENT = 6;

// Eq. 7 and 8: contourness as a loss.
const toLoss = (score) => Math.max(0, 1 - 2 ** ((score - BEST) / SLOPE));

// A map between its pixels, 0 outside.
function sample(map, width, height, [x, y]) {
  const i = Math.floor(x), j = Math.floor(y), u = x - i, v = y - j;
  const at = (p, q) => p >= 0 && p < width && q >= 0 && q < height ? map[q * width + p] : 0;
  return (1 - v) * ((1 - u) * at(i, j) + u * at(i + 1, j)) + v * ((1 - u) * at(i, j + 1) + u * at(i + 1, j + 1));
}

// Eq. 6 at a place between pixels: the template is moved there, not the score read off between its pixels.
function scoreAt(heat, width, height, sigma, [x, y]) {
  const reach = Math.floor(2 * sigma);
  let a = 0, b = 0, c = 0, energy = 0;
  for (let j = Math.max(0, Math.ceil(y - reach)); j <= Math.min(height - 1, y + reach); j++) {
    for (let i = Math.max(0, Math.ceil(x - reach)); i <= Math.min(width - 1, x + reach); i++) {
      const u = (i - x) / sigma, v = (j - y) / sigma, h = Math.max(0, heat[j * width + i]);
      const g = Math.exp(-u * u - v * v);
      a += h * g * (1 - 2 * u * u);
      b -= h * g * 2 * u * v;
      c += h * g * (1 - 2 * v * v);
      energy += h * h * g;
    }
  }
  return a + c + Math.sqrt((a - c) ** 2 + 4 * b * b) - energy;
}

// Eq. 7 over the landmarks between the two ends, which are anchors. read: point -> score.
function landmarkLoss(read, chain) {
  const inner = chain.slice(1, -1).map((p) => toLoss(read(p)));
  return inner.length ? inner.reduce((a, b) => a + b, 0) / inner.length : 0;
}

// Eq. 8: the places along the line, each with the best place on its normal, and the mean loss by length.
function lineLoss(read, chain, reach) {
  const places = [], steps = Math.ceil(reach);
  let total = 0, whole = 0;
  for (let k = 1; k < chain.length; k++) {
    const [ax, ay] = chain[k - 1], bx = chain[k][0] - ax, by = chain[k][1] - ay, long = Math.hypot(bx, by);
    if (!long) continue;
    let sum = 0;
    for (let s = 0; s < PER_SEGMENT; s++) {
      const t = (s + 0.5) / PER_SEGMENT, x = ax + t * bx, y = ay + t * by;
      let found = null;
      for (let n = -steps; n <= steps; n++) {
        const d = reach * n / steps, p = [x - d * by / long, y + d * bx / long], value = read(p);
        if (!found || value > found.value) found = { value, p };
      }
      const loss = toLoss(found.value);
      places.push({ from: [x - reach * -by / long, y - reach * bx / long],
        to: [x + reach * -by / long, y + reach * bx / long], best: found.p, loss });
      sum += loss;
    }
    total += long * sum / PER_SEGMENT;
    whole += long;
  }
  return { loss: whole ? total / whole : 0, places };
}

// Eq. 3 on one map, and Eq. 9 with a target of nothing and a mask.
function fullLoss(target, heat, alpha, counts = () => true) {
  let sum = 0;
  for (let i = 0; i < heat.length; i++) {
    const error = Math.abs(target[i] - heat[i]);
    if (counts(i)) sum += (1 + (alpha - 1) * Math.max(target[i], error)) * error * error;
  }
  return Math.sqrt(sum / heat.length + 1e-12);
}

function farLoss(heat, far, reach, alpha) {
  return fullLoss(new Float64Array(heat.length), heat, alpha, (i) => far[i] > reach);
}

// A smooth curve through points (uniform Catmull-Rom, mirrored at the ends).
function smoothCurve(points, per = 8) {
  const n = points.length, line = [];
  const mirrored = (a, b) => [2 * a[0] - b[0], 2 * a[1] - b[1]];
  for (let k = 0; k < n - 1; k++) {
    const b = points[k], c = points[k + 1];
    const a = k ? points[k - 1] : mirrored(b, c), d = k < n - 2 ? points[k + 2] : mirrored(c, b);
    for (let s = 0; s < per; s++) {
      const t = s / per;
      line.push([0, 1].map((i) => b[i] + 0.5 * t * (c[i] - a[i] + t * (2 * a[i] - 5 * b[i] + 4 * c[i] - d[i]
        + t * (3 * (b[i] - c[i]) + d[i] - a[i])))));
    }
  }
  return [...line, points[n - 1]];
}

// ---- the figure --------------------------------------------------------------------------------------------------

const CHEAP = [125, 255, 176], DEAR = [255, 92, 92];
const lossColor = (loss) => `rgb(${CHEAP.map((a, i) => Math.round(a + (DEAR[i] - a) * clamp(loss, 0, 1)))})`;

function render({ model, el }) {
  const data = unpack(model), { width, height } = data, chain = pairs(data.landmarks.data);
  const truth = data.truth ? pairs(data.truth.data) : null;
  const middle = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  const straight = () => chain.flatMap((p, k) => k ? [middle(chain[k - 1], p), [...p]] : [[...p]]);
  const normal = (() => {                                         // of the whole chain: where "aside" is
    const [a, b] = [chain[0], chain.at(-1)], long = Math.hypot(b[0] - a[0], b[1] - a[1]);
    return [-(b[1] - a[1]) / long, (b[0] - a[0]) / long];
  })();
  const moved = (points, far) => points.map(([x, y], i) => [x + far(i) * normal[0], y + far(i) * normal[1]]);
  const STARTS = {
    line: straight,
    truth: () => straight().map(([x, y], i) => i % 2 === 0 ? [x, y] : truth.reduce((best, p) => {
      return Math.hypot(p[0] - x, p[1] - y) < Math.hypot(best[0] - x, best[1] - y) ? p : best;
    }).slice()),
    bulge: () => moved(straight(), (i) => i % 2 ? (i % 4 === 1 ? 3 : -3) : 0),
    aside: () => moved(straight(), () => 2),
    away: () => moved(straight(), () => state.reach + 3),
  };
  const state = { knots: straight(), reach: data.reach, spot: false, exact: false };
  const { sigma, alpha } = data;
  const fig = figure(el, {
    label: "A contour, its heat, and its weak loss",
    help: "Drag the rings: every second one lies at a landmark, the others between two. Or focus a ring and use the "
      + "arrow keys (with Shift: ten times as far). White: landmarks and the line through them. The loss knows no more.",
  });
  const photo = data.image ? pictures(fig, [data.image]) : [null];
  const far = distances(chain, width, height), lines = contourHeat(chain, width, height, sigma);
  const spot = (() => {                                           // clutter where no contour should be
    const at = far.reduce((best, d, i) => {
      const x = i % width, y = Math.floor(i / width), inside = x > 2 && y > 2 && x < width - 3 && y < height - 3;
      return inside && d > far[best] ? i : best;
    }, 3 * width + 3);
    return contourHeat([[at % width, Math.floor(at / width)], [at % width, Math.floor(at / width)]], width, height, 3);
  })();
  let now = {};
  const update = () => {
    const line = smoothCurve(state.knots);
    let heat = contourHeat(line, width, height, sigma);
    if (state.spot) heat = heat.map((h, i) => Math.max(h, spot[i]));
    const { score } = contourness(heat, width, height, sigma);
    const read = (p) => state.exact ? scoreAt(heat, width, height, sigma, p) : sample(score, width, height, p);
    const across = lineLoss(read, chain, state.reach);
    const losses = {
      landmark: landmarkLoss(read, chain), line: across.loss,
      far: farLoss(heat, far, state.reach, alpha), full: fullLoss(lines, heat, alpha),
    };
    losses.weak = losses.far + 0.1 * losses.landmark + 0.1 * losses.line;
    now = {
      losses, read, places: across.places, ridge: heatPicture(score, width, height, { top: 5 }),
      picture: heatPicture(heat, width, height, { overlay: Boolean(data.image) }),
    };
    fig.say(`landmark ${fixed(losses.landmark, 3)}, line ${fixed(losses.line, 3)}, far ${fixed(losses.far, 3)}: `
      + `weak loss ${fixed(losses.weak, 3)}; against the straight line as truth ${fixed(losses.full, 3)}`);
  };
  const edges = () => [-0.5, -0.5, width - 0.5, height - 0.5];
  const view = () => [-0.5, -0.5, width, height];
  const marks = (context, unit) => {
    stroke(context, chain, { color: "#fff", width: 1.2 * unit, dash: [4 * unit, 3 * unit], rim: null });
    dots(context, chain, { radius: 3.4 * unit, fill: "#fff" });
  };
  const whole = canvas(fig, {
    label: "Heat of the bent contour, with the landmarks and the line through them", view,
    draw: (context, unit) => {
      if (photo[0]) place(context, photo[0], -0.5, -0.5, width, height);
      place(context, now.picture, -0.5, -0.5, width, height, false);
      for (const side of [1, -1]) {                               // the band of width D, by parallels of each segment
        for (let k = 1; k < chain.length; k++) {
          const [a, b] = [chain[k - 1], chain[k]], long = Math.hypot(b[0] - a[0], b[1] - a[1]) || 1;
          const n = [-(b[1] - a[1]) / long * state.reach * side, (b[0] - a[0]) / long * state.reach * side];
          stroke(context, [[a[0] + n[0], a[1] + n[1]], [b[0] + n[0], b[1] + n[1]]],
            { color: "rgba(94,200,255,.75)", width: unit, rim: null });
        }
      }
      if (truth) stroke(context, truth, { color: "#7dffb0", width: 1.4 * unit });
      marks(context, unit);
    },
  });
  const also = truth ? "green: the true one; " : "";
  pane(fig, `Heat of your contour; ${also}blue: D to either side of the line`, whole.box, 330);
  state.knots.forEach((_, i) => handle(fig, whole, {
    label: i % 2 ? `Contour between landmarks ${(i + 1) / 2} and ${(i + 3) / 2}` : `Contour at landmark ${i / 2 + 1}`,
    step: 0.25, anywhere: false, bounds: edges,
    get: () => state.knots[i], set: (p) => { state.knots[i] = p; update(); },
  }));
  const ridge = canvas(fig, {
    label: "Contourness, and the place on each normal where it is greatest", view,
    draw: (context, unit) => {
      place(context, now.ridge, -0.5, -0.5, width, height, false);
      for (const { from, to } of now.places) {
        stroke(context, [from, to], { color: "rgba(94,200,255,.55)", width: 0.8 * unit, rim: null });
      }
      marks(context, unit);
      dots(context, now.places.map((one) => one.best), {
        radius: 2.6 * unit, fill: (i) => lossColor(now.places[i].loss),
      });
      dots(context, chain.slice(1, -1), {
        radius: 4.6 * unit, fill: (i) => lossColor(toLoss(now.read(chain[i + 1]))),
      });
    },
  });
  pane(fig, "Its contourness; dots: landmarks, best place on each normal; green: low loss, red: high", ridge.box, 330);
  const numbers = table(fig, {
    caption: "Its losses; weak = far + 0.1 landmark + 0.1 line; full = Eq. 3 with the straight line as truth",
    rows: () => [["landmark", "landmark (Eq. 7)"], ["line", "line (Eq. 8)"], ["far", "far (Eq. 9)"],
      ["weak", "weak (Eq. 11)"], ["full", "full (Eq. 3)"]].map(([name, text]) => {
      return { cells: [text, fixed(now.losses[name], 3)], strong: name === "weak" };
    }),
  });
  numbers.style.setProperty("--fk-basis", "380px");
  fig.stage.append(numbers);
  choice(fig, {
    label: "start from", value: "line",
    options: [["line", "the line"], ...(truth ? [["truth", "the truth"]] : []), ["bulge", "bulging"],
      ["aside", "2 px aside"], ["away", "beyond D"]],
    onChange: (name) => { state.knots = STARTS[name](); update(); },
  });
  slider(fig, {
    label: "D", min: 1, max: 8, value: state.reach, format: (v) => `${v} px`,
    onInput: (v) => { state.reach = v; update(); },
  });
  toggle(fig, { label: "a spot of heat far away", value: false, onChange: (on) => { state.spot = on; update(); } });
  toggle(fig, {
    label: "score at the place itself, not between the pixels of its map", value: false,
    onChange: (on) => { state.exact = on; update(); },
  });
  update();
  return fig.stop;
}

export default { render };
