/**
 * How long a person waits for JupyterLab's page, in Chromium with a new profile and its own throttling, against bare
 * `jupyter lab`, turn by turn. `bun scripts/bench-page.ts` measures this alone.
 */
import { cpSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Locator, Page } from "playwright-core";
import { CHROMIUM, TestBrowser } from "../tests/support/browser.ts";
import { until } from "../tests/support/helpers.ts";
import { add, median, samples, say } from "./bench-measure.ts";
import { post } from "./bench-starts.ts";
import { cleanUp, PROJECT, PYTHON, startBare, startControlApi, TOKEN } from "./bench-subjects.ts";
import { drawWaterfall, type Visit } from "./bench-waterfall.ts";

const ROUNDS = Number(process.env.PAGE_ROUNDS ?? 3);
export const NETWORKS = {
  slow: { title: "5 Mbit/s, 100 ms", mbit: 5, latency: 100 },
  fast: { title: "20 Mbit/s, 40 ms", mbit: 20, latency: 40 },
  loopback: { title: "loopback", mbit: 0, latency: 0 },
} as const;
type Network = keyof typeof NETWORKS;
/** A cell is run again after this: JupyterLab loses one that is run before its kernel is connected. */
const ASK_AGAIN_MS = 300;
const PAINTS = 'performance.getEntriesByType("paint").map(({ startTime }) => startTime)';
const CELL_LIMIT_MS = 60_000;
const PICTURE = join(PROJECT, "docs", "page-waterfall.svg");
/** Made once for a checkout. */
const COPIES = join(PROJECT, ".runtime", "bench-assets");

/** Measures every network in turns, and draws the last visits over the slow one. Returns why not, without Chromium. */
export async function measurePage(): Promise<string | undefined> {
  if (!CHROMIUM) return "There is no Chromium here: the page was not measured.";
  makeCopies();
  const last: Partial<Record<"bare" | "ours", Visit>> = {};
  for (let round = 0; round < ROUNDS; round += 1)
    for (const network of Object.keys(NETWORKS) as Network[]) {
      say(`the page over ${NETWORKS[network].title}, round ${round + 1} of ${ROUNDS}`);
      const subjects = [["bare", startBare] as const, ["ours", startOurLab] as const];
      for (const [name, start] of round % 2 === 0 ? subjects : subjects.toReversed()) {
        const lab = await start();
        const visit = await open(name, network, lab.url);
        if (network === "slow") last[name] = visit;
        await lab.stop();
      }
    }
  if (last.bare && last.ours) writeFileSync(PICTURE, drawWaterfall(last.bare, last.ours));
  return undefined;
}

/** The copies that an image is built with. */
function makeCopies(): void {
  say("assets are compressed, once for this checkout");
  mkdirSync(dirname(COPIES), { recursive: true });
  const listed = Bun.spawnSync([PYTHON, join(PROJECT, "python", "assets.py")]);
  const folders = listed.stdout.toString().split("\n");
  Bun.spawnSync([process.execPath, join(PROJECT, "lab", "compress-assets.ts"), COPIES, ...folders]);
}

async function startOurLab() {
  const api = await startControlApi("on");
  if (existsSync(COPIES)) cpSync(COPIES, join(api.folder, "run", "connection.json.assets"), { recursive: true });
  await until("a standby", () => api.ready() >= 1);
  await post(api, { token: TOKEN });
  return { url: `${api.labUrl}/`, stop: api.stop };
}

/** Opens JupyterLab as a person does who has never been there, and a second time; on loopback runs a first cell too. */
async function open(name: string, network: Network, url: string): Promise<Visit> {
  await using browser = await TestBrowser.open();
  const page = browser.context.pages()[0] ?? (await browser.context.newPage());
  const { mbit, latency } = NETWORKS[network];
  const { visit, reset } = await follow(page, mbit, latency);
  const wait = async () => {
    const startedAt = performance.now();
    await page.goto(`${url}lab?reset&token=${TOKEN}`, { waitUntil: "commit" });
    await page.locator(".jp-LauncherCard").first().waitFor();
    return performance.now() - startedAt;
  };
  const launcherMs = await wait();
  const paints = await page.evaluate<number[]>(PAINTS);
  const first = { ...visit(), launcherMs, paintMs: Math.min(...paints) };
  add(`${name} ${network} launcher`, launcherMs);
  add(`${name} ${network} paint`, first.paintMs);
  add(`${name} bytes`, first.bytes);
  await page.goto("about:blank");
  reset();
  await wait();
  add(`${name} again bytes`, visit().bytes);
  if (network === "loopback") add(`${name} notebook`, await runFirstCell(page));
  return first;
}

/** Throttles a page, and collects its requests. */
async function follow(page: Page, mbit: number, latency: number) {
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  const downloadThroughput = mbit > 0 ? (mbit * 1e6) / 8 : -1;
  if (mbit > 0)
    await session.send("Network.emulateNetworkConditions", {
      offline: false,
      latency,
      downloadThroughput,
      uploadThroughput: downloadThroughput,
    });
  const seen = new Map<string, { url: string; from: number; until: number; bytes: number; isEncoded: boolean }>();
  session.on("Network.requestWillBeSent", ({ requestId, request, timestamp }) => {
    seen.set(requestId, { url: request.url, from: timestamp * 1000, until: Number.NaN, bytes: 0, isEncoded: false });
  });
  session.on("Network.responseReceived", ({ requestId, response }) => {
    const one = seen.get(requestId);
    if (one) one.isEncoded = Object.keys(response.headers).some((header) => /^content-encoding$/i.test(header));
  });
  session.on("Network.loadingFinished", ({ requestId, timestamp, encodedDataLength }) => {
    const one = seen.get(requestId);
    if (one) Object.assign(one, { until: timestamp * 1000, bytes: encodedDataLength });
  });
  const visit = () => {
    const requests = [...seen.values()].filter(({ url, until: end }) => url.startsWith("http") && !Number.isNaN(end));
    const startedAt = Math.min(...requests.map(({ from }) => from));
    return {
      bytes: requests.reduce((sum, { bytes }) => sum + bytes, 0),
      requests: requests.map((one) => ({ ...one, from: one.from - startedAt, until: one.until - startedAt })),
    };
  };
  return { visit, reset: () => seen.clear() };
}

/** From the click on a notebook's card to the answer of `1+1` on the screen, in milliseconds. */
async function runFirstCell(page: Page): Promise<number> {
  const startedAt = performance.now();
  await page.locator('.jp-LauncherCard[data-category="Notebook"]').first().click();
  const editor = page.locator(".jp-Notebook .cm-content").first();
  await editor.click();
  await editor.pressSequentially("1+1");
  const answer: Locator = page.locator(".jp-OutputArea-output").first();
  while (performance.now() - startedAt < CELL_LIMIT_MS) {
    await editor.press("Control+Enter");
    const answered = await answer.waitFor({ timeout: ASK_AGAIN_MS }).then(
      () => true,
      () => false,
    );
    if (answered) return performance.now() - startedAt;
  }
  throw new Error("A first cell was not answered");
}

if (import.meta.main) {
  try {
    const fault = await measurePage();
    if (fault) say(fault);
    for (const [name, values] of Object.entries(samples))
      process.stdout.write(`${name.padEnd(28)} ${median(values).toFixed(0).padStart(9)}  ${values.map(Math.round)}\n`);
  } finally {
    await cleanUp();
  }
  process.exit();
}
