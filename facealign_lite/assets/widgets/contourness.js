// ContournessFigure: turn a line and see score, orientation, and the match against the angle follow.
// contour.js in front of this has the closed form; here is what it stands for, one template at a time;
// tests/test_widgets.py holds both to facealign_lite.contours.

const RADIUS = 15, ANGLES = 180, SIDE = 41, BEST = 4.92, SLOPE = 1.5;

// Heat of an endless line of that width through the middle, moved along its normal; angle in radians.
function lineHeat(side, angle, offset, width) {
  const middle = (side - 1) / 2, cos = Math.cos(angle), sin = Math.sin(angle);
  return Float64Array.from({ length: side * side }, (_, i) => {
    const d = (Math.floor(i / side) - middle) * cos - (i % side - middle) * sin - offset;
    return Math.max(0, 1 - 2 * d * d / (width * width));
  });
}

// How well the template at one angle matches at a pixel, up to a constant: 2 H T - H^2 under the weight (Eq. 18), or,
// with the cut-off of Eq. 5, minus the mismatch of Eq. 6 above that of no heat at all for a line along an axis.
function match(heat, side, sigma, [px, py], angle, cut) {
  const reach = Math.floor(2 * sigma), cos = Math.cos(angle), sin = Math.sin(angle);
  let sum = 0, ideal = 0;
  for (let j = -reach; j <= reach; j++) {
    for (let i = -reach; i <= reach; i++) {
      const x = px + i, y = py + j, inside = x >= 0 && x < side && y >= 0 && y < side;
      const h = inside ? Math.max(0, heat[y * side + x]) : 0, g = Math.exp(-(i * i + j * j) / sigma ** 2);
      const d = j * cos - i * sin, t = 1 - 2 * d * d / sigma ** 2;
      if (cut) {
        sum -= g * (h - Math.max(0, t)) ** 2;
        ideal += g * Math.max(0, 1 - 2 * j * j / sigma ** 2) ** 2;
      } else {
        sum += g * (2 * h * t - h * h);
      }
    }
  }
  return sum + ideal;
}

// Even noise that is the same on every page, roughly normal: the sum of four steps of a linear congruence.
function steadyNoise(count) {
  let state = 12345;
  const next = () => { state = (1103515245 * state + 12345) % 2147483648; return state / 2147483648; };
  return Float64Array.from({ length: count }, () => (next() + next() + next() + next() - 2) * Math.sqrt(3));
}

function render({ model, el }) {
  const data = unpack(model), middle = (SIDE - 1) / 2, rad = (degrees) => degrees * Math.PI / 180;
  const state = {
    angle: data.angle, offset: 0, width: data.sigma, height: 1, noise: 0, second: data.second, other: 75,
    sigma: data.sigma, pixel: [middle, middle],
  };
  const noise = steadyNoise(SIDE * SIDE);
  const fig = figure(el, {
    label: "A line, its contourness, and how well the template fits at every angle",
    help: "Drag the ring at the end of the line to turn it, the one in the right-hand picture to look at another pixel; "
      + "or focus a ring and use the arrow keys.",
  });
  let now = {};
  const update = () => {
    const first = lineHeat(SIDE, rad(state.angle), state.offset, state.width);
    const other = state.second ? lineHeat(SIDE, rad(state.other), 0, state.width) : first;
    const heat = first.map((h, i) => state.height * Math.max(h, other[i]) + state.noise * noise[i]);
    const { score, orientation } = contourness(heat, SIDE, SIDE, state.sigma);
    const at = state.pixel[1] * SIDE + state.pixel[0];
    const sweep = (cut) => Array.from({ length: ANGLES + 1 }, (_, k) => {
      return [k * 180 / ANGLES, match(heat, SIDE, state.sigma, state.pixel, k * Math.PI / ANGLES, cut)];
    });
    const best = (curve) => curve.reduce((a, b) => b[1] > a[1] ? b : a);
    const loose = sweep(false), cut = sweep(true);
    const found = ((orientation[at] * 180 / Math.PI) % 180 + 180) % 180;
    now = { heat, score, orientation, loose, cut, top: best(loose), topCut: best(cut), found, here: score[at],
      picture: heatPicture(heat, SIDE, SIDE),
      ridge: heatPicture(score, SIDE, SIDE, { top: 1.23 * state.sigma ** 2 }) };
    fig.say(`Score ${fixed(now.here, 3)}, orientation ${fixed(found, 1)}\u00b0 of a line at `
      + `${fixed(state.angle, 0)}\u00b0; best of ${ANGLES} angles ${fixed(now.top[1], 3)} at ${fixed(now.top[0], 0)}\u00b0`);
  };
  const view = () => [-0.5, -0.5, SIDE, SIDE];
  const frame = (context, unit) => {                              // the window of the template
    const [x, y] = state.pixel, r = Math.floor(2 * state.sigma) + 0.5;
    stroke(context, [[x - r, y - r], [x + r, y - r], [x + r, y + r], [x - r, y + r], [x - r, y - r]],
      { color: "#5ec8ff", width: 1.2 * unit });
  };
  const left = canvas(fig, {
    label: "Heat of the line; blue: the window of the template", view,
    draw: (context, unit) => { place(context, now.picture, -0.5, -0.5, SIDE, SIDE, false); frame(context, unit); },
  });
  pane(fig, "The heat a network might predict; blue: the template's window", left.box, 250);
  const tip = () => {
    const c = Math.cos(rad(state.angle)), s = Math.sin(rad(state.angle));
    return [middle + RADIUS * c - state.offset * s, middle + RADIUS * s + state.offset * c];
  };
  handle(fig, left, {
    label: "End of the line", get: tip, bounds: () => [0, 0, SIDE - 1, SIDE - 1], step: 0.5,
    describe: () => `line at ${fixed(state.angle, 0)} degrees`,
    set: ([x, y]) => { turn(Math.atan2(y - middle, x - middle) * 180 / Math.PI); },
  });
  const right = canvas(fig, {
    label: "Contourness of every pixel, with the orientation where it is high", view,
    draw: (context, unit) => {
      place(context, now.ridge, -0.5, -0.5, SIDE, SIDE, false);
      const enough = 0.4 * state.sigma ** 2;
      for (let i = 0; i < now.score.length; i++) {
        const x = i % SIDE, y = Math.floor(i / SIDE);
        if (now.score[i] < enough || (x + y) % 2) continue;
        const c = 0.8 * Math.cos(now.orientation[i]), s = 0.8 * Math.sin(now.orientation[i]);
        stroke(context, [[x - c, y - s], [x + c, y + s]], { color: "#5ec8ff", width: 1.6 * unit });
      }
      frame(context, unit);
    },
  });
  pane(fig, "Its contourness; strokes: orientation where it is high", right.box, 250);
  handle(fig, right, {
    label: "Pixel looked at", get: () => state.pixel, bounds: () => [0, 0, SIDE - 1, SIDE - 1], step: 1,
    describe: () => `pixel ${state.pixel[0]}, ${state.pixel[1]}`,
    set: (p) => { state.pixel = p.map(Math.round); update(); },
  });
  const colors = () => [fig.color("1"), fig.color("2")];
  const curve = plot(fig, {
    label: "How well the template fits (Eq. 18), against its angle", height: 240,
    axes: () => {
      const values = [...now.loose, ...now.cut].map((p) => p[1]);
      const high = Math.max(...values, 1), low = Math.min(...values, 0), room = 0.06 * (high - low);
      return {
        x: { min: 0, max: 180, label: "angle of the template, degrees" },
        y: { min: low - room, max: high + room, label: "match", format: (v) => String(Math.round(10 * v) / 10) },
      };
    },
    lines: () => [
      { points: now.loose, color: colors()[0], dot: [now.found, now.here] },
      { points: now.cut, color: colors()[1], dash: "6 4" },
    ],
    marker: () => state.angle,
  });
  pane(fig, "Solid: Eq. 18, its dot from Eq. 24 and 25; dashed: Eq. 6 as printed, plus 4.92 (at sigma 2); "
    + "upright: the line", curve, 380);
  const apart = (a, b) => ((a - b + 90) % 180 + 180) % 180 - 90;
  const numbers = table(fig, {
    caption: `In the middle of the window; search: best of ${ANGLES} angles; off by: difference from the line's angle`,
    head: ["", "score", "angle", "off by"],
    rows: () => [["Eq. 24, 25", now.here, now.found, true], ["search, Eq. 18", now.top[1], now.top[0]],
      ["search, Eq. 6", now.topCut[1], now.topCut[0]]].map(([name, score, angle, strong]) => {
      return { strong, cells: [name, fixed(score, 3), fixed(angle, 1) + "\u00b0",
        fixed(Math.abs(apart(angle, state.angle)), 1) + "\u00b0"] };
    }).concat([{ cells: ["loss f(C)", fixed(1 - 2 ** ((now.here - BEST) / SLOPE), 3), "", ""] }]),
  });
  numbers.style.setProperty("--fk-basis", "380px");
  fig.stage.append(numbers);
  const knob = (name, label, min, max, step, format) => slider(fig, {
    label, min, max, step, value: state[name], format, onInput: (v) => { state[name] = v; update(); },
  });
  const angle = knob("angle", "angle", 0, 180, 1, (v) => `${v}\u00b0`);
  const turn = (degrees) => {
    state.angle = ((degrees % 180) + 180) % 180;
    angle.value = state.angle;
    update();
  };
  knob("offset", "offset", -2, 2, 0.05, (v) => `${v.toFixed(2)} px`);
  knob("width", "width", 0.5, 6, 0.1, (v) => `${v.toFixed(1)} px`);
  knob("height", "height", 0, 2.5, 0.05, (v) => v.toFixed(2));
  knob("noise", "noise", 0, 0.6, 0.02, (v) => v.toFixed(2));
  knob("sigma", "sigma", 1, 4, 0.5, (v) => v.toFixed(1));
  toggle(fig, { label: "a second line across", value: state.second, onChange: (on) => { state.second = on; update(); } });
  knob("other", "its angle", 0, 180, 1, (v) => `${v}\u00b0`);
  update();
  return fig.stop;
}

export default { render };
