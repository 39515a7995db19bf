// FaceFigure: a stack of rendered views with exact landmarks and contours; a slider turns the head.

function render({ model, el }) {
  const data = unpack(model);
  const { values, label, unit, width, height, contours, start } = data;
  const state = { i: start, landmarks: true, contours: true, visibility: false, occluding: false };
  const fig = figure(el, { label: `Rendered face, ${label} by slider` });
  const frames = pictures(fig, values.map((_, i) => data[`frame_${i}`]));
  const solid = contours.filter((c) => !c.occluding), edge = contours.filter((c) => c.occluding);

  const pad = canvas(fig, {
    label: "The face with its landmarks and contours",
    view: () => [-0.5, -0.5, width, height],
    draw: (context, px) => {
      const frame = frames[state.i] ?? frames.find(Boolean);
      if (frame) place(context, frame, -0.5, -0.5, width, height);
      const trace = (list, style) => list.forEach(({ key }) => stroke(context, pairs(item(data[key], state.i)), style));
      if (state.contours) trace(solid, { color: "#7fe3ff", width: 1.6 * px });
      if (state.occluding) trace(edge, { color: "#ff6ec7", width: 2.6 * px });
      if (state.landmarks) {
        const points = pairs(item(data.landmarks, state.i)), seen = item(data.visibility, state.i);
        const pick = (want) => points.filter((_, k) => !state.visibility || Boolean(seen[k]) === want);
        dots(context, pick(true), { radius: 2.7 * px, fill: "#ffd23f" });
        const hidden = { radius: 4 * px, color: "#ff7b6b", width: 1.7 * px, turned: true };
        if (state.visibility) for (const p of pick(false)) cross(context, p, hidden);
      }
    },
  });
  pane(fig, null, pad.box, 320).style.maxWidth = "520px";
  const side = make("div", { class: "fk-stack" });
  pane(fig, "Show", side, 190);

  const tell = () => {
    const seen = item(data.visibility, state.i), hidden = seen.length - seen.reduce((a, b) => a + b, 0);
    fig.say(`${label} ${values[state.i]}${unit}: ${hidden} of ${seen.length} landmarks hidden`);
  };
  const go = (i) => { state.i = i; tell(); };
  const turn = slider(fig, {
    label, min: 0, max: values.length - 1, value: start, format: (i) => `${values[i]}${unit}`, onInput: go,
  });
  if (values.length > 1) player(fig, turn, { fps: 12, bounce: true, onStep: go });
  const box = (key, text, color) => toggle(fig, {
    parent: side, label: text, color, value: state[key], onChange: (on) => { state[key] = on; },
  });
  box("landmarks", "landmarks", "#ffd23f");
  if (solid.length) box("contours", "contours", "#7fe3ff");
  box("visibility", "mark hidden landmarks", "#ff7b6b");
  if (edge.length) box("occluding", "occluding contour", "#ff6ec7");
  tell();
  return fig.stop;
}

export default { render };
