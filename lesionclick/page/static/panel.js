// The panel at the right: lesions, points, proposals.

import { labelColor } from "./display.js";

const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));

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

function line(cells, current, onclick) {
  const made = element("tr", { onclick, tabIndex: 0, className: current ? "current" : "" });
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
    if (then_ml === null) return "new";
    if (now_ml === 0) return "gone";
    return then_ml === 0 ? "–" : `${now_ml >= then_ml ? "+" : "−"}${Math.abs((100 * (now_ml - then_ml)) / then_ml).toFixed(0)} %`;
  };
  const rows = findings.lesions.map((one, n) => {
    const dot = element("span", { className: "dot" });
    dot.style.background = `rgb(${labelColor(one.number)})`;
    return line([element("span", {}, dot, String(one.number)), number(one.then_ml), number(one.now_ml), change(one)], n === current, () =>
      reader.goToLesion(n),
    );
  });
  return table(columns, rows);
}

function heading(text, ...buttons) {
  return element("h2", {}, text, ...buttons);
}

function button(text, onclick, properties = {}) {
  return element("button", { textContent: text, onclick, ...properties });
}

/**
 * @param {HTMLElement} panel
 * @param {any} study
 * @param {any} state
 * @param {{current: number, chosen: string, goToLesion: Function, goToMark: Function, newLesion: Function, suggest: Function, accept: Function}} reader
 */
export function fillPanel(panel, study, state, reader) {
  const isPetCt = study.task === "task1";
  const parts = [];
  const csv = button("CSV", () => location.assign("/api/lesions.csv"), { disabled: !state.final });
  parts.push(heading("Lesions", ...(isPetCt ? [] : [button(`New: ${reader.nextNumber()}`, reader.newLesion)]), csv));
  if (!state.findings) parts.push(element("p", { className: "empty", textContent: "being computed" }));
  else if (!state.findings.lesions.length) parts.push(element("p", { className: "empty", textContent: "none in the mask" }));
  else parts.push((isPetCt ? petctLesions : longitudinalLesions)(state.findings, reader.current, reader));

  if (isPetCt) {
    parts.push(heading("Where to click next", button("Propose", reader.suggest, { disabled: state.busy, id: "suggest" })));
    for (const one of state.suggestions ?? []) {
      const dot = element("span", { className: `dot ${one.kind}` });
      const reason = element("small", { textContent: one.reason });
      parts.push(element("button", { className: "suggestion", onclick: () => reader.look(one.ras_mm) }, dot, `SUV ${number(one.suv)}, ${number(one.wrong_ml)} ml in question`, reason));
    }
    if (state.suggestions?.length === 0) parts.push(element("p", { className: "empty", textContent: "nothing is in question" }));
  }

  parts.push(heading(isPetCt ? "Points" : "Points of the follow-up"));
  const points = element("div", { className: "points" });
  for (const mark of state.marks) {
    const dot = element("span", { className: `dot ${mark.kind}` });
    if (!isPetCt) dot.style.background = `rgb(${labelColor(Number(mark.kind))})`;
    points.append(element("button", { title: "go there", onclick: () => reader.goToMark(mark) }, dot, isPetCt ? mark.voxel.join(" ") : mark.kind));
  }
  parts.push(state.marks.length ? points : element("p", { className: "empty", textContent: "none yet" }));
  panel.replaceChildren(...parts);
}
