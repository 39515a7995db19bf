// StraightenFigure: move the frame that a spatial transformer reads, see the crop that comes out.
// The formulas are those of facealign_lite.msm.stgan; tests/test_widgets.py holds the two together.

// Rows of theta for a frame with its middle at (x, y), in pixels of a crop of side `size`, turned and sized.
function thetaOf({ x, y, angle, scale }, size) {
  const c = scale * Math.cos(angle), s = scale * Math.sin(angle), middle = (size - 1) / 2;
  return [[c, -s, (x - middle) * 2 / size], [s, c, (y - middle) * 2 / size]];
}

// The other way; of a theta that also shears, the nearest similarity.
function frameOf([[a, b, u], [c, d, v]], size) {
  const middle = (size - 1) / 2, cosine = (a + d) / 2, sine = (c - b) / 2;
  return { x: middle + u * size / 2, y: middle + v * size / 2, angle: Math.atan2(sine, cosine),
    scale: Math.hypot(cosine, sine) };
}

// theta as a map of pixels from straight to rough crop: [a, b, x; c, d, y], row by row.
function pixelMap([[a, b, u], [c, d, v]], size) {
  const middle = (size - 1) / 2;
  return [[a, b, u * size / 2 + middle - middle * (a + b)], [c, d, v * size / 2 + middle - middle * (c + d)]];
}

// What is left: R = theta^-1 target; degrees, times, sides of the frame.
function residual([[a, b, u], [c, d, v]], [[A, B, U], [C, D, V]], margin) {
  const det = a * d - b * c, x = U - u, y = V - v;
  const r00 = (d * A - b * C) / det, r01 = (d * B - b * D) / det;
  const r10 = (a * C - c * A) / det, r11 = (a * D - c * B) / det;
  const cosine = (r00 + r11) / 2, sine = (r10 - r01) / 2;
  return {
    rotation: Math.atan2(sine, cosine) * 180 / Math.PI, scale: Math.hypot(cosine, sine),
    shift: Math.hypot((d * x - b * y) / det, (a * y - c * x) / det) * (1 + margin) / 2,
  };
}

// Root of the sum of squared differences (Eq. 5), and the root mean square of how far the grid's places are off, which
// is the same sum with a third of the weight on the four numbers of the linear part: in pixels.
function lossesOf(theta, target, size) {
  let linear = 0, shift = 0;
  theta.forEach((row, i) => row.forEach((value, j) => {
    if (j < 2) linear += (value - target[i][j]) ** 2; else shift += (value - target[i][j]) ** 2;
  }));
  return { parameters: Math.sqrt(linear + shift), grid: Math.sqrt(linear / 3 + shift) * size / 2 };
}

const SEEN = "#ffd23f", TRUE = "#5ec8ff";                          // on a photo

function render({ model, el }) {
  const data = unpack(model), { size, margin, target } = data, truth = frameOf(target, size);
  const state = { ...frameOf(data.theta, size), truth: false, net: true };
  const fig = figure(el, {
    label: "The frame that is read from a rough crop, and the crop that comes out",
    help: "Drag the middle ring to move the frame, the outer one to turn and size it; or focus a ring and use the "
      + "arrow keys (with Shift: ten times as far).",
  });
  const photo = pictures(fig, [data.image]);
  const theta = () => thetaOf(state, size);
  const along = (map, [x, y]) => [map[0][0] * x + map[0][1] * y + map[0][2], map[1][0] * x + map[1][1] * y + map[1][2]];
  const outline = (map) => [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]].map(([u, v]) => {
    return along(map, [u * size - 0.5, v * size - 0.5]);
  });
  const update = () => {
    const left = residual(theta(), target, margin);
    fig.say(`Still turned by ${fixed(left.rotation, 1)} degrees, ${fixed(left.scale, 2)} times the right size, `
      + `${percent(left.shift)} of the frame off the middle`);
  };
  const rough = canvas(fig, {
    label: "The rough crop with the frame that is read",
    view: () => [-0.5 - size / 4, -0.5 - size / 4, 1.5 * size, 1.5 * size],
    draw: (context, unit) => {
      if (photo[0]) place(context, photo[0], -0.5, -0.5, size, size);
      const map = pixelMap(theta(), size);
      if (state.net) {
        for (let k = 0; k <= 8; k++) {
          for (const line of [[[0, k], [8, k]], [[k, 0], [k, 8]]]) {
            stroke(context, line.map(([u, v]) => along(map, [u * size / 8 - 0.5, v * size / 8 - 0.5])),
              { color: "rgba(255,210,63,.55)", width: 0.8 * unit, rim: null });
          }
        }
      }
      if (state.truth) {
        stroke(context, outline(pixelMap(target, size)), { color: TRUE, width: 2 * unit, dash: [4 * unit, 3 * unit] });
      }
      stroke(context, outline(map), { color: SEEN, width: 2.2 * unit });
      stroke(context, [along(map, [0.1 * size, -0.5]), along(map, [size / 2 - 0.5, -0.5 - 0.06 * size]),
        along(map, [0.9 * size, -0.5])], { color: SEEN, width: 2.2 * unit });
    },
  });
  pane(fig, "Rough crop; the roof is the frame's upper side", rough.box, 300);
  handle(fig, rough, {
    label: "Middle of the frame", step: 0.5, anywhere: false, get: () => [state.x, state.y],
    set: ([x, y]) => { state.x = x; state.y = y; update(); }, bounds: () => [0, 0, size - 1, size - 1],
  });
  handle(fig, rough, {
    label: "Right side of the frame", step: 0.5, anywhere: false,
    get: () => [state.x + state.scale * Math.cos(state.angle) * size / 2,
      state.y + state.scale * Math.sin(state.angle) * size / 2],
    set: ([x, y]) => {
      const reach = Math.hypot(x - state.x, y - state.y) * 2 / size;
      if (reach < 1e-9) return;
      state.angle = Math.atan2(y - state.y, x - state.x);
      state.scale = clamp(reach, 0.2, 2.5);
      update();
    },
    bounds: () => [-size / 4, -size / 4, 1.25 * size, 1.25 * size],
  });
  const straight = canvas(fig, {
    label: "The crop that comes out",
    view: () => [-0.5, -0.5, size, size],
    draw: (context) => {
      if (!photo[0]) return;
      const [[a, b, x], [c, d, y]] = pixelMap(theta(), size), det = a * d - b * c;
      context.save();
      context.beginPath();
      context.rect(-0.5, -0.5, size, size);
      context.clip();
      // the canvas draws from rough to straight: the inverse of the map
      context.transform(d / det, -c / det, -b / det, a / det, (b * y - d * x) / det, (c * x - a * y) / det);
      place(context, photo[0], -0.5, -0.5, size, size);
      context.restore();
    },
  });
  pane(fig, "What comes out", straight.box, 220);
  const numbers = table(fig, {
    caption: "What theta says, and what is left to do",
    rows: () => {
      const now = theta(), left = residual(now, target, margin), off = lossesOf(now, target, size);
      return [
        ...now.map((row, i) => {
          return { cells: [i ? "theta, row 2" : "theta, row 1", row.map((v) => fixed(v, 2)).join("\u2002")] };
        }),
        { cells: ["still turned by", `${fixed(left.rotation, 1)}°`] },
        { cells: ["size", `${fixed(left.scale, 3)} ×`] },
        { cells: ["off the middle", percent(left.shift)] },
        { cells: ["loss of Eq. 5", fixed(off.parameters, 3)], strong: true },
        { cells: ["grid off by", `${fixed(off.grid, 1)} px`], strong: true },
      ];
    },
  });
  numbers.style.setProperty("--fk-basis", "260px");
  fig.stage.append(numbers);
  const set = (frame) => { Object.assign(state, frame); update(); fig.paint(); };
  for (const [text, frame] of [["As it came", frameOf(data.theta, size)], ["Straight", truth]]) {
    fig.controls.append(make("button", { type: "button", class: "fk-button", onclick: () => set(frame) }, text));
  }
  toggle(fig, { label: "the right frame", value: false, color: TRUE, onChange: (v) => { state.truth = v; } });
  toggle(fig, { label: "grid", value: true, onChange: (v) => { state.net = v; } });
  update();
  return fig.stop;
}

export default { render };
