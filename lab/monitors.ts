/** What is done for a server without anybody's asking: its gateway is asked, an idle one stopped, a crashed one restarted. */
import type { Watchman } from "./activity.ts";
import { findGateway, watchGateway } from "./gateway.ts";
import type { Context } from "./lab.ts";
import type { Running } from "./state.ts";

/** Pauses before the first, second and third automatic restart; there is no fourth within the window. */
const PAUSES_MS = [0, 500, 2000];
const WINDOW_MS = 10 * 60 * 1000;

/** The policy of automatic restarts: at once, then after growing pauses, and not for ever. */
export class RestartPolicy {
  /** When restarts were granted, on a clock that does not jump. */
  #times: number[] = [];

  /** Grants one more restart: the pause before it, in milliseconds. Undefined: there were too many. */
  grant(): number | undefined {
    const now = performance.now();
    this.#times = this.#times.filter((time) => now - time < WINDOW_MS);
    const pauseMs = PAUSES_MS[this.#times.length];
    if (pauseMs !== undefined) this.#times.push(now);
    return pauseMs;
  }

  /** Somebody asked for a start: what was before does not count. */
  reset(): void {
    this.#times = [];
  }
}

/** What upkeep needs of the supervisor. */
export interface Charge {
  /** Whether this server is still the one that runs. */
  isCurrent: () => boolean;
  stop: () => Promise<void>;
}

/** Looks after a server until it is not the one that runs any more. */
export function keepUp(context: Context, running: Running, watchman: Watchman, charge: Charge): void {
  void followGateway(context, running, charge);
  if (context.config.idleTimeoutMs > 0) void stopWhenIdle(context, running, watchman, charge);
}

/** Keeps what is said of the gateway true. */
async function followGateway({ config, log }: Context, running: Running, { isCurrent }: Charge): Promise<void> {
  const gateway = findGateway(running.lab.options, config);
  if (!gateway) return;
  for await (const status of watchGateway(gateway, config)) {
    if (!isCurrent()) return;
    if (status.error !== running.gateway?.error)
      log(status.error ? "warn" : "info", "gateway changed", { url: gateway.url, error: status.error });
    running.gateway = status;
  }
}

/** `IDLE_TIMEOUT_S`: what nobody uses is stopped, and the next start brings it back. */
async function stopWhenIdle(
  { config, log }: Context,
  running: Running,
  watchman: Watchman,
  { isCurrent, stop }: Charge,
): Promise<void> {
  const activity = await watchman.awaitIdle(running, config.idleTimeoutMs);
  if (!activity || !isCurrent()) return;
  log("info", "server idle", { idle_s: activity.idle_seconds, last_activity: activity.last_activity });
  await stop();
}
