// Windows and colours, as readers of PET/CT know them.

export const PET_WINDOWS = { "0-5": [0, 5], "0-10": [0, 10], "0-20": [0, 20] };

/** Level -/+ half the width, in HU. */
export const CT_WINDOWS = {
  "soft tissue": [-160, 240],
  lung: [-1350, 150],
  bone: [-450, 1050],
  liver: [-45, 105],
};

/** What a window shows, in HU or SUV. */
export function rangeText(kind, range) {
  return range.map((end) => end.toFixed(kind === "pet" ? 1 : 0)).join(" to ");
}

export const COLORS = { tumor: "#ff6b57", background: "#5ad08a", crosshair: "#9fc3d6a0" };

/** Low uptake white, high uptake black. */
export const PET_MAP = { R: [255, 0], G: [255, 0], B: [255, 0], A: [255, 255], I: [0, 255] };

/** Uptake over a CT: nothing, then red to yellow to white. */
export const FUSION_MAP = {
  R: [0, 200, 255, 255, 255],
  G: [0, 0, 110, 220, 255],
  B: [0, 0, 0, 40, 255],
  A: [0, 110, 190, 230, 255],
  I: [0, 64, 128, 200, 255],
};

const LABELS = [
  [60, 205, 255], [255, 107, 87], [250, 200, 80], [160, 120, 240], [90, 208, 138],
  [240, 130, 190], [120, 220, 220], [230, 160, 90], [150, 190, 70], [130, 150, 255],
];

/** Colour of a lesion's number, as three bytes. */
export function labelColor(number) {
  return LABELS[(number - 1) % LABELS.length];
}

/** A map for masks: 0 is clear, each number has its colour. */
export function labelMap() {
  const numbers = [...Array(256).keys()];
  const channel = (n) => numbers.map((number) => (number === 0 ? 0 : labelColor(number)[n]));
  return { R: channel(0), G: channel(1), B: channel(2), A: numbers.map((n) => (n === 0 ? 0 : 255)), I: numbers };
}
