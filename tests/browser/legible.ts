/** Whether people can read a page: the contrast of its texts by the formula of WCAG 2, and its width on a phone. */
import { expect } from "bun:test";
import type { Page } from "playwright-core";

/** WCAG's level AA for text of any size. */
const MIN_CONTRAST = 4.5;
const PHONE = { width: 320, height: 640 };

/** The visible texts with less contrast than `min`, each with its contrast. Runs in the page. */
const FIND_FAINT_TEXTS = `(min) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (colors) => {
    canvas.fillStyle = "white";
    canvas.fillRect(0, 0, 1, 1);
    for (const color of colors) {
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
    }
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map((part) => part / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const grounds = (element) =>
    element === null ? [] : [...grounds(element.parentElement), getComputedStyle(element).backgroundColor];
  const texts = [...document.querySelectorAll("body *")].filter(
    (element) => element.checkVisibility() && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()),
  );
  return texts.flatMap((element) => {
    const ground = grounds(element);
    const [a, b] = [luminance(paint([...ground, getComputedStyle(element).color])), luminance(paint(ground))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    return contrast < min ? [contrast.toFixed(2) + " " + element.className + " " + element.textContent.slice(0, 40)] : [];
  });
}`;

/** A change of the colours has arrived, and its transitions are at their end. Runs in the page. */
const SETTLE = `new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))).then(() => {
  // The end of one can begin another one.
  for (let running; (running = document.getAnimations()).length > 0; ) for (const one of running) one.finish();
})`;

/** Fails on text that is hard to read, in light or dark, and on a page that has to be scrolled sideways on a phone. */
export async function expectLegible(page: Page): Promise<void> {
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    await page.evaluate(SETTLE);
    expect(await page.evaluate<string[]>(`(${FIND_FAINT_TEXTS})(${MIN_CONTRAST})`)).toEqual([]);
  }
  const size = page.viewportSize();
  await page.setViewportSize(PHONE);
  const overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
  expect(await page.evaluate<number>(overflow)).toBe(0);
  if (size) await page.setViewportSize(size);
}
