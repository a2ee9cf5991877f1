// Talks to the server: actions, and the state that all tabs share.

/** An action that the server refused, with its reason. */
class Refused extends Error {}

/**
 * @param {string} method
 * @param {string} path
 * @param {object} [body]
 * @returns {Promise<any>}
 */
export async function call(method, path, body) {
  const options = body === undefined ? {} : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const text = await textOf(path, { method, ...options });
  const content = parsed(text);
  if (content === undefined) throw new Refused(text);
  return content;
}

/** Keep a text of the server as a file; the page stays where it is whatever comes of it. */
export async function download(path, name) {
  const url = URL.createObjectURL(new Blob([await textOf(path)]));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000); // some browsers have only begun with it
}

async function textOf(path, options = {}) {
  const answer = await fetch(path, options);
  const text = await answer.text();
  if (answer.ok) return text;
  const detail = parsed(text)?.detail ?? (text || `${answer.status} ${answer.statusText}`);
  throw new Refused(typeof detail === "string" ? detail : JSON.stringify(detail));
}

/** What a text says as JSON; undefined where it is none. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const RETRY_MS = 1000;
const SILENCE_MS = 25000; // the server speaks every 10 s
const ANSWER_MS = 5000; // a server that hangs takes a connection and says nothing

/**
 * Hear of each state. While the server is away, ask for it until it is back; what it says then counts.
 *
 * @param {(state: any) => void} onState
 * @param {(reason: "away" | "refused") => void} onLost
 */
export function listen(onState, onLost) {
  let source = null;
  let silence = 0;
  const lose = async () => {
    source.close();
    clearTimeout(silence);
    let reason = "away";
    try {
      const signal = AbortSignal.timeout(ANSWER_MS);
      reason = (await fetch("/api/state", { cache: "no-store", signal })).status === 403 ? "refused" : "away";
    } catch {
      // no server at all
    }
    onLost(reason);
    setTimeout(connect, RETRY_MS);
  };
  const hearken = () => {
    clearTimeout(silence);
    silence = setTimeout(lose, SILENCE_MS);
  };
  const connect = () => {
    source = new EventSource("/api/events");
    source.onmessage = (event) => {
      hearken();
      onState(JSON.parse(event.data));
    };
    source.onerror = lose;
    hearken();
  };
  connect();
}
