// CedFigure: cumulative error distributions; the reader moves the limit and sees FR and AUC follow.

// Share of errors at or below x, for sorted errors.
function share(sorted, x) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const mid = (low + high) >> 1;
    if (sorted[mid] <= x) low = mid + 1; else high = mid;
  }
  return low / sorted.length;
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

// FR = share of errors above the limit.
const failureRate = (sorted, limit) => 1 - share(sorted, limit);

// AUC = 1/limit * integral of the CED from 0 to limit = mean of max(0, 1 - e/limit): each error e lifts the
// curve by 1/N from e on, so it adds (limit - e)/N to the area.
const auc = (sorted, limit) => sorted.reduce((sum, e) => sum + Math.max(0, 1 - e / limit), 0) / sorted.length;

function render({ model, el }) {
  const { normalizers, names, limit: start, span, ...arrays } = unpack(model);
  const state = { limit: start, normalizer: 0, focus: 0 };
  const samples = normalizers.map((_, n) => names.map((_, i) => arrays[`errors_${n}_${i}`].data));
  const current = () => samples[state.normalizer];
  const fig = figure(el, {
    label: "Cumulative error distributions",
    help: "Drag across the plot or move the slider. The shaded area, divided by the limit, is the AUC. The failure "
      + "rate FR is 100 % minus the value of the curve at the limit.",
  });
  const color = (i) => fig.color(1 + i % 6);

  const steps = (sorted) => {                                     // the curve, one step per error, at most 400 points
    const points = [[0, 0]], stride = Math.max(1, Math.floor(sorted.length / 400));
    for (let i = 0; i < sorted.length; i += stride) points.push([sorted[i], (i + 1) / sorted.length]);
    points.push([sorted.at(-1), 1], [Math.max(span, sorted.at(-1)), 1]);
    return points;
  };
  const cut = (points, x) => {                                    // the part up to x, ending exactly there
    const inside = points.filter(([u]) => u < x), rest = points.find(([u]) => u >= x);
    if (!rest) return inside;
    const [u0, v0] = inside.at(-1) ?? [0, 0], [u1, v1] = rest;
    return [...inside, [x, u1 > u0 ? v0 + (v1 - v0) * (x - u0) / (u1 - u0) : v1]];
  };
  const chart = plot(fig, {
    label: "Share of images with an error up to x, one line per method", height: 300,
    axes: () => ({
      x: {
        min: 0, max: span, label: `error, share of the ${normalizers[state.normalizer]} (%)`,
        format: (v) => String(+(100 * v).toFixed(2)),
      },
      y: { min: 0, max: 1, label: "share of images (%)", format: (v) => (100 * v).toFixed(0) },
    }),
    lines: () => current().map((sorted, i) => {
      const points = cut(steps(sorted), span);
      return {
        points, color: color(i), dash: i ? ["7 4", "2 4", "9 3 2 3"][(i - 1) % 3] : undefined,
        dot: [state.limit, share(sorted, state.limit)],
        under: i === state.focus && cut(points, state.limit),
      };
    }),
    marker: () => state.limit,
    onPick: (x) => setLimit(Math.max(Math.round(x * 1000) / 1000, 0.005)),
  });
  const setLimit = (limit) => { state.limit = limit; control.value = 100 * limit; tell(); };
  const numbersOf = (sorted, i) => [
    names[i], ...[mean(sorted), failureRate(sorted, state.limit), auc(sorted, state.limit)].map((v) => percent(v, 2)),
  ];
  const tell = () => {
    const [, , fr, area] = numbersOf(current()[state.focus], state.focus);
    fig.say(`${names[state.focus]}: at ${percent(state.limit)}, FR ${fr}, AUC ${area}`);
  };
  pane(fig, "Cumulative error distribution", chart, 380);
  const numbers = table(fig, {
    caption: "At this limit", head: ["method", "mean", "FR", "AUC"],
    rows: () => current().map((sorted, i) => ({
      cells: numbersOf(sorted, i), color: color(i), strong: i === state.focus,
    })),
  });
  fig.stage.append(numbers);
  const control = slider(fig, {
    label: "limit", min: 0.5, max: 100 * span, step: 0.1, value: 100 * start, format: (v) => `${v.toFixed(1)} %`,
    onInput: (v) => { state.limit = v / 100; tell(); },
  });
  if (normalizers.length > 1) {
    choice(fig, {
      label: "normaliser", options: normalizers.map((name, i) => [i, name]), value: 0,
      onChange: (i) => { state.normalizer = i; tell(); },
    });
  }
  if (names.length > 1) {
    choice(fig, {
      label: "shade", options: names.map((name, i) => [i, name]), value: 0,
      onChange: (i) => { state.focus = i; tell(); },
    });
  }
  tell();
  return fig.stop;
}

export default { render };
