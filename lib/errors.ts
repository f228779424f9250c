/** The error class, the table from error code to HTTP status, and the function that writes error bodies. */
import type { Exit } from "./spawn.ts";

/** HTTP status of each error code. */
export const STATUS_BY_CODE = {
  invalid_json: 400,
  unauthorized: 401,
  forbidden_origin: 403,
  not_running: 404,
  not_found: 404,
  method_not_allowed: 405,
  already_running: 409,
  busy: 409,
  start_cancelled: 409,
  port_in_use: 409,
  payload_too_large: 413,
  unsupported_media_type: 415,
  invalid_options: 422,
  config_error: 500,
  import_error: 500,
  jupyter_not_found: 500,
  permission_denied: 500,
  out_of_memory: 500,
  crashed: 500,
  stop_incomplete: 500,
  internal: 500,
  jupyterlab_unreachable: 502,
  gateway_unreachable: 502,
  gateway_unauthorized: 502,
  gateway_invalid: 502,
  jupyterlab_stopped: 503,
  out_of_resources: 503,
  shutting_down: 503,
  too_many_connections: 503,
  start_timeout: 504,
} as const satisfies Record<string, number>;

export type ErrorCode = keyof typeof STATUS_BY_CODE;

/** How a JupyterLab ended: part of a failed start's answer and of `last_exit`. */
interface Failure {
  /** The process's exit code; null if a signal killed it, or if it never ran. */
  exit_code: number | null;
  signal: string | null;
  /** The last 50 lines of JupyterLab's own log, secrets masked. */
  log_tail: string[];
  /** The last Python traceback in that log, or null. */
  traceback: string | null;
}

/** A `Failure` with its time, code and message, as `GET /api/servers/` shows it. */
export interface LastExit extends Failure {
  at: string;
  code: ErrorCode | null;
  message: string;
}

/** The body of every error answer (RFC 9457, `application/problem+json`). */
export interface Problem<Code extends ErrorCode = ErrorCode> extends Partial<Failure> {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: Code;
  message: string;
  state?: string;
  last_exit?: LastExit;
  stack?: string;
}

type Details = Partial<Failure> & { state?: string; last_exit?: LastExit };

/** An error that its reader can act on. The message names the thing, the rule and the value, and contains no secret. */
export class ServiceError extends Error {
  override name = "ServiceError";
  readonly code: ErrorCode;
  readonly details: Details;

  constructor(code: ErrorCode, message: string, details: Details = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.details = details;
  }
}

/** How a process ended, as text: `exit code 1`, `signal SIGKILL`. */
export function describeExit(exit: Exit): string {
  return exit.signal ? `signal ${exit.signal}` : `exit code ${exit.code ?? "unknown"}`;
}

/** The body of an error answer. Any error but a `ServiceError` gives a fixed text, and its stack only with `debug`. */
export function toProblem(error: unknown, debug: boolean): Problem {
  const known = error instanceof ServiceError ? error : undefined;
  const code = known?.code ?? "internal";
  const status = STATUS_BY_CODE[code];
  const message = known?.message ?? "An unexpected error happened; the control API's log has the details.";
  return {
    type: `urn:jupyter-server:problem:${code}`,
    title: titleOf(status),
    status,
    detail: message,
    code,
    message,
    ...known?.details,
    ...(debug && !known && error instanceof Error && error.stack ? { stack: error.stack } : {}),
  };
}

/** The reason phrase of an HTTP status. `node:http` is loaded late, because loading it takes a tenth of the launch. */
function titleOf(status: number): string {
  return process.getBuiltinModule("node:http").STATUS_CODES[status] ?? "";
}

/** A failed start as `last_exit`. Without a process, exit code and signal are null. */
export function describeFailure(error: unknown): LastExit {
  const known = error instanceof ServiceError ? error : undefined;
  const { exit_code = null, signal = null, log_tail = [], traceback = null } = known?.details ?? {};
  const message = known?.message ?? "The start failed unexpectedly; the control API's log has the details";
  return {
    at: new Date().toISOString(),
    code: known?.code ?? "internal",
    message,
    exit_code,
    signal,
    log_tail,
    traceback,
  };
}

/** A `ServiceError` with what is known of the process that failed; any other error as it is. */
export function withFailure(error: unknown, failure: LastExit): unknown {
  if (!(error instanceof ServiceError)) return error;
  const { at: _at, code: _code, message: _message, ...details } = failure;
  return new ServiceError(error.code, error.message, details, error);
}

/** What the system has run out of, by its error code. */
const RESOURCES: Record<string, string> = {
  ENOSPC: "the disk is full, or has no inodes left",
  EDQUOT: "the disk quota is used up",
  EFBIG: "a file may not become larger (ulimit -f)",
  EMFILE: "this process has no file descriptors left",
  ENFILE: "the system has no file descriptors left",
  EAGAIN: "no further process can be started now",
};

/** `out_of_resources` if a system error says that something has run out; `thing` is what could not be done without it. */
export function explainShortage(error: unknown, thing: string): ServiceError | undefined {
  const code = errorCode(error);
  const resource = RESOURCES[code];
  return resource === undefined
    ? undefined
    : new ServiceError("out_of_resources", `${thing}: ${resource} (${code})`, {}, error);
}

/** The stack of an unexpected error and of its causes, for the log. */
export function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const stack = error.stack ?? error.message;
  return error.cause === undefined ? stack : `${stack}\ncaused by ${stackOf(error.cause)}`;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** The `code` of a system error (`ENOENT`), otherwise the error's name. */
export function errorCode(error: unknown): string {
  return error instanceof Error ? ((error as NodeJS.ErrnoException).code ?? error.name) : String(error);
}
