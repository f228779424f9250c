/** A real browser for the tests: Chromium, where there is one, and how a person uses JupyterLab in it. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BrowserContext, chromium, type Frame, type Page } from "playwright-core";

// The first of them has no windows, and takes a third less processor time for the same pages.
const NAMES = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];
const FOLDERS = ["/usr/bin", ...(process.env.PATH ?? "").split(":")];
const PATHS = NAMES.flatMap((name) => FOLDERS.map((folder) => join(folder, name)));

/** Where Chromium is; undefined: nowhere, and what needs it is skipped. */
export const CHROMIUM = PATHS.find((path) => existsSync(path));
if (!CHROMIUM)
  console.warn(`There is no Chromium here (looked for ${NAMES.join(", ")} on PATH): its tests are skipped`);

/** How long a page may take for one thing that it does. */
const PAGE_LIMIT_MS = 60_000;
const ASK_AGAIN_MS = 3000;

// biome-ignore format: a table of names reads best in rows
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-software-rasterizer", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
  // A page lives for seconds: what V8 compiles for a longer life costs more time than it saves.
  "--js-flags=--no-maglev --no-turbofan",
];

// Debian's Chromium keeps cookies and storage from frames of other sites; most browsers that people have do not.
const PREFERENCES = { profile: { cookie_controls_mode: 0, block_third_party_cookies: false } };

/** A Chromium with a new profile. Certificates that nobody knows are accepted. */
export class TestBrowser implements AsyncDisposable {
  readonly context: BrowserContext;
  #profile: string;

  private constructor(context: BrowserContext, profile: string) {
    this.context = context;
    this.#profile = profile;
    context.setDefaultTimeout(PAGE_LIMIT_MS);
  }

  static async open(flags: string[] = []): Promise<TestBrowser> {
    const profile = mkdtempSync(join(tmpdir(), "jupyter-browser-"));
    mkdirSync(join(profile, "Default"));
    writeFileSync(join(profile, "Default", "Preferences"), JSON.stringify(PREFERENCES));
    const options = { executablePath: CHROMIUM ?? "", args: [...FLAGS, ...flags], ignoreHTTPSErrors: true };
    return new TestBrowser(await chromium.launchPersistentContext(profile, options), profile);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.context.close();
    rmSync(this.#profile, { recursive: true, force: true });
  }
}

/** Writes a notebook with one cell. */
export function writeNotebook(folder: string, name: string, source: string): void {
  const cell = { cell_type: "code", id: "one", metadata: {}, execution_count: null, outputs: [], source };
  const kernelspec = { name: "python3", display_name: "Python 3 (ipykernel)", language: "python" };
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, name),
    JSON.stringify({ cells: [cell], metadata: { kernelspec }, nbformat: 4, nbformat_minor: 5 }),
  );
}

/** Runs the open notebook's first cell. Before there is a kernel a cell is passed over without a word: it is asked again. */
export async function runCell(lab: Page | Frame): Promise<void> {
  await lab.locator('.jp-NotebookPanel-toolbar [data-status="idle"]').first().waitFor();
  const limit = performance.now() + PAGE_LIMIT_MS;
  const taken = lab.locator(".jp-Notebook .jp-InputPrompt", { hasText: /\[(\*|\d+)\]/ }).first();
  const isTaken = () =>
    taken.waitFor({ timeout: ASK_AGAIN_MS }).then(
      () => true,
      () => false,
    );
  const source = lab.locator(".jp-Notebook .cm-content").first();
  // What JupyterLab asks over the notebook on a slow machine (which kernel?) has its answer chosen already.
  const accept = lab.locator(".jp-Dialog .jp-mod-accept").first();
  do {
    if (await accept.isVisible()) await accept.click({ timeout: ASK_AGAIN_MS }).catch(() => {});
    await source.click({ timeout: ASK_AGAIN_MS }).catch(() => {});
    await source.press("Shift+Enter");
  } while (!(await isTaken()) && performance.now() < limit);
}

/** What the first cell has printed, as soon as it has. */
export async function readOutput(lab: Page | Frame): Promise<string> {
  const output = lab.locator(".jp-OutputArea-output").first();
  await output.waitFor();
  return ((await output.textContent()) ?? "").trim();
}
