/** A container that is frozen and thawed, as a snapshot or `docker pause` does it: by signals to all its processes. */
import { setTimeout as sleep } from "node:timers/promises";

/** Stops all processes that `list` finds for as long as this, and lets them continue. */
export async function freeze(list: () => number[], durationMs: number): Promise<void> {
  const frozen = new Set<number>();
  // Until a look finds nobody new: a process can fork until it is stopped itself.
  for (let before = -1; before !== frozen.size; ) {
    before = frozen.size;
    for (const pid of list()) if (!frozen.has(pid) && trySignal(pid, "SIGSTOP")) frozen.add(pid);
  }
  await sleep(durationMs);
  for (const pid of frozen) trySignal(pid, "SIGCONT");
}

/** Whether there was a process for it. */
function trySignal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch {
    return false;
  }
}
