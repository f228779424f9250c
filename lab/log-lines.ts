/** The lines of JupyterLab's output, from its bytes: whole, masked, bounded and kept. */
import type { Secrets } from "../lib/redact.ts";
import { RingBuffer } from "../lib/ring.ts";

/** At least this many lines are kept in memory. */
export const MAX_LINES = 1000;
const MAX_LINE_CHARS = 8192;
/** An unfinished line that reaches this length is cut to half of it. Far less of a line is shown. */
const MAX_REST_CHARS = 8 * MAX_LINE_CHARS;

/** What has been read, in lines. */
export class LogLines {
  /** The complete ones, masked and numbered from the start of this program. */
  readonly kept = new RingBuffer<string>(MAX_LINES);
  #rest = "";
  /** Whether a part of the line that is being read was lost. The rest of it is dropped: half a secret can't be masked. */
  #isCut = false;
  #decoder = new TextDecoder();
  #secrets: Secrets;
  #pass: (line: string) => void;

  /** `pass` gets every line, masked and without its newline. */
  constructor(secrets: Secrets, pass: (line: string) => void) {
    this.#secrets = secrets;
    this.#pass = pass;
  }

  /** Takes the next bytes. A line or a character can continue in later ones. */
  write(bytes: Uint8Array): void {
    this.#split(this.#decoder.decode(bytes, { stream: true }));
  }

  /** Whether a line is unfinished. */
  get isUnfinished(): boolean {
    return this.#rest !== "";
  }

  /** The lines after the one of this number that are still kept, and the unfinished one, masked. */
  since(number: number): string[] {
    const lines = this.kept.after(number);
    return this.#rest ? [...lines, shorten(this.#secrets.maskUnfinished(this.#rest))] : lines;
  }

  /** Loads what an earlier program has passed on: complete lines, and the beginning of the next one. */
  load(lines: string[], rest: string): void {
    for (const line of lines) this.#keep(line);
    this.#rest = rest;
  }

  /** Adds a line of the program's own. */
  add(text: string): void {
    this.#pass(this.#keep(text));
  }

  /** Drops an unfinished line. `isCut`: what comes next, up to a newline, is the rest of a line of which a part was lost. */
  drop(isCut: boolean): void {
    this.#decoder.decode();
    this.#rest = "";
    this.#isCut = isCut;
  }

  /** Ends a line that its writer has left unfinished, and a character in it. */
  end(): void {
    this.#split(this.#decoder.decode());
    if (this.#rest) this.add(this.#rest);
    this.drop(false);
  }

  #split(text: string): void {
    const parts = (this.#rest + text).split("\n");
    let rest = parts.pop() ?? "";
    if (this.#isCut && parts.shift() !== undefined) this.#isCut = false;
    if (this.#isCut) rest = "";
    for (const part of parts) this.add(part);
    // A line is masked before it is cut, so that no secret is cut in two.
    this.#rest = rest.length > MAX_REST_CHARS ? this.#secrets.mask(rest).slice(0, MAX_REST_CHARS / 2) : rest;
  }

  #keep(text: string): string {
    const line = shorten(this.#secrets.mask(text.replace(/\r$/, "")));
    this.kept.add(line);
    return line;
  }
}

/** A line within the bound. One that is too long ends with an ellipsis. */
function shorten(line: string): string {
  return line.length > MAX_LINE_CHARS ? `${line.slice(0, MAX_LINE_CHARS - 1)}…` : line;
}
