// The panel at the right: lesions, points, proposals.

import { labelColor } from "./display.js";

const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));

/** The part of the body that a scan of Task 2 shows. */
export const regionOf = (scan) => scan.replace(/-(baseline|followup)$/, "");

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function table(columns, rows, foot) {
  const head = element("tr", {}, ...columns.map(([title, hint]) => element("th", { textContent: title, title: hint })));
  const made = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  if (foot) made.append(element("tfoot", {}, element("tr", {}, ...foot.map((text) => element("td", { textContent: text })))));
  return made;
}

function line(key, cells, current, onclick) {
  const made = element("tr", { onclick, tabIndex: 0, className: current ? "current" : "" });
  made.dataset.key = key;
  made.append(...cells.map((cell) => element("td", {}, cell)));
  made.onkeydown = (event) => event.key === "Enter" && onclick();
  return made;
}

/** Table of a PET/CT's lesions. */
function petctLesions(findings, current, reader) {
  const columns = [
    ["#", "number, the largest first"], ["ml", "volume"], ["SUVmax", "highest"], ["mean", "SUVmean"],
    ["peak", "SUVpeak: highest mean in 1 ml"], ["TLG", "lesion glycolysis: SUVmean x volume, g"],
  ];
  const rows = findings.lesions.map((one, n) =>
    line(
      `lesion ${one.number}`,
      [String(one.number), number(one.volume_ml), number(one.suv_max), number(one.suv_mean), number(one.suv_peak), number(one.glycolysis_g)],
      n === current,
      () => reader.goToLesion(n),
    ),
  );
  return table(columns, rows, ["all", number(findings.volume_ml), "", "", "", number(findings.glycolysis_g)]);
}

/** Table of the lesions of two times. */
function longitudinalLesions(findings, current, reader) {
  const columns = [["#", "number"], ["then, ml", "volume in the baseline"], ["now, ml", "volume in the follow-up"], ["change", ""]];
  const change = ({ then_ml, now_ml }) => {
    if (now_ml === null) return "not shown";
    if (then_ml === null) return "new";
    if (now_ml === 0) return "gone";
    return then_ml === 0 ? "–" : `${now_ml >= then_ml ? "+" : "−"}${Math.abs((100 * (now_ml - then_ml)) / then_ml).toFixed(0)} %`;
  };
  const regions = new Set(findings.lesions.map((one) => one.region)).size > 1;
  const rows = findings.lesions.map((one, n) => {
    const name = regions ? `${one.number} ${one.region}` : String(one.number);
    const dot = element("span", { className: "dot" });
    dot.style.background = `rgb(${labelColor(one.number)})`;
    const cells = [element("span", {}, dot, name), number(one.then_ml), number(one.now_ml), change(one)];
    return line(`lesion ${name}`, cells, n === current, () => reader.goToLesion(n));
  });
  return table(columns, rows);
}

function heading(text, ...buttons) {
  return element("h2", {}, text, ...buttons);
}

/** @param {string} key  what names the button from one filling of the panel to the next */
function button(key, onclick, properties, ...children) {
  const made = element("button", { onclick, ...properties }, ...children);
  made.dataset.key = key;
  return made;
}

let shown = null; // what the panel was filled with
let focused = null; // key of what had the focus when the panel was last filled, until the reader goes elsewhere

addEventListener("pointerdown", () => (focused = null), { capture: true });

/**
 * Fill the panel anew where what it shows has changed, and keep the focus in it; what is away for a while, such as a table
 * that is being computed, gets the focus again when it is back.
 *
 * @param {HTMLElement} panel
 * @param {any} study
 * @param {any} state
 * @param {{current: number, nextNumber: Function, look: Function, goToLesion: Function, goToMark: Function, newLesion: Function, suggest: Function, csv: Function}} reader
 */
export function fillPanel(panel, study, state, reader) {
  const { findings, suggestions, marks, final, busy, error } = state;
  const wanted = JSON.stringify([findings, suggestions, marks, final, busy, error, reader.current, reader.nextNumber()]);
  if (wanted === shown) return;
  shown = wanted;
  const active = document.activeElement;
  if (active !== document.body) focused = panel.contains(active) ? active.dataset.key : null;
  panel.replaceChildren(...partsOf(study, state, reader));
  const again = [...panel.querySelectorAll("[data-key]")].find((one) => one.dataset.key === focused);
  again?.focus({ preventScroll: true });
}

function partsOf(study, state, reader) {
  const isPetCt = study.task === "task1";
  const parts = [];
  const csv = button("csv", reader.csv, { disabled: !state.final }, "CSV");
  const fresh = isPetCt ? [] : [button("new", reader.newLesion, {}, `New: ${reader.nextNumber()}`)];
  parts.push(heading("Lesions", ...fresh, csv));
  const awaited = state.error ? "none: the session failed" : "being computed";
  if (!state.findings) parts.push(element("p", { className: "empty", textContent: awaited }));
  else if (!state.findings.lesions.length) parts.push(element("p", { className: "empty", textContent: "none in the mask" }));
  else parts.push((isPetCt ? petctLesions : longitudinalLesions)(state.findings, reader.current, reader));

  if (isPetCt) {
    parts.push(heading("Where to click next", button("suggest", reader.suggest, { disabled: state.busy, id: "suggest" }, "Propose")));
    for (const [n, one] of (state.suggestions ?? []).entries()) {
      const dot = element("span", { className: `dot ${one.kind}` });
      const reason = element("small", { textContent: one.reason });
      const text = `SUV ${number(one.suv)}, ${number(one.wrong_ml)} ml in question`;
      parts.push(button(`suggestion ${n}`, () => reader.look(one.ras_mm), { className: "suggestion" }, dot, text, reason));
    }
    if (state.suggestions?.length === 0) parts.push(element("p", { className: "empty", textContent: "nothing is in question" }));
  }

  parts.push(heading(isPetCt ? "Points" : "Points of the follow-up"));
  const points = element("div", { className: "points" });
  for (const mark of state.marks) {
    const dot = element("span", { className: `dot ${mark.kind}` });
    if (!isPetCt) dot.style.background = `rgb(${labelColor(Number(mark.kind))})`;
    const lesion = study.clickable.length > 1 ? `${mark.kind} ${regionOf(mark.scan)}` : mark.kind;
    const text = isPetCt ? mark.voxel.join(" ") : lesion;
    points.append(button(`point ${mark.number}`, () => reader.goToMark(mark), { title: "go there" }, dot, text));
  }
  parts.push(state.marks.length ? points : element("p", { className: "empty", textContent: isPetCt ? "none yet" : "none: the lesions of the baseline are looked for" }));
  return parts;
}
