/** Where a text stops being JSON. */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { locateJsonError } from "../../lib/json.ts";

test.each([
  ["", 1, 1],
  ["{", 1, 2],
  ['{"a": 1,}', 1, 9],
  ['{"a": 1\n "b": 2}', 2, 2],
  ["{a: 1}", 1, 2],
  ["{'a': 1}", 1, 2],
  ['{"a" 1}', 1, 6],
  ["[1, 2", 1, 6],
  ["[1, 02]", 1, 5],
  ['{"a": tru}', 1, 7],
  ['{"a": "b}', 1, 7],
  ['{"a": "\t"}', 1, 7],
  ["{} {}", 1, 4],
  ["[1]]", 1, 4],
])("%j: line %d, column %d", (text, line, column) => {
  expect(locateJsonError(text)).toEqual({ line, column });
});

test("a text that is JSON has its error at its end", () => {
  fc.assert(
    fc.property(fc.json(), (text) => {
      const lines = text.split("\n");
      expect(locateJsonError(text)).toEqual({ line: lines.length, column: (lines.at(-1)?.length ?? 0) + 1 });
    }),
  );
});
