// Scene: a picture, the box that networks are given and a grey cover, both moved by the reader; and a camera.
// lab.py holds the other end: it learns box and cover when the hand lets go, and a camera's frame as a JPEG.

const LEAST = 8, BOX = "#ffd23f", COVER = "rgb(128,128,128)";

const REFUSALS = {
  NotAllowedError: "The camera was refused. Allow it for this page: the sign beside the address. ",
  NotFoundError: "No camera was found. ",
  NotReadableError: "The camera is there but does not answer: another program may be using it. ",
};

// Where a cover begins: over the mouth, off the box's own corners.
const mouth = ([l, t, r, b]) => [l + (r - l) / 6, t + 0.6 * (b - t), r - (r - l) / 6, b - (b - t) / 12];

// Share of the box that the cover hides.
function share([l, t, r, b], cover) {
  if (!cover.length) return 0;
  const wide = Math.min(r, cover[2]) - Math.max(l, cover[0]), high = Math.min(b, cover[3]) - Math.max(t, cover[1]);
  return Math.max(0, wide) * Math.max(0, high) / ((r - l) * (b - t));
}

function render({ model, el }) {
  const state = { box: [...model.get("box")], cover: [...model.get("cover")], whole: false };
  const fig = figure(el, {
    label: "The picture, the box and the cover",
    help: "Drag the yellow box by a corner, or all of it by the middle of its upper side; the grey cover likewise. Keys: "
      + "Tab, then the arrows (with Shift: ten pixels at once).",
  });
  const size = () => state.video ? [state.video.videoWidth, state.video.videoHeight] : model.get("size");
  const whole = () => { const [w, h] = size(); return [-0.5, -0.5, w - 0.5, h - 0.5]; };
  const seen = () => state.whole || state.video ? whole() : model.get("near").map((v) => v - 0.5);
  const pad = canvas(fig, {
    label: "The picture with the box that the networks are given",
    view: () => { const [l, t, r, b] = seen(); return [l, t, r - l, b - t]; },
    draw: (context, px) => {
      const [width, height] = size();
      if (state.video) return context.drawImage(state.video, -0.5, -0.5, width, height);
      if (state.picture) place(context, state.picture, -0.5, -0.5, width, height);
      const rectangle = ([l, t, r, b]) => [l, t, r - l, b - t];
      context.fillStyle = COVER;
      if (state.cover.length) context.fillRect(...rectangle(state.cover));
      for (const [style, line] of [["rgba(0,0,0,.6)", 3.5], [BOX, 1.8]]) {
        context.strokeStyle = style;
        context.lineWidth = line * px;
        context.strokeRect(...rectangle(state.box));
      }
    },
  });
  pane(fig, null, pad.box, 200);

  const tell = () => {
    const [l, t, r, b] = state.box.map(Math.round), hidden = share(state.box, state.cover);
    fig.say(`Box of ${r - l} by ${b - t} pixels` + (hidden ? `, ${percent(hidden, 0)} of it covered` : ""));
  };
  const send = (name) => { model.set(name, [...state[name]]); model.save_changes(); tell(); };
  // a corner beyond what is seen is held at its border
  const inView = ([x, y]) => { const [l, t, r, b] = seen(); return [clamp(x, l, r), clamp(y, t, b)]; };
  const grips = [];
  for (const name of ["cover", "box"]) {
    for (const [label, get, set] of [
      [`Upper left corner of the ${name}`, ([l, t]) => [l, t],
        ([x, y], [, , r, b]) => [Math.min(x, r - LEAST), Math.min(y, b - LEAST), r, b]],
      [`Lower right corner of the ${name}`, ([, , r, b]) => [r, b],
        ([x, y], [l, t]) => [l, t, Math.max(x, l + LEAST), Math.max(y, t + LEAST)]],
      [`The whole ${name}`, ([l, t, r]) => [(l + r) / 2, t],
        ([x, y], [l, t, r, b]) => [x - (r - l) / 2, y, x + (r - l) / 2, y + b - t]],
    ]) {
      const knob = handle(fig, pad, {
        label, anywhere: false, step: 1, bounds: whole,
        get: () => state[name].length ? inView(get(state[name])) : [0, 0],
        set: (point) => { state[name] = set(point, state[name]); tell(); },
        onDrop: () => send(name),
      });
      grips.push([name, knob]);
    }
  }
  pad.handles.push(() => {
    for (const [name, knob] of grips) if (state.video || !state[name].length) knob.hidden = true;
  });
  const covers = toggle(fig, {
    label: "cover a part", value: state.cover.length > 0,
    onChange: (on) => { state.cover = on ? mouth(state.box) : []; send("cover"); },
  });
  toggle(fig, { label: "whole picture", value: false, onChange: (on) => { state.whole = on; } });

  // ---- the camera
  const close = () => {
    state.stream?.getTracks().forEach((track) => track.stop());
    [state.stream, state.video] = [null, null];
    button.textContent = "Open the camera";
    fig.paint();
  };
  const live = () => { if (state.video) { fig.paint(); requestAnimationFrame(live); } };
  const open = async () => {
    try {
      if (!navigator.mediaDevices?.getUserMedia) throw Error("this page may not use one");
      state.stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, facingMode: "user" } });
      const video = make("video", { playsinline: true });
      video.muted = true;
      video.srcObject = state.stream;
      await video.play();
      state.video = video;
      button.textContent = "Take the picture";
      fig.say("Come near, look into the camera, then take the picture.");
      live();
    } catch (error) {
      close();
      fig.say((REFUSALS[error.name] ?? `The camera could not be opened: ${error.message}. `) + "Upload a photo instead.");
    }
  };
  const take = async () => {
    const [width, height] = size(), sheet = new OffscreenCanvas(width, height);
    sheet.getContext("2d").drawImage(state.video, 0, 0);
    close();
    const photo = await sheet.convertToBlob({ type: "image/jpeg", quality: 0.95 });
    model.set("photo", new DataView(await photo.arrayBuffer()));
    model.save_changes();
  };
  const button = make("button", {
    type: "button", class: "fk-button", onclick: () => state.video ? take() : open(),
  }, "Open the camera");
  fig.controls.append(button);

  // ---- what Python sets
  const load = async () => {
    state.picture = await createImageBitmap(new Blob([model.get("picture")], { type: "image/jpeg" }));
    fig.paint();
  };
  const taken = () => {
    [state.box, state.cover] = [[...model.get("box")], [...model.get("cover")]];
    covers.checked = state.cover.length > 0;
    tell();
    fig.paint();
  };
  model.on("change:picture", load);
  model.on("change:box change:cover change:size", taken);
  fig.onStop(() => { close(); model.off("change:picture", load); model.off("change:box change:cover change:size", taken); });
  load();
  tell();
  return fig.stop;
}

export default { render };
