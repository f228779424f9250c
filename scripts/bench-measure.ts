/** How the benchmark measures: medians, waiting for a usable JupyterLab, and the round trip of a cell. */
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const POLL_PAUSE_MS = 1;
/** Of the time that has gone by, so that asking takes no processor time from what is measured. */
const POLL_PAUSE_SHARE = 0.01;
const WAIT_LIMIT_MS = 30_000;

/** The middle of the values; the mean of the two middle ones where their number is even. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return ((sorted[Math.floor(middle)] ?? Number.NaN) + (sorted[Math.ceil(middle) - 1] ?? Number.NaN)) / 2;
}

/**
 * The status of one GET on a connection of its own; 0 where nobody answers. By the socket itself: a client may take its
 * time, and try again by itself, when the process at the other end is killed.
 */
export function get(url: string): Promise<number> {
  const { hostname, port, pathname, search } = new URL(url);
  return new Promise((settle) => {
    let head = "";
    const socket = connect({ host: hostname, port: Number(port), timeout: 5000 });
    socket.write(`GET ${pathname}${search} HTTP/1.1\r\nHost: ${hostname}\r\nConnection: close\r\n\r\n`);
    socket.on("data", (chunk) => {
      head += chunk.toString("latin1");
    });
    socket.on("error", () => {});
    socket.on("timeout", () => socket.destroy());
    socket.on("close", () => settle(Number(/^HTTP\/1\.1 (\d+)/.exec(head)?.[1] ?? 0)));
  });
}

/** Asks until the answer is 200 and gives the milliseconds since `startedAt`. Rejects after 30 s. */
export async function untilUsable(url: string, startedAt: number): Promise<number> {
  while (performance.now() - startedAt < WAIT_LIMIT_MS) {
    if ((await get(url)) === 200) return performance.now() - startedAt;
    await sleep(Math.max(POLL_PAUSE_MS, (performance.now() - startedAt) * POLL_PAUSE_SHARE));
  }
  throw new Error(`${url} did not answer within ${WAIT_LIMIT_MS / 1000} s`);
}

/** Waits for a condition; rejects after 30 s. */
export async function until(what: string, check: () => boolean): Promise<void> {
  const startedAt = performance.now();
  while (!check()) {
    if (performance.now() - startedAt > WAIT_LIMIT_MS) throw new Error(`Waited in vain for ${what}`);
    await sleep(5);
  }
}

/** Round trips of `1+1` in a new kernel, from its second cell on, over one websocket: request to reply and idle. */
export async function measureCells(url: string, token: string, count: number): Promise<number[]> {
  const headers = { authorization: `token ${token}`, "content-type": "application/json" };
  const made = await fetch(`${url}api/kernels`, { method: "POST", headers, body: "{}" });
  const { id } = (await made.json()) as { id: string };
  const socket = new WebSocket(`${url.replace(/^http/, "ws")}api/kernels/${id}/channels?token=${token}`);
  const waiting = new Map<string, (kind: string) => void>();
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(String(data));
    const state = message.msg_type === "status" ? message.content.execution_state : message.msg_type;
    waiting.get(message.parent_header?.msg_id)?.(state);
  };
  await new Promise<void>((settle, reject) => {
    socket.onopen = () => settle();
    socket.onerror = () => reject(new Error("the kernel's websocket did not open"));
  });
  const times: number[] = [];
  for (let cell = 0; cell <= count; cell += 1) {
    const startedAt = performance.now();
    await runCell(socket, waiting);
    if (cell > 0) times.push(performance.now() - startedAt);
  }
  socket.close();
  await fetch(`${url}api/kernels/${id}`, { method: "DELETE", headers });
  return times;
}

async function runCell(socket: WebSocket, waiting: Map<string, (kind: string) => void>): Promise<void> {
  const msg_id = crypto.randomUUID();
  const missing = new Set(["execute_reply", "idle"]);
  const done = new Promise<void>((settle, reject) => {
    const timer = setTimeout(() => reject(new Error("a cell got no answer")), WAIT_LIMIT_MS);
    waiting.set(msg_id, (kind) => {
      missing.delete(kind);
      if (missing.size > 0) return;
      clearTimeout(timer);
      settle();
    });
  });
  const header = { msg_id, msg_type: "execute_request", username: "", session: "bench", version: "5.3", date: "" };
  const content = { code: "1+1", silent: false, store_history: true, user_expressions: {}, allow_stdin: false };
  socket.send(JSON.stringify({ channel: "shell", header, parent_header: {}, metadata: {}, content, buffers: [] }));
  await done;
  waiting.delete(msg_id);
}
