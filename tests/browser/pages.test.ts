/** The control page and the documentation's page: as files, and in one real Chromium for all of their tests. */
import { describe, expect, test } from "bun:test";
import { CHROMIUM } from "../support/browser.ts";
import { TestServer } from "../support/test-server.ts";
import { testControlPage } from "./control-page.ts";
import { testDocsPage } from "./docs-page.ts";
import { testOpenPage } from "./open-page.ts";
import { testReboundPage } from "./rebound-page.ts";
import { useBrowser } from "./use-browser.ts";

const API_TOKEN = "of-the-control-api";

describe.each(["/", "/docs", "/docs/"])("the page at %s", (path) => {
  test("comes with a strict policy to whoever follows a link, and so do its files", async () => {
    await using api = await TestServer.start({ API_TOKEN });
    const get = (path: string) => fetch(`${api.url}${path}`, { headers: { "sec-fetch-site": "cross-site" } });
    const page = await get(path);
    const text = await page.text();
    const files = [...text.matchAll(/(?:src|href)="\/?((?:page|docs)\/[^"]*\.\w+)"/g)].map((match) => `/${match[1]}`);
    expect(files.length).toBeGreaterThan(2);
    for (const answer of [page, ...(await Promise.all(files.map(get)))]) {
      expect(answer.status).toBe(200);
      const policy = answer.headers.get("content-security-policy");
      expect(policy).toStartWith("default-src 'none'; script-src 'self'; ");
      expect(policy).toEndWith("; frame-ancestors 'none'");
      expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
    }
    expect(text).not.toMatch(
      / style="|<script(?! type="module" src=| src=)|https?:\/\/(?!portal\.example\.org|www\.w3\.org\/2000\/svg)/,
    );
  });
});

test("the pages' routes hold no other file", async () => {
  await using api = await TestServer.start({ API_TOKEN });
  const others = ["/page.ts", "/page/nothing.js", "/page/index.html", "/page/docs.html", "/docs/package.json"];
  const paths = [...others, "/index.ts", "/page/../config.ts"];
  const statuses = await Promise.all(paths.map(async (path) => (await fetch(`${api.url}${path}`)).status));
  expect(statuses.filter((status) => status !== 401 && status !== 404)).toEqual([]);
});

describe.skipIf(!CHROMIUM)("in a browser", () => {
  const browser = useBrowser();
  describe("the control page", () => testControlPage(browser));
  describe("an open control page", () => testOpenPage(browser));
  describe("the documentation's page", () => testDocsPage(browser));
  describe("the page of a rebound name", () => testReboundPage());
});
