/** What is done for a running server without anybody's asking: its gateway is asked, and an idle one is stopped. */
import type { Watchman } from "./activity.ts";
import { findGateway, watchGateway } from "./gateway.ts";
import type { Context } from "./lab.ts";
import type { Running } from "./state.ts";

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
