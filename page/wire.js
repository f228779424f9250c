/** How the control page asks: with the API token where one is wanted, and by streams that come back. */

// biome-ignore lint/suspicious/noControlCharactersInRegex: colours begin with one
const COLOUR = /\u001b\[[\d;]*m/g;

const TOKEN_KEY = "jupyter-server-api-token";
const RETRY_PAUSE_MS = 1000;

const $ = (id) => document.getElementById(id);
let apiToken = sessionStorage.getItem(TOKEN_KEY);
/** The wait for a token, shared by all who need one. */
let entering;

/** Sends a request; asks for the token as long as the control API wants another one. Rejects where nobody answers. */
export async function request(method, path, { headers = {}, body, signal } = {}) {
  for (;;) {
    const shown = apiToken;
    const entry = shown ? { authorization: `Bearer ${shown}` } : {};
    const type = body ? { "content-type": "application/json" } : {};
    const response = await fetch(path, {
      method,
      headers: { ...headers, ...entry, ...type },
      body: body && JSON.stringify(body),
      signal,
    });
    if (response.status !== 401) {
      $("forget").hidden = apiToken === null;
      return response;
    }
    if (apiToken === shown) forgetToken();
    if (apiToken !== null) continue;
    entering ??= askForToken(shown !== null);
    await entering;
  }
}

/** The next request has to show another token, if any is wanted. */
export function forgetToken() {
  apiToken = null;
  sessionStorage.removeItem(TOKEN_KEY);
}

/** Shows the form for the token, in place of all else, until one is given. */
function askForToken(wasRefused) {
  const field = $("api-token");
  const refuse = (reason) => {
    $("gate-error").textContent = reason;
    field.setAttribute("aria-invalid", String(reason !== ""));
    field.focus();
  };
  for (const id of ["room", "lost", "forget"]) $(id).hidden = true;
  $("gate").hidden = false;
  document.title = "API token · jupyter-server";
  refuse(wasRefused ? "The control API does not know this token." : "");
  return new Promise((settle) => {
    $("gate-form").onsubmit = (event) => {
      event.preventDefault();
      const given = field.value.trim();
      if (!/^[\x21-\x7e]+$/.test(given)) return refuse("A token is made of visible ASCII characters, without blanks.");
      apiToken = given;
      sessionStorage.setItem(TOKEN_KEY, given);
      field.value = "";
      entering = undefined;
      settle();
    };
  });
}

/**
 * Follows a stream for as long as the page is there, and calls `onTurn` each time it begins and each time it is cut: what
 * happened in between need not be told by it. A tab that nobody sees gives its connection back: a browser has six to a
 * host, for all of its tabs. Resolves where there is no such route.
 */
export async function follow(path, onEvent, onTurn) {
  let lastId;
  for (;;) {
    await becomeVisible();
    const leave = new AbortController();
    const onChange = () => document.hidden && leave.abort();
    document.addEventListener("visibilitychange", onChange);
    try {
      for await (const event of readEvents(path, lastId, leave.signal, onTurn)) {
        lastId = event.id ?? lastId;
        onEvent(event);
      }
    } catch (error) {
      if (error.status === 404) return;
    } finally {
      document.removeEventListener("visibilitychange", onChange);
    }
    if (leave.signal.aborted) continue;
    onTurn();
    await pause(RETRY_PAUSE_MS);
  }
}

/** Server-sent events by `fetch`: an EventSource can't show a token. */
async function* readEvents(path, lastId, signal, onOpen) {
  const headers = lastId === undefined ? {} : { "last-event-id": lastId };
  const response = await request("GET", path, { headers, signal });
  if (!response.ok) throw Object.assign(new Error(path), { status: response.status });
  onOpen();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = readEvent(block);
      if (event.event) yield event;
    }
  }
}

function readEvent(block) {
  const event = {};
  for (const line of block.split("\n")) {
    const [, name, text] = /^(\w+): ?(.*)$/s.exec(line) ?? [];
    if (name === "data" && event.data !== undefined) event.data += `\n${text}`;
    else if (name) event[name] = text;
  }
  return event;
}

/** Resolves at once where the tab is seen, else when it is. */
export function becomeVisible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((settle) => document.addEventListener("visibilitychange", settle, { once: true }));
}

export function pause(ms) {
  return new Promise((settle) => setTimeout(settle, ms));
}

/** What programs write for a terminal, without its colours: a page has its own. */
export function leaveColours(text) {
  return text.replaceAll(COLOUR, "");
}
