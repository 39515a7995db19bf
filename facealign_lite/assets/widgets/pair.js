// PairFigure: a picture, its twin, and what two answers to them have in common.

const EMPTY = 1e-6;                                              // heat of every pixel, as in scpan.distribution
const LOW = 10 / 64;                                             // how much too low one answer is, of the side

// First mirror, then scale and turn by degrees, clockwise on the screen: rows of the 2 x 2 matrix.
function linearMap(degrees, scale, mirror) {
  const c = scale * Math.cos(degrees * Math.PI / 180), s = scale * Math.sin(degrees * Math.PI / 180);
  return mirror ? [[-c, -s], [-s, c]] : [[c, -s], [s, c]];
}

// Points of a picture of that side, moved about its middle.
function movePoints(points, [[a, b], [c, d]], side) {
  const m = (side - 1) / 2;
  return points.map(([x, y]) => [a * (x - m) + b * (y - m) + m, c * (x - m) + d * (y - m) + m]);
}

// A peak of width sigma as a distribution over size x size pixels.
function peak([x, y], sigma, size) {
  const along = (at) => Float64Array.from({ length: size }, (_, i) => Math.exp(-((i - at) ** 2) / (2 * sigma ** 2)));
  const gx = along(x), gy = along(y), heat = new Float64Array(size * size);
  let total = 0;
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) total += heat[i * size + j] = gy[i] * gx[j] + EMPTY;
  }
  return heat.map((h) => h / total);
}

// Jensen-Shannon, nats.
function divergence(p, q) {
  let sum = 0;
  for (let i = 0; i < p.length; i++) {
    const m = (p[i] + q[i]) / 2;
    sum += p[i] * Math.log(p[i] / m) + q[i] * Math.log(q[i] / m);
  }
  return sum / 2;
}

// Mean over the landmarks of two sets of peaks; points in pixels of the map.
function meanDivergence(a, b, sigmaA, sigmaB, size) {
  return a.reduce((sum, p, k) => sum + divergence(peak(p, sigmaA, size), peak(b[k], sigmaB, size)), 0) / a.length;
}

function render({ model, el }) {
  const data = unpack(model);
  const { side, size, sigma, nose } = data;
  const truth = pairs(data.landmarks.data), flip = Array.from(data.flip.data);
  const fig = figure(el, { label: "A picture and its twin", help: "Turn, scale and mirror the twin; change the answer." });
  const photo = pictures(fig, [data.image]);
  const state = { degrees: 0, scale: 1, mirror: false, swap: true, widen: true, answer: "faces" };
  const onMap = (points) => points.map((p) => p.map((v) => (v + 0.5) * size / side - 0.5));
  // what is answered to a picture whose landmarks are at q
  const answer = {
    faces: (q) => q,
    middle: (q) => q.map(() => [(side - 1) / 2, (side - 1) / 2]),
    nose: (q) => q.map(() => q[nose]),
    low: (q) => q.map(([x, y]) => [x, y + LOW * side]),
  };
  const linear = () => linearMap(state.degrees, state.scale, state.mirror);
  const renamed = (points, yes) => yes ? flip.map((k) => points[k]) : points;
  // what is said of the picture; of the twin; and the first, disturbed as the picture was
  const answers = () => {
    const said = answer[state.answer](truth), moved = (points) => movePoints(points, linear(), side);
    return { said, twin: answer[state.answer](renamed(moved(truth), state.mirror)),
      disturbed: renamed(moved(said), state.mirror && state.swap) };
  };
  const sides = () => ["#ffffff", fig.color(1), fig.color(2)];
  const fill = (k) => sides()[flip[k] === k ? 0 : truth[k][0] < truth[flip[k]][0] ? 1 : 2];
  const view = () => [-0.5, -0.5, side, side];

  pane(fig, "Picture and answer", canvas(fig, {
    label: "The picture with the landmarks that were answered", view,
    draw: (context, px) => {
      if (photo[0]) place(context, photo[0], -0.5, -0.5, side, side);
      dots(context, answers().said, { radius: 2.4 * px, fill });
    },
  }).box, 300);
  pane(fig, "Twin: answer, and a line to the moved answer", canvas(fig, {
    label: "The twin with the landmarks that were answered, joined to those of the picture, moved", view,
    draw: (context, px) => {
      const [[a, b], [c, d]] = linear(), m = (side - 1) / 2;
      context.save();
      context.transform(a, c, b, d, m - a * m - b * m, m - c * m - d * m);
      if (photo[0]) place(context, photo[0], -0.5, -0.5, side, side);
      context.restore();
      const { twin, disturbed } = answers();
      twin.forEach((p, k) => stroke(context, [p, disturbed[k]], { color: "#ffd23f", width: 1.2 * px, rim: null }));
      dots(context, twin, { radius: 2.4 * px, fill });
    },
  }).box, 300);
  const losses = () => {
    const { said, twin, disturbed } = answers(), narrow = state.widen ? sigma : sigma * state.scale;
    return [meanDivergence(onMap(disturbed), onMap(twin), narrow, sigma, size),
      meanDivergence(onMap(said), onMap(truth), sigma, sigma, size)];
  };
  fig.stage.append(table(fig, {
    caption: "Mean divergence, at most 0.693",
    rows: () => {
      const [calibrated, labels] = losses();
      return [{ cells: ["twins, no label", fixed(calibrated, 3)], strong: true },
        { cells: ["labels", fixed(labels, 3)] }];
    },
  }));

  const say = () => fig.say(`Calibrated ${fixed(losses()[0], 3)}, against labels ${fixed(losses()[1], 3)}`);
  const set = (name) => (value) => { state[name] = value; say(); };
  slider(fig, { label: "turn", min: -60, max: 60, value: 0, format: (v) => `${v}°`, onInput: set("degrees") });
  slider(fig, {
    label: "scale", min: 0.5, max: 1, step: 0.05, value: 1, format: (v) => v.toFixed(2), onInput: set("scale"),
  });
  toggle(fig, { label: "mirrored", value: false, onChange: set("mirror") });
  toggle(fig, { label: "right and left change places", value: true, onChange: set("swap") });
  toggle(fig, { label: "peaks blurred again", value: true, onChange: set("widen") });
  choice(fig, {
    label: "answer", value: "faces", onChange: set("answer"),
    options: [["faces", "knows faces"], ["middle", "all in the middle"], ["nose", "all on the nose"],
      ["low", "all too low"]],
  });
  say();
  return fig.stop;
}

export default { render };
