/** What happens to a server unasked: its gateway is polled, an idle server is stopped, a crashed one is restarted. */
import { existsSync, mkdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { messageOf } from "../lib/errors.ts";
import type { ActivityMonitor } from "./activity.ts";
import { compressAssets } from "./assets.ts";
import { writeConnection } from "./connection.ts";
import type { Context } from "./context.ts";
import { askGateway, findGateway } from "./gateway.ts";
import { requireLock } from "./lock.ts";
import type { Running } from "./state.ts";

const WINDOW_MS = 10 * 60 * 1000;
const CONNECTION_POLL_MS = 1000;

/** The restart policy: at once, then after growing pauses, and at most three times in ten minutes. */
export class RestartPolicy {
  /** Times of the granted restarts, on the monotonic clock. */
  #times: number[] = [];
  #pausesMs: readonly number[];

  /** `pausesMs` are the pauses before the first, second and third restart. */
  constructor(pausesMs: readonly number[]) {
    this.#pausesMs = pausesMs;
  }

  /** Grants a restart and returns the pause before it, in milliseconds. Undefined when there were too many. */
  grant(): number | undefined {
    const now = performance.now();
    this.#times = this.#times.filter((time) => now - time < WINDOW_MS);
    const pauseMs = this.#pausesMs[this.#times.length];
    if (pauseMs !== undefined) this.#times.push(now);
    return pauseMs;
  }

  /** Forgets earlier restarts, because a user asked for a start. */
  reset(): void {
    this.#times = [];
  }
}

/** What the monitors may ask of the supervisor. */
interface ServerHandle {
  /** Whether this server is still the running one. */
  isCurrent: () => boolean;
  stop: () => Promise<void>;
}

/** Starts the monitors of a server. They end when it is no longer the running one. */
export function startMonitors(
  context: Context,
  running: Running,
  activityMonitor: ActivityMonitor,
  handle: ServerHandle,
): void {
  void monitorGateway(context, running, handle);
  void monitorConnection(context, running, handle);
  void compressAssets(context, running.lab);
  if (context.config.idleTimeoutMs > 0) void stopWhenIdle(context, running, activityMonitor, handle);
}

/** Keeps the gateway's status up to date. */
async function monitorGateway(context: Context, running: Running, { isCurrent }: ServerHandle): Promise<void> {
  const { config, log, pauses } = context;
  const gateway = findGateway(running.lab.options, config);
  if (!gateway) return;
  for (;;) {
    await sleep(pauses.gatewayPollMs, undefined, { ref: false });
    const { status } = await askGateway(gateway, config);
    if (!isCurrent()) return;
    if (status.error !== running.gateway?.error)
      log(status.error ? "warn" : "info", "gateway changed", { url: gateway.url, error: status.error });
    running.gateway = status;
  }
}

/**
 * Renews the connection file and its lock if somebody has removed them, before another control API takes them. If one has
 * taken them already, the log says so.
 */
async function monitorConnection(
  { config, log }: Context,
  running: Running,
  { isCurrent }: ServerHandle,
): Promise<void> {
  const path = config.connectionFile;
  for (let isLost = false; ; ) {
    await sleep(CONNECTION_POLL_MS, undefined, { ref: false });
    if (!isCurrent()) return;
    try {
      if (requireLock(path) || !existsSync(path)) {
        // JupyterLab writes there for each of its kernels.
        mkdirSync(running.lab.runtimeDir, { recursive: true, mode: 0o700 });
        writeConnection(path, running);
        log("warn", "connection file renewed", { reason: `${path} or its lock was removed` });
      }
      isLost = false;
    } catch (error) {
      if (!isLost) log("error", "connection file lost", { reason: messageOf(error) });
      isLost = true;
    }
  }
}

/** `IDLE_TIMEOUT_S`: stops a server that nobody uses. */
async function stopWhenIdle(
  { config, log }: Context,
  running: Running,
  activityMonitor: ActivityMonitor,
  { isCurrent, stop }: ServerHandle,
): Promise<void> {
  const activity = await activityMonitor.awaitIdle(running, config.idleTimeoutMs);
  if (!activity || !isCurrent()) return;
  log("info", "server idle", { idle_s: activity.idle_seconds, last_activity: activity.last_activity });
  await stop();
}
