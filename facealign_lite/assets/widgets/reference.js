// ReferenceFigure: which patch of a reference face answers to a place of the target, and how surely?
// The formulas are those of facealign_lite.rht; tests/test_widgets.py holds the two together.

// Cosines of one target patch with every reference patch: features are (C, H, W), 0 beyond the border.
function similarities(query, key, place, patch) {
  const [channels, height, width] = query.shape, reach = patch >> 1, count = height * width;
  const row = Math.floor(place / width), column = place % width, found = new Float64Array(count);
  const on = (y, x) => y >= 0 && y < height && x >= 0 && x < width;
  for (let v = 0; v < height; v++) {
    for (let u = 0; u < width; u++) {
      let product = 0, own = 0, other = 0;
      for (let dy = -reach; dy <= reach; dy++) {
        for (let dx = -reach; dx <= reach; dx++) {
          const here = on(row + dy, column + dx), there = on(v + dy, u + dx);
          for (let c = 0; c < channels; c++) {
            const q = here ? query.data[c * count + (row + dy) * width + column + dx] : 0;
            const k = there ? key.data[c * count + (v + dy) * width + u + dx] : 0;
            product += q * k;
            own += q * q;
            other += k * k;
          }
        }
      }
      const length = Math.sqrt(own) * Math.sqrt(other);
      found[v * width + u] = length > 1e-16 ? clamp(product / length, -1, 1) : 0;
    }
  }
  return found;
}

// The first of the greatest, and the greatest of those at least `far` places away from it.
function best(values, width, far) {
  let first = 0, second = -1;
  for (let i = 0; i < values.length; i++) if (values[i] > values[first]) first = i;
  for (let i = 0; i < values.length; i++) {
    const apart = Math.hypot(i % width - first % width, Math.floor(i / width) - Math.floor(first / width));
    if (apart >= far && (second < 0 || values[i] > values[second])) second = i;
  }
  return { first, second };
}

const FAR = 4;                                                    // places: a rival is not a neighbour of the winner
const SHARP = 6;                                                  // most cosines are high: show only the highest
const OWN = "#ffd23f", FOUND = "#5ec8ff", RIVAL = "#ff8fd0";      // on a photo

function render({ model, el }) {
  const data = unpack(model), { rows, columns, patches } = data;
  const state = { place: data.start, patch: data.patch, map: true, weighted: true };
  const fig = figure(el, {
    label: "A place of the target, and the patch of the reference that answers",
    help: "Drag the ring on the target, tap a place, or focus the ring and use the arrow keys.",
  });
  const photos = pictures(fig, [data.target, data.reference]);
  const at = (i) => [i % columns, Math.floor(i / columns)];
  const index = (k) => item(data.index, patches.indexOf(state.patch))[k];
  const confidence = (k) => item(data.confidence, patches.indexOf(state.patch))[k];
  let now;
  const update = () => {
    const values = similarities(data.query, data.key, state.place, state.patch);
    const { first, second } = best(values, columns, FAR);
    const low = values.reduce((a, b) => Math.min(a, b)), span = Math.max(values[first] - low, 1e-9);
    const heat = values.map((v) => ((v - low) / span) ** SHARP);
    now = { values, first, second, picture: heatPicture(heat, columns, rows, { overlay: true }) };
    const [x, y] = at(state.place), [u, v] = at(first);
    fig.say(`Place x ${x}, y ${y}: the reference answers from x ${u}, y ${v} with confidence ${fixed(values[first], 3)}`);
  };
  const square = (context, k, side, color, unit) => {
    const [x, y] = at(k), r = side / 2;
    for (const [style, wide] of [["rgba(0,0,0,.75)", 4.5], [color, 2.2]]) {
      context.strokeStyle = style;
      context.lineWidth = wide * unit;
      context.strokeRect(x - r, y - r, side, side);
    }
  };
  const view = () => [-0.5, -0.5, columns, rows];
  const cover = (context, picture) => { if (picture) place(context, picture, ...view()); };
  const target = canvas(fig, {
    label: "The target face and the place that asks", view,
    draw: (context, unit) => {
      cover(context, photos[0]);
      square(context, state.place, state.patch, OWN, unit);
    },
  });
  pane(fig, "Target: who asks", target.box, 200);
  handle(fig, target, {
    label: "Place on the target", step: 1, get: () => at(state.place),
    set: ([x, y]) => {
      const next = clamp(Math.round(y), 0, rows - 1) * columns + clamp(Math.round(x), 0, columns - 1);
      if (next !== state.place) { state.place = next; update(); }
    },
    bounds: () => [0, 0, columns - 1, rows - 1],
    describe: () => at(state.place).map((v, i) => `${"xy"[i]} ${v}`).join(", "),
  });
  const reference = canvas(fig, {
    label: "The reference face, how similar each of its places is, and which one answers", view,
    draw: (context, unit) => {
      cover(context, photos[1]);
      if (state.map) cover(context, now.picture);
      if (now.second >= 0) square(context, now.second, state.patch, RIVAL, unit);
      square(context, now.first, state.patch, FOUND, unit);
    },
  });
  pane(fig, "Reference: who answers", reference.box, 200);
  const borrowed = canvas(fig, {
    label: "The target put together from the places of the reference that answer", view,
    draw: (context, unit) => {
      context.fillStyle = "#000";
      context.fillRect(...view());
      if (!photos[1]) return;
      const wide = photos[1].width / columns, high = photos[1].height / rows;
      for (let k = 0; k < rows * columns; k++) {
        const [x, y] = at(k), [u, v] = at(index(k));
        context.globalAlpha = state.weighted ? clamp(confidence(k), 0, 1) : 1;
        context.drawImage(photos[1], u * wide, v * high, wide, high, x - 0.5, y - 0.5, 1, 1);
      }
      context.globalAlpha = 1;
      square(context, state.place, 1, OWN, unit);
    },
  });
  pane(fig, "What is borrowed", borrowed.box, 200);
  const numbers = table(fig, {
    caption: `Cosines of ${data.query.shape[0]} numbers a place, on a map of ${columns} \u00d7 ${rows}`,
    head: ["reference", "x", "y", "cosine"],
    rows: () => [["answers", now.first, FOUND], [`best elsewhere`, now.second, RIVAL], ["same place", state.place, OWN]]
      .filter(([, k]) => k >= 0).map(([name, k, color]) => {
        return { cells: [name, ...at(k).map(String), fixed(now.values[k], 3)], color };
      }),
  });
  numbers.style.setProperty("--fk-basis", "320px");
  fig.stage.append(numbers);
  choice(fig, {
    label: "patch", options: patches.map((n) => [n, `${n} \u00d7 ${n}`]), value: state.patch,
    onChange: (patch) => { state.patch = patch; update(); },
  });
  toggle(fig, { label: "similarity", value: true, onChange: (on) => { state.map = on; } });
  toggle(fig, { label: "weighed by confidence", value: true, onChange: (on) => { state.weighted = on; } });
  update();
  return fig.stop;
}

export default { render };
