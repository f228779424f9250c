/** What the benchmark measures of starts: bare, by the standby, armed and cold, turn by turn. */
import { setTimeout as sleep } from "node:timers/promises";
import { until } from "../tests/support/helpers.ts";
import { measureCells, measureKernel, measureTogether, readShareMb } from "./bench-kernels.ts";
import { add, say, untilUsable } from "./bench-measure.ts";
import { type ControlApi, listProcesses, readVitals, startBare, startControlApi, TOKEN } from "./bench-subjects.ts";

export const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 7);
const CELLS = 8;
const KERNELS = 2;
/** Bursts of many kernels: bare `jupyter lab` takes seconds for each. */
const BURSTS = 3;
const STARTS_IN_A_ROW = 10;
const AFTER_STOP_MS = 50;

export const post = (api: ControlApi, body: object) =>
  fetch(`${api.url}/api/servers/`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  }).then((response) => response.json() as Promise<{ pid: number; start_kind: string; base_url: string }>);

/** One start, from the POST until JupyterLab answers us, and until the POST is answered. */
async function start(api: ControlApi, name: string, kind: string, body: Record<string, unknown>) {
  const at = performance.now();
  const base = String(body["base-url"] ?? "");
  const usable = untilUsable(`${api.labUrl}${base}/api/status?token=${TOKEN}`, at);
  const answered = post(api, { token: TOKEN, ...body }).then((answer) => ({ answer, ms: performance.now() - at }));
  const [usableMs, { answer, ms }] = await Promise.all([usable, answered]);
  if (answer.start_kind !== kind) throw new Error(`a start was ${answer.start_kind}, not ${kind}`);
  add(`${name} usable`, usableMs);
  add(`${name} answered`, ms);
  return answer;
}

async function stop(api: ControlApi): Promise<number> {
  const at = performance.now();
  const response = await fetch(`${api.url}/api/servers/`, { method: "DELETE" });
  if (response.status !== 200) throw new Error(`a stop was answered with ${response.status}`);
  return performance.now() - at;
}

export async function measureStarts(): Promise<void> {
  const [on, armed, off] = [await startControlApi("on"), await startControlApi("armed"), await startControlApi("off")];
  // The first armed process has the defaults: a start gives the next one the options of all further starts.
  await until("a zygote and an armed one", () => armed.ready() >= 2);
  await post(armed, { token: TOKEN });
  let armedReady = 3;
  await until("an armed one for a restart", () => armed.ready() >= armedReady);
  await stop(armed);
  await until("a zygote", () => on.ready() >= 1);
  add("fresh MB", readVitals(on.child.pid).rssMb);
  for (let round = 0; round < ROUNDS; round += 1) {
    say(`starts, round ${round + 1} of ${ROUNDS}`);
    await measureBare(round);
    await measureOn(on, round);

    await start(off, "off", "cold", {});
    for (const ms of await measureCells(`${off.labUrl}/`, TOKEN, CELLS)) add("ours cell", ms);
    add("off stop", await stop(off));

    await until("an armed one", () => armed.ready() >= armedReady);
    const { pid } = await start(armed, "armed", "armed", {});
    armedReady += 1;
    await until("an armed one for a crash", () => armed.ready() >= armedReady);
    const killed = performance.now();
    process.kill(pid, "SIGKILL");
    add("armed recovery", await untilUsable(`${armed.labUrl}/api/status?token=${TOKEN}`, killed));
    armedReady += 1;
    await until("an armed one after the crash", () => armed.ready() >= armedReady);
    add("armed stop", await stop(armed));
  }
  add("control API MB", readVitals(on.child.pid).rssMb);
  await Promise.all([on.stop(), armed.stop(), off.stop()]);
}

async function measureBare(round: number): Promise<void> {
  const bare = await startBare();
  add("bare usable", bare.usableMs);
  for (const ms of await measureCells(bare.url, TOKEN, CELLS)) add("bare cell", ms);
  for (let kernel = 0; kernel < KERNELS; kernel += 1) await measureKernel("bare", bare.url, TOKEN);
  if (round < BURSTS) await measureTogether("bare", bare.url, TOKEN);
  const at = performance.now();
  await bare.stop();
  add("bare stop", performance.now() - at);
  add("bare restart", bare.usableMs + performance.now() - at);
}

async function measureOn(api: ControlApi, round: number): Promise<void> {
  const base = { "base-url": `/round-${round}` };
  const url = `${api.labUrl}${base["base-url"]}/`;
  const { pid } = await start(api, "on", "standby", base);
  // The first kernel may have to wait for its template.
  await measureCells(url, TOKEN, 1);
  for (let kernel = 0; kernel < KERNELS; kernel += 1) await measureKernel("on", url, TOKEN);
  add(
    "warm tree MB",
    listProcesses(api).reduce((sum, process) => sum + readShareMb(process), 0),
  );
  if (round < BURSTS) await measureTogether("on", url, TOKEN);
  const killed = performance.now();
  process.kill(pid, "SIGKILL");
  add("on recovery", await untilUsable(`${url}api/status?token=${TOKEN}`, killed));
  // A restart during the recovery would be no restart of its own.
  while ((await fetch(`${api.url}/api/servers/`)).status !== 200) await sleep(AFTER_STOP_MS);
  const restarted = performance.now();
  await fetch(`${api.url}/api/servers/restart`, { method: "POST" }).then((response) => response.json());
  await untilUsable(`${url}api/status?token=${TOKEN}`, restarted);
  add("on restart", performance.now() - restarted);
  add("on stop", await stop(api));
  for (let turn = 0; turn < STARTS_IN_A_ROW; turn += 1) {
    await sleep(AFTER_STOP_MS);
    await start(api, "on again", "standby", { "base-url": `/turn-${turn}` });
    await stop(api);
  }
}
