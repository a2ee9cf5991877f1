// The keys. Where OHIF's readers have one for the same, it is the same.

/**
 * Each line: the key, what it does with a PET/CT, and with two times where that is another thing, or null for nothing.
 *
 * @type {[string, [string, string | null, (string | null)?][]][]}
 */
const HELP = [
  ["Mouse", [
    [
      "left click",
      "set a point of the chosen kind; on a point: delete it",
      "set the point of the chosen lesion, or move it; on that point: delete it",
    ],
    ["right or Shift click", "set a point of the other kind", null],
    ["left drag", "move the crosshair through all views"],
    ["wheel", "go through the slices; with Ctrl: zoom"],
    ["middle drag", "move the image"],
    ["right drag", "window: width and level"],
    ["click on the MIP", "go to the voxel that shows; drag or wheel: turn", null],
  ]],
  ["Keys", [
    ["t  b  v", "a click sets tumour, background, or only the crosshair", null],
    ["t  v", null, "a click sets a point, or only the crosshair"],
    ["Space", "set a point at the crosshair"],
    ["Ctrl+Z  Ctrl+Y", "undo, redo"],
    ["n  p", "next, previous lesion"],
    ["g", "where to click next", null],
    ["m", "show or hide the mask"],
    ["arrows up, down", "one slice; Page up, down: five"],
    ["arrows left, right", "turn the MIP; r: keep turning", null],
    ["+  -  =", "zoom in, out, fit"],
    ["1 2 3 4", "CT: soft tissue, lung, bone, liver"],
    ["5 6 7", "PET: SUV 0-5, 0-10, 0-20", null],
    ["[  ]", "fusion: less, more PET", null],
    ["Ctrl+S", "save"],
    ["?", "this list"],
  ]],
];

/** Fill the dialog that lists what mouse and keys do with a case of either task. */
export function fillHelp(dialog, isPetCt) {
  for (const [title, lines] of HELP) {
    const head = document.createElement("strong");
    head.textContent = title;
    const list = document.createElement("dl");
    for (const [key, petct, longitudinal = petct] of lines) {
      const text = isPetCt ? petct : longitudinal;
      if (text === null) continue;
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      dt.textContent = key;
      dd.textContent = text;
      list.append(dt, dd);
    }
    dialog.append(head, list);
  }
  dialog.addEventListener("click", () => dialog.close());
}

/** Keys that act again as long as they are held. */
const REPEATED = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "PageUp", "PageDown"];

/**
 * Let keys act. Plain ones belong to a slider, a menu, or a button that has the focus; none acts behind a dialog.
 *
 * @param {Record<string, () => void>} actions  by key, with Ctrl+ before it where that is held
 */
export function followKeys(actions) {
  addEventListener("keydown", (event) => {
    if (event.altKey) return;
    const held = event.ctrlKey || event.metaKey;
    const shifted = held && event.shiftKey ? "Shift+" : "";
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = actions[`${held ? "Ctrl+" : ""}${shifted}${key}`];
    const taking = key === " " ? "input, select, button, tr" : "input, select";
    if (!action || (!held && (isDialogOpen() || event.target.matches(taking)))) return;
    event.preventDefault(); // of a held key too, lest the browser saves the page
    if (!isDialogOpen() && (!event.repeat || REPEATED.includes(key))) action();
  });
  // what the mouse has clicked on leaves the keys to the views; what the keyboard has, keeps them
  addEventListener("click", (event) => {
    const isMouse = event.detail > 0;
    if (isMouse && event.target.closest("button, tr") && !isDialogOpen()) document.activeElement?.blur();
  });
}

function isDialogOpen() {
  return document.querySelector("dialog[open]") !== null;
}
