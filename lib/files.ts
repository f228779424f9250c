/** Files that may be missing. */
import { readFileSync } from "node:fs";

/** A file's text; empty if it can't be read. */
export function readTextFile(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
