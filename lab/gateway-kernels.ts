/** The kernels that a JupyterLab has started at a gateway: a stop deletes them there. */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { errorCode } from "../lib/errors.ts";
import { readPlainFile, removePath } from "../lib/files.ts";
import type { Log } from "../lib/log.ts";
import { type Gateway, requestGateway } from "./gateway.ts";

const KERNELS_FILE = "gateway-kernels";
/** Stands in that file for a kernel whose id the gateway has not sent yet. */
const STARTING = "starting";
/** Stands there for kernels that may run without an id: the gateway has neither started nor refused them. */
const UNANSWERED = "unanswered";
const MIN_PAUSE_MS = 20;
const MAX_PAUSE_MS = 500;
/** Room for 28,000 ids. */
const MAX_KERNELS_BYTES = 1024 * 1024;
/** Each of these requests has a connection of its own. */
const MAX_DELETIONS = 50;
/** Failures after which a gateway is asked again. A refused connection is final: a stop waits for no gateway to start. */
const FAULTS = new Set(["ECONNRESET", "ETIMEDOUT"]);

/**
 * Deletes the kernels that a JupyterLab started at a gateway. JupyterLab records them in its runtime folder
 * (`python/gateway.py`), and while `isRunning` says that it still can, those that are being started are waited for. A gateway
 * that fails is asked again. False if some are not known to be gone; the log names them. Never rejects.
 */
export async function deleteGatewayKernels(
  gateway: Gateway,
  runtimeDir: string,
  timeoutMs: number,
  log: Log,
  isRunning = () => false,
): Promise<boolean> {
  const { url } = gateway;
  const file = join(runtimeDir, KERNELS_FILE);
  const deadline = performance.now() + timeoutMs;
  const outcomes: Outcomes = new Map();
  let lines: string[];
  let mayGrow: boolean;
  let pauseMs = MIN_PAUSE_MS;
  try {
    for (;;) {
      // Before the file is read: a JupyterLab that has ended by then writes no more.
      mayGrow = isRunning();
      lines = readPlainFile(file, MAX_KERNELS_BYTES).split("\n").filter(Boolean);
      const ids = listIds(lines).filter((id) => isOpen(outcomes.get(id)));
      await deleteKernels(gateway, ids, deadline, outcomes);
      const hasFailed = ids.some((id) => isOpen(outcomes.get(id)));
      const isStarting = mayGrow && lines.includes(STARTING);
      // While the kernels were deleted, others can have been recorded.
      const isOver = !hasFailed && !isStarting && !(mayGrow && ids.length > 0);
      if (isOver || performance.now() > deadline) break;
      if (hasFailed || isStarting) await sleep(pauseMs);
      pauseMs = hasFailed ? Math.min(2 * pauseMs, MAX_PAUSE_MS) : MIN_PAUSE_MS;
    }
  } catch (error) {
    if (errorCode(error) === "ENOENT") return true;
    log("error", "kernels left at the gateway", { url, reason: `${file} can't be read (${errorCode(error)})` });
    return false;
  }
  const lost = listIds(lines).filter((id) => outcomes.get(id) !== "gone");
  const wasStarting = lines.includes(STARTING);
  if (lost.length > 0) log("error", "kernels left at the gateway", { url, kernels: lost.join(" ") });
  if (wasStarting || lines.includes(UNANSWERED)) {
    const reason = wasStarting ? "it was being started" : "its start was not answered";
    log("warn", "a kernel may be left at the gateway", { url, reason });
  }
  const allGone = lost.length === 0 && !wasStarting;
  // So that they are not deleted again. If the file can't be removed, they are.
  if (allGone && !mayGrow) removePath(file);
  return allGone;
}

/** What has come of a kernel's deletion. One that has failed is tried again. */
type Outcome = "gone" | "kept" | "failed";
type Outcomes = Map<string, Outcome>;

const isOpen = (outcome: Outcome | undefined) => outcome === undefined || outcome === "failed";

function listIds(lines: string[]): string[] {
  return lines.filter((line) => line !== STARTING && line !== UNANSWERED);
}

/** Deletes kernels, the newest first. Never rejects. */
async function deleteKernels(gateway: Gateway, ids: string[], deadline: number, outcomes: Outcomes): Promise<void> {
  const newestFirst = ids.toReversed().values();
  const deleteNext = async () => {
    for (const id of newestFirst) {
      const path = `api/kernels/${encodeURIComponent(id)}`;
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) return;
      const outcome = await requestGateway(gateway, "DELETE", path, leftMs).then(
        ({ status }) => (status < 300 || status === 404 ? "gone" : status < 500 ? "kept" : "failed"),
        (error) => (FAULTS.has(errorCode(error)) ? "failed" : "kept"),
      );
      outcomes.set(id, outcome);
    }
  };
  await Promise.all(Array.from({ length: MAX_DELETIONS }, deleteNext));
}
