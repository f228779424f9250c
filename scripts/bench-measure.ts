/** How the benchmark measures: samples and their medians, and waiting for a usable JupyterLab. */
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const POLL_PAUSE_MS = 1;
/** The pause as a share of the time so far: polls must take no processor time from what is measured. */
const POLL_PAUSE_SHARE = 0.01;
const WAIT_LIMIT_MS = 30_000;

/** Everything that was measured, by name. */
export const samples: Record<string, number[]> = {};
const startedAt = performance.now();

export function add(name: string, value: number): void {
  const values = samples[name] ?? [];
  values.push(value);
  samples[name] = values;
}

/** Reports progress, with the seconds since the benchmark began. */
export function say(text: string): void {
  process.stderr.write(`${((performance.now() - startedAt) / 1000).toFixed(0).padStart(4)} s  ${text}\n`);
}

/** The middle of the values; the mean of the two middle ones where their number is even. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return ((sorted[Math.floor(middle)] ?? Number.NaN) + (sorted[Math.ceil(middle) - 1] ?? Number.NaN)) / 2;
}

/**
 * The status of one GET on a connection of its own; 0 without an answer. It uses a socket, because an HTTP client may take
 * its time, or try again by itself, when the process at the other end is killed.
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
