/** The control page's parts, as people find them. */
import type { BrowserUse } from "./use-browser.ts";

/** Finds them on the browser's own page. */
export function findControls(browser: BrowserUse) {
  return {
    button: (name: string) => browser.page.getByRole("button", { name, exact: true }),
    awaitState: (state: string) => browser.page.getByRole("heading", { level: 1, name: state, exact: true }).waitFor(),
    /** The id of what has the keyboard's focus. */
    focused: () => browser.page.evaluate<string>("document.activeElement.id"),
    announced: () => browser.page.locator("#announcement").textContent(),
  };
}
