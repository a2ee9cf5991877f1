// Points on a slice: a disc in the colour of the kind, or of the lesion, then with its number.

import { COLORS, labelColor } from "./display.js";

const FAR_SLICES = 4; // from here on a point does not show
const NEAR_SLICES = 0.5; // up to here it is not faint

/** Draw a point at x, y of a canvas; `away` is its distance from the slice, in slices, `ratio` the canvas' pixels per CSS pixel. */
export function drawPoint(pen, { x, y, away, kind, ratio }) {
  if (away > FAR_SLICES) return;
  pen.globalAlpha = away <= NEAR_SLICES ? 1 : 0.3;
  pen.beginPath();
  pen.arc(x, y, 5 * ratio, 0, 2 * Math.PI);
  pen.fillStyle = COLORS[kind] ?? `rgb(${labelColor(Number(kind))})`;
  pen.fill();
  pen.lineWidth = 1.5 * ratio;
  pen.strokeStyle = "#fff";
  pen.stroke();
  if (!COLORS[kind]) writeNumber(pen, kind, x + 8 * ratio, y, ratio);
  pen.globalAlpha = 1;
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
