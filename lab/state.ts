/** The lifecycle as one discriminated union, and the errors that depend on the state. */
import { type LastExit, ServiceError } from "../lib/errors.ts";
import type { Lab } from "./lab.ts";
import type { StartOptions } from "./options.ts";
import type { GatewayStatus } from "./schemas.ts";

/** A JupyterLab that answers. */
export interface Running {
  lab: Lab;
  /** The gateway's status, at most 7 s old; null without a gateway. */
  gateway: GatewayStatus | null;
  startedAt: string;
  /** Automatic restarts since the last requested start. */
  restarts: number;
  /** The crash that led to the last automatic restart. */
  lastExit: LastExit | null;
}

/** A start that is in progress, or that waits for a stop. */
export interface Start {
  options: StartOptions;
  /** The token that the server must have; undefined: the options' one, or a new random one. */
  token: string | undefined;
  /** Whether somebody opened JupyterLab, or saved in an open tab: nobody asked the control API for it. */
  byVisit: boolean;
  restarts: number;
  /** How long an automatic restart pauses first. */
  pauseMs: number;
  lastExit: LastExit | null;
  /** Cancels the start: `promise` then rejects with the reason. */
  cancel: AbortController;
  /** Settles with the start. Its rejection counts as handled, so nobody has to wait for it. */
  promise: Promise<Running>;
  resolve: (running: Running) => void;
  reject: (reason: unknown) => void;
}

/** What follows a stop: nothing, a start that waits for it, or the end of the program. */
export type Next = { kind: "none" } | { kind: "start"; start: Start } | { kind: "exit" };

/** The lifecycle. Everything that is known about the server is in one of these states. */
export type State =
  | { state: "stopped"; lastExit: LastExit | null; closed: boolean }
  | { state: "failed"; lastExit: LastExit }
  | { state: "starting"; start: Start }
  | { state: "running"; running: Running }
  | { state: "stopping"; done: Promise<void>; next: Next; lastExit: LastExit | null };

/** Creates a start that has yet to begin. */
export function planStart(
  options: StartOptions,
  token: string | undefined,
  restarts = 0,
  lastExit: LastExit | null = null,
): Start {
  const { promise, resolve, reject } = Promise.withResolvers<Running>();
  promise.catch(() => {});
  return {
    options,
    token,
    byVisit: false,
    restarts,
    pauseMs: 0,
    lastExit,
    cancel: new AbortController(),
    promise,
    resolve,
    reject,
  };
}

/** The start in progress, or the one that waits for the end of a stop. */
export function findPendingStart(state: State): Start | undefined {
  if (state.state === "starting") return state.start;
  return state.state === "stopping" && state.next.kind === "start" ? state.next.start : undefined;
}

/** The error of a request that needs a running server, with the last failure if there was one. */
export function notRunning(state: Extract<State, { state: "stopped" | "failed" | "stopping" }>): ServiceError {
  const details = { state: state.state, ...(state.lastExit ? { last_exit: state.lastExit } : {}) };
  return new ServiceError("not_running", "No running server", details);
}

/** Throws `shutting_down` once the program ends: no start is accepted any more. */
export function requireOpen(state: State): void {
  if (state.state === "stopped" ? state.closed : state.state === "stopping" && state.next.kind === "exit")
    throw shuttingDown();
}

/** Throws `already_running` if a start asks for other options than the current ones. */
export function requireSame(current: StartOptions, asked: StartOptions): void {
  if (current.key !== asked.key) {
    throw new ServiceError(
      "already_running",
      "A server with other options is already running or starting; stop it first (DELETE /api/servers/)",
    );
  }
}

/** The error of a start that was cancelled by a stop. */
export function cancelled(): ServiceError {
  return new ServiceError("start_cancelled", "The start was cancelled by a request to stop");
}

/** The error of a start that is requested while the program ends. */
export function shuttingDown(): ServiceError {
  return new ServiceError("shutting_down", "The control API is shutting down and accepts no starts");
}
