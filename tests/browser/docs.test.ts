/** The documentation's page in a real Chromium: complete, quiet, on its own, and under an API token too. */
import { describe, expect, test } from "bun:test";
import { CHROMIUM, TestBrowser } from "../browser.ts";
import { TestServer } from "../helpers.ts";

const LIMIT_MS = 180_000;
const API_TOKEN = "of-the-control-api";

test("nobody may show the documentation's page in a page of theirs", async () => {
  await using api = await TestServer.start();
  for (const path of ["/docs", "/docs/"])
    expect((await api.ask("GET", path)).headers.get("content-security-policy")).toContain("frame-ancestors 'none'");
});

describe.skipIf(!CHROMIUM)("the documentation", () => {
  test(
    "shows every route, and asks for nothing but its own files",
    async () => {
      await using api = await TestServer.start();
      await using browser = await TestBrowser.open();
      const page = await browser.context.newPage();
      const [asked, said]: [string[], string[]] = [[], []];
      page.on("request", (request) => asked.push(request.url()));
      page.on("console", (message) => said.push(message.text()));
      await page.goto(`${api.url}/docs`);
      await page.getByText("Readiness of the control API").waitFor();
      expect(await page.locator(".opblock").count()).toBe(10);
      expect(asked.filter((url) => !url.startsWith(api.url) && !url.startsWith("data:"))).toEqual([]);
      expect(said).toEqual([]);
    },
    LIMIT_MS,
  );

  test(
    "asks for the API token, and sends it with what is tried out",
    async () => {
      await using api = await TestServer.start({ API_TOKEN });
      await using browser = await TestBrowser.open();
      const page = await browser.context.newPage();
      await page.goto(`${api.url}/docs`);
      const field = page.getByLabel("Token");
      await field.fill("of-somebody-else");
      await field.press("Enter");
      await page.getByRole("alert").getByText("Invalid token").waitFor();
      await field.fill(API_TOKEN);
      await page.getByRole("button", { name: "Continue" }).click();
      await page.getByText("Show what JupyterLab does").click();
      expect(await field.isVisible()).toBe(false);
      await page.getByRole("button", { name: "Try it out" }).click();
      const answer = page.waitForResponse(/activity/);
      await page.getByRole("button", { name: "Execute" }).click();
      expect((await answer).status()).toBe(200);
      expect(await page.evaluate<string>("JSON.stringify([localStorage, sessionStorage])")).not.toContain(API_TOKEN);
      await page.reload();
      await field.waitFor();
    },
    LIMIT_MS,
  );
});
