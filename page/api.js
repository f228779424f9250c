/** Requests of the control page, and event streams that reconnect. */
import { ANSWER_LIMIT_MS, fetchWithToken } from "./token.js";

const RETRY_PAUSE_MS = 1000;
/** A stream has a comment every 5 s: one that is silent for this long is lost, although nobody has closed it. */
const SILENCE_LIMIT_MS = 15_000;

/** Sends a request; a body is sent as JSON. Rejects if nobody answers. */
export function request(method, path, body) {
  if (method === "GET") return fetchWithToken(path, { method, timeoutMs: ANSWER_LIMIT_MS });
  if (body === undefined) return fetchWithToken(path, { method });
  const headers = { "content-type": "application/json" };
  return fetchWithToken(path, { method, headers, body: JSON.stringify(body) });
}

/**
 * Follows a stream of events until the page is closed. `onTurn` is called each time the stream begins or breaks: what
 * happened in between may be missing from it. A hidden tab closes its stream, because a browser allows six connections
 * to a host for all of its tabs.
 */
export async function follow(path, onEvent, onTurn) {
  let lastId;
  for (;;) {
    await untilVisible();
    const stream = new AbortController();
    const onChange = () => document.hidden && stream.abort();
    document.addEventListener("visibilitychange", onChange);
    try {
      for await (const event of readEvents(path, lastId, stream, onTurn)) {
        lastId = event.id ?? lastId;
        onEvent(event);
      }
    } catch {
      // Whatever ended it, the next one begins below.
    } finally {
      document.removeEventListener("visibilitychange", onChange);
    }
    if (document.hidden) continue;
    onTurn();
    await pause(RETRY_PAUSE_MS);
  }
}

/** Server-sent events by `fetch`: an EventSource can't send a token. */
async function* readEvents(path, lastId, stream, onOpen) {
  const headers = lastId === undefined ? {} : { "last-event-id": lastId };
  const response = await abortIfSilent(stream, fetchWithToken(path, { headers, signal: stream.signal }));
  if (!response.ok) throw new Error(path);
  onOpen();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await abortIfSilent(stream, reader.read());
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = parseEvent(block);
      if (event.event) yield event;
    }
  }
}

/** Waits for the next sign of life of a stream, and aborts the stream if there is none for too long. */
async function abortIfSilent(stream, sign) {
  const timer = setTimeout(() => stream.abort(), SILENCE_LIMIT_MS);
  try {
    return await sign;
  } finally {
    clearTimeout(timer);
  }
}

function parseEvent(block) {
  const event = {};
  for (const line of block.split("\n")) {
    const [, name, text] = /^(\w+): ?(.*)$/s.exec(line) ?? [];
    if (name === "data" && event.data !== undefined) event.data += `\n${text}`;
    else if (name) event[name] = text;
  }
  return event;
}

/** Resolves when the tab is visible: at once, if it is. */
export function untilVisible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
