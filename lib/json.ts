/** Where a text stops being JSON: the parser of the runtime does not say it. */

const BLANKS = /[ \t\n\r]*/y;
const STRING = /"(?:[^"\\\p{Cc}]|[\x7f-\x9f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/uy;
const SCALAR = /(?:-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)(?![\w.+-])/y;

/** Line and column, from 1, of the first character that can't belong to a JSON document. */
export function locateJsonError(text: string): { line: number; column: number } {
  const before = text.slice(0, findErrorOffset(text)).split("\n");
  return { line: before.length, column: (before.at(-1)?.length ?? 0) + 1 };
}

function findErrorOffset(text: string): number {
  let index = 0;
  /** The closing brackets of what is open. */
  const open: string[] = [];
  const take = (pattern: RegExp): boolean => {
    pattern.lastIndex = index;
    const isFound = pattern.test(text);
    if (isFound) index = pattern.lastIndex;
    return isFound;
  };
  const takeKey = (): boolean => take(STRING) && take(BLANKS) && text[index] === ":" && ++index > 0 && take(BLANKS);
  take(BLANKS);
  for (;;) {
    // A value, or the beginning of one that has parts.
    const bracket = text[index];
    if (bracket === "{" || bracket === "[") {
      open.push(bracket === "{" ? "}" : "]");
      index += 1;
      take(BLANKS);
      if (text[index] !== open.at(-1)) {
        if (bracket === "{" && !takeKey()) return index;
        continue;
      }
    } else if (!take(STRING) && !take(SCALAR)) return index;
    // What follows a value: the end of its parents, or the next part.
    for (take(BLANKS); open.length > 0 && text[index] === open.at(-1); take(BLANKS)) {
      open.pop();
      index += 1;
    }
    if (open.length === 0 || text[index] !== ",") return index;
    index += 1;
    take(BLANKS);
    if (open.at(-1) === "}" && !takeKey()) return index;
  }
}
