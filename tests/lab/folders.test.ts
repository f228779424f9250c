/** What a start says of folders that it can't use: which one, whose it is, and who we are. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { requireFolder } from "../../lab/folders.ts";
import { ServiceError } from "../../lib/errors.ts";
import { bundleProgram } from "../support/helpers.ts";

let folder: string;
let file: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "jupyter-folders-"));
  file = join(folder, "file");
  writeFileSync(file, "");
  chmodSync(file, 0o640);
});
afterAll(() => rmSync(folder, { recursive: true }));

const attempt = (path: string): { code: string; message: string } => {
  try {
    requireFolder("NOTEBOOK_DIR", path, 0o750);
  } catch (error) {
    if (error instanceof ServiceError) return { code: error.code, message: error.message };
  }
  return { code: "none", message: "" };
};
const we = `this process runs as ${process.getuid?.()}:${process.getgid?.()}`;

test("a missing folder is made, with all above it", () => {
  const path = join(folder, "a", "b");
  expect(attempt(path).code).toBe("none");
  expect(statSync(path).mode & 0o777).toBe(0o750);
});

test("a file in a folder's place is a configuration error", () => {
  const { uid, gid } = statSync(file);
  expect(attempt(file)).toEqual({
    code: "config_error",
    message: `NOTEBOOK_DIR must be a writable folder; ${file} is not (EEXIST; it belongs to ${uid}:${gid} with mode 640, ${we})`,
  });
});

test("a folder that can't be made is explained by the one that is in the way", () => {
  const { message } = attempt(join(file, "below", "it"));
  expect(message).toContain(`${join(file, "below", "it")} is not (ENOTDIR; ${file} belongs to`);
});

test("a link that leads nowhere is called one", () => {
  const link = join(folder, "link");
  symlinkSync(join(folder, "nowhere"), link);
  expect(attempt(link).message).toContain(`it is a link to ${join(folder, "nowhere")}, which does not exist`);
});

test("a folder that may not be made is a missing right, and whose folder refuses it is told", async () => {
  const closed = join(folder, "closed");
  mkdirSync(closed, { mode: 0o555 });
  const [bun] = await bundleProgram(folder, "lab/folders.ts");
  const script = `import { requireFolder } from "./folders.js";
    try { requireFolder("NOTEBOOK_DIR", ${JSON.stringify(join(closed, "new"))}, 0o750); } catch (error) { console.log(error.code, error.message); }`;
  chmodSync(folder, 0o755);
  const asNobody = process.getuid?.() === 0 ? ["setpriv", "--reuid=4321", "--regid=0", "--clear-groups"] : [];
  const { stdout, stderr } = Bun.spawnSync([...asNobody, bun, "-e", script], { cwd: folder });
  const { uid, gid } = statSync(closed);
  expect(stderr.toString()).toBe("");
  expect(stdout.toString()).toMatch(
    new RegExp(
      `^permission_denied .*/closed/new is not \\(EACCES; .*/closed belongs to ${uid}:${gid} with mode 555, this process runs as \\d+:\\d+\\)`,
    ),
  );
});
