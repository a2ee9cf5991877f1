// What the mouse does in a row of slices.

const MOVED_PX = 4;
const NEAR_PX = 8;

/**
 * A click sets or deletes a point, and its repetition in a double click does nothing; a drag with the left button moves
 * the crosshair, with the middle one the image, with the right one the window; the wheel goes through the slices, with
 * Ctrl it zooms.
 *
 * @param {import("./slices.js").SliceRow} row
 * @param {{
 *   click: (row, mm: number[], other: boolean) => void,
 *   pointAt: (row, near: (mm: number[]) => number) => any,
 *   remove: (mark) => void,
 *   goTo: (row, mm: number[]) => void,
 *   hover: (row, mm: number[] | null) => void,
 *   window: (row, dx: number, dy: number) => void,
 *   views: (row, change: (other) => void) => void,
 * }} reader
 */
export function followMouse(row, reader) {
  const { over } = row;
  let from = null;

  over.addEventListener("contextmenu", (event) => event.preventDefault());
  over.addEventListener("pointerdown", (event) => {
    document.activeElement?.blur(); // from now on the keys are for the views
    const found = row.at(event);
    if (!found || event.button > 2) return; // such as the one that goes back
    from = { ...found, button: event.button, x: event.clientX, y: event.clientY, lastX: event.clientX, lastY: event.clientY, moved: false };
    over.setPointerCapture(event.pointerId);
  });
  over.addEventListener("mousedown", (event) => {
    event.preventDefault();
    if (from) from.repeated = event.detail > 1; // which pointer events do not count
  });
  over.addEventListener("pointermove", (event) => {
    const found = row.at(event);
    row.hovered = found?.view;
    reader.hover(row, found?.mm ?? null);
    if (!from) return;
    from.moved ||= Math.hypot(event.clientX - from.x, event.clientY - from.y) > MOVED_PX;
    if (!from.moved) return;
    const [dx, dy] = [event.clientX - from.lastX, event.clientY - from.lastY];
    [from.lastX, from.lastY] = [event.clientX, event.clientY];
    if (from.button === 0 && found?.view === from.view) reader.goTo(row, found.mm);
    if (from.button === 1) reader.views(row, (other) => other.panBy(from.view, dx, dy));
    if (from.button === 2) reader.window(row, dx, dy);
  });
  over.addEventListener("pointerup", (event) => {
    const done = from;
    from = null;
    if (!done || done.moved || done.repeated || event.button === 1) return;
    const near = (mm) => distance(row, event, done.view, mm);
    const mark = reader.pointAt(row, near);
    if (mark && near(mark.ras_mm) <= NEAR_PX) reader.remove(mark);
    else reader.click(row, done.mm, event.button === 2 || event.shiftKey);
  });
  over.addEventListener("pointercancel", () => (from = null));
  over.addEventListener("pointerleave", () => reader.hover(row, null));
  over.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (event.deltaY === 0) return; // sideways
      if (event.ctrlKey) {
        reader.views(row, (other) => other.zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15));
        return;
      }
      const found = row.at(event);
      if (found) reader.goTo(row, row.stepped(found.view, event.deltaY < 0 ? 1 : -1));
    },
    { passive: false },
  );
}

/** Pixels of the page between the mouse and a place; infinite where the slice is not the place's own. */
function distance(row, event, view, mm) {
  const box = row.over.getBoundingClientRect();
  const ratio = row.canvas.width / box.width;
  const tile = row.nv.screenSlices.find((one) => one.axCorSag === view);
  const { x, y, away } = row.onTile(tile, mm);
  return away > 0.5 ? Infinity : Math.hypot(x / ratio - (event.clientX - box.left), y / ratio - (event.clientY - box.top));
}
