/** The documentation's page: complete, quiet, on its own, and under an API token too. */
import { expect, test } from "bun:test";
import { TestServer } from "../helpers.ts";
import { expectLegible } from "./legible.ts";
import { type BrowserUse, LIMIT_MS } from "./use-browser.ts";

const API_TOKEN = "of-the-control-api";

export function testDocsPage(browser: BrowserUse): void {
  test(
    "shows every route in light and dark, requests only its own files, and leads back",
    async () => {
      await using api = await TestServer.start();
      const page = await browser.visit("about:blank");
      const [requested, messages]: [string[], string[]] = [[], []];
      page.on("request", (request) => requested.push(request.url()));
      page.on("console", (message) => messages.push(message.text()));
      await page.emulateMedia({ colorScheme: "dark" });
      await page.goto(`${api.url}/docs`);
      await page.getByText("Readiness of the control API").waitFor();
      expect(await page.locator(".opblock").count()).toBe(10);
      expect(await page.locator("html.dark-mode").count()).toBe(1);
      await page.getByText("Show what JupyterLab does").click();
      await page.getByRole("button", { name: "Try it out" }).waitFor();
      await expectLegible(page);
      expect(requested.filter((url) => !url.startsWith(api.url) && !url.startsWith("data:"))).toEqual([]);
      expect(messages).toEqual([]);
      await page.getByRole("link", { name: "Control page" }).click();
      await page.getByRole("heading", { level: 1, name: "Stopped" }).waitFor();
    },
    LIMIT_MS,
  );

  test(
    "asks for the API token as the control page does, and sends it with what is tried out",
    async () => {
      await using api = await TestServer.start({ API_TOKEN });
      const page = await browser.visit(`${api.url}/docs`);
      const field = page.getByLabel("Token");
      await field.waitFor();
      await expectLegible(page);
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
}
