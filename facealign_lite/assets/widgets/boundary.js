// BoundaryFigure: landmarks, the line through them, and the heat of its distance.
// The formulas are those of facealign_lite.tab; tests/browser/test_widgets.py holds the two together.

// Overhauser's blend through points, `steps` pieces from each to the next; straight: the points themselves.
function smoothLine(points, steps) {
  const n = points.length;
  const chord = points.slice(1).map((p, i) => Math.max(1e-6, Math.hypot(p[0] - points[i][0], p[1] - points[i][1])));
  const slope = chord.map((c, i) => [0, 1].map((k) => (points[i + 1][k] - points[i][k]) / c));
  const way = points.map((_, i) => {
    if (n === 2) return slope[0];
    if (!i || i === n - 1) return null;
    const sum = chord[i - 1] + chord[i];
    return [0, 1].map((k) => (chord[i] * slope[i - 1][k] + chord[i - 1] * slope[i][k]) / sum);
  });
  if (n > 2) {
    way[0] = [0, 1].map((k) => 2 * slope[0][k] - way[1][k]);
    way[n - 1] = [0, 1].map((k) => 2 * slope[n - 2][k] - way[n - 2][k]);
  }
  const line = [];
  for (let i = 0; i < n - 1; i++) {
    for (let j = 0; j < steps; j++) {
      const t = j / steps, c = chord[i];
      line.push([0, 1].map((k) => (1 + 2 * t) * (1 - t) ** 2 * points[i][k] + t * (1 - t) ** 2 * c * way[i][k]
        + t * t * (3 - 2 * t) * points[i + 1][k] - t * t * (1 - t) * c * way[i + 1][k]));
    }
  }
  return [...line, points[n - 1]];
}

function fromLine([x, y], line) {
  let least = Infinity;
  for (let i = 1; i < line.length; i++) {
    const [ax, ay] = line[i - 1], bx = line[i][0] - ax, by = line[i][1] - ay, long = bx * bx + by * by;
    const t = long ? clamp(((x - ax) * bx + (y - ay) * by) / long, 0, 1) : 0;
    least = Math.min(least, (x - ax - t * bx) ** 2 + (y - ay - t * by) ** 2);
  }
  return Math.sqrt(least);
}

// What a one-pixel drawing of the line leaves: the distance to the nearest pixel that it was rounded to.
function fromPixels([x, y], pixels) {
  return Math.sqrt(pixels.reduce((least, [px, py]) => Math.min(least, (x - px) ** 2 + (y - py) ** 2), Infinity));
}

function heatOfLine(line, width, height, sigma, snapped) {
  const pixels = snapped ? line.map((p) => p.map((v) => Math.floor(v + 0.5))) : null;
  return Array.from({ length: width * height }, (_, i) => {
    const p = [i % width, Math.floor(i / width)], d = snapped ? fromPixels(p, pixels) : fromLine(p, line);
    return d < 3 * sigma ? Math.exp(-d * d / (2 * sigma * sigma)) : 0;
  });
}

const BAND = 0.5;
const STEPS = 16;

function render({ model, el }) {
  const data = unpack(model), { width, height } = data;
  const start = pairs(data.points.data);
  const state = { points: start.map((p) => [...p]), sigma: data.sigma, smooth: true, snapped: false };
  const fig = figure(el, {
    label: "A boundary through landmarks, and its heatmap",
    help: "Drag a ring, or focus it and use the arrow keys (with Shift: ten times as far).",
  });
  const photo = data.image ? pictures(fig, [data.image]) : [null];
  const lineOf = (points) => state.smooth ? smoothLine(points, STEPS) : points;
  const dense = (points) => state.smooth ? smoothLine(points, STEPS) : points.slice(1).flatMap(([x, y], i) => {
    const [a, b] = points[i];
    return Array.from({ length: 2 * STEPS + 1 }, (_, j) => [a + (x - a) * j / (2 * STEPS), b + (y - b) * j / (2 * STEPS)]);
  });
  const exact = (points) => heatOfLine(lineOf(points), width, height, state.sigma, false);
  let now;
  const compare = (heat, reference) => {
    let squares = 0, shared = 0, joint = 0;
    heat.forEach((h, i) => {
      squares += (h - reference[i]) ** 2;
      shared += h >= BAND && reference[i] >= BAND;
      joint += h >= BAND || reference[i] >= BAND;
    });
    return [squares / heat.length, joint ? shared / joint : 1];
  };
  const update = () => {
    const heat = exact(state.points), snapped = heatOfLine(dense(state.points), width, height, state.sigma, true);
    const first = exact(start), empty = heat.map(() => 0);
    const rows = [["moved landmarks", ...compare(heat, first)], ["snapped to pixels", ...compare(snapped, heat)],
      ["an empty map", ...compare(empty, heat)]];
    now = { rows, shown: heatPicture(state.snapped ? snapped : heat, width, height), line: lineOf(state.points) };
    fig.say(`Against the map at first: mean square ${rows[0][1].toFixed(5)}, overlap of bands ${percent(rows[0][2])}`);
  };
  const left = canvas(fig, {
    label: "Landmarks and the line through them",
    view: () => [-0.5, -0.5, width, height],
    draw: (context, unit) => {
      if (photo[0]) place(context, photo[0], -0.5, -0.5, width, height);
      stroke(context, now.line, { color: "#5ec8ff", width: 2.2 * unit });
      dots(context, start, { radius: 2.5 * unit, fill: "#ffffff" });
    },
  });
  state.points.forEach((_, i) => handle(fig, left, {
    label: `Landmark ${i + 1}`, step: 0.25, anywhere: false,
    get: () => state.points[i],
    set: (p) => { state.points[i] = p; update(); },
    bounds: () => [-0.5, -0.5, width - 0.5, height - 0.5],
  }));
  pane(fig, "The line; dots: where the landmarks were at first", left.box, 300);
  const right = canvas(fig, {
    label: "Heat of the line, one square a map pixel",
    view: () => [-0.5, -0.5, width, height],
    draw: (context) => place(context, now.shown, -0.5, -0.5, width, height, false),
  });
  pane(fig, "Its heat on the map", right.box, 300);
  const numbers = table(fig, {
    caption: "Mean square difference, and overlap of the bands above half heat",
    head: ["what is compared", "mean square", "overlap"],
    rows: () => now.rows.map(([name, error, overlap]) => ({ cells: [name, fixed(error, 5), percent(overlap)] })),
  });
  numbers.style.setProperty("--fk-basis", "320px");
  fig.stage.append(numbers);
  slider(fig, {
    label: "sigma", min: 0.5, max: 4, step: 0.1, value: state.sigma, format: (v) => v.toFixed(1),
    onInput: (value) => { state.sigma = value; update(); },
  });
  choice(fig, {
    label: "line", options: [["smooth", "smooth"], ["straight", "straight"]], value: "smooth",
    onChange: (value) => { state.smooth = value === "smooth"; update(); },
  });
  choice(fig, {
    label: "distance", options: [["exact", "exact"], ["snapped", "snapped to pixels"]], value: "exact",
    onChange: (value) => { state.snapped = value === "snapped"; update(); },
  });
  update();
  return fig.stop;
}

export default { render };
