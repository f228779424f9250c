/** What the benchmark measures of kernels: the first cell, restart, end, many at once, and what they cost. */
import { readdirSync, readFileSync } from "node:fs";
import { readProportionalBytes } from "../lib/procfs.ts";
import { add, median } from "./bench-measure.ts";

const ANSWER_LIMIT_MS = 30_000;
const TOGETHER = 20;
const NS_PER_MS = 1e6;

interface Kernel {
  id: string;
  /** Runs `1+1` and gives the milliseconds from the request to its reply and to idle. */
  run: () => Promise<number>;
  /** Restarts it, and gives the milliseconds until a new websocket is open. */
  restart: () => Promise<number>;
  /** Deletes it, and gives the milliseconds until that is answered. */
  end: () => Promise<number>;
}

/** A new kernel with one websocket at a time. */
async function startKernel(url: string, token: string): Promise<Kernel> {
  const headers = { authorization: `token ${token}`, "content-type": "application/json" };
  const ask = async (method: string, path: string) => {
    const at = performance.now();
    const response = await fetch(`${url}api/kernels${path}`, {
      method,
      headers,
      ...(method === "POST" && { body: "{}" }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} of a kernel was answered with ${response.status}`);
    return { text, ms: performance.now() - at };
  };
  const { id } = JSON.parse((await ask("POST", "")).text) as { id: string };
  const waiting = new Map<string, (kind: string) => void>();
  const connect = async () => {
    const socket = new WebSocket(`${url.replace(/^http/, "ws")}api/kernels/${id}/channels?token=${token}`);
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(String(data));
      const state = message.msg_type === "status" ? message.content.execution_state : message.msg_type;
      waiting.get(message.parent_header?.msg_id)?.(state);
    };
    await new Promise<void>((settle, reject) => {
      socket.onopen = () => settle();
      socket.onerror = () => reject(new Error("the kernel's websocket did not open"));
    });
    return socket;
  };
  let socket = await connect();
  const run = async () => {
    const at = performance.now();
    await runCell(socket, waiting);
    return performance.now() - at;
  };
  const restart = async () => {
    const at = performance.now();
    await ask("POST", `/${id}/restart`);
    // As JupyterLab's own client does: over the old websocket bare `jupyter lab` loses answers in one of three cases.
    socket.close();
    socket = await connect();
    return performance.now() - at;
  };
  const end = async () => {
    socket.close();
    return (await ask("DELETE", `/${id}`)).ms;
  };
  return { id, run, restart, end };
}

/** Round trips of `1+1` in a new kernel, from its second cell on, over one websocket. */
export async function measureCells(url: string, token: string, count: number): Promise<number[]> {
  const kernel = await startKernel(url, token);
  const times: number[] = [];
  for (let cell = 0; cell <= count; cell += 1) times.push(await kernel.run());
  await kernel.end();
  return times.slice(1);
}

/** A kernel's life: until its first answer, a restart until the next one, and its end. */
export async function measureKernel(name: string, url: string, token: string): Promise<void> {
  const at = performance.now();
  const kernel = await startKernel(url, token);
  await kernel.run();
  add(`${name} first cell`, performance.now() - at);
  add(`${name} kernel CPU`, readProcessorMs(findProcess(kernel.id)));
  const restarted = performance.now();
  await kernel.restart();
  await kernel.run();
  add(`${name} restarted cell`, performance.now() - restarted);
  add(`${name} kernel end`, await kernel.end());
}

/** Many kernels at once, until all have answered, and the memory that each of them adds. */
export async function measureTogether(name: string, url: string, token: string): Promise<void> {
  const at = performance.now();
  const kernels = await Promise.all(
    Array.from({ length: TOGETHER }, async () => {
      const kernel = await startKernel(url, token);
      await kernel.run();
      return kernel;
    }),
  );
  add(`${name} together`, performance.now() - at);
  add(`${name} kernel MB`, median(kernels.map(({ id }) => readShareMb(findProcess(id)))));
  await Promise.all(kernels.map((kernel) => kernel.end()));
}

/** Memory of a process in MB, with its share of what it shares with others (PSS). */
export function readShareMb(pid: number): number {
  return readProportionalBytes(pid) / 1024 / 1024;
}

function findProcess(kernelId: string): number {
  for (const name of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      if (readFileSync(`/proc/${name}/cmdline`, "utf8").includes(kernelId)) return Number(name);
    } catch {
      // The process has ended meanwhile.
    }
  }
  throw new Error(`there is no process of kernel ${kernelId}`);
}

/** Processor time of all threads of a process. */
function readProcessorMs(pid: number): number {
  const threads = readdirSync(`/proc/${pid}/task`);
  const times = threads.map((id) => Number(readFileSync(`/proc/${pid}/task/${id}/schedstat`, "utf8").split(" ")[0]));
  return times.reduce((sum, ns) => sum + ns, 0) / NS_PER_MS;
}

async function runCell(socket: WebSocket, waiting: Map<string, (kind: string) => void>): Promise<void> {
  const msg_id = crypto.randomUUID();
  const missing = new Set(["execute_reply", "idle"]);
  const done = new Promise<void>((settle, reject) => {
    const timer = setTimeout(
      () => reject(new Error(`a cell got no ${[...missing].join(", ")} at ${new URL(socket.url).host}`)),
      ANSWER_LIMIT_MS,
    );
    waiting.set(msg_id, (kind) => {
      missing.delete(kind);
      if (missing.size > 0) return;
      clearTimeout(timer);
      settle();
    });
  });
  const header = { msg_id, msg_type: "execute_request", username: "", session: "bench", version: "5.3", date: "" };
  const content = { code: "1+1", silent: false, store_history: true, user_expressions: {}, allow_stdin: false };
  socket.send(JSON.stringify({ channel: "shell", header, parent_header: {}, metadata: {}, content, buffers: [] }));
  await done;
  waiting.delete(msg_id);
}
