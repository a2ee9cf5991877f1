// The page: what is shown of a case, and what a reader does with it.

import { hideBanner, showBanner } from "./banner.js";
import { CT_WINDOWS, PET_WINDOWS, rangeText } from "./display.js";
import { fillHelp, followKeys } from "./keys.js";
import { Masks } from "./masks.js";
import { say, tell } from "./message.js";
import { followMouse } from "./mouse.js";
import { fillPanel, regionOf } from "./panel.js";
import { drawPoint } from "./points.js";
import { Projection } from "./projection.js";
import { call, download, listen } from "./server.js";
import { SliceRow } from "./slices.js";

const $ = (id) => document.getElementById(id);
const AXIAL = 0;

const study = await call("GET", "/api/study");
const isPetCt = study.task === "task1";
let state = null;
let server = null;
let maskIsShown = true;
let projection = null;
let tool = "tumor";
let lesion = null; // number of the lesion that a click sets in Task 2,
let region = ""; // and the region that shows it, since each may count its own
let chosen = ""; // hottest place of the lesion that was gone to in Task 1, whatever its number becomes
let fusion = 0.6;
let active = null; // row under the mouse
const ranges = { ct: [...CT_WINDOWS["soft tissue"]], pet: [...PET_WINDOWS["0-5"]] };

document.title = `${study.name} – lesionclick`;
$("case").textContent = study.name;
fillHelp($("keys"), isPetCt);

// ---- what is shown

const rows = isPetCt
  ? ["PET", "CT", "Fusion"].map((name) => new SliceRow($("rows"), { name, scan: "pet" }))
  : Object.keys(study.scans).map((scan) => new SliceRow($("rows"), { name: scan.replace("-", " "), scan }));

const layer = {
  ct: (scan) => ({ url: `/api/scans/${scan}.nii`, colormap: "gray", range: ranges.ct }),
  pet: (colormap, opacity) => ({ url: "/api/scans/pet.nii", colormap, range: ranges.pet, opacity }),
};

function layersOf(row) {
  if (!isPetCt) return [layer.ct(row.scan)];
  return { PET: [layer.pet("pet")], CT: [layer.ct("ct")], Fusion: [layer.ct("ct"), layer.pet("fusion", fusion)] }[row.name];
}

const modality = (image) => (image._colormap === "gray" ? "ct" : "pet");

function applyDisplay() {
  for (const row of rows) {
    for (const image of row.layers) {
      [image.cal_min, image.cal_max] = ranges[modality(image)];
      if (image._colormap === "fusion") image.opacity = fusion;
    }
    row.showMask(maskIsShown);
    row.refresh();
  }
  if (projection) {
    projection.range = ranges.pet;
    projection.draw();
  }
}

function setWindow(kind, name) {
  ranges[kind] = [...(kind === "ct" ? CT_WINDOWS : PET_WINDOWS)[name]];
  const select = $(`window-${kind}`);
  if (select) select.value = name;
  applyDisplay();
}

function setFusion(value) {
  fusion = Math.min(Math.max(value, 0), 1);
  $("fusion").value = String(fusion);
  applyDisplay();
}

// ---- moving about

let linking = 0;

/**
 * Show a place in all rows: those of the same grid at once, those of the other time at `places`, by scan, or else where the
 * registration says.
 */
async function goTo(row, mm, places = {}) {
  const same = isPetCt ? rows : [row];
  for (const one of same) one.goTo(mm);
  if (projection) {
    projection.mm = rows[0].mm;
    projection.draw();
  }
  showValues(row, null);
  if (isPetCt) return;
  const mine = ++linking;
  const query = new URLSearchParams([["scan", row.scan], ...row.mm.map((v) => ["ras_mm", v])]);
  try {
    const linked = { ...(await call("GET", `/api/link?${query}`)), ...places };
    if (mine !== linking) return;
    for (const other of rows) if (other !== row && linked[other.scan]) other.goTo(linked[other.scan]);
  } catch {
    // not registered yet: the scans are looked at apart
  }
}

const look = (mm) => goTo(rows[0], mm);

function goToLesion(n) {
  const lesions = state?.findings?.lesions ?? [];
  if (!lesions.length) return;
  const one = lesions[((n % lesions.length) + lesions.length) % lesions.length];
  if (isPetCt) {
    chosen = String(one.ras_mm);
    look(one.ras_mm);
  } else {
    [lesion, region] = [one.number, one.region];
    const known = rows.filter((row) => one.places[row.scan]).reverse(); // the follow-up before the baseline
    goTo(known[0], one.places[known[0].scan], one.places);
  }
  render();
}

const isChosen = (one) =>
  isPetCt ? String(one.ras_mm) === chosen : one.number === lesion && (!one.region || one.region === region);

function goToMark(mark) {
  if (!isPetCt) [lesion, region] = [Number(mark.kind), regionOf(mark.scan)];
  goTo(rows.find((row) => row.scan === mark.scan), mark.ras_mm);
  render();
}

function nextNumber() {
  const numbers = [...(study.baseline_points ?? []).map((one) => one.number), ...(state?.marks ?? []).map((one) => Number(one.kind))];
  return Math.max(0, ...numbers) + 1;
}

function step(slices) {
  const row = active ?? rows[0];
  goTo(row, row.stepped(row.hovered ?? AXIAL, slices));
}

function showValues(row, hovered) {
  const mm = hovered ?? row.mm;
  const texts = [];
  const source = isPetCt ? rows[2] : row;
  for (const image of source.layers) {
    const value = source.valueAt(image, mm);
    if (value !== null) texts.push(modality(image) === "ct" ? `HU ${value.toFixed(0)}` : `SUV ${value.toFixed(2)}`);
  }
  const [x, y, z] = mm.map((v) => v.toFixed(1));
  $("values").textContent = `${texts.reverse().join("   ")}   at R ${x}  A ${y}  S ${z} mm`;
}

// ---- doing

const masks = new Masks(rows, $("message"));

let latest = Promise.resolve();
let failure = ""; // of the session, as it was told

/** Act one after the other, since requests that are under way together may arrive in another order. */
function act(method, path, body) {
  say(""); // now and not in line, lest it hides that an earlier action failed
  return (latest = latest.then(() => attempt(() => call(method, path, body))));
}

async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    say(error instanceof TypeError ? "The server did not get this: please do it again when it is back." : error.message);
    return null;
  }
}

function kindOf(row, other) {
  if (tool === "look") return null;
  if (!isPetCt) return study.clickable.includes(row.scan) && lesion !== null ? String(lesion) : null;
  return other ? { tumor: "background", background: "tumor" }[tool] : tool;
}

/** The points of a row that a click may delete. */
function deletable(row) {
  return tool === "look" ? [] : marksOn(row).filter((mark) => isPetCt || Number(mark.kind) === lesion);
}

function click(row, mm, other) {
  goTo(row, mm);
  if (!isPetCt) region = regionOf(row.scan);
  const kind = kindOf(row, other);
  if (kind !== null) act("POST", "/api/points", { scan: row.scan, kind, ras_mm: mm });
  else if (!isPetCt && tool !== "look") say("Choose a lesion in the table, or a new one; then click in the follow-up.");
}

async function save() {
  await latest; // not in line itself: it waits for the final mask, and the next click need not
  const saved = await attempt(() => {
    say("saving");
    return call("POST", "/api/save");
  });
  if (saved) say(`saved in ${saved.folder}: ${saved.files.join(", ")}`);
}

async function suggest() {
  await act("POST", "/api/suggest");
}

function chooseTool(name) {
  tool = name;
  for (const one of $("tools").children) one.setAttribute("aria-checked", String(one.dataset.tool === name));
}

const reader = {
  click,
  csv: () => say("") ?? attempt(() => download("/api/lesions.csv", "lesions.csv")),
  goTo,
  goToLesion,
  goToMark,
  look,
  nextNumber,
  suggest,
  remove: (mark) => act("DELETE", `/api/points/${mark.number}`),
  pointAt: (row, near) => deletable(row).sort((a, b) => near(a.ras_mm) - near(b.ras_mm))[0],
  hover: (row, mm) => {
    active = row;
    showValues(row, mm);
  },
  window: (row, dx, dy) => {
    const kind = row.name === "PET" ? "pet" : "ct";
    const [low, high] = ranges[kind];
    const width = Math.max((high - low) * (1 + dx / 200), kind === "pet" ? 0.5 : 10);
    const level = kind === "pet" ? width / 2 : (low + high) / 2 - (dy * (high - low)) / 300;
    ranges[kind] = [level - width / 2, level + width / 2];
    const own = $(`window-${kind}`).lastChild;
    Object.assign(own, { textContent: rangeText(kind, ranges[kind]), selected: true });
    applyDisplay();
  },
  views: (row, change) => (isPetCt ? rows : [row]).forEach(change),
  newLesion: () => {
    lesion = nextNumber();
    say(`A click in the follow-up sets lesion ${lesion}.`);
    render();
  },
  get current() {
    return (state?.findings?.lesions ?? []).findIndex(isChosen);
  },
};

function marksOn(row) {
  return (state?.marks ?? []).filter((mark) => mark.scan === row.scan);
}

/** Return what draws the points of a row on one of its slices. */
function paintPoints(row) {
  return (pen, tile, ratio) => {
    const dots = marksOn(row).map((mark) => ({ mm: mark.ras_mm, kind: mark.kind }));
    for (const one of study.baseline_points ?? []) if (one.scan === row.scan) dots.push({ mm: one.ras_mm, kind: String(one.number) });
    for (const { mm, kind } of dots) drawPoint(pen, { ...row.onTile(tile, mm), kind, ratio });
  };
}

// ---- the state that the server tells

function render() {
  if (!state) return;
  $("undo").disabled = !state.can_undo;
  $("redo").disabled = !state.can_redo;
  $("progress").className = state.busy ? "busy" : "";
  const { first, final } = state.seconds;
  const shown = first === undefined ? "" : `first mask ${first.toFixed(1)} s`;
  const last = final !== undefined ? `final ${final.toFixed(1)} s` : state.error ? "failed" : "computing";
  $("progress").textContent = [shown, last].filter(Boolean).join(", ");
  $("warnings").textContent = state.warnings.join("\n");
  $("warnings").hidden = !state.warnings.length;
  failure = tell(state.error ? `The session failed: ${state.error}` : "", failure);
  fillPanel($("panel"), study, state, reader);
  for (const row of rows) row.paintOver();
  if (projection) {
    projection.marks = state.marks;
    projection.draw();
  }
}

function onState(fresh) {
  if (server !== null && fresh.server !== server) location.reload();
  server = fresh.server;
  state = fresh;
  hideBanner();
  render();
  masks.show(state.mask);
  projection?.load(); // what is missing of it
  document.body.dataset.revision = String(state.revision);
  document.body.dataset.final = String(state.final);
}

function onLost(reason) {
  showBanner(
    reason === "refused"
      ? "The server has another token now: open the address that the command printed. Your points are on disk."
      : "The server does not answer. Your points are on disk; this page goes on as soon as it is back.",
  );
}

// ---- controls

function addControls() {
  const tools = isPetCt ? [["tumor", "Tumour"], ["background", "Background"], ["look", "Look"]] : [["tumor", "Set point"], ["look", "Look"]];
  for (const [name, text] of tools) {
    const button = document.createElement("button");
    Object.assign(button, { textContent: text, className: name, onclick: () => chooseTool(name) });
    button.dataset.tool = name;
    button.setAttribute("role", "radio");
    $("tools").append(button);
  }
  chooseTool("tumor");
  const choice = (label, kind, names) => {
    const box = document.createElement("label");
    const select = Object.assign(document.createElement("select"), { id: `window-${kind}`, onchange: () => setWindow(kind, select.value) });
    for (const name of names) select.append(new Option(name, name));
    select.append(Object.assign(new Option("", ""), { hidden: true })); // what the mouse has set
    box.append(label, select);
    $("windows").append(box);
  };
  if (isPetCt) choice("SUV", "pet", Object.keys(PET_WINDOWS));
  choice("HU", "ct", Object.keys(CT_WINDOWS));
  if (isPetCt) {
    const box = document.createElement("label");
    const slider = Object.assign(document.createElement("input"), { type: "range", id: "fusion", min: 0, max: 1, step: 0.05, value: fusion });
    slider.oninput = () => setFusion(Number(slider.value));
    box.append("Fusion", slider);
    $("windows").append(box);
  }
  $("undo").onclick = () => act("POST", "/api/undo");
  $("redo").onclick = () => act("POST", "/api/redo");
  $("save").onclick = save;
  $("help").onclick = () => $("keys").showModal();
}

function addKeys() {
  const all = (change) => () => rows.forEach(change);
  const actions = {
    t: () => chooseTool("tumor"),
    v: () => chooseTool("look"),
    " ": () => click(active ?? rows[0], (active ?? rows[0]).mm, false),
    "Ctrl+z": () => act("POST", "/api/undo"),
    "Ctrl+y": () => act("POST", "/api/redo"),
    "Ctrl+Shift+z": () => act("POST", "/api/redo"),
    "Ctrl+s": save,
    n: () => goToLesion(reader.current + 1),
    p: () => goToLesion(reader.current < 0 ? -1 : reader.current - 1),
    m: () => {
      maskIsShown = !maskIsShown;
      applyDisplay();
    },
    ArrowUp: () => step(1),
    ArrowDown: () => step(-1),
    PageUp: () => step(5),
    PageDown: () => step(-5),
    "+": all((row) => row.zoomBy(1.25)),
    "-": all((row) => row.zoomBy(0.8)),
    "=": all((row) => row.fit()),
    "?": () => $("keys").showModal(),
  };
  Object.keys(CT_WINDOWS).forEach((name, n) => (actions[n + 1] = () => setWindow("ct", name)));
  if (isPetCt) {
    Object.keys(PET_WINDOWS).forEach((name, n) => (actions[n + 5] = () => setWindow("pet", name)));
    Object.assign(actions, {
      b: () => chooseTool("background"),
      g: suggest,
      "[": () => setFusion(fusion - 0.1),
      "]": () => setFusion(fusion + 0.1),
      r: () => projection.toggle(),
      ArrowLeft: () => projection.turn(-1),
      ArrowRight: () => projection.turn(1),
    });
  }
  followKeys(actions);
}

addControls();
for (const row of rows) {
  row.paint = paintPoints(row);
  await row.load(layersOf(row));
}
active = rows[0];
if (isPetCt) {
  projection = new Projection($("mip"), look);
  projection.mm = rows[0].mm;
}
showValues(rows[0], null);
addKeys(); // a key and a place act on all rows
for (const row of rows) followMouse(row, reader);
listen(onState, onLost);
document.body.dataset.ready = "true";
