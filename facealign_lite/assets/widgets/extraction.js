// ExtractionFigure: from a damaged heatmap to curves, stage by stage.
// The formulas are those of facealign_lite.contours (contourness in contour.js); tests/test_widgets.py holds the two
// together.

const IDEAL = 1.23, FADE = 0.85, NEAR = 3, OUTSIDE = -1;

// Every pixel that scores `low`, whether it tops its neighbours along the normal, and if so its sub-pixel place.
function ridgesOf(map, width, height, sigma, low) {
  const wide = width + 2 * NEAR, high = height + 2 * NEAR;
  const heat = new Float64Array(wide * high).fill(OUTSIDE);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) heat[(y + NEAR) * wide + x + NEAR] = Math.max(map[y * width + x], 0);
  }
  const { score, orientation } = contourness(heat, wide, high, sigma);
  const at = (x, y) => {
    const i = Math.min(Math.trunc(x), wide - 2), j = Math.min(Math.trunc(y), high - 2), u = x - i, v = y - j;
    const k = j * wide + i;
    const row = (start) => (1 - u) * score[start] + u * score[start + 1];
    return (1 - v) * row(k) + v * row(k + wide);
  };
  const found = [];
  for (let y = NEAR; y < height + NEAR; y++) {
    for (let x = NEAR; x < width + NEAR; x++) {
      const here = score[y * wide + x];
      if (!(here >= low)) continue;
      const angle = orientation[y * wide + x], c = Math.cos(angle), s = Math.sin(angle);
      const before = at(x + s, y - c), after = at(x - s, y + c), top = here >= before && here >= after;
      const one = { x: x - NEAR, y: y - NEAR, c, s, score: here, top };
      found.push(one);
      if (!top) continue;
      one.score = here + (before - after) ** 2 / (8 * Math.max(2 * here - before - after, 1e-12));
      const near = [];
      for (let j = -NEAR; j <= NEAR; j++) {
        for (let i = -NEAR; i <= NEAR; i++) {
          const h = heat[(y + j) * wide + x + i], v = c * i + s * j;
          if (h > OUTSIDE) near.push([h, c * j - s * i, Math.exp(-1.5 * v * v)]);
        }
      }
      let t = 0, mass, share;
      for (let round = 0; round < 3; round++) {
        let mean = 0, square = 0;
        mass = share = 0;
        for (const [h, u, w] of near) {
          const now = w * Math.exp(-((u - t) ** 2));
          share += now;
          mass += now * h;
          mean += now * h * u;
          square += now * h * u * u;
        }
        mean /= Math.max(mass, 1e-12);
        square /= Math.max(mass, 1e-12);
        t = clamp(t + (mean - t) / Math.max(1 - 2 * (square - mean * mean), 0.1), -0.75, 0.75);
      }
      one.place = [one.x - t * s, one.y + t * c];
      one.heat = mass / share;
    }
  }
  const inner = new Float64Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) inner[y * width + x] = score[(y + NEAR) * wide + x + NEAR];
  }
  return { found, score: inner };
}

const length = (curve) =>
  curve.slice(1).reduce((sum, [x, y], i) => sum + Math.hypot(x - curve[i][0], y - curve[i][1]), 0);

// From pixel to pixel along the ridges: ordered curves, the one with the most score first.
function trace(ridges, width, high, sigma) {
  const tops = ridges.filter((one) => one.top), stride = width + 2;
  tops.forEach((one) => { one.key = one.y * stride + one.x; });
  const free = new Map(tops.map((one) => [one.key, one]));
  const around = [-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1];
  const walk = (from, ax, ay) => {
    const path = [];
    for (let now = from; ;) {
      let next = null, least = Infinity;
      for (const step of around) {
        const one = free.get(now.key + step);
        if (!one) continue;
        const sx = one.place[0] - now.place[0], sy = one.place[1] - now.place[1];
        const cost = Math.hypot(sx, sy) + Math.acos(Math.min(Math.abs(ax * one.c + ay * one.s), 1));
        if (sx * ax + sy * ay > 0 && cost < least) { next = one; least = cost; }
      }
      if (!next) return path;
      free.delete(next.key);
      path.push(next);
      const sign = ax * next.c + ay * next.s < 0 ? -1 : 1;
      [ax, ay, now] = [sign * next.c, sign * next.s, next];
    }
  };
  const curves = [];
  for (const seed of [...tops].sort((a, b) => b.score - a.score)) {
    if (seed.score < high) break;
    if (!free.delete(seed.key)) continue;
    let chain = [seed, ...walk(seed, seed.c, seed.s)];
    const last = chain.at(-1);
    const closed = chain.length > 8 && Math.max(Math.abs(last.x - seed.x), Math.abs(last.y - seed.y)) <= 2;
    if (!closed) chain = [...walk(seed, -seed.c, -seed.s).reverse(), ...chain];
    for (const one of chain) for (const step of around) free.delete(one.key + step);
    const curve = closed ? [...chain, chain[0]].map((one) => one.place) : trim(chain, sigma);
    if (length(curve) >= sigma) curves.push({ curve, total: chain.reduce((sum, one) => sum + one.score, 0) });
  }
  return curves.sort((a, b) => b.total - a.total).map(({ curve }) => curve);
}

// Both ends shortened to where the heat is FADE of the highest within 2 sigma of the end.
function trim(chain, sigma) {
  let rows = chain.map((one) => [...one.place, one.heat]);
  for (let end = 0; end < 2; end++) {
    rows.reverse();
    let gone = 0, best = rows[0][2];
    for (let i = 1; i < rows.length; i++) {
      gone += Math.hypot(rows[i][0] - rows[i - 1][0], rows[i][1] - rows[i - 1][1]);
      if (gone >= 2 * sigma) break;
      best = Math.max(best, rows[i][2]);
    }
    const enough = FADE * best, i = rows.findIndex((row) => row[2] >= enough);
    if (i > 0) {
      const share = (rows[i][2] - enough) / (rows[i][2] - rows[i - 1][2]);
      rows = [rows[i].map((v, k) => v + share * (rows[i - 1][k] - v)), ...rows.slice(i)];
    }
  }
  return rows.map(([x, y]) => [x, y]);
}

function extract(map, width, height, sigma, low, high) {
  const unit = IDEAL * sigma ** 2, { found, score } = ridgesOf(map, width, height, sigma, low * unit);
  return { pixels: found, score, curves: trace(found, width, high * unit, sigma) };
}

// ---- the figure --------------------------------------------------------------------------------------------------

// Blurred, then a hole of a given diameter, then noise.
function damage(map, noise, width, height, { blur, hole, level }, [hx, hy]) {
  const reach = Math.ceil(3 * blur), raw = Array.from({ length: 2 * reach + 1 }, (_, i) => {
    return blur ? Math.exp(-((i - reach) ** 2) / (2 * blur * blur)) : 1;
  });
  const total = raw.reduce((a, b) => a + b, 0), bell = raw.map((v) => v / total);
  const soft = blur ? separable(map, width, height, bell, bell) : map;
  return Float64Array.from(soft, (v, i) => {
    const inside = Math.hypot(i % width - hx, Math.floor(i / width) - hy) < hole / 2;
    return (inside ? 0 : v) + level * noise[i];
  });
}

// Distance of a point from a polyline.
function apart([x, y], line) {
  let least = Infinity;
  for (let i = 1; i < line.length; i++) {
    const [ax, ay] = line[i - 1], dx = line[i][0] - ax, dy = line[i][1] - ay;
    const t = clamp(((x - ax) * dx + (y - ay) * dy) / Math.max(dx * dx + dy * dy, 1e-12), 0, 1);
    least = Math.min(least, Math.hypot(x - ax - t * dx, y - ay - t * dy));
  }
  return least;
}

const INKS = ["#5ec8ff", "#ff8fd0", "#7dffb0", "#ffd166", "#c9a2ff", "#ff9e64"];    // on the dark map, in both themes
const STAGES = [["score", "contourness"], ["normals", "normals"], ["ridge", "ridge pixels"], ["curves", "curves"]];

function render({ model, el }) {
  const data = unpack(model), { width, height } = data, truth = pairs(data.truth.data);
  const state = {
    sigma: data.sigma, low: data.low, high: data.high, blur: 0, hole: 0, level: data.noise_level, stage: "ridge",
    exact: false,
  };
  const fig = figure(el, {
    label: "From a heatmap to curves, stage by stage",
    help: "Left: what extraction is given. Right: one of its stages. Damage the map and move the thresholds.",
  });
  let now = {}, shown = {};
  const update = () => {
    const heat = damage(data.heat.data, data.noise.data, width, height, state, data.hole_at);
    now = { heat, ...extract(heat, width, height, state.sigma, state.low, Math.max(state.low, state.high)) };
    const best = now.curves[0];
    now.off = best ? best.reduce((sum, p) => sum + apart(p, truth), 0) / best.length : NaN;
    const found = truth.filter((p) => now.curves.some((line) => apart(p, line) < 1));
    now.missed = 1 - found.length / truth.length;
    const unit = IDEAL * state.sigma ** 2, tops = now.pixels.filter((one) => one.top);
    const over = (share) => tops.filter((one) => one.score >= share * unit).length;
    now.counts = [over(state.low), over(Math.max(state.low, state.high))];
    shown = { heat: heatPicture(heat, width, height), score: heatPicture(now.score, width, height, { top: unit }) };
    const pieces = now.curves.length;
    fig.say(best ? `${pieces} curve${pieces > 1 ? "s" : ""}; the strongest is off by ${fixed(now.off, 2)} px on `
      + `average, ${percent(now.missed, 0)} of the contour is missed` : "No curve is found");
  };
  const whole = () => [-0.5, -0.5, width, height];
  const curves = (context, unit) => now.curves.forEach((line, i) => {
    stroke(context, line, { color: INKS[i % INKS.length], width: 2 * unit });
  });
  const given = canvas(fig, {
    label: "The heatmap as it is given, with the curves found",
    view: whole,
    draw: (context, unit) => {
      place(context, shown.heat, -0.5, -0.5, width, height, false);
      if (state.exact) stroke(context, truth, { color: "#ffffff", width: 1.2 * unit, dash: [4 * unit, 3 * unit] });
      curves(context, unit);
    },
  });
  pane(fig, "Heatmap and curves", given.box, 300);
  const stage = canvas(fig, {
    label: "The chosen stage of extraction",
    view: whole,
    draw: (context, unit) => {
      place(context, shown.score, -0.5, -0.5, width, height, false);
      if (state.stage === "normals") {
        context.lineWidth = 1.3 * unit;
        context.strokeStyle = "#5ec8ff";
        context.beginPath();
        for (const { x, y, c, s } of now.pixels) {
          context.moveTo(x + 0.45 * s, y - 0.45 * c);
          context.lineTo(x - 0.45 * s, y + 0.45 * c);
        }
        context.stroke();
      }
      if (state.stage === "ridge") {
        const sure = Math.max(state.low, state.high) * IDEAL * state.sigma ** 2;
        const tops = now.pixels.filter((one) => one.top);
        dots(context, tops.map((one) => one.place), {
          radius: 2.6 * unit, fill: (i) => tops[i].score >= sure ? "#ffffff" : "#5ec8ff",
        });
      }
      if (state.stage === "curves") curves(context, unit);
      if (state.exact) stroke(context, truth, { color: "#ffffff", width: 1.2 * unit, dash: [4 * unit, 3 * unit] });
    },
  });
  pane(fig, "Contourness, black at 0, and the stage", stage.box, 300);
  const numbers = table(fig, {
    caption: "What comes out",
    rows: () => [
      ["ridge pixels over low", String(now.counts[0])], ["of these over high", String(now.counts[1])],
      ["curves", String(now.curves.length)], ["strongest: mean distance, px", fixed(now.off, 3)],
      ["contour missed by over 1 px", percent(now.missed, 1)],
    ].map((cells) => ({ cells })),
  });
  numbers.style.setProperty("--fk-basis", "260px");
  fig.stage.append(numbers);
  const whenever = (key) => (value) => { state[key] = value; update(); };
  choice(fig, { label: "stage", options: STAGES, value: state.stage, onChange: whenever("stage") });
  const number = (label, key, max, step, min = 0) => slider(fig, {
    label, min, max, step, value: state[key], format: (v) => v.toFixed(2).replace(/0$/, ""), onInput: whenever(key),
  });
  number("sigma", "sigma", 4, 0.5, 1.5);
  number("low", "low", 1, 0.02, 0.02);
  number("high", "high", 1, 0.02, 0.02);
  number("noise", "level", 0.4, 0.02);
  number("blur", "blur", 3, 0.25);
  number("hole", "hole", 16, 1);
  toggle(fig, { label: "show the true contour", value: false, onChange: whenever("exact") });
  update();
  return fig.stop;
}

export default { render };
