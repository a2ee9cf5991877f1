// The line below the slices.

const message = document.getElementById("message");

export function say(text) {
  message.textContent = text;
}

/** Say what holds for a while in place of `before`, or nothing any more; return what is said. */
export function tell(text, before) {
  if (text) say(text);
  else if (before && message.textContent === before) say("");
  return text;
}
