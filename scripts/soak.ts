/**
 * `bun run soak`: a thousand starts and stops, a million requests, five hundred event streams and one that is never read:
 * memory, descriptors and processes before and after, as a section of `docs/benchmark.md`.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { until } from "../tests/support/helpers.ts";
import { measureCells } from "./bench-kernels.ts";
import { get } from "./bench-measure.ts";
import {
  type ControlApi,
  cleanUp,
  countProcesses,
  PROJECT,
  readVitals,
  requestsPerSecond,
  startControlApi,
} from "./bench-subjects.ts";

const ROUNDS = Number(process.env.SOAK_ROUNDS ?? 1000);
const KERNELS = Number(process.env.SOAK_KERNELS ?? 1000);
const REQUESTS = 1_000_000;
const STREAMS = 500;
const STREAM_ROUNDS = 20;
const CLIENT_CPU = 1;
const HEADING = "## Soak";

const vitals = (api: ControlApi) => {
  const { rssMb, descriptors } = readVitals(api.child.pid);
  return { rssMb, descriptors, processes: countProcesses(api) };
};
const tell = ({ rssMb, descriptors, processes }: ReturnType<typeof vitals>) =>
  `${rssMb.toFixed(0)} MB, ${descriptors} descriptors, ${processes} processes`;
const say = (text: string) => process.stderr.write(`${text}\n`);

async function startAndStop(api: ControlApi): Promise<void> {
  for (const method of ["POST", "DELETE"]) {
    const response = await fetch(`${api.url}/api/servers/`, { method });
    if (!response.ok) throw new Error(`${method} was answered with ${response.status}: ${await response.text()}`);
    await response.text();
  }
}

async function soakStarts(api: ControlApi): Promise<string> {
  const seen: ReturnType<typeof vitals>[] = [];
  for (let round = 1; round <= ROUNDS; round += 1) {
    await startAndStop(api);
    if (round % 100 === 0 || round === 20) {
      seen.push(vitals(api));
      say(`starts and stops: ${round} of ${ROUNDS}: ${tell(vitals(api))}`);
    }
  }
  return seen.map(tell).join(" → ");
}

async function soakRequests(api: ControlApi): Promise<string> {
  const before = vitals(api);
  let asked = 0;
  while (asked < REQUESTS) asked += requestsPerSecond(`${api.url}/api/servers/`, CLIENT_CPU);
  await get(`${api.url}/health/live`);
  return `${tell(before)} → ${tell(vitals(api))} after ${Math.round(asked / 1000)},000`;
}

async function soakStreams(api: ControlApi): Promise<string> {
  const before = vitals(api);
  const seen = new Array<number>(STREAMS).fill(0);
  const follow = (read?: (text: string) => void) => {
    const socket = connect({ port: Number(new URL(api.url).port), host: "127.0.0.1" });
    socket.on("error", () => {});
    socket.write("GET /api/servers/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    if (read) socket.setEncoding("utf8").on("data", read);
    else socket.pause();
    return socket;
  };
  const readers = seen.map((_, index) =>
    follow((text) => {
      seen[index] = (seen[index] ?? 0) + text.split("event: state").length - 1;
    }),
  );
  readers.push(follow());
  await until("all streams", () => seen.every((count) => count > 0));
  const during = vitals(api);
  for (let round = 0; round < STREAM_ROUNDS; round += 1) await startAndStop(api);
  // The present state at first, then starting, running, stopping and stopped of each round.
  const expected = 1 + STREAM_ROUNDS * 4;
  await until("all events", () => seen.every((count) => count >= expected));
  const after = vitals(api);
  for (const reader of readers) reader.destroy();
  await until("the streams' end", () => vitals(api).descriptors <= before.descriptors + 2);
  return `${tell(before)} → ${tell(during)} with ${STREAMS} readers → ${tell(after)} after ${STREAM_ROUNDS} starts, each of whose events reached every reader → ${tell(vitals(api))} once they had gone`;
}

/** Kernels that are forked, run a cell and are deleted, one after the other, in one JupyterLab. */
async function soakKernels(): Promise<string> {
  const api = await startControlApi("on");
  await until("a zygote", () => api.ready() >= 1);
  const answer = await fetch(`${api.url}/api/servers/`, { method: "POST" });
  const { pid, url, token } = (await answer.json()) as { pid: number; url: string; token: string };
  const look = () => {
    const { rssMb, descriptors } = readVitals(pid);
    return { rssMb, descriptors, processes: countProcesses(api) };
  };
  const seen: string[] = [];
  for (let kernel = 1; kernel <= KERNELS; kernel += 1) {
    await measureCells(url, token, 0);
    if (kernel === 20 || kernel % 100 === 0) {
      seen.push(tell(look()));
      say(`kernels: ${kernel} of ${KERNELS}: ${seen.at(-1)}, ${countZombies(pid)} zombies`);
    }
  }
  const zombies = countZombies(pid);
  await api.stop();
  return `${seen.join(" → ")}; ${zombies} zombies at the end`;
}

function countZombies(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean);
  return children.filter((child) => /^State:\s+Z/m.test(readFileSync(`/proc/${child}/status`, "utf8"))).length;
}

function report(lines: string[]): void {
  const path = join(PROJECT, "docs", "benchmark.md");
  const text = existsSync(path) ? readFileSync(path, "utf8") : "";
  const rest = text.split(`${HEADING}\n`)[0]?.trimEnd() ?? "";
  writeFileSync(path, `${rest}\n\n${HEADING}\n\n${lines.join("\n")}\n`);
}

try {
  const api = await startControlApi("off");
  await startAndStop(api);
  const streams = await soakStreams(api);
  say(streams);
  const requests = await soakRequests(api);
  say(requests);
  const starts = await soakStarts(api);
  const kernels = await soakKernels();
  const date = new Date().toISOString().slice(0, 10);
  report([
    `\`bun run soak\`, ${date}, \`STANDBY=off\`: what the control API takes, and how many processes it and its JupyterLab have.`,
    "",
    `- ${STREAMS} event streams, and one that nobody reads: ${streams}.`,
    `- ${REQUESTS / 1e6} million \`GET /api/servers/\`: ${requests}.`,
    `- ${ROUNDS} starts and stops, after the 20th and then after every hundred: ${starts}.`,
    `- ${KERNELS} kernels of one JupyterLab, started, asked and deleted (\`STANDBY=on\`), JupyterLab's figures after the 20th and then after every hundred: ${kernels}.`,
  ]);
  await api.stop();
} finally {
  await cleanUp();
}
