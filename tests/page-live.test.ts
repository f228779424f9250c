/** The control page left open in a real Chromium: what changes without anybody's doing is shown, and nothing else moves. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import type { Page } from "playwright-core";
import { CHROMIUM, TestBrowser } from "./browser.ts";
import { TestServer } from "./helpers.ts";

const LIMIT_MS = 180_000;

describe.skipIf(!CHROMIUM)("an open page", () => {
  let browser: TestBrowser;
  let page: Page;
  beforeAll(async () => {
    browser = await TestBrowser.open();
  }, LIMIT_MS);
  afterAll(() => browser[Symbol.asyncDispose]());
  afterEach(() => page.close());

  const visit = async (api: TestServer) => {
    page = await browser.context.newPage();
    await page.goto(api.url);
  };

  test(
    "tells that a gateway has gone away",
    async () => {
      await using api = await TestServer.start();
      const gateway = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => Response.json({ kernelspecs: {} }) });
      await visit(api);
      await api.start({ "gateway-url": `http://127.0.0.1:${gateway.port}` });
      const place = page.locator("#facts dd").getByText(`http://127.0.0.1:${gateway.port}`);
      await place.waitFor();
      expect(await place.getAttribute("class")).toBe("");
      await gateway.stop(true);
      await page.locator("#facts .bad").getByText("connection refused").waitFor();
    },
    LIMIT_MS,
  );
});
