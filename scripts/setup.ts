/** Installs what is missing: npm packages and a Python environment with JupyterLab. Quick when there is nothing to do. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");
const venv = join(root, ".venv");
const venvPython = join(venv, "bin", "python");

installPackages();
installPython();

/** A digest beside the packages says which lock file they were installed from. */
function installPackages(): void {
  const stamp = join(root, "node_modules", ".setup");
  const wanted = digest(["bun.lock", "package.json"]);
  if (readStamp(stamp) === wanted) return;
  run("Installing npm packages", process.execPath, ["install", "--frozen-lockfile"]);
  mkdirSync(join(root, "node_modules"), { recursive: true });
  writeFileSync(stamp, wanted);
}

/** An environment of the project's own. A PYTHON in the environment is the user's choice, and left alone. */
function installPython(): void {
  if (process.env.PYTHON) return;
  const stamp = join(venv, ".setup");
  const wanted = digest(["requirements.txt"]);
  if (readStamp(stamp) === wanted && existsSync(venvPython)) return;
  const version = spawnSync("python3", ["-c", "import sys; print(*sys.version_info[:2])"], { encoding: "utf8" });
  if (version.error || version.status !== 0) {
    fail(
      "python3 was not found. Install Python 3.10 or newer (Debian: apt-get install python3 python3-venv), or set PYTHON to a Python that has JupyterLab.",
    );
  }
  const [major = 0, minor = 0] = version.stdout.trim().split(" ").map(Number);
  if (major < 3 || (major === 3 && minor < 10))
    fail(
      `python3 is ${major}.${minor}, and JupyterLab needs 3.10 or newer. Install one, or set PYTHON to a Python that has JupyterLab.`,
    );
  if (!existsSync(venvPython) || spawnSync(venvPython, ["-m", "pip", "--version"]).status !== 0) {
    rmSync(venv, { recursive: true, force: true });
    const made = spawnSync("python3", ["-m", "venv", venv], { encoding: "utf8" });
    if (made.status !== 0) {
      rmSync(venv, { recursive: true, force: true });
      fail(
        `python3 -m venv does not work here. Debian and Ubuntu have it in a package of its own: apt-get install python3-venv.\n${made.stdout}${made.stderr}`.trim(),
      );
    }
  }
  run("Installing JupyterLab into .venv", venvPython, [
    "-m",
    "pip",
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "-r",
    "requirements.txt",
  ]);
  writeFileSync(stamp, wanted);
}

function digest(files: string[]): string {
  const hash = createHash("sha256");
  for (const file of files) hash.update(readFileSync(join(root, file)));
  return hash.digest("hex");
}

function readStamp(path: string): string {
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}

function run(title: string, command: string, args: string[]): void {
  process.stderr.write(`${title} ...\n`);
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: ["ignore", 2, 2] });
  if (status !== 0)
    fail(`${title} failed: ${command} ${args.join(" ")} ${error ? error.message : `ended with ${status}`}`);
}

function fail(message: string): never {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}
