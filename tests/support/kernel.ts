/** A kernel for a test, by the client that JupyterLab itself uses. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import services from "@jupyterlab/services";
import { readProcess } from "../../lib/procfs.ts";
import { type Json, pidsWith, until } from "./helpers.ts";

const { KernelManager, ServerConnection } = services;

/** How long a cell may take. A spawned kernel whose port somebody else has taken meanwhile never answers. */
const CELL_LIMIT_MS = 60_000;

/** A kernelspec of which a kernel is started, or a kernel that runs. */
type Which = { name: string } | { id: string; name: string };

/** A kernel of a running server, through the client that JupyterLab itself uses. */
export async function startKernel({ url, token }: { url: string; token: string }, which: Which = { name: "python3" }) {
  const serverSettings = ServerConnection.makeSettings({
    baseUrl: url,
    wsUrl: url.replace(/^http/, "ws"),
    token,
    appendToken: true,
  });
  const manager = new KernelManager({ serverSettings });
  const kernel = "id" in which ? manager.connectTo({ model: which }) : await manager.startNew(which);
  /** Runs a cell and gives what it printed and what it came to. Fails if it is not done in `CELL_LIMIT_MS`. */
  const run = async (code: string): Promise<string> => {
    let output = "";
    const future = kernel.requestExecute({ code });
    future.onIOPub = ({ content }: { content: Json }) => {
      output += content.data?.["text/plain"] ?? content.text ?? content.evalue ?? "";
    };
    const limit = setTimeout(() => future.dispose(), CELL_LIMIT_MS);
    await future.done.finally(() => clearTimeout(limit));
    return output.trim();
  };
  // A manager asks for its server's kernels every ten seconds.
  const dispose = () => {
    kernel.dispose();
    manager.dispose();
  };
  return { kernel, run, [Symbol.dispose]: dispose };
}

/** A cell that is at work, silently, until there is a file with this path. */
export const waitFor = (path: string) =>
  `import os, time\nwhile not os.path.exists(${JSON.stringify(path)}): time.sleep(0.01)\n`;

/** Whether a kernel was forked: its template keeps its own objects from the garbage collection. */
export const IS_FORKED = "import gc; print(gc.get_freeze_count() > 0)";

/** A kernel that was forked. Where the template is not ready yet a kernel is spawned: that one is ended again. */
export async function startForkedKernel(server: { url: string; token: string }) {
  return await until("a forked kernel", async () => {
    const client = await startKernel(server);
    if ((await client.run(IS_FORKED)) === "True") return client;
    await client.kernel.shutdown();
    client[Symbol.dispose]();
    return undefined;
  });
}

/** The process from which a JupyterLab forks its kernels. */
export const findTemplate = ({ pid }: { pid: number }) =>
  pidsWith("kernel_template.py").find((found) => readProcess(found)?.ppid === pid);

/** Adds a kernelspec of Python beside JupyterLab's own one, in a folder of `JUPYTER_PATH`. */
export function addSpec(folder: string, name: string, more: object): void {
  const argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"];
  mkdirSync(join(folder, "kernels", name), { recursive: true });
  const spec = { argv, display_name: name, language: "python", ...more };
  writeFileSync(join(folder, "kernels", name, "kernel.json"), JSON.stringify(spec));
}
