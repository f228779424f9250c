/** The documentation's page, under an API token. It takes long to render: one visit is used for everything. */
import { expect, test } from "bun:test";
import { TestServer } from "../support/test-server.ts";
import { expectLegible } from "./legible.ts";
import { type BrowserUse, LIMIT_MS } from "./use-browser.ts";

const API_TOKEN = "of-the-control-api";
const UNAUTHORIZED = /status of 401/;

export function testDocsPage(browser: BrowserUse): void {
  test(
    "asks for the API token as the control page does, and then shows every route, in light and dark, from its own files",
    async () => {
      await using api = await TestServer.start({ API_TOKEN });
      const page = await browser.visit("about:blank");
      const [requested, messages]: [string[], string[]] = [[], []];
      page.on("request", (request) => requested.push(request.url()));
      page.on("console", (message) => messages.push(message.text()));
      await page.emulateMedia({ colorScheme: "dark" });
      await page.goto(`${api.url}/docs`);
      const field = page.getByLabel("Token");
      await field.waitFor();
      expect(await page.locator("html.dark-mode").count()).toBe(1);
      await expectLegible(page);
      await field.fill("of-somebody-else");
      await field.press("Enter");
      await page.getByRole("alert").getByText("Invalid token").waitFor();
      await field.fill(API_TOKEN);
      await page.getByRole("button", { name: "Continue" }).click();

      await page.locator('[data-path="/health/ready"]').waitFor();
      expect(await field.count()).toBe(0);
      expect(await page.locator(".opblock").count()).toBe(11);
      await page.locator('[data-path="/api/servers/activity"]').click();
      await page.getByRole("button", { name: "Try it out" }).click();
      const answer = page.waitForResponse(/activity/);
      await page.getByRole("button", { name: "Execute" }).click();
      expect((await answer).status()).toBe(200);
      await expectLegible(page);
      expect(requested.filter((url) => !url.startsWith(api.url) && !url.startsWith("data:"))).toEqual([]);
      expect(messages.filter((message) => !UNAUTHORIZED.test(message))).toEqual([]);
      expect(await page.evaluate<string>("JSON.stringify([localStorage, sessionStorage])")).not.toContain(API_TOKEN);

      await page.getByRole("link", { name: "Control page" }).click();
      await page.getByRole("heading", { name: "API token" }).waitFor();
    },
    LIMIT_MS,
  );
}
