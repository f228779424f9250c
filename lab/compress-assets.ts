/**
 * A program of its own: compresses static files beforehand, for `python/assets.py`.
 *
 *     bun lab/compress-assets.ts COPIES FOLDER...
 *
 * It runs at the lowest priority in one thread, and ends when its parent has. A copy is complete or not there, so it can be
 * ended at any moment, and a later run continues. It prints how many copies it has made.
 */
import { createHash } from "node:crypto";
import { lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { setPriority } from "node:os";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

/** Fonts and most pictures are compressed already; pictures as SVG are in scripts, or fonts for browsers that nobody has. */
const TYPES = /\.(m?js|css|json|html|wasm|ico)$/;
/** As in `python/assets.py`. */
const MIN_BYTES = 1024;
const MAX_BYTES = 16 * 1024 * 1024;
const KEY_CHARS = 32;
/**
 * The brotli copy is kept where its size is at most this share of the gzip copy's. All of JupyterLab 4.6 is 3.6 MB of gzip
 * and 1.7 MB of brotli then, against 3.1 MB of brotli for every file. (Copies by zstd were smaller in 10 files of 270.)
 */
const BROTLI_SHARE = 0.88;
const LOWEST_PRIORITY = 19;
/** For a folder that holds more than assets. */
const MAX_FILES = 20_000;
/** Three times the copies of JupyterLab. The folder can be one in memory, of 64 MB or less. */
const MAX_COPIES_BYTES = 16 * 1024 * 1024;
/** Copies are made anew after this time, so that those of what is no longer installed go away. */
const MAX_AGE_MS = 30 * 24 * 60 * 60 * 1000;
/** The copies that an image was built with. */
const IMAGE_COPIES = join(import.meta.dirname, "..", "asset-copies");

/** Bun's gzip, which makes copies that are 4 % smaller than those of node:zlib, where there is Bun. */
const gzip = (content: Buffer): Uint8Array =>
  "Bun" in globalThis
    ? Bun.gzipSync(new Uint8Array(content), { level: 12, library: "libdeflate" })
    : gzipSync(content, { level: 9 });

const brotli = (content: Buffer): Uint8Array =>
  brotliCompressSync(content, {
    params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: content.length },
  });

/** The files below a folder that may get copies. A folder that can't be read has none. */
function listAssets(folder: string): { path: string; size: number }[] {
  try {
    return readdirSync(folder, { recursive: true })
      .slice(0, MAX_FILES)
      .map((name) => join(folder, String(name)))
      .filter((path) => TYPES.test(path))
      .flatMap((path) => {
        const status = statSync(path, { throwIfNoEntry: false });
        return status?.isFile() ? [{ path, size: status.size }] : [];
      })
      .filter(({ size }) => size >= MIN_BYTES && size <= MAX_BYTES);
  } catch {
    return [];
  }
}

/** Makes the copies of one file, unless they are there. Returns the sizes of those that it has made. */
function compress(path: string, copies: string): number[] {
  const content = readFileSync(path);
  const key = createHash("sha256").update(content).digest("hex").slice(0, KEY_CHARS);
  if ([copies, IMAGE_COPIES].some((folder) => lstatSync(join(folder, `${key}.gz`), { throwIfNoEntry: false })))
    return [];
  const small = gzip(content);
  if (small.length >= content.length) return [];
  const smaller = brotli(content);
  const made = { br: smaller.length < small.length * BROTLI_SHARE ? smaller : undefined, gz: small };
  // The gzip copy comes last: where it is, the other one is too, or is not worth its space.
  return Object.entries(made).flatMap(([ending, copy]) => {
    if (!copy) return [];
    const name = join(copies, `${key}.${ending}`);
    writeFileSync(`${name}.new`, copy, { mode: 0o644 });
    renameSync(`${name}.new`, name);
    return [copy.length];
  });
}

/** Makes the folder of copies, which nobody else may write to, and removes what is old or half written. Returns its size. */
function prepare(copies: string): number {
  mkdirSync(copies, { recursive: true, mode: 0o755 });
  const { uid, mode } = lstatSync(copies);
  if (uid !== process.getuid?.() || (mode & 0o022) !== 0)
    throw new Error(`${copies} must be a folder of this user that nobody else can write to`);
  let bytes = 0;
  for (const name of readdirSync(copies)) {
    const path = join(copies, name);
    const { mtimeMs, size } = lstatSync(path);
    if (name.endsWith(".new") || Date.now() - mtimeMs > MAX_AGE_MS) rmSync(path, { force: true });
    else bytes += size;
  }
  return bytes;
}

function main([copies, ...folders]: string[]): void {
  if (!copies) throw new Error("Usage: bun lab/compress-assets.ts COPIES FOLDER...");
  const parent = process.ppid;
  setPriority(LOWEST_PRIORITY);
  let bytes = prepare(copies);
  let made = 0;
  // The largest first, because its copy saves the most.
  for (const { path } of folders.flatMap(listAssets).sort((a, b) => b.size - a.size)) {
    if (process.ppid !== parent || bytes > MAX_COPIES_BYTES) break;
    const sizes = compress(path, copies);
    made += sizes.length;
    for (const size of sizes) bytes += size;
  }
  process.stdout.write(`${made}\n`);
}

try {
  main(process.argv.slice(2));
} catch (error) {
  // To whoever reads the number of copies: standard error is the control API's own log.
  process.stdout.write(`${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}
