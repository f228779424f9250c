/** The control page left open: what changes by itself is shown, and nothing else moves. */
import { expect, test } from "bun:test";
import { appendFileSync, chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FAKE, type Json, runProgram, until } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";
import { findControls } from "./controls.ts";
import { type BrowserUse, LIMIT_MS } from "./use-browser.ts";

/** Lets the time limits of a page pass twenty times as fast. */
const HURRY = `{
  const [setTimer, makeSignal] = [window.setTimeout, AbortSignal.timeout];
  window.setTimeout = (callback, ms) => setTimer(callback, ms / 20);
  AbortSignal.timeout = (ms) => makeSignal(ms / 20);
}`;

export function testOpenPage(browser: BrowserUse): void {
  const { button, awaitState, focused } = findControls(browser);

  test(
    "shows that a gateway has gone away, and that a start was refused if somebody else's came first",
    async () => {
      await using api = await TestServer.start();
      const gateway = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => Response.json({ kernelspecs: {} }) });
      const page = await browser.visit(api.url);
      await api.start({ "gateway-url": `http://127.0.0.1:${gateway.port}` });
      const place = page.locator("#facts dd").getByText(`http://127.0.0.1:${gateway.port}`);
      await place.waitFor();
      expect(await place.getAttribute("class")).toBe("");
      await gateway.stop(true);
      await page.locator("#facts .bad").getByText("connection refused").waitFor();

      await api.stop();
      await awaitState("Stopped");
      await page.getByText("Options").click();
      await page.getByLabel("Base URL").fill("/two");
      // Held on its way until the other one has arrived.
      await page.route("**/api/servers/", async (route) => {
        if (route.request().method() === "POST") await api.start({ "base-url": "/one" });
        await route.continue();
      });
      await button("Start").click();
      await awaitState("Running");
      await page
        .getByRole("alert")
        .getByText(/with other options/)
        .waitFor();
      expect((await api.show()).body.base_url).toBe("/one/");
    },
    LIMIT_MS,
  );

  test(
    "shows the phases of the present attempt alone, and how long the one under way lasts",
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
      const [PYTHON, modes] = [join(folder, "python"), join(folder, "modes")];
      // A start that succeeds, a restart that fails when its port is bound, and one that hangs once it is spawned.
      writeFileSync(modes, "ok\ndie-after-listening\nhang\n");
      writeFileSync(
        PYTHON,
        `#!/bin/sh\nexport FAKE_MODE=$(sed -n 1p ${modes}); sed -i 1d ${modes}; exec ${FAKE} "$@"\n`,
      );
      chmodSync(PYTHON, 0o755);
      await using api = await TestServer.start({ PYTHON }, folder);
      const page = await browser.visit(api.url);
      process.kill((await api.start()).body.pid, "SIGKILL");
      await page.getByText("Restarting after 2 crashes").waitFor();
      await page.getByText("Phases").click();
      await page.locator("#legend li").getByText("spawn").waitFor();
      expect(await page.locator("#legend li").count()).toBe(1);
      const [done, pending] = [page.locator("#bar > :first-child"), page.locator("#bar .pending")];
      const width = async (part: typeof done) => (await part.boundingBox())?.width ?? 0;
      await until("the longer part", async () => (await width(pending)) > 2 * (await width(done)));
      await api.stop();
    },
    LIMIT_MS,
  );

  test(
    "shows the failure of a restart once, and that an action did not arrive as long as it is true",
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
      const [PYTHON, broken] = [join(folder, "python"), join(folder, "broken")];
      writeFileSync(PYTHON, `#!/bin/sh\n[ -e ${broken} ] && export FAKE_MODE=crash\nexec ${FAKE} "$@"\n`);
      chmodSync(PYTHON, 0o755);
      await using api = await TestServer.start({ PYTHON }, folder);
      await api.start();
      const page = await browser.visit(api.url);
      await awaitState("Running");
      writeFileSync(broken, "");
      // The answer comes when the page has heard of the failure already.
      await page.route("**/api/servers/restart", async (route) => {
        const response = await route.fetch();
        await awaitState("Failed");
        await route.fulfill({ response });
      });
      await button("Restart").click();
      await awaitState("Failed");
      const ready = page.locator("#submit[aria-disabled=false]");
      await ready.waitFor();
      const problem = page.locator("#problem");
      expect(await problem.textContent()).toBe("");

      const lost = page.getByRole("alert").getByText("The control API is not responding");
      await page.route("**/api/servers/", (route) => route.abort());
      await button("Start").click();
      await lost.waitFor();
      await ready.waitFor();
      expect(await problem.textContent()).toBe("");
      await page.unroute("**/api/servers/");
      await page.route("**/api/servers/", (route) =>
        route.request().method() === "POST" ? route.abort() : route.continue(),
      );
      await button("Start").click();
      await ready.waitFor();
      expect(await problem.textContent()).toBe("The control API could not be reached. Try again.");
    },
    LIMIT_MS,
  );

  test(
    "leaves what has not changed as it is where a clock beside it goes on, and says why JupyterLab has ended if that was not asked for here",
    async () => {
      await using api = await TestServer.start();
      const page = await browser.visit(api.url);
      await api.start({ env: { FAKE_MODE: "busy" } });
      const state = await page.locator("#kernel-table td[data-state=busy]").elementHandle();
      const [address, started] = [page.locator("#facts dd").first(), page.locator("#facts dd").nth(3)];
      await address.selectText();
      const before = await started.textContent();
      await until("another second", async () => (await started.textContent()) !== before);
      expect(await page.evaluate<string>("String(getSelection())")).toBe((await api.show()).body.url);
      expect(await state?.evaluate((cell: { isConnected: boolean }) => cell.isConnected)).toBe(true);
      // What has its meaning by its colour alone keeps it where the system chooses the others.
      await page.emulateMedia({ forcedColors: "active" });
      const fillOf = (selector: string, part: string) =>
        page.evaluate<string>(`getComputedStyle(document.querySelector("${selector}"), "${part}").backgroundColor`);
      const ground = await fillOf("body", "");
      expect(await fillOf("#bar span", "")).not.toBe(ground);
      for (const selector of ["#legend li", "#state", "td[data-state=busy]"])
        expect(await fillOf(selector, "::before")).not.toBe(ground);
      process.kill((await api.show()).body.pid, "SIGTERM");
      await page
        .getByText("JupyterLab was shut down from its own menu, by its own settings or by a signal from outside.")
        .waitFor();
      await awaitState("Stopped");
    },
    LIMIT_MS,
  );

  test(
    "asks before busy kernels are lost, says why, and withdraws the question when they are gone or a token is asked for",
    async () => {
      await using api = await TestServer.start();
      const page = await browser.visit(api.url);
      await api.start({ env: { FAKE_MODE: "unheard" } });
      await page.getByText("Activity unknown.").waitFor();
      await button("Stop").click();
      const question = page.getByRole("dialog", { name: "Stop JupyterLab?" });
      await question.getByText(/kernels.*503.*\. Unsaved work will be lost\./).waitFor();
      await api.ask("POST", "/api/servers/restart");
      await question.waitFor({ state: "hidden" });
      await page.getByText("Activity unknown.").waitFor();
      await button("Stop").click();
      await question.waitFor();
      // Another control API, with a token: what is typed is for its form.
      await page.route("**/api/servers/**", (route) => route.fulfill({ status: 401 }));
      await page.getByLabel("Token", { exact: true }).waitFor();
      expect(await question.isVisible()).toBe(false);
      expect(await focused()).toBe("api-token");
      await page.unroute("**/api/servers/**");
      await page.keyboard.type("another");
      await page.keyboard.press("Enter");
      await button("Stop").click();
      await question.getByRole("button", { name: "Stop anyway" }).click();
      await awaitState("Stopped");
    },
    LIMIT_MS,
  );

  test(
    "keeps the end of the log in sight while its window gets narrow, and a place further up for who reads there",
    async () => {
      await using api = await TestServer.start();
      const page = await browser.visit(api.url);
      await api.start();
      const write = (name: string) =>
        appendFileSync(join(api.folder, "run", "jupyterlab.log"), `${`${name} ${"word ".repeat(60)}\n`.repeat(60)}`);
      const lines = page.locator("#lines");
      const rest = () =>
        lines.evaluate((box: Json) =>
          Math.round(box.scrollHeight - box.scrollTop - box.clientHeight),
        ) as Promise<number>;
      write("first");
      await lines.getByText("first").nth(59).waitFor();
      for (let width = 1280; width >= 320; width -= 80) await page.setViewportSize({ width, height: 800 });
      await until("the end", async () => (await rest()) === 0);
      write("second");
      await lines.getByText("second").nth(59).waitFor();
      await until("the end", async () => (await rest()) === 0);
      // Wide and narrow between two frames: the one event of scrolling is for both.
      await lines.evaluate((box: Json) => {
        for (const width of ["3000px", "250px"]) {
          box.style.width = width;
          box.getBoundingClientRect();
        }
      });
      await until("the end", async () => (await rest()) === 0);
      await lines.hover();
      await page.mouse.wheel(0, -500);
      await until("a place further up", async () => (await rest()) > 100);
      const before = await rest();
      write("third");
      await lines.getByText("third").nth(59).waitFor();
      expect(await rest()).toBeGreaterThan(before);
    },
    LIMIT_MS,
  );

  test(
    "reports a control API that stops answering and closes nothing, and finds it again",
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
      const api = await runProgram(folder);
      try {
        await api.ready();
        const page = await browser.open("about:blank");
        await page.addInitScript(HURRY);
        await page.goto(new URL("/", api.url).href);
        const [lost, state] = [
          page.getByText("The control API is not responding"),
          page.getByRole("heading", { level: 1 }),
        ];
        await state.getByText("Stopped").waitFor();
        api.child.kill("SIGSTOP");
        await lost.waitFor();
        api.child.kill("SIGCONT");
        await lost.waitFor({ state: "hidden" });
        await api.start();
        await state.getByText("Running").waitFor();
      } finally {
        api.child.kill("SIGCONT");
        api.child.kill("SIGTERM");
        await api.ended();
        rmSync(folder, { recursive: true });
      }
    },
    LIMIT_MS,
  );
}
