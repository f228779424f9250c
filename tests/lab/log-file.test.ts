import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  appendFileSync,
  chmodSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LogFile } from "../../lab/log-file.ts";
import { MASK, Secrets } from "../../lib/redact.ts";
import { until } from "../support/helpers.ts";

const SECRET = "5f2c9a7e11d04b3c8e6a";
const MAX_LINE_CHARS = 8192;
const SKIPPED = /^\[\d+ bytes of output skipped/;

let folder: string;
let path: string;
let passed: string[];
let secrets: Secrets;
let output: LogFile;

function follow(maxBytes?: number): number {
  secrets = new Secrets();
  secrets.add(SECRET);
  output = new LogFile(path, secrets, (line) => void passed.push(line), maxBytes);
  return output.open();
}

/** Writes as JupyterLab does, and reads it. */
function write(text: string | Uint8Array): void {
  appendFileSync(path, text);
  output.mark();
}

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "output-"));
  path = join(folder, "run", "lab.log");
  passed = [];
});
afterEach(() => {
  output.close();
  rmSync(folder, { recursive: true });
});

test("passes whole lines on, masked, without their ends", () => {
  follow();
  write(`one\r\n\ntoken is ${SECRET}\nsnow`);
  expect(passed).toEqual(["one", "", `token is ${MASK}`]);
  write("man ☃\n");
  expect(passed.slice(3)).toEqual(["snowman ☃"]);
});

test("joins what two writes have cut: a letter, a secret", () => {
  follow();
  const bytes = Buffer.from(`☃ ${SECRET}\n`);
  write(bytes.subarray(0, 1));
  write(bytes.subarray(1, 10));
  write(bytes.subarray(10));
  expect(passed).toEqual([`☃ ${MASK}`]);
});

test("passes lines on by itself, nobody asking", async () => {
  follow();
  appendFileSync(path, "one\n");
  await until("the line", () => passed.length > 0);
  expect(passed).toEqual(["one"]);
});

test("a last line that has no end is shown, and passed on when the file is closed", () => {
  follow();
  const mark = output.mark();
  write(`one\nfatal: ${SECRET}`);
  expect(output.since(mark)).toEqual(["one", `fatal: ${MASK}`]);
  output.close();
  expect(passed).toEqual(["one", `fatal: ${MASK}`]);
});

test("no beginning of a secret is shown while its line is unfinished", () => {
  follow();
  write(`key ${SECRET[0]}`);
  for (const letter of SECRET.slice(1)) {
    expect(output.since(0)).toEqual([`key ${MASK}`]);
    write(letter);
  }
  expect(output.since(0)).toEqual([`key ${MASK}`]);
  write(" is the key");
  expect(output.since(0)).toEqual([`key ${MASK} is the key`]);
});

test("what a finished server has written is masked, however much, when its secrets are forgotten", async () => {
  follow();
  const lines = Array.from({ length: 100_000 }, (_, index) => `line ${index} ${MASK} ${"-".repeat(30)}`);
  appendFileSync(path, `${lines.join("\n").replaceAll(MASK, SECRET)}\nlast words: ${SECRET}`);
  await output.finish();
  secrets.remove(SECRET);
  write("of the next one\n");
  expect(passed).toEqual([...lines, `last words: ${MASK}`, "of the next one"]);
});

test("of a flood of short lines a finished server's beginning and end are read, and its file is whole", async () => {
  follow();
  const count = 4_000_000;
  appendFileSync(path, `first\n${"y\n".repeat(count)}key ${SECRET}\nlast words: ${SECRET}`);
  const { size } = statSync(path);
  // Other work has its turn: a reader of lines, for one.
  let turns = 0;
  const timer = setInterval(() => {
    turns += 1;
  }, 0);
  await output.finish();
  clearInterval(timer);
  expect(turns).toBeGreaterThan(5);
  expect(passed[0]).toBe("first");
  expect(passed.slice(-2)).toEqual([`key ${MASK}`, `last words: ${MASK}`]);
  expect(passed.filter((line) => SKIPPED.test(line))).toHaveLength(1);
  expect(passed.length).toBeLessThan(count / 4);
  expect(statSync(path).size).toBe(size);
});

test("begins at the end of a file that is there, and leaves it its mode; one that it makes is its owner's only", () => {
  follow();
  expect(statSync(path).mode & 0o777).toBe(0o600);
  output.close();
  writeFileSync(path, "of the last program\n");
  chmodSync(path, 0o644);
  const descriptor = follow();
  expect(output.open()).toBe(descriptor);
  write("new\n");
  expect(passed).toEqual(["new"]);
  expect(statSync(path).mode & 0o777).toBe(0o644);
  expect(statSync(join(folder, "run")).mode & 0o777).toBe(0o700);
});

test("since gives what came after a mark, of the last 1,000 lines", () => {
  follow();
  write("before\n");
  const mark = output.mark();
  expect(output.since(mark)).toEqual([]);
  appendFileSync(path, "after\n");
  expect(output.since(mark)).toEqual(["after"]);
  const many = Array.from({ length: 2500 }, (_, index) => `line ${index}`);
  write(`${many.join("\n")}\n`);
  const kept = output.since(mark);
  expect(kept.length).toBeGreaterThanOrEqual(1000);
  expect(kept).toEqual(many.slice(-kept.length));
});

test.each([
  ["with an end", "\n"],
  ["without an end", ""],
])("a long line %s is cut, and never within a secret", (_, end) => {
  follow();
  const mark = output.mark();
  write(`${"x".repeat(MAX_LINE_CHARS - SECRET.length + 1)}${SECRET}${end}`);
  const shown = [...passed, ...output.since(mark)];
  expect(Math.max(...shown.map((line) => line.length))).toBeLessThanOrEqual(MAX_LINE_CHARS);
  expect(shown.some((line) => line.includes(SECRET.slice(0, 8)))).toBe(false);
  write("\nnext\n");
  expect(passed.at(-1)).toBe("next");
});

test("of a line of secrets that is too long to be kept no part of a secret is shown", () => {
  follow();
  write(`${SECRET} `.repeat(4000));
  write("end\n");
  expect(passed).toEqual([`${`${MASK} `.repeat(4000).slice(0, MAX_LINE_CHARS - 1)}…`]);
  write(`${"x".repeat(70_000)}${SECRET.slice(0, 10)}`);
  write(SECRET.slice(10));
  expect(output.since(1)).toEqual([`${"x".repeat(MAX_LINE_CHARS - 1)}…`]);
});

test("a file that somebody empties is followed from its beginning, without the rest of a line that is cut", () => {
  follow();
  write("one\n");
  truncateSync(path);
  output.mark();
  write(`two\nkey ${SECRET.slice(0, 10)}`);
  truncateSync(path);
  output.mark();
  write(`${SECRET.slice(11)} is the key\nthree\n`);
  expect(passed).toEqual(["one", "two", "three"]);
});

test("the file stays bounded while a child appends, and no line is lost or doubled", async () => {
  const maxBytes = 16 * 1024;
  const descriptor = follow(maxBytes);
  // `cat` writes each block at once, and waits for the next one: the moment of a rotation is known.
  await using child = Bun.spawn(["cat"], { stdin: "pipe", stdout: descriptor });
  const blocks = Array.from({ length: 20 }, (_, block) =>
    Array.from({ length: 100 }, (_, index) => `block ${block} line ${index} ${"-".repeat(20)}`),
  );
  for (const [index, block] of blocks.entries()) {
    child.stdin.write(`${block.join("\n")}\n`);
    await child.stdin.flush();
    await until("the block", () => output.mark() === (index + 1) * block.length);
    expect(statSync(path).size).toBeLessThan(maxBytes);
  }
  expect(passed).toEqual(blocks.flat());
  const kept = `${readFileSync(`${path}.1`, "utf8")}${readFileSync(path, "utf8")}`.trim().split("\n");
  expect(kept).toEqual(blocks.flat().slice(-kept.length));
  expect(statSync(`${path}.1`).mode & 0o777).toBe(0o600);
});

test("a flood is given up, said, and leaves a file within its bound", async () => {
  follow(64 * 1024);
  write("before\n");
  appendFileSync(path, "x".repeat(99).concat("\n").repeat(60_000));
  await until("the skip", () => passed.some((line) => SKIPPED.test(line)));
  expect(statSync(path).size).toBe(0);
  write("after\n");
  expect(passed.at(-1)).toBe("after");
});

test("a flood that ends within a line takes the whole line with it, and half a secret", () => {
  follow(64 * 1024);
  write(`${"x".repeat(99).concat("\n").repeat(60_000)}key ${SECRET.slice(0, 10)}`);
  expect(passed.at(-1)).toMatch(SKIPPED);
  const count = passed.length;
  write(SECRET.slice(10));
  expect(output.since(count)).toEqual([]);
  write(" is the key\nafter\n");
  expect(passed.slice(count)).toEqual(["after"]);
});

test("what is written while the file is rotated is read, or its loss is told", async () => {
  mkdirSync(join(folder, "run"));
  writeFileSync(path, "");
  // The copy of so large a file takes longer than the child needs to notice and to write more than one pass reads.
  truncateSync(path, 64 * 1024 * 1024);
  const lines = Array.from({ length: 60_000 }, (_, index) => `line ${index} ${"-".repeat(90)}`);
  writeFileSync(join(folder, "lines"), `${lines.join("\n")}\n`);
  const script = `echo ready; while [ ! -e "$1.1" ]; do :; done; cat "$0" >> "$1"`;
  await using child = Bun.spawn(["sh", "-c", script, join(folder, "lines"), path], { stdout: "pipe" });
  await child.stdout.getReader().read();
  follow();
  output.mark();
  await child.exited;
  write("after\n");
  await until("the last line", () => passed.at(-1)?.endsWith("after"));
  const read = new Set(lines);
  const others = passed.filter((line) => !read.delete(line) && line !== "after");
  expect(others.filter((line) => !SKIPPED.test(line))).toEqual([]);
  expect(read.size > 0).toBe(others.length > 0);
});

test("a device is written to, and neither read nor changed; a FIFO is refused at once", () => {
  const { mode } = statSync("/dev/null");
  path = "/dev/null";
  follow();
  output.append("gone\n");
  expect(output.mark()).toBe(0);
  output.close();
  expect(statSync("/dev/null").mode).toBe(mode);
  path = "/dev/zero";
  follow();
  expect(output.mark()).toBe(0);
  output.close();
  path = join(folder, "fifo");
  expect(Bun.spawnSync(["mkfifo", path]).exitCode).toBe(0);
  expect(() => follow()).toThrow("it is not a plain file");
});

test("the older file is replaced, and what a link in its place names is not written into", () => {
  const other = join(folder, "other.txt");
  writeFileSync(other, "of somebody else\n");
  follow(1024);
  symlinkSync(other, `${path}.1`);
  write(`${"x".repeat(2000)}\n`);
  expect(readFileSync(other, "utf8")).toBe("of somebody else\n");
  expect(readFileSync(`${path}.1`, "utf8")).toHaveLength(2001);
});

/** What somebody else does to the file, and the file that has its lines afterwards. */
const MOVES: [name: string, move: () => void, taken: () => string][] = [
  ["moved away", () => renameSync(path, `${path}.taken`), () => `${path}.taken`],
  [
    "moved away, and made anew",
    () => {
      renameSync(path, `${path}.taken`);
      writeFileSync(path, "");
    },
    () => `${path}.taken`,
  ],
  ["removed", () => rmSync(path), () => ""],
  ["removed with its folder", () => rmSync(join(folder, "run"), { recursive: true }), () => ""],
];

test.each(MOVES)(
  "a file that is %s under a child is followed and bounded, and its next lines are at the path",
  async (_, move, taken) => {
    const maxBytes = 16 * 1024;
    const descriptor = follow(maxBytes);
    await using child = Bun.spawn(["cat"], { stdin: "pipe", stdout: descriptor });
    const say = async (lines: string[]) => {
      const count = passed.length + lines.length;
      child.stdin.write(`${lines.join("\n")}\n`);
      await child.stdin.flush();
      await until("the lines", () => output.mark() === count);
    };
    await say(["before"]);
    move();
    await until("the new file", () => {
      output.mark();
      return statSync(path, { throwIfNoEntry: false });
    });
    const blocks = Array.from({ length: 10 }, (_, block) =>
      Array.from({ length: 100 }, (_, index) => `block ${block} line ${index} ${"-".repeat(20)}`),
    );
    const held = `/proc/self/fd/${descriptor}`;
    for (const block of blocks) {
      await say(block);
      expect(statSync(path).size).toBeLessThan(maxBytes);
      expect(statSync(held).size).toBeLessThan(maxBytes + 100);
    }
    expect(passed).toEqual(["before", ...blocks.flat()]);
    const kept = `${readFileSync(`${path}.1`, "utf8")}${readFileSync(path, "utf8")}`.trim().split("\n");
    expect(kept).toEqual(blocks.flat().slice(-kept.length));
    expect(statSync(path).mode & 0o077).toBe(taken() && _ !== "moved away" ? 0o044 : 0);
    if (taken()) expect(readFileSync(taken(), "utf8")).toStartWith("before\n");

    // The next start has the file at the path, and its own lines only.
    await child.stdin.end();
    const next = output.open();
    expect(next).not.toBe(descriptor);
    const mark = output.mark();
    write("of the next one\n");
    expect(output.since(mark)).toEqual(["of the next one"]);
  },
);

test("what an earlier server wrote is not loaded, and a file that was moved from a running one is", async () => {
  mkdirSync(join(folder, "run"));
  writeFileSync(path, "an earlier secret\nthe rest of ");
  const { size } = statSync(path);
  await using child = Bun.spawn(["cat"], { stdin: "pipe", stderr: openSync(path, "a"), stdout: "ignore" });
  appendFileSync(path, "it\none\ntwo");
  const secrets = new Secrets();
  output = new LogFile(path, secrets, (line) => void passed.push(line));
  output.restore(child.pid, size);
  expect(output.since(0)).toEqual(["one", "two"]);
  output.close();

  passed = [];
  renameSync(path, `${path}.taken`);
  output = new LogFile(path, secrets, (line) => void passed.push(line));
  output.restore(child.pid, size);
  expect(output.since(0)).toEqual(["one", "two"]);
  appendFileSync(`${path}.taken`, " and three\n");
  await until("the line", () => passed.length > 0);
  expect(passed).toEqual(["two and three"]);
  expect(readFileSync(path, "utf8")).toBe(" and three\n");
});
