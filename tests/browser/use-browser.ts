/** One browser for all tests of a file, and a page for each of them. */
import { afterAll, afterEach, beforeAll, expect } from "bun:test";
import type { BrowserContext, Page } from "playwright-core";
import { TestBrowser } from "../support/browser.ts";

/** How long one of these tests may take. */
export const LIMIT_MS = 180_000;

/** The browser of the file that has called `useBrowser`. */
export interface BrowserUse {
  readonly context: BrowserContext;
  /** The page of the present test. */
  readonly page: Page;
  /** Opens an address in a new page, which becomes the present one. */
  visit(url: string): Promise<Page>;
}

/** Opens a browser for the tests around it. A test fails if its page reports an error of a script or of its policy. */
export function useBrowser(): BrowserUse {
  let browser: TestBrowser;
  let page: Page;
  const complaints: string[] = [];
  beforeAll(async () => {
    browser = await TestBrowser.open();
  }, LIMIT_MS);
  afterAll(() => browser[Symbol.asyncDispose]());
  afterEach(async () => {
    // The first page is the browser's own; without any it would end.
    const opened = browser.context.pages().slice(1);
    await Promise.all(opened.map((page) => page.close()));
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
      page = await browser.context.newPage();
      page.on("pageerror", (error) => complaints.push(error.message));
      page.on(
        "console",
        (message) => /Content Security|Uncaught/.test(message.text()) && complaints.push(message.text()),
      );
      await page.goto(url);
      return page;
    },
  };
}
