/** The lifecycle's states: one discriminated union, and what each of them carries. */
import { type LastExit, ServiceError } from "../lib/errors.ts";
import type { GatewayStatus } from "./gateway.ts";
import type { Lab } from "./lab.ts";
import type { StartOptions } from "./options.ts";

/** A JupyterLab that answers. */
export interface Running {
  lab: Lab;
  /** What the gateway said when it was last asked, some seconds ago; null without one. */
  gateway: GatewayStatus | null;
  startedAt: string;
  /** Automatic restarts since the last request to start. */
  restarts: number;
  /** The crash that the last automatic restart answered. */
  lastExit: LastExit | null;
}

/** A JupyterLab on its way, or one that is to follow a stop. */
export interface Start {
  options: StartOptions;
  /** The token it must have; undefined: any that nobody else has. */
  token: string | undefined;
  restarts: number;
  lastExit: LastExit | null;
  /** Cancels the start: `promise` then rejects with the reason. */
  cancel: AbortController;
  /** Settles when the start has. It is handled from the beginning, so nobody has to wait for it. */
  promise: Promise<Running>;
  resolve: (running: Running) => void;
  reject: (reason: unknown) => void;
}

/** What follows a stop: nothing, a start that waits for it, or the end of the program. */
export type Next = { kind: "rest" } | { kind: "start"; start: Start } | { kind: "exit" };

/** The lifecycle. All that is known of the server is known in one of these states. */
export type State =
  | { state: "stopped"; lastExit: LastExit | null; closed: boolean }
  | { state: "failed"; lastExit: LastExit }
  | { state: "starting"; start: Start }
  | { state: "running"; running: Running }
  | { state: "stopping"; done: Promise<void>; next: Next; lastExit: LastExit | null };

/** A start that has not begun. `token` is the one it must have; undefined: any that nobody else has. */
export function planStart(
  options: StartOptions,
  token: string | undefined,
  restarts = 0,
  lastExit: LastExit | null = null,
): Start {
  const { promise, resolve, reject } = Promise.withResolvers<Running>();
  promise.catch(() => {});
  return { options, token, restarts, lastExit, cancel: new AbortController(), promise, resolve, reject };
}

/** The error of a request that needs a server where none runs, with the reason where there was a failure. */
export function notRunning(state: Extract<State, { state: "stopped" | "failed" | "stopping" }>): ServiceError {
  const details = { state: state.state, ...(state.lastExit ? { last_exit: state.lastExit } : {}) };
  return new ServiceError("not_running", "No running server", details);
}

/** Throws `already_running` where a start asks for other options than those that are in force. */
export function requireSame(current: StartOptions, asked: StartOptions): void {
  if (current.key !== asked.key) {
    throw new ServiceError(
      "already_running",
      "A server with other options runs or starts already; stop it first (DELETE /api/servers/)",
    );
  }
}

/** The error of a start that a stop has cancelled. */
export function cancelled(): ServiceError {
  return new ServiceError("start_cancelled", "The start was cancelled by a request to stop");
}

/** The error of a start that comes when the program is ending. */
export function shuttingDown(): ServiceError {
  return new ServiceError("shutting_down", "The control API is shutting down and starts nothing any more");
}
