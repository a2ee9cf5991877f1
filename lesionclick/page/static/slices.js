// A row of three linked slices of one grid: axial, sagittal and coronal, drawn by NiiVue; all on top of them is ours.
//
// Places are millimetres to the right, to the front and to the head, as in NIfTI. NiiVue's `vox` is never used: it lies in
// a space of NiiVue's own.

import { Niivue, NVImage } from "./vendor/niivue.js";
import { COLORS, FUSION_MAP, PET_MAP, labelMap } from "./display.js";

const AXIAL = 0;
const CORONAL = 1;
const SAGITTAL = 2;
const ORDER = [AXIAL, SAGITTAL, CORONAL];
const DEPTH = { [AXIAL]: 2, [CORONAL]: 1, [SAGITTAL]: 0 };
/** Letters at the left and at the top of a slice, the patient's right on the left; the nose of a sagittal one is left. */
const LETTERS = { [AXIAL]: ["R", "A", "L", "P"], [CORONAL]: ["R", "S", "L", "I"], [SAGITTAL]: ["A", "S", "P", "I"] };
const OPTIONS = {
  interactive: false, // clicks and keys are ours
  isRadiologicalConvention: true,
  sagittalNoseLeft: true,
  isSliceMM: false, // slices along the voxels, undistorted in oblique images as well
  crosshairWidth: 0,
  isOrientationTextVisible: false,
  isColorbar: false,
  dragAndDropEnabled: false,
  multiplanarPadPixels: 0,
  backColor: [0, 0, 0, 1],
  show3Dcrosshair: false,
  maxDrawUndoBitmaps: 1,
  logLevel: "error",
};

const FILL = 0.22; // opacity of a mask, and of its rim
const RIM = 0.95;

const loaded = new Map();

/** There is no server to ask. */
export class Away extends Error {}

/** Fetch an image; NiiVue alone would ask for it twice. */
export async function fetchImage(url) {
  const answer = await fetch(url).catch(() => {
    throw new Away();
  });
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return NVImage.loadFromUrl({ url: await answer.arrayBuffer(), name: "image.nii" });
}

/** Load an image once, and give each row its own view of it. */
async function view(url, options) {
  if (!loaded.has(url)) loaded.set(url, fetchImage(url));
  const image = await loaded.get(url);
  const own = Object.assign(Object.create(Object.getPrototypeOf(image)), image, { id: crypto.randomUUID() });
  return Object.assign(own, options);
}

/** Let each slice have its whole cell to be zoomed in, not only the rectangle that the image fills when it fits. */
function fillCells(nv) {
  const extent = nv.screenFieldOfViewExtendedVox.bind(nv);
  nv.calculateWidthHeight = (_view, _scale, width, height) => [width, height];
  nv.screenFieldOfViewExtendedVox = (view) => {
    const field = extent(view);
    const cell = [nv.canvas.width / ORDER.length, nv.canvas.height];
    const mmPerPixel = Math.max(field.fovMM[0] / cell[0], field.fovMM[1] / cell[1]);
    for (const axis of [0, 1]) {
      const missing = (cell[axis] * mmPerPixel - field.fovMM[axis]) / 2;
      field.mnMM[axis] -= missing;
      field.mxMM[axis] += missing;
      field.fovMM[axis] += 2 * missing;
    }
    return field;
  };
}

export class SliceRow {
  /**
   * @param {HTMLElement} parent
   * @param {{name: string, scan: string}} options  what to call it, and the scan that a click in it is on
   */
  constructor(parent, { name, scan }) {
    this.name = name;
    this.scan = scan;
    this.element = document.createElement("div");
    this.element.className = "row";
    this.element.dataset.name = name;
    this.element.innerHTML = `<canvas></canvas><canvas class="over"></canvas><span class="name"></span>`;
    this.element.querySelector(".name").textContent = name;
    parent.append(this.element);
    [this.canvas, this.over] = this.element.querySelectorAll("canvas");
    this.nv = new Niivue(OPTIONS);
    fillCells(this.nv);
    this.nv.addColormap("pet", PET_MAP);
    this.nv.addColormap("fusion", FUSION_MAP);
    this.isReady = false;
    this.mm = null;
    this.paint = () => {};
    new ResizeObserver(() => requestAnimationFrame(() => this.draw())).observe(this.element);
  }

  /**
   * @param {{url: string, colormap: string, range: number[], opacity?: number}[]} layers  the lowest first
   */
  async load(layers) {
    await this.nv.attachToCanvas(this.canvas);
    this.nv.setDrawColormap(labelMap());
    this.nv.setCustomLayout(ORDER.map((sliceType, n) => ({ sliceType, position: [n / 3, 0, 1 / 3, 1] })));
    for (const { url, colormap, range, opacity = 1 } of layers) {
      const image = await view(url, { opacity, _colormap: colormap });
      [image.cal_min, image.cal_max] = range;
      this.nv.addVolume(image);
    }
    this.showMask(true);
    this.isReady = true;
    this.goTo(this.centre());
  }

  /** The image that lies lowest; all others are on its grid. */
  get base() {
    return this.nv.volumes[0];
  }

  get layers() {
    return this.nv.volumes;
  }

  /** @param {NVImage} mask  on the grid of the row, as NiiVue's drawing, which no layer hides */
  setMask(mask) {
    this.nv.loadDrawing(mask);
    this.paintOver();
  }

  showMask(isShown) {
    this.nv.setDrawOpacity(isShown ? FILL : 0);
    this.nv.drawRimOpacity = isShown ? RIM : 0;
  }

  /** Draw again after a window or an opacity has changed. */
  refresh() {
    this.nv.updateGLVolume();
    this.paintOver();
  }

  centre() {
    return this.toMm([0.5, 0.5, 0.5]);
  }

  toMm(fraction) {
    return [...this.nv.frac2mm(fraction, 0, true)].slice(0, 3);
  }

  toFraction(mm) {
    return [...this.nv.mm2frac(mm, 0, true)];
  }

  /** Show the slices through the voxel at a place; it is the voxel's centre that counts. */
  goTo(mm) {
    const sizes = this.base.dimsRAS.slice(1, 4);
    const fraction = this.toFraction(mm).map((f, n) => (Math.min(Math.max(Math.floor(f * sizes[n]), 0), sizes[n] - 1) + 0.5) / sizes[n]);
    this.nv.scene.crosshairPos = fraction;
    this.mm = this.toMm(fraction);
    this.draw();
  }

  /** The place `steps` slices further along an axis of the views. */
  stepped(view, steps) {
    const fraction = [...this.nv.scene.crosshairPos];
    const axis = DEPTH[view];
    const size = this.base.dimsRAS[axis + 1];
    fraction[axis] = Math.min(Math.max(fraction[axis] + steps / size, 0.5 / size), 1 - 0.5 / size);
    return this.toMm(fraction);
  }

  /** Value of a layer in the voxel at a place, or null outside. */
  valueAt(layer, mm) {
    const sizes = this.base.dimsRAS.slice(1, 4);
    const voxel = this.toFraction(mm).map((f, n) => Math.floor(f * sizes[n]));
    if (voxel.some((v, n) => v < 0 || v >= sizes[n])) return null;
    return layer.getValue(...voxel);
  }

  /** The view under a pixel of the page, and the place that it shows; null beside the slices. */
  at(event) {
    const box = this.over.getBoundingClientRect();
    const ratio = this.canvas.width / box.width;
    const [x, y] = [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
    const tile = this.nv.screenSlices.findIndex(({ leftTopWidthHeight: [l, t, w, h] }) => x >= l && x < l + w && y >= t && y < t + h);
    if (tile < 0) return null;
    const fraction = this.nv.screenXY2TextureFrac(x, y, tile, true);
    if (fraction[0] < 0) return null;
    return { view: this.nv.screenSlices[tile].axCorSag, mm: this.toMm(fraction) };
  }

  /** Where a place lies on a tile: pixels of the canvas, and its distance from the slice in voxels. */
  onTile(tile, mm) {
    const fraction = this.toFraction(mm);
    const ortho = this.nv.frac2mm(fraction, 0, false);
    const view = tile.axCorSag;
    const [h, v] = view === AXIAL ? [ortho[0], ortho[1]] : view === CORONAL ? [ortho[0], ortho[2]] : [ortho[1], ortho[2]];
    const [left, top, width, height] = tile.leftTopWidthHeight;
    const axis = DEPTH[view];
    return {
      x: left + ((h - tile.leftTopMM[0]) / tile.fovMM[0]) * width,
      y: top + (1 - (v - tile.leftTopMM[1]) / tile.fovMM[1]) * height,
      away: Math.abs(fraction[axis] - this.nv.scene.crosshairPos[axis]) * this.base.dimsRAS[axis + 1],
    };
  }

  zoomBy(factor) {
    const [...pan] = this.nv.scene.pan2Dxyzmm;
    const zoom = pan.pop();
    const next = Math.min(Math.max(zoom * factor, 1), 12);
    const ortho = this.nv.frac2mm(this.nv.scene.crosshairPos, 0, false);
    // the crosshair stays where it is on the screen
    const shift = pan.map((mm, n) => (next === 1 ? 0 : mm + ortho[n] * (zoom - next)));
    this.nv.scene.pan2Dxyzmm = [...shift, next];
    this.draw();
  }

  panBy(view, dx, dy) {
    const tile = this.nv.screenSlices.find((one) => one.axCorSag === view);
    const ratio = this.canvas.width / this.over.getBoundingClientRect().width;
    const axes = view === AXIAL ? [0, 1] : view === CORONAL ? [0, 2] : [1, 2];
    const pan = [...this.nv.scene.pan2Dxyzmm];
    pan[axes[0]] += ((dx * ratio) / tile.leftTopWidthHeight[2]) * tile.fovMM[0] * pan[3];
    pan[axes[1]] -= ((dy * ratio) / tile.leftTopWidthHeight[3]) * tile.fovMM[1] * pan[3];
    this.nv.scene.pan2Dxyzmm = pan;
    this.draw();
  }

  fit() {
    this.nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
    this.draw();
  }

  draw() {
    if (!this.isReady) return;
    this.nv.drawScene();
    this.paintOver();
  }

  /** Draw letters, scale, crosshair and points over the slices; `paint` adds the points. */
  paintOver() {
    const { over, canvas } = this;
    if (!this.mm) return;
    [over.width, over.height] = [canvas.width, canvas.height];
    const pen = over.getContext("2d");
    const ratio = canvas.width / over.getBoundingClientRect().width;
    for (const tile of this.nv.screenSlices) {
      const [left, top, width, height] = tile.leftTopWidthHeight;
      pen.save();
      pen.beginPath();
      pen.rect(left, top, width, height);
      pen.clip();
      this.paintCrosshair(pen, tile, ratio);
      this.paint(pen, tile, ratio);
      pen.restore();
      this.paintFrame(pen, tile, ratio);
    }
  }

  paintCrosshair(pen, tile, ratio) {
    const { x, y } = this.onTile(tile, this.mm);
    const [left, top, width, height] = tile.leftTopWidthHeight;
    const gap = 10 * ratio;
    pen.strokeStyle = COLORS.crosshair;
    pen.lineWidth = ratio;
    pen.beginPath();
    for (const [x0, y0, x1, y1] of [
      [left, y, x - gap, y], [x + gap, y, left + width, y], [x, top, x, y - gap], [x, y + gap, x, top + height],
    ]) {
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
    }
    pen.stroke();
  }

  paintFrame(pen, tile, ratio) {
    const [left, top, width, height] = tile.leftTopWidthHeight;
    const [west, north, east, south] = LETTERS[tile.axCorSag];
    pen.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const letter = (text, x, y) => {
      pen.lineWidth = 3 * ratio;
      pen.strokeStyle = "#000c";
      pen.strokeText(text, x, y);
      pen.fillStyle = "#ffd479";
      pen.fillText(text, x, y);
    };
    const inset = 10 * ratio;
    letter(west, left + inset, top + height / 2);
    letter(east, left + width - inset, top + height / 2);
    letter(north, left + width / 2, top + inset);
    letter(south, left + width / 2, top + height - inset);
    const perMm = width / Math.abs(tile.fovMM[0]);
    const mm = [100, 50, 20, 10, 5].find((length) => length * perMm < width * 0.4) ?? 2;
    const [x, y] = [left + width - inset - mm * perMm, top + height - inset];
    pen.strokeStyle = "#000c";
    pen.lineWidth = 4 * ratio;
    for (const pass of [0, 1]) {
      if (pass) [pen.strokeStyle, pen.lineWidth] = ["#ffd479", 1.5 * ratio];
      pen.beginPath();
      pen.moveTo(x, y - 3 * ratio);
      pen.lineTo(x, y);
      pen.lineTo(x + mm * perMm, y);
      pen.lineTo(x + mm * perMm, y - 3 * ratio);
      pen.stroke();
    }
    pen.textAlign = "right";
    letter(`${mm} mm`, x + mm * perMm, y - 10 * ratio);
  }
}
