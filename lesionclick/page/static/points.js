// Points on an image: a disc in the colour of the kind, or of the lesion, then with its number; of background a ring.

import { COLORS, labelColor } from "./display.js";

const FAR_SLICES = 4; // from here on a point does not show
const NEAR_SLICES = 0.5; // up to here it is not faint

/** Draw a point at x, y of a canvas; `away` is its distance from the slice, in slices, `ratio` the canvas' pixels per CSS pixel. */
export function drawPoint(pen, { x, y, away, kind, ratio }) {
  if (away > FAR_SLICES) return;
  pen.globalAlpha = away <= NEAR_SLICES ? 1 : 0.3;
  drawShape(pen, { x, y, kind, radius: 5 * ratio });
  if (!COLORS[kind]) writeNumber(pen, kind, x + 8 * ratio, y, ratio);
  pen.globalAlpha = 1;
}

/** Draw a disc, or a ring where no colour alone shall tell the kind. */
export function drawShape(pen, { x, y, kind, radius }) {
  const color = COLORS[kind] ?? `rgb(${labelColor(Number(kind))})`;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  const strokes = kind === "background" ? [["#fff", 1], [color, 0.6]] : [["#fff", 0.3]];
  if (kind !== "background") {
    pen.fillStyle = color;
    pen.fill();
  }
  for (const [style, width] of strokes) {
    [pen.strokeStyle, pen.lineWidth] = [style, width * radius];
    pen.stroke();
  }
}

function writeNumber(pen, number, x, y, ratio) {
  pen.font = `600 ${11 * ratio}px system-ui, sans-serif`;
  [pen.textAlign, pen.textBaseline] = ["left", "middle"];
  pen.lineWidth = 3 * ratio;
  pen.strokeStyle = "#000c";
  pen.strokeText(number, x, y);
  pen.fillStyle = "#fff";
  pen.fillText(number, x, y);
}
