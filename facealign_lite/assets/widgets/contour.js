// Contours as heat, and contourness: the formulas of facealign_lite.contours for several figures;
// tests/test_widgets.py holds the two together. Maps are flat, row by row.

// Distance of every pixel to the nearest segment of a polyline.
function distances(line, width, height) {
  const map = new Float64Array(width * height).fill(Infinity);
  for (let k = 1; k < line.length; k++) {
    const [ax, ay] = line[k - 1], bx = line[k][0] - ax, by = line[k][1] - ay, long = bx * bx + by * by;
    for (let i = 0; i < map.length; i++) {
      const x = i % width - ax, y = Math.floor(i / width) - ay;
      const t = long ? clamp((x * bx + y * by) / long, 0, 1) : 0;
      map[i] = Math.min(map[i], (x - t * bx) ** 2 + (y - t * by) ** 2);
    }
  }
  return map.map(Math.sqrt);
}

// ACE-Net Eq. 2.
const contourHeat = (line, width, height, sigma) =>
  distances(line, width, height).map((d) => Math.max(0, 1 - 2 * d * d / (sigma * sigma)));

// Correlation with the outer product of two profiles, nothing beyond the border.
function separable(map, width, height, alongX, alongY) {
  const r = alongX.length >> 1, half = new Float64Array(map.length), out = new Float64Array(map.length);
  for (let i = 0; i < map.length; i++) {
    const x = i % width;
    for (let k = Math.max(-r, -x); k <= Math.min(r, width - 1 - x); k++) half[i] += alongX[k + r] * map[i + k];
  }
  for (let i = 0; i < map.length; i++) {
    const y = Math.floor(i / width);
    for (let k = Math.max(-r, -y); k <= Math.min(r, height - 1 - y); k++) out[i] += alongY[k + r] * half[i + k * width];
  }
  return out;
}

// ACE-Net Eq. 24 and 25: the score of the best straight contour through each pixel, and its direction.
function contourness(map, width, height, sigma) {
  const heat = Float64Array.from(map, (h) => Math.max(0, h)), reach = Math.floor(2 * sigma);
  const t = Array.from({ length: 2 * reach + 1 }, (_, i) => i - reach);
  const smooth = t.map((v) => Math.exp(-v * v / sigma ** 2)), slope = t.map((v, i) => v * smooth[i]);
  const bend = t.map((v, i) => (1 - 2 * v * v / sigma ** 2) * smooth[i]);
  const by = (values, x, y) => separable(values, width, height, x, y);
  const a = by(heat, bend, smooth), c = by(heat, smooth, bend);
  const b = by(heat, slope, slope).map((v) => -2 * v / sigma ** 2);
  const energy = by(heat.map((h) => h * h), smooth, smooth);
  return {
    score: a.map((v, i) => v + c[i] + Math.sqrt((v - c[i]) ** 2 + 4 * b[i] ** 2 + 1e-12) - energy[i]),
    orientation: a.map((v, i) => Math.atan2(-2 * b[i], c[i] - v) / 2),
  };
}
