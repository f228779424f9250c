#!/usr/bin/env bun
/**
 * A stand-in for JupyterLab at the edges of the lifecycle: it takes the launch spec and behaves as FAKE_MODE says. On Bun,
 * which is up in less than half of the time of a Python with a server: tests start hundreds of these.
 */
import { existsSync, readSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";

const { FAKE_MODE: mode = "ok", FAKE_GATE: gate = "", JUPYTER_RUNTIME_DIR: runtimeDir = "" } = process.env;
const spec: { settings: [name: string, trait: string, value: unknown][] } = JSON.parse(readInputLine());
const settings = Object.fromEntries(spec.settings.map(([name, trait, value]) => [`${name}.${trait}`, value]));
const hostname = String(settings["ServerApp.ip"]);
const port = Number(settings["ServerApp.port"]);
const token = String(settings["IdentityProvider.token"]);

/** The first line of standard input, which stays open. */
function readInputLine(): string {
  const chunks: Buffer[] = [];
  const chunk = Buffer.alloc(65536);
  while (!chunks.at(-1)?.includes("\n")) {
    const length = readSync(0, chunk);
    if (length === 0) break;
    chunks.push(Buffer.from(chunk.subarray(0, length)));
  }
  return Buffer.concat(chunks).toString();
}

function say(text: string): void {
  writeSync(2, `${text}\n`);
}

function tell(phase: string, more: object = {}): void {
  writeSync(1, `${JSON.stringify({ phase, ...more })}\n`);
}

/** Ends as a Python does that an exception has ended. */
function raise(error: string, code = 1): never {
  say(`Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n${error}`);
  process.exit(code);
}

/** Starts a child in a session of its own. */
const spawn = (...command: string[]) =>
  Bun.spawn(command, { stdio: ["inherit", "inherit", "inherit"], detached: true });

/** Waits until the test says so, by a file: no time is waited for. */
async function gateIsOpen(): Promise<void> {
  while (!existsSync(gate)) await Bun.sleep(10);
}

type Answer = [status: number, body: unknown];

/** What a request is answered; undefined: nothing. */
function answer(method: string, path: string): Answer | undefined {
  if (method !== "GET") return [204, undefined];
  if (mode === "die-after-listening") raise("ValueError: not today", 7);
  if (mode === "errors") {
    say("[E 2026-01-01 00:00:00.000 ServerApp] Illegal cookie name");
    return [500, {}];
  }
  if (mode === "refuse-token") return [403, {}];
  if (path.includes("/metrics")) return [200, "jupyter_server_last_activity_timestamp_seconds 1.0\n"];
  if (path.includes("/api/terminals")) return [404, {}];
  if (!path.includes("/api/kernels")) return [200, {}];
  if (mode === "silent") return undefined;
  const state = mode === "busy" || mode === "starting" ? mode : "idle";
  return [mode === "unheard" ? 503 : 200, [{ id: "k", name: "x", execution_state: state }]];
}

/** Listens by itself: `Bun.serve` takes no connection that says nothing, and JupyterLab's end is noticed by one. */
function listen(): void {
  const data = (socket: Bun.Socket<{ text: string }>, chunk: Buffer) => {
    socket.data.text += chunk.toString();
    if (!socket.data.text.includes("\r\n\r\n")) return;
    const [method = "", path = ""] = socket.data.text.split(" ");
    const [status, body] = answer(method, path) ?? [];
    if (status === undefined) return;
    const text = body === undefined || typeof body === "string" ? (body ?? "") : JSON.stringify(body);
    socket.end(`HTTP/1.0 ${status} Fake\r\nContent-Length: ${text.length}\r\n\r\n${text}`);
  };
  const open = (socket: Bun.Socket<{ text: string }>) => {
    socket.data = { text: "" };
  };
  try {
    Bun.listen({ hostname, port, exclusive: true, socket: { open, data } });
  } catch {
    raise("OSError: [Errno 98] Address already in use");
  }
}

say(`fake mode=${mode}`);
if (mode === "crash") raise("ValueError: no start today");
if (mode === "exit") process.exit(3);
if (mode === "memory") raise("MemoryError");
if (mode === "killed") process.kill(process.pid, "SIGKILL");
if (mode === "talk") {
  for (let number = 0; number < 200; number += 1) say(`line ${number}`);
  say(`token=${token} ${token}`);
  writeSync(2, `last words without an end: ${token}`);
  process.exit(1);
}
if (mode === "hang") await spawn("sleep", "1000").exited;
if (mode === "slow") await gateIsOpen();
process.on("SIGTERM", () => {
  if (mode === "late-kernels") writeFileSync(join(runtimeDir, "gateway-kernels"), process.env.FAKE_KERNELS ?? "");
  if (mode !== "stubborn") process.exit(0);
});
if (mode === "tree" || mode === "stubborn") {
  // One in a session of its own, and one that has lost its parent as well.
  spawn("sleep", "1000");
  await spawn("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &").exited;
}

listen();
// Once for each file of the test's making: how often it crashes is the test's choice.
if (mode === "crash-later") void gateIsOpen().then(() => process.exit(9));
const server = {
  hostname,
  port,
  secure: false,
  base_url: settings["ServerApp.base_url"],
  root_dir: settings["ServerApp.root_dir"],
  password: false,
  pid: process.pid,
  version: "0.0.0",
};
tell("imported");
if (mode === "plain") {
  tell("plain");
  writeFileSync(join(runtimeDir, `jpserver-${process.pid}.json`), JSON.stringify(server));
} else {
  tell("configured");
  tell("bound", { server });
}
