// The rotating projection. The server makes the frames and knows which voxel each pixel shows.

import { tell } from "./message.js";
import { drawShape } from "./points.js";
import { call } from "./server.js";

const MILLI = 1000;
const TURN_MS = 120;

export class Projection {
  /**
   * @param {HTMLElement} parent
   * @param {(mm: number[]) => void} goTo  called with the voxel that a click shows
   */
  constructor(parent, goTo) {
    parent.hidden = false;
    parent.innerHTML = `<canvas></canvas><span class="name">MIP</span><button title="Turn (r)">Turn</button>`;
    this.canvas = parent.querySelector("canvas");
    this.button = parent.querySelector("button");
    this.goTo = goTo;
    this.number = 0;
    this.frames = [];
    this.isLoading = false;
    this.told = "";
    this.range = [0, 5];
    this.mm = null;
    this.marks = [];
    this.timer = 0;
    this.button.onclick = () => this.toggle();
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.turn(Math.sign(event.deltaY));
    });
    this.followMouse();
    new ResizeObserver(() => this.draw()).observe(parent);
  }

  /** Fetch the frames that are not there yet; where that fails, the next call goes on. */
  async load() {
    if (this.isLoading) return;
    this.isLoading = true;
    try {
      if (!this.axes) Object.assign(this, await call("GET", "/api/projection"));
      for (let n = this.frames.length; n < this.axes.length; n++) {
        await this.fetchFrame(n);
        if (n === 0) this.draw();
      }
      this.told = tell("", this.told);
    } catch {
      this.told = tell("The projection is not complete: the server did not answer.", this.told);
    } finally {
      this.isLoading = false;
    }
  }

  async fetchFrame(number) {
    const answer = await fetch(`/api/projection/${number}`);
    if (!answer.ok) throw new Error(`frame ${number}: ${answer.status}`);
    this.frames[number] = new Uint16Array(await answer.arrayBuffer());
    document.body.dataset.frames = String(this.frames.length);
  }

  followMouse() {
    let from = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, number: this.number, moved: false };
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!from) return;
      const steps = Math.round((event.clientX - from.x) / 12);
      from.moved ||= steps !== 0;
      if (from.moved) this.show(from.number - steps);
    });
    this.canvas.addEventListener("pointerup", (event) => {
      if (from && !from.moved) this.pick(event);
      from = null;
    });
    this.canvas.addEventListener("pointercancel", () => (from = null));
  }

  async pick(event) {
    if (!this.shape) return;
    const box = this.canvas.getBoundingClientRect();
    const { left, top, scale } = this.place();
    const column = Math.floor((event.clientX - box.left - left) / scale);
    const row = Math.floor((event.clientY - box.top - top) / scale);
    if (row < 0 || column < 0 || row >= this.shape[0] || column >= this.shape[1]) return;
    try {
      const { ras_mm } = await call("GET", `/api/projection/${this.number}/voxel?row=${row}&column=${column}`);
      this.goTo(ras_mm);
    } catch {
      // nothing of the patient is there
    }
  }

  /** Where the frame lies on the canvas, in pixels of the page. */
  place() {
    const { clientWidth, clientHeight } = this.canvas;
    const [rows, columns] = this.shape;
    const scale = Math.min(clientWidth / columns, clientHeight / rows);
    return { scale, left: (clientWidth - columns * scale) / 2, top: (clientHeight - rows * scale) / 2 };
  }

  toggle() {
    this.timer = this.timer ? clearInterval(this.timer) : setInterval(() => this.turn(1), TURN_MS);
    this.button.textContent = this.timer ? "Stop" : "Turn";
  }

  turn(steps) {
    this.show(this.number + steps);
  }

  show(number) {
    if (!this.axes) return;
    const count = this.axes.length;
    const wanted = ((number % count) + count) % count;
    if (!this.frames[wanted]) return;
    this.number = wanted;
    this.draw();
  }

  draw() {
    const frame = this.frames[this.number];
    if (!frame) return;
    const [rows, columns] = this.shape;
    const image = new ImageData(columns, rows);
    const [low, high] = this.range.map((suv) => suv * MILLI);
    for (let n = 0; n < frame.length; n++) {
      const grey = 255 * (1 - Math.min(Math.max((frame[n] - low) / (high - low), 0), 1));
      image.data.set([grey, grey, grey, 255], 4 * n);
    }
    const small = new OffscreenCanvas(columns, rows);
    small.getContext("2d").putImageData(image, 0, 0);
    const ratio = window.devicePixelRatio;
    const { canvas } = this;
    [canvas.width, canvas.height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio];
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const { left, top, scale } = this.place();
    pen.drawImage(small, left, top, columns * scale, rows * scale);
    for (const { ras_mm, kind } of this.marks) {
      const [x, y] = this.project(ras_mm);
      drawShape(pen, { x, y, kind, radius: 4 });
    }
    if (this.mm) this.cross(pen);
  }

  /** Where a place lies on the canvas. */
  project(mm) {
    const { left, top, scale } = this.place();
    const [rows, columns] = this.shape;
    const along = (axis) => axis.reduce((sum, a, n) => sum + a * (mm[n] - this.centre_mm[n]), 0) / this.step_mm;
    const [u, v] = this.axes[this.number];
    return [left + (along(u) + columns / 2) * scale, top + (along(v) + rows / 2) * scale];
  }

  cross(pen) {
    const [x, y] = this.project(this.mm);
    pen.strokeStyle = "#1b7fb0";
    pen.lineWidth = 1;
    pen.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      pen.moveTo(x + 6 * dx, y + 6 * dy);
      pen.lineTo(x + 14 * dx, y + 14 * dy);
    }
    pen.stroke();
  }
}
