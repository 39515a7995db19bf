// OverlayFigure: a photo with predicted landmarks; choose one and see its heatmap over the photo.

function render({ model, el }) {
  const data = unpack(model);
  const { width, height, map_width, map_height, to_map, groups, start } = data;
  const points = pairs(data.landmarks.data), truth = data.truth && pairs(data.truth.data);
  const scores = data.scores?.data;
  const state = { k: start, all: true, truth: false };
  const fig = figure(el, {
    label: "Predicted landmarks and their heatmaps",
    help: "Point at a landmark or tap it. With the keyboard: arrow keys on the picture go to the next landmark that "
      + "way; the slider goes through all in order.",
  });
  const photo = pictures(fig, [data.image]);
  const heat = points.map(() => null);                            // made when first looked at
  const heatOf = (k) => heat[k] ??= {
    over: heatPicture(item(data.heatmaps, k), map_width, map_height, { top: 255, overlay: true }),
    alone: heatPicture(item(data.heatmaps, k), map_width, map_height, { top: 255 }),
  };
  // heatmap pixel = to_map applied to image pixel; the canvas needs the inverse
  const [[a, b, tx], [c, d, ty]] = to_map;
  const det = a * d - b * c;
  const inverse = [d / det, -c / det, -b / det, a / det, (b * ty - d * tx) / det, (c * tx - a * ty) / det];
  const scoreColor = (k) => !scores ? "#ffd23f" : `rgb(${colorAt(SCORE, scores[k])})`;
  const groupOf = (k) => groups.find((g) => g.indices.includes(k))?.name ?? "";

  const pad = canvas(fig, {
    label: "The photo with its predicted landmarks",
    view: () => [-0.5, -0.5, width, height],
    draw: (context, unit) => {
      if (photo[0]) place(context, photo[0], -0.5, -0.5, width, height);
      context.save();
      context.transform(...inverse);
      place(context, heatOf(state.k).over, -0.5, -0.5, map_width, map_height);
      context.restore();
      const given = { radius: 3.2 * unit, color: "#ffffff", width: 1.3 * unit };
      if (state.truth) for (const p of truth) cross(context, p, given);
      if (state.all) dots(context, points, { radius: 2.4 * unit, fill: scoreColor });
      const [x, y] = points[state.k];
      context.beginPath();
      context.arc(x, y, 7 * unit, 0, 2 * Math.PI);
      for (const [color, width] of [["#111", 4.5], ["#fff", 2.2]]) {
        context.strokeStyle = color;
        context.lineWidth = width * unit;
        context.stroke();
      }
    },
  });
  pane(fig, "Photo, landmarks, and the heatmap of the chosen one", pad.box, 320);
  const alone = canvas(fig, {
    label: "The heatmap of the chosen landmark alone",
    view: () => [-0.5, -0.5, map_width, map_height],
    draw: (context) => place(context, heatOf(state.k).alone, -0.5, -0.5, map_width, map_height, false),
  });
  const side = pane(fig, "The heatmap alone", alone.box, 200);
  side.style.maxWidth = "320px";
  const error = (k) => Math.hypot(points[k][0] - truth[k][0], points[k][1] - truth[k][1]);
  side.append(table(fig, {
    caption: "Chosen landmark",
    rows: () => [
      { cells: ["landmark", `${state.k} ${groupOf(state.k)}`.trim()] },
      { cells: ["x, y", `${fixed(points[state.k][0], 1)}, ${fixed(points[state.k][1], 1)}`] },
      ...(scores ? [{ cells: ["score", fixed(scores[state.k], 2)], strong: true }] : []),
      ...(truth ? [{ cells: ["error", `${fixed(error(state.k), 1)} px`] }] : []),
    ],
  }));

  if (scores) side.append(legend(SCORE, "score 0", "1"));

  const choose = (k) => {
    state.k = k;
    control.value = k;
    const [x, y] = points[k];
    pad.box.setAttribute("aria-valuenow", k);
    const name = [`Landmark ${k}`, groupOf(k)].filter(Boolean).join(", ");
    const text = `${name}: x ${fixed(x, 1)}, y ${fixed(y, 1)}` + (scores ? `, score ${fixed(scores[k], 2)}` : "");
    pad.box.setAttribute("aria-valuetext", text);
    fig.say(text);
    fig.paint();
  };
  const control = slider(fig, { label: "landmark", min: 0, max: points.length - 1, value: start, onInput: choose });
  toggle(fig, {
    label: "all landmarks", value: true, color: scores ? undefined : "#ffd23f", onChange: (on) => { state.all = on; },
  });
  if (truth) toggle(fig, { label: "given points", value: false, onChange: (on) => { state.truth = on; } });

  const nearest = ([x, y]) => points.reduce((best, [u, v], k) => {
    const gap = Math.hypot(u - x, v - y);
    return gap < best.gap ? { k, gap } : best;
  }, { k: state.k, gap: Infinity });
  const point = (event) => choose(nearest(pad.toData(event)).k);
  pad.box.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") point(event); });
  pad.box.addEventListener("click", point);
  // The nearest landmark within 45 degrees of the arrow's way.
  const beside = ([wx, wy]) => {
    const [x, y] = points[state.k];
    let best = state.k, least = Infinity;
    points.forEach(([u, v], k) => {
      const along = (u - x) * wx + (v - y) * wy, across = Math.abs((u - x) * wy) + Math.abs((v - y) * wx);
      if (along <= 0 || across > along || along + 2 * across >= least) return;
      best = k;
      least = along + 2 * across;
    });
    return best;
  };
  const roles = {
    tabindex: 0, role: "slider", "aria-label": "Landmark chosen on the photo",
    "aria-valuemin": 0, "aria-valuemax": points.length - 1,
  };
  for (const [key, value] of Object.entries(roles)) pad.box.setAttribute(key, value);
  pad.box.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    choose(beside(way));
  });
  choose(start);
  return fig.stop;
}

export default { render };
