/** One browser and one page for all tests of a file: another page costs another process. */
import { afterAll, afterEach, beforeAll, expect } from "bun:test";
import type { BrowserContext, Page } from "playwright-core";
import { TestBrowser } from "../support/browser.ts";

/** How long one of these tests may take. */
export const LIMIT_MS = 180_000;
const SIZE = { width: 1280, height: 720 };

/** The browser of the file that has called `useBrowser`. */
export interface BrowserUse {
  readonly context: BrowserContext;
  readonly page: Page;
  /** Opens an address in the page. */
  visit(url: string): Promise<Page>;
  /** Opens an address in a page beside it. */
  open(url: string): Promise<Page>;
}

/** Opens a browser for the tests around it. A test fails if its page reports an error of a script or of its policy. */
export function useBrowser(): BrowserUse {
  let browser: TestBrowser;
  let page: Page;
  const complaints: string[] = [];
  const watch = (one: Page) => {
    one.on("pageerror", (error) => complaints.push(error.message));
    one.on("console", (message) => /Content Security|Uncaught/.test(message.text()) && complaints.push(message.text()));
  };
  beforeAll(async () => {
    browser = await TestBrowser.open();
    // The browser's own: without any it would end.
    page = browser.context.pages()[0] ?? (await browser.context.newPage());
    watch(page);
  }, LIMIT_MS);
  afterAll(() => browser[Symbol.asyncDispose]());
  afterEach(async () => {
    // Each test finds the page as it was at first.
    await page.goto("about:blank");
    await page.unrouteAll({ behavior: "ignoreErrors" });
    await page.emulateMedia({ colorScheme: null, reducedMotion: null, forcedColors: null });
    await page.setViewportSize(SIZE);
    const others = browser.context.pages().filter((other) => other !== page);
    await Promise.all(others.map((other) => other.close()));
    expect(complaints.splice(0)).toEqual([]);
  });
  return {
    get context() {
      return browser.context;
    },
    get page() {
      return page;
    },
    async visit(url) {
      await page.goto(url);
      return page;
    },
    async open(url) {
      const other = await browser.context.newPage();
      watch(other);
      await other.goto(url);
      return other;
    },
  };
}
