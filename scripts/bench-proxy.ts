/** What one port costs: a cell over the proxy, a visit to a stopped JupyterLab, and the control API's own requests. */
import { until } from "../tests/support/helpers.ts";
import { measureCells } from "./bench-kernels.ts";
import { add, say } from "./bench-measure.ts";
import { type ControlApi, prepareLoad, requestsPerSecond, startControlApi, TOKEN } from "./bench-subjects.ts";

const CELL_ROUNDS = 12;
const CELLS = 50;
const VISITS = 12;
const RATE_ROUNDS = 7;
const PROXY = { PROXY: "true", JUPYTER_TOKEN: TOKEN };

/** Measures in turns, so that what disturbs the one disturbs the other. */
export async function measureProxy(): Promise<void> {
  const api = await startControlApi("on", undefined, undefined, PROXY);
  await until("a standby", () => api.ready() >= 1);
  await visit(api);
  for (let round = 0; round < CELL_ROUNDS; round += 1) {
    if (round % 4 === 0) say(`cells over the proxy, ${round * CELLS} of ${CELL_ROUNDS * CELLS}`);
    const ways = [
      ["direct", api.labUrl],
      ["proxied", api.url],
    ] as const;
    for (const [name, url] of round % 2 === 0 ? ways : ways.toReversed())
      for (const ms of await measureCells(`${url}/`, TOKEN, CELLS)) add(`${name} cell`, ms);
  }
  for (let number = 0; number < VISITS; number += 1) {
    await fetch(`${api.url}/api/servers/`, { method: "DELETE" });
    add("visit", await visit(api));
  }
  await api.stop();
  if (!prepareLoad()) return;
  const [off, on] = [await startControlApi("off", undefined, 0), await startControlApi("off", undefined, 0, PROXY)];
  for (const { url } of [off, on]) await fetch(`${url}/api/servers/`, { method: "POST" });
  for (let round = 0; round < RATE_ROUNDS; round += 1) {
    add("proxy off", requestsPerSecond(`${off.url}/api/servers/`, 1));
    add("proxy on", requestsPerSecond(`${on.url}/api/servers/`, 1));
  }
  await Promise.all([off.stop(), on.stop()]);
}

/** Milliseconds until the first byte of JupyterLab's page. */
async function visit({ url }: ControlApi): Promise<number> {
  const startedAt = performance.now();
  const response = await fetch(`${url}/lab`, { headers: { accept: "text/html" } });
  const reader = response.body?.getReader();
  await reader?.read();
  const ms = performance.now() - startedAt;
  await reader?.cancel();
  if (response.status !== 200) throw new Error(`a visit was answered with ${response.status}`);
  return ms;
}
