/** The documentation against the repository: its links, its size, and the tree that it shows. */
import { expect, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { VARIABLES } from "../../config.ts";
import { PROJECT } from "../support/helpers.ts";

const MAX_README_LINES = 220;

const documents = [
  "README.md",
  "CONTRIBUTING.md",
  "SECURITY.md",
  ...readdirSync(join(PROJECT, "docs"))
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`),
];
const readDocument = (path: string) => readFileSync(join(PROJECT, path), "utf8");

/** The anchor that a heading gets on the page: lower case, blanks as hyphens, other signs left out. */
const anchorsOf = (text: string) =>
  [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading = ""]) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-"),
  );

test.each(documents)("every link of %s leads to a file and a heading", (path) => {
  const text = readDocument(path).replace(/^```.*?^```/gms, "");
  for (const [, link = ""] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^https?:/.test(link)) continue;
    const [file = "", anchor] = link.split("#");
    const target = file === "" ? path : join(dirname(path), file);
    expect([link, existsSync(join(PROJECT, target))]).toEqual([link, true]);
    if (anchor) expect(anchorsOf(readDocument(target))).toContain(anchor);
  }
});

test("the README is short, and its tree and the table of files name what is there", () => {
  const readme = readDocument("README.md");
  expect(readme.split("\n").length).toBeLessThanOrEqual(MAX_README_LINES);
  const tree = /## What is where\n\n```\n(.*?)```/s.exec(readme)?.[1] ?? "";
  const named = [
    ...tree.matchAll(/^[\w.-]+(?:\.\w+|\/[\w-]*|file)|\bcompose\.yaml|\b[\w.]+\.(?:lock|txt|toml|json)/gm),
  ];
  expect(named.length).toBeGreaterThan(15);
  for (const [name] of named) expect([name, existsSync(join(PROJECT, name))]).toEqual([name, true]);
  const listed = Bun.spawnSync(["git", "ls-files"], { cwd: PROJECT }).stdout.toString().trim().split("\n");
  const entries = new Set(listed.map((path) => path.split("/")[0] ?? "").filter((name) => !name.startsWith(".")));
  for (const entry of entries) if (entry !== "README.md") expect(readme).toContain(entry);
  const architecture = readDocument("docs/architecture.md");
  for (const folder of ["http", "lab", "lib", "python"])
    for (const name of readdirSync(join(PROJECT, folder)).filter((name) => name !== "__pycache__"))
      expect(architecture).toContain(`\`${folder}/${name}\``);
});

test("the README's table of variables is the program's own", () => {
  const [, , ...rows] = /^\| variable .*?(?=\n\n)/ms.exec(readDocument("README.md"))?.[0].split("\n") ?? [];
  const written = rows.map((row) =>
    row
      .replaceAll("`", "")
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
  const shown = (value: string) => (value === "" ? "unset" : value);
  const expected = Object.values(VARIABLES).map((row) => [row.name, shown(row.default), shown(row.image), row.meaning]);
  expect(written).toEqual(expected);
  const dockerfile = readDocument("Dockerfile");
  for (const row of Object.values(VARIABLES).filter((row) => row.image !== row.default && row.name !== "LOG_FILE"))
    expect(dockerfile).toContain(`${row.name}=${row.image}`);
});
