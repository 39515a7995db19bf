// StepsFigure: what a small network predicts at several training steps, beside its loss curve.

function render({ model, el }) {
  const data = unpack(model);
  const { steps, faces, width, height, curves, log, loss_label, scale, unit } = data;
  const truth = data.truth && pairs(data.truth.data);
  const count = data.predictions.shape[2];                        // predictions: (T, F, K, 2)
  const state = { t: 0, truth: Boolean(truth) };
  const fig = figure(el, { label: "Predictions while the network trains" });
  const photos = pictures(fig, Array.from({ length: faces }, (_, f) => data[`face_${f}`]));
  const at = (t, f) => pairs(item(data.predictions, t).subarray(2 * count * f, 2 * count * (f + 1)));
  const given = (f) => truth.slice(count * f, count * (f + 1));
  const error = (t) => {                                          // mean distance to the truth over faces and landmarks
    let sum = 0;
    for (let f = 0; f < faces; f++) {
      const target = given(f);
      at(t, f).forEach(([x, y], k) => { sum += Math.hypot(x - target[k][0], y - target[k][1]); });
    }
    return sum / (faces * count) * scale;
  };
  const errors = truth ? steps.map((_, t) => error(t)) : null;

  const columns = faces === 4 ? 2 : Math.min(faces, 3);
  const gallery = make("div", { class: "fk-gallery", style: `--fk-columns:${columns}` });
  for (let f = 0; f < faces; f++) {
    const pad = canvas(fig, {
      label: `Face ${f + 1} with its predicted landmarks`,
      view: () => [-0.5, -0.5, width, height],
      draw: (context, px) => {
        if (photos[f]) place(context, photos[f], -0.5, -0.5, width, height);
        const now = at(state.t, f);
        if (state.truth) {
          const target = given(f);
          const thread = { color: "rgba(255,255,255,.75)", width: px, rim: null };
          now.forEach((p, k) => stroke(context, [p, target[k]], thread));
          dots(context, target, { radius: 1.6 * px, fill: "#ffffff" });
        }
        dots(context, now, { radius: 2.3 * px, fill: "#ffd23f" });
      },
    });
    gallery.append(pad.box);
  }
  pane(fig, "Predictions", gallery, 340);

  const series = curves.map(({ name }, i) => ({ name, points: pairs(data[`curve_${i}`].data) }));
  const valueAt = (points, x) => {
    const i = points.findIndex(([u]) => u >= x);
    if (i <= 0) return points.at(i)[1];
    const [u0, v0] = points[i - 1], [u1, v1] = points[i];
    return v0 + (v1 - v0) * (x - u0) / (u1 - u0);
  };
  const lossAt = (i, t) => valueAt(series[i].points, steps[t]), errorAt = (t) => `${fixed(errors[t], 2)} ${unit}`;
  const color = (i) => fig.color(1 + i % 6);
  const all = series.flatMap(({ points }) => points.map(([, v]) => v));
  const last = Math.max(steps.at(-1), ...series.flatMap(({ points }) => points.at(-1)[0]));
  const [least, most] = [Math.min(...all), Math.max(...all)];
  const closest = (x) => steps.reduce((best, s, t) => Math.abs(s - x) < Math.abs(steps[best] - x) ? t : best, 0);
  const chart = plot(fig, {
    label: "Training loss by step", height: 250,
    axes: () => ({
      x: { min: 0, max: last, label: "step" },
      y: { min: log ? least * 0.9 : Math.min(0, least), max: most * (log ? 1.1 : 1.05), label: loss_label, log },
    }),
    lines: () => series.map(({ points }, i) => ({
      points, color: color(i), dash: i ? "7 4" : undefined, dot: [steps[state.t], lossAt(i, state.t)],
    })),
    marker: () => steps[state.t],
    onPick: (x) => { go(closest(x)); control.value = state.t; },
  });
  const right = pane(fig, "Loss", chart, 300);
  if (series.length > 1 || errors) {
    right.append(table(fig, {
      caption: "At this step",
      rows: () => [
        ...series.map(({ name }, i) => ({ cells: [name, lossAt(i, state.t).toPrecision(3)], color: color(i) })),
        ...(errors ? [{ cells: ["mean error of these faces", errorAt(state.t)], strong: true }] : []),
      ],
    }));
  }
  const go = (t) => {
    state.t = t;
    fig.say(`Step ${steps[t]}: loss ${lossAt(0, t).toPrecision(3)}` + (errors ? `, mean error ${errorAt(t)}` : ""));
  };
  const control = slider(fig, {
    label: "training step", min: 0, max: steps.length - 1, value: 0, format: (t) => String(steps[t]), onInput: go,
  });
  if (steps.length > 1) player(fig, control, { fps: 4, onStep: go });
  if (truth) {
    toggle(fig, { label: "true points", value: true, color: "#ffffff", onChange: (on) => { state.truth = on; } });
  }
  go(0);
  return fig.stop;
}

export default { render };
