/** How a start failed or a server ended: writes it to the log, and returns it as `last_exit`. */
import { describeExit, describeFailure, type LastExit, ServiceError, stackOf } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import type { Exit } from "../lib/spawn.ts";
import type { Lab } from "./lab.ts";

/** The failure of a start. An unexpected error has its stack in the log. */
export function reportFailure(log: Log, error: unknown): LastExit {
  const failure = describeFailure(error);
  log(failure.code === "start_cancelled" ? "info" : "error", "server not started", {
    code: failure.code,
    reason: failure.message,
  });
  if (failure.code === "internal") log("error", "unexpected error", { stack: stackOf(error) });
  return failure;
}

/** The end of a server that was gone when this program started. */
export function reportGone(log: Log, pid: number): LastExit {
  const error = new ServiceError("crashed", `JupyterLab (pid ${pid}) had ended before the control API restarted`);
  log("error", "server crashed", { code: error.code, reason: error.message });
  return describeFailure(error);
}

/**
 * The end of a server that nobody asked for. If JupyterLab was shut down and did not crash, `code` is null, and so is
 * `traceback`: one in its log has another cause.
 */
export function reportExit(log: Log, lab: Lab, exit: Exit): LastExit {
  const lastExit = lab.explain(exit);
  if (exit.code === 0) {
    const message = "JupyterLab was shut down from its own menu, by its own settings or by a signal from outside";
    log("info", "server ended", { reason: message });
    return { ...lastExit, code: null, message, traceback: null };
  }
  log("error", "server crashed", { exit: describeExit(exit), code: lastExit.code, reason: lastExit.message });
  return lastExit;
}
