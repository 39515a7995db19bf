// "Your own photo": what the library does between a picture and its landmarks or contours, in the reader's browser.
//
// photo/kit.js runs before this script and puts into window.yourPhoto the kit of the book's figures, with the tracing
// of contours, and the library's numbers ("settings"). Large scripts are loaded from here: the networks
// (photo/networks.js, photo/contours.js) and what runs them (lib/onnxruntime-web.js). book/browser_models.py and
// book/assets.py write them. Below: maps of the plane, pixels, heatmaps, networks, looks, contours, the search for a
// face, following a face, the figure. tests/browser/test_your_photo.py holds all of it to the library.
//
// Coordinates: (x, y), 0-based pixel centres, x to the right, y down. A map of the plane is [a, b, c, d, e, f]:
// x' = a x + b y + c, y' = d x + e y + f. A box is [left, top, right, bottom].
(() => {
const root = document.getElementById("your-photo");
if (!window.yourPhoto?.kit || !root) return;                  // built without them; the page says so
const { kit, settings: S } = window.yourPhoto;
const { clamp, fixed, make, figure, pane, slider, choice, toggle, table, canvas, handle, place, dots } = kit;
const { HEAT, SCORE, colorAt, heatPicture, legend, stroke, extract } = kit;
const home = new URL("./", document.currentScript.src);       // _static/
const LARGEST = 2048;     // pixels of a picture's longer side; a larger picture is made smaller first
const JUDGED = 16;        // boxes that are judged at most (the library: 64): more would take seconds here
const BATCH = 8;          // crops a run
const CAMERA = 320;       // longest side of a camera's frame that is searched: the face is large

// ---- maps of the plane (facealign_lite/geometry.py, data/crops.py) -----------------------------------------------

const at = ([a, b, c, d, e, f], [x, y]) => [a * x + b * y + c, d * x + e * y + f];

// The map that goes through `before`, then through `after`.
const compose = ([a, b, c, d, e, f], [A, B, C, D, E, F]) =>
  [a * A + b * D, a * B + b * E, a * C + b * F + c, d * A + e * D, d * B + e * E, d * C + e * F + f];

function invert([a, b, c, d, e, f]) {
  const n = a * e - b * d;
  return [e / n, -b / n, (b * f - c * e) / n, -d / n, a / n, (c * d - a * f) / n];
}

// Of points the box; of a box the longer side; of points the mean.
function boxOf(points) {
  const x = points.map((p) => p[0]), y = points.map((p) => p[1]);
  return [Math.min(...x), Math.min(...y), Math.max(...x), Math.max(...y)];
}
const sideOf = ([left, top, right, bottom]) => Math.max(right - left, bottom - top);
const meanOf = (points) => [0, 1].map((k) => points.reduce((sum, p) => sum + p[k], 0) / points.length);

// From the picture to the crop: the square of (1 + margin) times the box's longer side fills S x S pixels, and the
// picture turns by the angle, clockwise. The middle of the box lands on (S - 1) / 2.
function cropMatrix(box, angle = 0) {
  const zoom = S.size / (sideOf(box) * (1 + S.margin)), c = zoom * Math.cos(angle), s = zoom * Math.sin(angle);
  const x = (box[0] + box[2]) / 2, y = (box[1] + box[3]) / 2, middle = (S.size - 1) / 2;
  return [c, -s, middle - c * x + s * y, s, c, middle - s * x - c * y];
}

// The crop around points that holds the line from the right to the left eye level; null if both are one point.
function levelMatrix(points, right, left) {
  const x = left[0] - right[0], y = left[1] - right[1], n = Math.hypot(x, y);
  if (!(n > 0)) return null;
  const level = [x / n, y / n, 0, -y / n, x / n, 0];
  return compose(cropMatrix(boxOf(points.map((p) => at(level, p)))), level);
}

// The same for 68 landmarks.
const uprightMatrix = (points) => levelMatrix(points, ...S.eyes.map((eye) => meanOf(eye.map((i) => points[i]))));

const mirrored = (matrix) => compose([-1, 0, S.size - 1, 0, 1, 0], matrix);

// The same crop, turned about its middle, and wider by a tenth for a positive angle, closer for a negative one.
function turned(matrix, angle) {
  const zoom = 1 - 0.1 * Math.sign(angle), c = zoom * Math.cos(angle), s = zoom * Math.sin(angle);
  const m = (S.size - 1) / 2;
  return compose([c, -s, m - c * m + s * m, s, c, m - s * m - c * m], matrix);
}

// ---- pixels (data/crops.py, OpenCV's resize and warpAffine) ------------------------------------------------------

// A picture is {width, height, planes, data}: data holds one or three bytes a pixel, grey or RGB.
function fromCanvas(source, width, height) {
  const rgba = source.getContext("2d").getImageData(0, 0, width, height).data;
  const data = new Uint8Array(3 * width * height);
  for (let i = 0, j = 0; j < data.length; i++) if (i % 4 < 3) data[j++] = rgba[i];            // without opacity
  return { width, height, planes: 3, data };
}

// Luma 0.299 R + 0.587 G + 0.114 B, in whole numbers.
function grey({ width, height, planes, data }) {
  if (planes === 1) return { width, height, planes, data };
  const out = new Uint8Array(width * height);
  for (let i = 0, j = 0; i < out.length; i++, j += 3) {
    out[i] = (4899 * data[j] + 9617 * data[j + 1] + 1868 * data[j + 2] + 8192) >> 14;
  }
  return { width, height, planes: 1, data: out };
}

// Which pixels of n a pixel of m covers, n >= m, and by how much: [[first, shares], ...].
function cover(n, m) {
  return Array.from({ length: m }, (_, i) => {
    const from = i * n / m, to = (i + 1) * n / m, first = Math.floor(from + 1e-9), shares = [];
    for (let k = first; k < Math.min(n, to - 1e-9); k++) {
      shares.push((Math.min(k + 1, to) - Math.max(k, from)) * m / n);
    }
    return [first, shares];
  });
}

// A smaller picture, each pixel the mean of what it covers.
function shrink(picture, width, height) {
  const { planes, data } = picture, across = cover(picture.width, width), down = cover(picture.height, height);
  const rows = new Float32Array(width * planes), out = new Uint8Array(width * height * planes);
  for (let y = 0; y < height; y++) {
    rows.fill(0);
    const [top, weights] = down[y];
    weights.forEach((weight, j) => {
      const start = (top + j) * picture.width * planes;
      for (let x = 0; x < width; x++) {
        const [first, shares] = across[x];
        for (let i = 0; i < shares.length; i++) {
          const from = start + (first + i) * planes, w = weight * shares[i];
          for (let k = 0; k < planes; k++) rows[x * planes + k] += w * data[from + k];
        }
      }
    });
    for (let i = 0; i < rows.length; i++) out[y * rows.length + i] = Math.round(rows[i]);
  }
  return { width, height, planes, data: out };
}

// Of a grey picture the part that a crop shows, step x step pixels averaged to one; and the map from there to the crop.
function averaged(picture, matrix, step) {
  const back = invert(matrix), edge = S.size - 0.5;
  const seen = boxOf([[-0.5, -0.5], [edge, -0.5], [-0.5, edge], [edge, edge]].map((p) => at(back, p)));
  const { width: w, height: h } = picture;
  const left = clamp(Math.floor(seen[0]) - step, 0, w - 1), top = clamp(Math.floor(seen[1]) - step, 0, h - 1);
  const right = clamp(Math.ceil(seen[2]) + step + 1, left + 1, w);
  const bottom = clamp(Math.ceil(seen[3]) + step + 1, top + 1, h);
  const across = Math.min(step, right - left), down = Math.min(step, bottom - top);       // no more than there is
  const width = Math.ceil((right - left) / across), height = Math.ceil((bottom - top) / down);
  const data = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let j = 0; j < down; j++) {                                                    // the border is repeated
        const row = Math.min(top + y * down + j, bottom - 1) * w;
        for (let i = 0; i < across; i++) sum += picture.data[row + Math.min(left + x * across + i, right - 1)];
      }
      data[y * width + x] = Math.round(sum / (across * down));
    }
  }
  // small pixel q shows pixel p = (q + 1/2) step - 1/2 + low
  const small = [across, 0, (across - 1) / 2 + left, 0, down, (down - 1) / 2 + top];
  return [{ width, height, planes: 1, data }, compose(matrix, small)];
}

// The crop of a grey picture: S x S floats in [-0.5, 0.5], read between pixels in straight lines, the border repeated.
function crop(picture, matrix) {
  const step = Math.trunc(1 / Math.sqrt(Math.abs(matrix[0] * matrix[4] - matrix[1] * matrix[3])));
  if (step > 1) [picture, matrix] = averaged(picture, matrix, step);
  const { width, height, data } = picture, back = invert(matrix), out = new Float32Array(S.size * S.size);
  for (let v = 0, n = 0; v < S.size; v++) {
    for (let u = 0; u < S.size; u++, n++) {
      const [x, y] = at(back, [u, v]), i = Math.floor(x), j = Math.floor(y), s = x - i, t = y - j;
      const left = clamp(i, 0, width - 1), right = clamp(i + 1, 0, width - 1);
      const upper = clamp(j, 0, height - 1) * width, lower = clamp(j + 1, 0, height - 1) * width;
      const value = (1 - t) * ((1 - s) * data[upper + left] + s * data[upper + right])
        + t * ((1 - s) * data[lower + left] + s * data[lower + right]);
      out[n] = Math.round(value) / 255 - 0.5;
    }
  }
  return out;
}

// ---- heatmaps (heatmaps.py: "soft_argmax" and peak) --------------------------------------------------------------

// Maps of logits (K, side, side) of one crop -> points in its pixels, scores, and the masses that these are read from.
function read(logits, side) {
  const area = side * side, points = [], scores = [], mass = new Float32Array(logits.length);
  for (let k = 0; k < logits.length; k += area) {
    let best = 0;
    for (let i = 1; i < area; i++) if (logits[k + i] > logits[k + best]) best = i;
    let total = 0, x = 0, y = 0;
    for (let i = 0; i < area; i++) total += mass[k + i] = Math.exp(logits[k + i] - logits[k + best]);
    // the mean place under the softmax, and its share within a pixel of the peak
    let near = 0;
    for (let i = 0; i < area; i++) {
      const m = mass[k + i] /= total, u = i % side, v = Math.floor(i / side);
      x += m * u;
      y += m * v;
      if (Math.abs(u - best % side) <= 1 && Math.abs(v - Math.floor(best / side)) <= 1) near += m;
    }
    // q = (p + 1/2) s - 1/2
    const zoom = S.size / side;
    points.push([(x + 0.5) * zoom - 0.5, (y + 0.5) * zoom - 0.5]);
    scores.push(near);
  }
  return { points, scores, mass, side };
}

// ---- networks ----------------------------------------------------------------------------------------------------

class Plain extends Error {}        // what is to be said to the reader as it stands

// The bytes of a text: base64 of gzip.
async function unpack(text) {
  const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const load = (address) => new Promise((done, fail) => {
  const onerror = () => fail(new Plain("This copy of the book was built without what runs networks in a page. Build it "
    + "with Node.js on the computer (make book fetches the rest through npm), and this page comes alive. Meanwhile "
    + "chapter 0 does the same in a notebook."));
  document.head.append(make("script", { src: new URL(address, home).href, onload: done, onerror }));
});

let ort = null;
const sessions = {};

async function start() {
  if (typeof WebAssembly === "undefined" || typeof DecompressionStream === "undefined") {
    throw new Plain("This browser cannot run the networks (it lacks WebAssembly or DecompressionStream). Open this "
      + "page in a current Chrome, Edge, Firefox or Safari.");
  }
  await load("lib/onnxruntime-web.js");
  await load("photo/networks.js");
  const { runtime, networks } = window.yourPhoto;
  const module = new Blob([await unpack(runtime.module)], { type: "text/javascript" });
  ort = await import(URL.createObjectURL(module));
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: await unpack(runtime.wasm) });
  ort.env.logLevel = "error";
  for (const name of ["hourglass", "finder"]) await open(name, networks[name]);
}

async function open(name, text) {
  sessions[name] = await ort.InferenceSession.create(await unpack(text), { executionProviders: ["wasm"] });
}

// ACE-Net is loaded when it is first asked for.
async function openContours() {
  if (sessions.contours) return;
  await load("photo/contours.js");
  await open("contours", window.yourPhoto.contours);
}

// ---- looks (looks.py) --------------------------------------------------------------------------------------------

// What a network answers to crops of a grey picture: for each its maps (K, side, side).
async function answers(name, picture, matrices) {
  const found = [], { size } = S;
  for (let from = 0; from < matrices.length; from += BATCH) {
    const some = matrices.slice(from, from + BATCH), image = new Float32Array(some.length * size * size);
    some.forEach((matrix, i) => image.set(crop(picture, matrix), i * size * size));
    const { maps } = await sessions[name].run({
      image: new ort.Tensor("float32", image, [some.length, 1, size, size]),
    });
    const [, count, side] = maps.dims, step = count * side * side;
    some.forEach((_, i) => found.push({ maps: maps.data.subarray(i * step, (i + 1) * step), side }));
  }
  return found;
}

// What the hourglass reads in crops of a grey picture, each by itself, in pixels of its crop.
async function look(picture, matrices) {
  return (await answers("hourglass", picture, matrices)).map(({ maps, side }) => read(maps, side));
}

// One reading of a crop and of its mirror image: x in the mirror is S - 1 - x, and left and right change names.
function fold(one, other) {
  const points = one.points.map(([x, y], i) => {
    const [u, v] = other.points[S.flip[i]];
    return [(x + S.size - 1 - u) / 2, (y + v) / 2];
  });
  return { ...one, points, scores: one.scores.map((score, i) => (score + other.scores[S.flip[i]]) / 2) };
}

// A look in the box, then one at the upright face just found, beside its mirror image.
async function lookTwice(picture, box, angle = 0, looks = 2) {
  let matrix = cropMatrix(box, angle);
  let [seen] = await look(picture, [matrix]);
  if (looks === 2) {
    const straight = uprightMatrix(seen.points);
    if (straight) matrix = compose(straight, matrix);
    seen = fold(...await look(picture, [matrix, mirrored(matrix)]));
  }
  return inPicture(seen, matrix, box);
}

// A reading with its landmarks, and curves, in pixels of the picture.
function inPicture(seen, matrix, box) {
  const back = invert(matrix), lines = Object.entries(seen.curves ?? {});
  const contours = Object.fromEntries(lines.map(([name, line]) => [name, line.map((p) => at(back, p))]));
  return { ...seen, landmarks: seen.points.map((p) => at(back, p)), contours, matrix, box: box ?? null };
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

// ---- contours (acenet.py, contours.py) ---------------------------------------------------------------------------

// Anchors and contours from maps of heat: {points, scores} of the anchors, {curves} by name, in pixels of the crop.
function readContours(maps, side) {
  const area = side * side, zoom = S.size / side, toCrop = (p) => p.map((v) => (v + 0.5) * zoom - 0.5);
  const points = [], scores = [], curves = {};
  for (let k = 0; k < S.anchors; k++) {
    const heat = maps.subarray(k * area, (k + 1) * area);
    let best = 0, total = 0, x = 0, y = 0;
    for (let i = 1; i < area; i++) if (heat[i] > heat[best]) best = i;
    // ACE-Net Eq. 12: the centre of the heat about the hottest pixel
    heat.forEach((h, i) => {
      const u = i % side, v = Math.floor(i / side), d = Math.hypot(u - best % side, v - Math.floor(best / side));
      if (d > S.read_sigma || !(h > 0)) return;
      total += h;
      x += h * u;
      y += h * v;
    });
    points.push(toCrop(total > 0 ? [x / total, y / total] : [(side - 1) / 2, (side - 1) / 2]));
    scores.push(clamp(heat[best], 0, 1));
  }
  S.contours.forEach((name, k) => {
    const heat = maps.subarray((S.anchors + k) * area, (S.anchors + k + 1) * area);
    const pieces = extract(heat, side, side, S.read_sigma, S.contour_low, S.contour_high).curves;
    if (pieces.length) curves[name] = join(pieces, S.join).map(toCrop);
  });
  return { points, scores, curves, mass: maps, side };
}

// One curve from pieces that lie end to end: again and again the nearest whose end is at most `gap` away is put on. It
// may not turn back, nor may the bridge to it, but for a few pixels by which two pieces overlap.
function join([curve, ...others], gap) {
  const NEAR = 3, dot = (a, b) => a[0] * b[0] + a[1] * b[1], minus = (a, b) => [a[0] - b[0], a[1] - b[1]];
  const closed = (line) => line.length > 2 && line[0][0] === line.at(-1)[0] && line[0][1] === line.at(-1)[1];
  const heading = (line) => minus(line.at(-1), line.at(-Math.min(line.length, 4)));
  if (closed(curve)) return curve;
  const pieces = others.filter((piece) => !closed(piece));
  for (;;) {
    let best = null, least = gap;
    for (const own of [[...curve].reverse(), curve]) {
      pieces.forEach((piece, i) => {
        for (const other of [piece, [...piece].reverse()]) {
          const bridge = minus(other[0], own.at(-1)), long = Math.hypot(...bridge);
          const way = heading(own), [x, y] = heading([...other].reverse()), on = [-x, -y];
          if (long > least || !(dot(way, on) > 0)) continue;
          if (long > NEAR && !(Math.min(dot(way, bridge), dot(bridge, on)) > 0)) continue;
          best = [i, [...own, ...other]];
          least = long;
        }
      });
    }
    if (!best) return curve;
    pieces.splice(best[0], 1);
    curve = best[1];
  }
}

// Maps of a crop and of its mirror image, averaged.
function foldMaps(one, other) {
  const { side } = one, area = side * side;
  const maps = Float32Array.from(one.maps, (value, i) => {
    const k = Math.floor(i / area), y = Math.floor(i % area / side), x = i % side;
    return (value + other.maps[S.map_flip[k] * area + y * side + side - 1 - x]) / 2;
  });
  return { maps, side };
}

// The upright crop of anchors and contours; null where a contour is missing: anchors alone do not reach the chin.
function uprightContours({ points, curves }) {
  if (Object.keys(curves).length < S.contours.length) return null;
  const right = meanOf(points.slice(0, 2)), left = meanOf(points.slice(2, 4));         // corners of the eyes
  return levelMatrix([...points, ...Object.values(curves).flat()], right, left);
}

// As lookTwice, by ACE-Net.
async function contoursTwice(picture, box, angle = 0, looks = 2) {
  let matrix = cropMatrix(box, angle);
  let [seen] = await answers("contours", picture, [matrix]);
  if (looks === 2) {
    const straight = uprightContours(readContours(seen.maps, seen.side));
    if (straight) matrix = compose(straight, matrix);
    seen = foldMaps(...await answers("contours", picture, [matrix, mirrored(matrix)]));
  }
  return inPicture(readContours(seen.maps, seen.side), matrix, box);
}

// ---- the search for a face (detection.py) ------------------------------------------------------------------------

// The picture turned by quarters against the clock, and the map back from it.
function quarterTurned(picture, quarters) {
  const { width: w, height: h, planes } = picture;
  const back = [[1, 0, 0, 0, 1, 0], [0, -1, w - 1, 1, 0, 0], [-1, 0, w - 1, 0, -1, h - 1],
    [0, 1, 0, -1, 0, h - 1]][quarters];
  if (!quarters) return [picture, back];
  const [width, height] = quarters % 2 ? [h, w] : [w, h], data = new Uint8Array(picture.data.length);
  for (let y = 0, n = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [u, v] = at(back, [x, y]);
      for (let k = 0; k < planes; k++) data[n++] = picture.data[(v * w + u) * planes + k];
    }
  }
  return [{ width, height, planes, data }, back];
}

// Where the detector sees faces, in the picture and in ever smaller ones.
async function propose(picture, quarters = 0) {
  let [seen, back] = quarterTurned(picture, quarters);
  let scale = 1;
  const found = [];
  for (;;) {
    const { width, height, data } = seen;
    const room = [height, width].map((n) => Math.max(128, Math.ceil(n / S.multiple) * S.multiple));
    const area = room[0] * room[1], image = new Float32Array(3 * area).fill(-1);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0, n = y * room[1]; x < width; x++, n++) {
        for (let k = 0; k < 3; k++) image[k * area + n] = data[i++] / 127.5 - 1;
      }
    }
    const told = await sessions.finder.run({ image: new ort.Tensor("float32", image, [1, 3, ...room]) });
    told.scores.data.forEach((score, i) => {
      if (!(score > S.proposed)) return;
      const full = (values) => Array.from(values, (v) => (v + 0.5) / scale - 0.5);
      const box = full(told.boxes.data.subarray(4 * i, 4 * i + 4));
      found.push({ score, box, eyes: full(told.points.data.subarray(12 * i, 12 * i + 4)) });     // of six points two
    });
    if (Math.max(height, width) <= S.halved) break;
    seen = shrink(seen, Math.ceil(width / 2), Math.ceil(height / 2));
    scale /= 2;
  }
  return distinct(found).map(({ score, box, eyes }) => {
    const right = at(back, eyes.slice(0, 2)), left = at(back, eyes.slice(2));
    const wide = box[2] - box[0], high = box[3] - box[1];
    const angle = -Math.atan2(left[1] - right[1], left[0] - right[0]);
    // the landmarks' box is as large and lies lower, as the face sees it, by a twenty-fifth
    const [x, y] = at(back, [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]);
    const u = x + 0.04 * wide * Math.sin(angle), v = y + 0.04 * high * Math.cos(angle);
    const moved = [u - wide / 2, v - high / 2, u + wide / 2, v + high / 2];
    return { score, box: moved, angle: Math.abs(angle) < S.level ? 0 : angle };
  });
}

// Of what overlaps (intersection over union), the best alone.
function distinct(found) {
  const area = ([l, t, r, b]) => Math.max(r - l, 0) * Math.max(b - t, 0), kept = [];
  for (const one of [...found].sort((a, b) => b.score - a.score)) {
    const alone = kept.every(({ box }) => {
      const common = area([Math.max(box[0], one.box[0]), Math.max(box[1], one.box[1]),
        Math.min(box[2], one.box[2]), Math.min(box[3], one.box[3])]);
      return common <= S.overlap * (area(box) + area(one.box) - common);
    });
    if (alone) kept.push(one);
  }
  return kept;
}

// Those of the boxes that hold a face. Faceness is mean score times agreement, and agreement is
// 1 - (mean distance of the readings of a turned crop) / (apart x the face's side): what is no face is read otherwise.
async function judge(picture, proposed) {
  const plain = grey(picture), chosen = [...proposed].sort((a, b) => b.score - a.score).slice(0, JUDGED);
  const first = chosen.map(({ box, angle }) => cropMatrix(box, angle)), kept = [], looks = [];
  (await look(plain, first)).forEach((seen, i) => {
    const { landmarks } = inPicture(seen, first[i]), upright = uprightMatrix(landmarks);
    if (sideOf(boxOf(landmarks)) < 4 || mean(seen.scores) < S.face / 2 || !upright) return;
    kept.push(chosen[i]);
    looks.push(upright, mirrored(upright), turned(upright, 0.3), turned(upright, -0.3));
  });
  const seen = (await look(plain, looks)).map((one, i) => inPicture(one, looks[i]));
  const faces = kept.map(({ angle }, i) => {
    const [straight, mirror, ...others] = seen.slice(4 * i, 4 * i + 4);
    const points = straight.landmarks.map((p, k) => meanOf([p, mirror.landmarks[S.flip[k]]])), box = boxOf(points);
    const spread = mean(others.flatMap(({ landmarks }) => landmarks.map(([x, y], k) =>
      Math.hypot(x - points[k][0], y - points[k][1]))));
    const sure = mean(seen.slice(4 * i, 4 * i + 4).flatMap((one) => one.scores));
    return { box, angle, score: sure * Math.max(0, 1 - spread / Math.max(sideOf(box), 1e-9) / S.apart) };
  });
  return distinct(faces.filter(({ score }) => score > S.face));
}

// The largest well-seen face of a picture, with the number of all; null if there is none.
async function find(picture, searched = S.searched, quarters = [1, 2, 3]) {
  const scale = Math.min(1, searched / Math.max(picture.width, picture.height));
  const [width, height] = [picture.width, picture.height].map((n) => Math.max(1, Math.round(n * scale)));
  const small = scale === 1 ? picture : shrink(picture, width, height);
  let faces = await judge(small, await propose(small));
  if (Math.max(0, ...faces.map(({ score }) => score)) < S.sure && quarters.length) {
    const more = [];
    for (const n of quarters) more.push(...await propose(small, n));
    faces = distinct([...faces, ...await judge(small, more)]);
  }
  if (!faces.length) return null;
  const best = Math.max(...faces.map(({ score }) => score)), well = faces.filter(({ score }) => score >= S.well * best);
  const face = well.reduce((a, b) => sideOf(b.box) > sideOf(a.box) ? b : a);
  const each = [picture.width / width, picture.height / height];
  return { ...face, box: face.box.map((v, i) => (v + 0.5) * each[i % 2] - 0.5), count: faces.length };
}

// ---- following a face (tracking.py) ------------------------------------------------------------------------------

// A look where the face is expected, and again in the upright crop of what was read, until both are one; null if lost.
async function settle(picture, matrix) {
  for (let i = 0; i < S.looks; i++) {
    const [seen] = await look(picture, [matrix]), straight = uprightMatrix(seen.points);
    if (!straight || mean(seen.scores) < S.low) return null;
    const face = inPicture(seen, matrix), [left, top, right, bottom] = face.box = boxOf(face.landmarks);
    // pixels cover [-1/2, width - 1/2]
    const wide = Math.min(right, picture.width - 0.5) - Math.max(left, -0.5);
    const high = Math.min(bottom, picture.height - 0.5) - Math.max(top, -0.5);
    const share = wide * high / ((right - left) * (bottom - top));
    if (sideOf(face.box) < S.smallest || wide <= 0 || high <= 0 || share < S.inside) return null;
    face.following = compose(straight, matrix);
    const edge = S.size - 0.5, corners = [[-0.5, -0.5], [edge, -0.5], [-0.5, edge], [edge, edge]];
    const moved = Math.max(...corners.map((p) => Math.hypot(at(straight, p)[0] - p[0], at(straight, p)[1] - p[1])));
    if (moved / S.size < S.settled) return face;
    matrix = face.following;
  }
  return null;
}

// One step of the one-euro filter: a low pass whose cutoff grows with the speed of each point. What a new value weighs
// after T seconds at cutoff f is r / (1 + r), r = 2 pi f T.
function smoothed(motion, points, seconds, size) {
  if (!motion) return { seconds, seen: points, points, velocity: points.map(() => [0, 0]) };
  const [rest, beta, speed] = S.euro, step = seconds - motion.seconds;
  const share = (f) => 2 * Math.PI * f * step / (1 + 2 * Math.PI * f * step);
  const velocity = motion.velocity.map((v, i) => v.map((w, k) =>
    w + share(speed) * ((points[i][k] - motion.seen[i][k]) / step - w)));
  const calm = motion.points.map((p, i) => p.map((w, k) =>
    w + share(rest + beta * Math.hypot(...velocity[i]) / size) * (points[i][k] - w)));
  return { seconds, seen: points, points: calm, velocity };
}

// ---- pictures ----------------------------------------------------------------------------------------------------

const sheet = (width, height) => {
  const node = make("canvas", { width, height });
  node.getContext("2d", { willReadFrequently: true });
  return node;
};

// A file, or what else the browser decodes, upright by its own note: a canvas, at most LARGEST pixels long.
async function decoded(blob) {
  const picture = await createImageBitmap(blob).catch(() => {
    throw new Plain("This file could not be read as a picture. JPEG, PNG and WebP can. A phone's HEIC cannot in most "
      + "browsers: export it as JPEG first.");
  });
  const scale = Math.min(1, LARGEST / Math.max(picture.width, picture.height));
  const shown = sheet(Math.max(1, Math.round(picture.width * scale)), Math.max(1, Math.round(picture.height * scale)));
  const context = shown.getContext("2d");
  context.fillStyle = "#fff";                                  // under what is transparent
  context.fillRect(0, 0, shown.width, shown.height);
  place(context, picture, 0, 0, shown.width, shown.height);
  return shown;
}

// Why the camera does not open, and what to do about it.
function refusal(error) {
  const why = {
    NotAllowedError: "The camera was refused. Allow it for this page: the sign beside the address, or the browser's "
      + "settings. If the page was opened as a file, the browser may not ask at all; then start a small server in the "
      + "book's folder, `python -m http.server`, and open the page from there.",
    NotFoundError: "No camera was found. Plug one in, or choose a picture.",
    NotReadableError: "The camera is there but does not answer: another program may be using it.",
  };
  return new Plain(why[error.name] ?? `The camera could not be opened (${error.message}). Choose a picture instead.`);
}

// ---- the figure --------------------------------------------------------------------------------------------------

const PARTS = [["jaw", "jaw"], ["brow", "brows"], ["eye", "eyes"], ["nose", "nose"], ["mouth", "mouth"]];
const BOX = "#ffd23f", LINE = "#5ec8ff";

function build() {
  const state = {
    shown: null, plain: null, rgb: null,       // the picture: to draw, grey, in colours
    box: null, angle: 0, face: null,           // what is looked at, turned by how much, and what was read there
    heat: null, cropped: null,                 // pictures made of that
    stream: null,                              // of the camera
    network: "hourglass", dots: true, maps: true, strength: 0.8, which: -1, looks: 2,
  };
  const fig = figure(root, {
    label: "Your own photo: landmarks and heatmaps",
    help: "Drop a picture anywhere on this figure, paste one, or use the buttons. Drag the yellow box by its corners "
      + "or the ring on its upper side, or move these by the arrow keys. Nothing leaves this page.",
  });

  // ---- one thing after another: what was asked for last is done next, what lies between is left out
  let working = false, next = null;
  async function work(job) {
    next = job;
    if (working) return;
    working = true;
    while (next) {
      const now = next;
      next = null;
      try {
        await now();
      } catch (error) {
        if (error instanceof Plain) fig.say(error.message);
        else fig.say(`Something went wrong (${error.message}). Load the page anew.`);
      }
      fig.paint();
    }
    working = false;
  }
  const breath = () => new Promise((done) => setTimeout(done, 30));      // time to paint what is said

  // ---- from a picture to what is shown
  function take(shown, face = null) {
    state.shown = shown;
    state.rgb = fromCanvas(shown, shown.width, shown.height);
    state.plain = grey(state.rgb);
    [state.box, state.angle, state.face] = [null, 0, face];
    fig.paint();
  }

  function found(face) {
    state.face = face;
    if (!face) return;
    const values = crop(state.plain, face.matrix), picture = sheet(S.size, S.size), context = picture.getContext("2d");
    const pixels = context.createImageData(S.size, S.size);
    values.forEach((v, i) => { const g = Math.round(255 * (v + 0.5)); pixels.data.set([g, g, g, 255], 4 * i); });
    context.putImageData(pixels, 0, 0);
    state.cropped = picture;
    warm();
  }

  // All maps laid over each other, the hottest on top; or one of them.
  function warm() {
    if (!state.face) return;
    const { mass, side } = state.face, area = side * side, heat = new Float32Array(area);
    for (let k = 0; k < mass.length; k += area) {
      if (state.which >= 0 && k !== state.which * area) continue;
      for (let i = 0; i < area; i++) heat[i] = Math.max(heat[i], mass[k + i]);
    }
    // an hourglass spreads a mass of 1 over its map, ACE-Net's heat is 1 on a line
    state.heat = heatPicture(heat, side, side, { top: state.face.curves ? 1 : 0.15, overlay: true });
  }

  // below this mean score landmarks are often wrong (align.Alignment)
  const UNSURE = 0.3;
  const told = (face, before) => fig.say(`${before} Mean score ${fixed(mean(face.scores), 2)}.`
    + (face.curves ? ` ${Object.keys(face.curves).length} of ${S.contours.length} contours.` : "")
    + (mean(face.scores) < UNSURE ? " That is low: the face may be hidden, turned far, or not in the box." : ""));

  async function readFace() {
    if (state.network === "contours" && !sessions.contours) {
      fig.say("Loading ACE-Net (4 megabytes) \u2026");
      await breath();
      await openContours();
    }
    const read = state.network === "contours" ? contoursTwice : lookTwice;
    return read(state.plain, [...state.box], state.angle, state.looks);
  }

  async function readBox() {
    const start = performance.now();
    found(await readFace());
    told(state.face, `Read in the box in ${Math.round(performance.now() - start)} ms.`);
  }

  async function search() {
    if (!state.rgb) return;
    fig.say("Looking for a face \u2026");
    await breath();
    const start = performance.now(), seen = await find(state.rgb), between = performance.now();
    if (!seen) {
      const { width: w, height: h } = state.rgb, half = Math.min(w, h) / 4;
      [state.box, state.angle] = [[w / 2 - half, h / 2 - half, w / 2 + half, h / 2 + half], 0];
      found(null);
      throw new Plain("No face was found. Drag the yellow box around one, from the brows to the chin; or take a "
        + "picture in which the face is larger, lighter, or more to the front.");
    }
    [state.box, state.angle] = [seen.box, seen.angle];
    found(await readFace());
    const others = seen.count > 1 ? ` the largest of ${seen.count} faces` : "";
    told(state.face, `Found${others} in ${Math.round(between - start)} ms and read in `
      + `${Math.round(performance.now() - between)} ms.`);
  }

  const show = (blob) => {
    close();
    return work(async () => { take(await decoded(blob)); await search(); });
  };
  const sample = () => {
    const jpeg = Uint8Array.from(atob(window.yourPhoto.networks.sample), (c) => c.charCodeAt(0));
    return show(new Blob([jpeg], { type: "image/jpeg" }));
  };

  // ---- the camera: a frame, a look in the crop of the last landmarks, the next frame
  function close() {
    state.stream?.getTracks().forEach((track) => track.stop());
    state.stream = null;
    cameraButton.textContent = "Open the camera";
  }

  async function follow() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Plain("This browser gives no camera to this page: it must come from https or from this computer. "
        + "Choose a picture instead.");
    }
    fig.say("Waiting for the camera \u2026");
    cameraButton.disabled = true;
    const wanted = { video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" } };
    const stream = await navigator.mediaDevices.getUserMedia(wanted).catch((error) => { throw refusal(error); })
      .finally(() => { cameraButton.disabled = false; });
    state.stream = stream;
    if (next) return close();                                  // something else was asked for meanwhile
    cameraButton.textContent = "Close the camera";
    const video = make("video", { playsinline: true, muted: true });
    video.muted = true;
    video.srcObject = stream;
    await video.play();
    const frame = sheet(video.videoWidth, video.videoHeight), context = frame.getContext("2d");
    context.setTransform(-1, 0, 0, 1, frame.width, 0);         // as in a mirror
    let expected = null, motion = null, again = 0, shownAt = -1;
    const times = [];
    while (state.stream === stream && stream.active) {
      await new Promise(requestAnimationFrame);
      if (video.currentTime === shownAt) continue;
      shownAt = video.currentTime;
      context.drawImage(video, 0, 0);
      take(frame, state.face);                                 // until the new face is read, the last one is shown
      const seconds = performance.now() / 1000;
      let seen = expected && await settle(state.plain, expected);
      if (!seen && seconds >= again) {
        const face = await find(state.rgb, CAMERA, []);
        again = performance.now() / 1000 + S.retry;
        motion = null;
        seen = face && await settle(state.plain, cropMatrix(face.box));
      }
      expected = seen?.following ?? null;
      if (seen && state.network === "contours") {              // one look, where the hourglass has settled
        await openContours();
        const [{ maps, side }] = await answers("contours", state.plain, [expected]);
        seen = { ...inPicture(readContours(maps, side), expected), box: seen.box };
      }
      if (motion && seen?.points.length !== motion.points.length) motion = null;
      if (seen) {
        motion = smoothed(motion, seen.landmarks, seconds, sideOf(seen.box));
        seen.landmarks = motion.points;
      }
      found(seen);
      times.push(seconds);
      if (times.length > 20) times.shift();
      state.rate = (times.length - 1) / (times.at(-1) - times[0]);
      fig.say(seen ? `Following your face, ${fixed(state.rate, 0)} frames a second. Mean score `
        + `${fixed(mean(seen.scores), 2)}.`
        : "No face is seen. Come nearer, look into the camera, and have light in front of you.");
      fig.paint();
    }
    close();
    fig.say("The camera is closed.");
  }

  // ---- what is drawn
  const whole = () => {                                        // a tall picture is shown in a square
    const { width, height } = state.shown ?? { width: 4, height: 3 }, wide = Math.max(width, height);
    return [(width - wide) / 2 - 0.5, -0.5, wide, height];
  };
  const marks = (context, points, lines, radius) => {
    if (!state.dots || !state.face) return;
    const fill = (i) => `rgb(${colorAt(SCORE, state.face.scores[i])})`;
    for (const line of Object.values(lines)) stroke(context, line, { color: LINE, width: 0.8 * radius });
    dots(context, points, { radius, fill });
    if (points[state.which]) dots(context, [points[state.which]], { radius: 1.9 * radius, fill: "#fff" });
  };
  const heat = (context) => {
    if (!state.maps || !state.face) return;
    context.globalAlpha = state.strength;
    place(context, state.heat, -0.5, -0.5, S.size, S.size);
    context.globalAlpha = 1;
  };
  const main = canvas(fig, {
    label: "The picture with the landmarks that the network reads, its heatmaps and the box it looked in",
    view: whole,
    draw: (context, unit) => {
      if (!state.shown) return;
      place(context, state.shown, -0.5, -0.5, state.shown.width, state.shown.height);
      if (state.face) {
        const [a, b, c, d, e, f] = invert(state.face.matrix);
        context.save();
        context.transform(a, d, b, e, c, f);
        heat(context);
        context.restore();
        const radius = clamp(sideOf(boxOf(state.face.landmarks)) / 70, 1.4 * unit, 2.6 * unit);
        marks(context, state.face.landmarks, state.face.contours, radius);
      }
      if (state.box) {
        const [left, top, right, bottom] = state.box;
        for (const [style, width] of [["rgba(0,0,0,.6)", 3.5], [BOX, 1.8]]) {
          context.strokeStyle = style;
          context.lineWidth = width * unit;
          context.strokeRect(left, top, right - left, bottom - top);
        }
      }
    },
  });
  pane(fig, "The picture", main.box, 330);
  const inside = canvas(fig, {
    label: "What the network sees, 128 by 128 grey pixels around the upright face, with heatmaps and landmarks",
    view: () => [-0.5, -0.5, S.size, S.size],
    draw: (context, unit) => {
      if (!state.face) return;
      place(context, state.cropped, -0.5, -0.5, S.size, S.size, false);
      heat(context);
      marks(context, state.face.points, state.face.curves ?? {}, 1.9 * unit);
    },
  });
  const side = pane(fig, "What the network sees", inside.box, 220);
  side.style.maxWidth = "300px";
  side.append(legend(HEAT.slice(2), "heat: little", "much"), legend(SCORE, "dots: score 0", "1"));
  const scores = table(fig, {
    caption: "Mean score, by part of the face",
    head: ["", ...PARTS.map(([, name]) => name), "all"],
    rows: () => {
      const { face } = state, of = (group) => face && (!group ? mean(face.scores)
        : face.curves ? NaN : mean(S.groups[group].map((i) => face.scores[i])));
      return [{ cells: ["score", ...[...PARTS.map(([group]) => group), null].map((group) => fixed(of(group), 2))] }];
    },
  });
  scores.style.setProperty("--fk-basis", "100%");
  fig.stage.append(scores);

  // ---- the box: two corners, and the middle of its upper side, which moves all of it
  const LEAST = 8;
  const moveBox = (box) => { state.box = box; work(readBox); };
  const everywhere = () => [-0.5, -0.5, state.shown.width - 0.5, state.shown.height - 0.5];
  const about = () => {
    if (!state.box) return "no box";
    const [l, t, r, b] = state.box.map(Math.round);
    return `box of ${r - l} by ${b - t} pixels at ${l}, ${t}`;
  };
  const inView = ([x, y]) => {                                // a corner beyond the border is held at the border
    const [l, t, r, b] = everywhere();
    return [clamp(x, l, r), clamp(y, t, b)];
  };
  const grips = [
    ["Upper left corner of the box", ([l, t]) => [l, t], ([x, y], [, , r, b]) =>
      [Math.min(x, r - LEAST), Math.min(y, b - LEAST), r, b]],
    ["Lower right corner of the box", ([, , r, b]) => [r, b], ([x, y], [l, t]) =>
      [l, t, Math.max(x, l + LEAST), Math.max(y, t + LEAST)]],
    ["The whole box", ([l, t, r]) => [(l + r) / 2, t], ([x, y], [l, t, r, b]) =>
      [x - (r - l) / 2, y, x + (r - l) / 2, y + b - t]],
  ].map(([label, get, set]) => handle(fig, main, {
    label, anywhere: false, step: 1, describe: about, bounds: everywhere,
    get: () => state.box ? inView(get(state.box)) : [0, 0], set: (p) => moveBox(set(p, state.box)),
  }));
  main.handles.push(() => { if (!state.box || state.stream) for (const grip of grips) grip.hidden = true; });

  // ---- controls
  const bar = make("div", { class: "fk-controls", style: "margin: 0; gap: .5rem" });
  const said = fig.root.querySelector(".fk-status");           // near the picture that it speaks of
  said.style.marginBottom = ".6rem";
  fig.root.prepend(bar, said);
  const button = (text, onclick) => {
    const node = make("button", { type: "button", class: "fk-button", onclick }, text);
    bar.append(node);
    return node;
  };
  const file = make("input", { type: "file", accept: "image/*", "aria-label": "Picture file", hidden: true });
  file.addEventListener("change", () => { if (file.files[0]) show(file.files[0]); file.value = ""; });
  bar.append(file);
  button("Choose a picture", () => file.click());
  button("Sample", sample);
  const cameraButton = button("Open the camera", () => { if (state.stream) close(); else work(follow); });
  button("Find the face", () => { if (!state.stream) work(search); });
  choice(fig, {
    label: "network", options: [["hourglass", "68 landmarks"], ["contours", "contours"]], value: "hourglass",
    onChange: (name) => {
      state.network = name;
      which.input.max = name === "hourglass" ? S.flip.length - 1 : S.map_flip.length - 1;
      which.value = state.which = -1;
      if (state.box && !state.stream) work(readBox);
    },
  });
  choice(fig, {
    label: "looks", options: [[1, "one"], [2, "two"]], value: 2,
    onChange: (n) => { state.looks = n; if (state.box && !state.stream) work(readBox); },
  });
  const switches = make("div", { class: "fk-stack" });
  fig.controls.append(switches);
  toggle(fig, { label: "landmarks", value: true, parent: switches, onChange: (on) => { state.dots = on; } });
  toggle(fig, { label: "heatmaps", value: true, parent: switches, onChange: (on) => { state.maps = on; } });
  const named = (k) => {
    if (state.network === "hourglass") return k < 0 ? "all 68" : `landmark ${k}`;
    return k < 0 ? "all 25" : k < S.anchors ? `anchor ${k}` : S.contours[k - S.anchors].replaceAll("_", " ");
  };
  const which = slider(fig, {
    label: "heatmap of", min: -1, max: 67, value: -1, format: named, onInput: (k) => { state.which = k; warm(); },
  });
  slider(fig, {
    label: "strength", min: 0, max: 1, step: 0.05, value: state.strength,
    format: (v) => `${Math.round(100 * v)}\u00a0%`,
    onInput: (v) => { state.strength = v; },
  });

  // ---- a picture that is dropped or pasted
  const first = (items) => [...items ?? []].find((one) => one.type.startsWith("image/")) ?? [...items ?? []][0];
  fig.root.addEventListener("dragover", (event) => { event.preventDefault(); event.dataTransfer.dropEffect = "copy"; });
  fig.root.addEventListener("drop", (event) => {
    event.preventDefault();
    const blob = first(event.dataTransfer.files);
    if (blob) show(blob); else fig.say("What was dropped is no file: save the picture first, then drop the file.");
  });
  document.addEventListener("paste", (event) => {
    const blob = first(event.clipboardData?.files);
    if (blob) show(blob);
  });
  window.addEventListener("pagehide", close);

  const idle = async () => { while (working || next) await breath(); };
  return { state, show, sample, idle };
}

// ---- beginning ---------------------------------------------------------------------------------------------------

const words = make("p", { role: "status" }, "Loading the networks (8 megabytes, of this book's own files) \u2026");
root.replaceChildren(words);
window.yourPhoto.ready = start().then(() => {
  const page = build();
  // for the tests, and for the curious
  const parts = { find, lookTwice, contoursTwice, openContours, readContours, grey, shrink, crop, fromCanvas };
  window.yourPhoto.page = { ...page, ...parts };
  page.sample();
}).catch((error) => {
  words.textContent = error instanceof Plain ? error.message : `The networks could not be started (${error.message}). `
    + "Open this page in a current Chrome, Edge, Firefox or Safari.";
});
})();
