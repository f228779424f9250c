/** A JupyterLab that is not a child of this program: how it gets signals, and how its end is noticed. */
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { isAlive, type ProcessInfo } from "../lib/procfs.ts";
import { type Exit, type Process, sendSignal } from "../lib/spawn.ts";
import { toLocalHost } from "./client.ts";

const POLL_PAUSE_MS = 50;

/** Where a JupyterLab listens. */
export interface ListenAddress {
  hostname: string;
  port: number;
}

/** A process that is not a child of this one. A later process with its pid gets none of its signals. */
export function attachTo(info: ProcessInfo, exited: Promise<Exit>): Process {
  return {
    pid: info.pid,
    exited,
    signal: (name) => {
      if (isAlive(info)) sendSignal(info.pid, name);
    },
  };
}

/** Resolves when the process is gone. A connection to its port ends with it, so its end is noticed at once. */
export async function awaitEnd(info: ProcessInfo, findAddress: () => ListenAddress | undefined): Promise<void> {
  while (isAlive(info)) {
    const address = findAddress();
    if (address) await holdConnection(address);
    // JupyterLab closes its port shortly before it ends.
    await sleep(POLL_PAUSE_MS);
  }
}

/** How a process ended whose exit code is not known: JupyterLab removes this file only when it shuts down cleanly. */
export function guessExit({ pid }: ProcessInfo, runtimeDir: string): Exit {
  return { code: existsSync(join(runtimeDir, `jpserver-${pid}.json`)) ? null : 0, signal: null };
}

/** Resolves when a connection to the port ends or fails. */
function holdConnection({ hostname, port }: ListenAddress): Promise<void> {
  return new Promise((settle) => {
    const socket = connect({ port, host: toLocalHost(hostname), keepAlive: true });
    socket.unref();
    socket.on("error", () => {});
    socket.on("close", () => settle());
    socket.resume();
  });
}
