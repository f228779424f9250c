/** The supervisor: the one lifecycle of the one JupyterLab, and all that may move it. It knows no HTTP. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Activity, describeAbsence, tellBusiness, Watchman } from "./lab/activity.ts";
import { removeConnection } from "./lab/connection.ts";
import type { Context } from "./lab/lab.ts";
import { keepUp, RestartPolicy } from "./lab/monitors.ts";
import type { StartOptions } from "./lab/options.ts";
import { adoptServer, endLeftovers, findLeftovers } from "./lab/recovery.ts";
import { startServer } from "./lab/start.ts";
import {
  cancelled,
  type Next,
  notRunning,
  planStart,
  type Running,
  requireSame,
  type Start,
  type State,
  shuttingDown,
} from "./lab/state.ts";
import { describeExit, describeFailure, type LastExit, ServiceError, stackOf } from "./lib/errors.ts";
import type { Exit } from "./lib/spawn.ts";

/** Keeps at most one JupyterLab. Its methods move the lifecycle at once; what they return settles when the move is done. */
export class Supervisor {
  #context: Context;
  #current: State = { state: "stopped", lastExit: null, closed: false };
  #restarts = new RestartPolicy();
  /** Options of the last start that succeeded: the next one is likely to have them again. */
  #lastOptions: StartOptions | undefined;
  #watchman = new Watchman();

  /** Starts nothing and touches nothing. */
  constructor(context: Context) {
    this.#context = context;
    context.journal.recordState(this.#current);
  }

  get state(): Readonly<State> {
    return this.#current;
  }

  get #state(): State {
    return this.#current;
  }

  /** Every move of the lifecycle is one assignment, and is told to those who watch. */
  set #state(state: State) {
    this.#current = state;
    this.#context.journal.recordState(state);
  }

  /** Begins to keep the standby ready. Not needed for a start, which is only slower without it. */
  prepare(): void {
    if (this.#state.state === "stopped" || this.#state.state === "failed")
      this.#context.standby.rest(this.#lastOptions);
  }

  /**
   * Takes over what an earlier control API with this connection file has left: its JupyterLab goes on where it answers,
   * and whatever else is found is ended. For the program's begin, before its first request.
   */
  adopt(): void {
    const context = this.#context;
    const { record, folders } = findLeftovers(context);
    const options = record?.supervisor.options;
    if (record && options)
      this.#begin(planStart(options, record.token), ({ cancel }) =>
        adoptServer(context, record, folders, cancel.signal),
      );
    else if (folders.length > 0) this.#waitFor(endLeftovers(context, folders), { kind: "rest" }, null, () => {});
  }

  /** Processes that are kept ready for a start. */
  get standbyPids(): number[] {
    return this.#context.standby.pids();
  }

  /** Whether a start would be accepted: false once the program is ending. */
  get accepting(): boolean {
    const state = this.#state;
    return !(state.state === "stopped" && state.closed) && !(state.state === "stopping" && state.next.kind === "exit");
  }

  /**
   * The running server when it has the same options, else the promise of one. Equal options share a start; a start
   * waits for a stop that is under way, and can be cancelled meanwhile. Throws, or rejects with, `already_running`,
   * `shutting_down`, `start_cancelled` or the reason why JupyterLab could not be started.
   */
  start(options: StartOptions): Running | Promise<Running> {
    this.#requireOpen();
    const state = this.#state;
    switch (state.state) {
      case "running":
        requireSame(state.running.lab.options, options);
        return state.running;
      case "starting":
        requireSame(state.start.options, options);
        return state.start.promise;
      case "stopping": {
        if (state.next.kind === "start") {
          requireSame(state.next.start.options, options);
          return state.next.start.promise;
        }
        const start = planStart(options, undefined);
        this.#restarts.reset();
        this.#state = { ...state, next: { kind: "start", start } };
        return start.promise;
      }
      case "stopped":
      case "failed":
        this.#restarts.reset();
        return this.#begin(planStart(options, undefined));
    }
  }

  /** Stops the server, or cancels its start. Resolves when nothing of it is left. Throws `not_running`. */
  stop(): Promise<void> {
    return this.#leave({ kind: "rest" });
  }

  /** Stops the server where it is idle: rejects with `busy` where it is not, and also where that can't be known. */
  async stopIfIdle(): Promise<void> {
    const state = this.#state;
    const activity = await this.activity();
    // What was asked is not there any more.
    if (this.#state !== state) return this.stopIfIdle();
    if (activity.busy) throw new ServiceError("busy", `The server was not stopped: ${tellBusiness(activity)}`);
    await this.stop();
  }

  /** What the server does, without being any activity itself. Never rejects, and takes at most two seconds. */
  async activity(): Promise<Activity> {
    const state = this.#state;
    return state.state === "running" ? await this.#watchman.look(state.running) : describeAbsence(state.state);
  }

  /** Stops and starts with the same options and token. Resolves with the new server. Throws `not_running`. */
  restart(): Promise<Running> {
    this.#requireOpen();
    const state = this.#state;
    if (state.state === "starting") return state.start.promise;
    if (state.state === "stopping" && state.next.kind === "start") return state.next.start.promise;
    if (state.state !== "running") throw notRunning(state);
    const { options, token } = state.running.lab;
    const start = planStart(options, token);
    this.#restarts.reset();
    this.#leave({ kind: "start", start });
    return start.promise;
  }

  /** Refuses new starts from now on and stops what runs. Resolves when nothing is left. */
  async shutdown(): Promise<void> {
    const state = this.#state;
    this.#context.standby.close();
    if (state.state === "stopped" || state.state === "failed") {
      this.#state = { state: "stopped", lastExit: state.lastExit, closed: true };
    } else {
      await this.#leave({ kind: "exit" });
    }
    this.#context.journal.close();
  }

  /** Kills JupyterLab and all that belongs to it at once, without waiting: for a second signal. */
  kill(): void {
    this.#context.standby.close();
    for (const lab of this.#context.labs) lab.kill();
    removeConnection(this.#context.config.connectionFile);
  }

  #requireOpen(): void {
    if (!this.accepting) throw shuttingDown();
  }

  #leave(next: Next): Promise<void> {
    const state = this.#state;
    switch (state.state) {
      case "running":
        return this.#enterStopping(next, state.running.lab.stop(this.#context.config.stopTimeoutMs), null);
      case "starting":
        state.start.cancel.abort(cancelled());
        return this.#enterStopping(next, state.start.promise, null);
      case "stopping":
        if (state.next.kind === "start") state.next.start.reject(next.kind === "exit" ? shuttingDown() : cancelled());
        if (state.next.kind !== "exit") this.#state = { ...state, next };
        return state.done;
      case "stopped":
      case "failed":
        throw notRunning(state);
    }
  }

  #enterStopping(next: Next, work: Promise<unknown>, lastExit: LastExit | null): Promise<void> {
    const { config, log, standby } = this.#context;
    const begun = performance.now();
    log("info", "server stopping");
    standby.pause();
    return this.#waitFor(work, next, lastExit, () => {
      removeConnection(config.connectionFile);
      log("info", "server stopped", { ms: Math.round(performance.now() - begun) });
    });
  }

  /** Waits for `work` to settle and goes on to what follows in the same turn: no request can come in between. */
  #waitFor(work: Promise<unknown>, next: Next, lastExit: LastExit | null, finish: () => void): Promise<void> {
    const goOn = () => {
      finish();
      this.#settle();
    };
    const done = work.then(goOn, goOn);
    this.#state = { state: "stopping", done, next, lastExit };
    return done;
  }

  #settle(): void {
    if (this.#state.state !== "stopping") return;
    const { next, lastExit } = this.#state;
    if (next.kind === "start") this.#begin(next.start);
    else if (lastExit?.code && next.kind === "rest") this.#state = { state: "failed", lastExit };
    else this.#state = { state: "stopped", lastExit, closed: next.kind === "exit" };
    if (next.kind === "rest") this.prepare();
  }

  /** Lets a start go: `bringUp` makes the server that it is to end with. */
  #begin(
    start: Start,
    bringUp: (start: Start) => Promise<Running> = (start) => startServer(this.#context, start),
  ): Promise<Running> {
    this.#state = { state: "starting", start };
    this.#context.standby.pause();
    bringUp(start).then(
      (running) => this.#handleSuccess(start, running),
      (error) => this.#handleFailure(start, error),
    );
    return start.promise;
  }

  #handleSuccess(start: Start, running: Running): void {
    const { config, standby } = this.#context;
    const { lab } = running;
    const { aborted, reason } = start.cancel.signal;
    if (aborted) {
      // The stop that has cancelled this start waits for its promise.
      const fail = () => this.#handleFailure(start, reason);
      lab.stop(config.stopTimeoutMs).then(fail, fail);
      return;
    }
    this.#state = { state: "running", running };
    this.#lastOptions = lab.options;
    standby.accompany(lab.options, lab.token);
    lab.exited.then((exit) => this.#handleExit(running, exit));
    const charge = { isCurrent: () => this.#isCurrent(running), stop: () => this.stop() };
    keepUp(this.#context, running, this.#watchman, charge);
    start.resolve(running);
  }

  #isCurrent(running: Running): boolean {
    return this.#state.state === "running" && this.#state.running === running;
  }

  #handleFailure(start: Start, error: unknown): void {
    const failure = describeFailure(error);
    const { log } = this.#context;
    log(failure.code === "start_cancelled" ? "info" : "error", "server not started", {
      code: failure.code,
      reason: failure.message,
    });
    if (failure.code === "internal") log("error", "unexpected error", { stack: stackOf(error) });
    // A stop that has cancelled this start waits for its promise and moves on by itself.
    if (this.#state.state === "starting" && this.#state.start === start) {
      if (start.restarts > 0) start.lastExit = failure;
      if (start.restarts > 0 && this.#restart(start)) return;
      this.#state = { state: "failed", lastExit: failure };
      this.prepare();
    }
    const { at: _at, code: _code, message: _message, ...details } = failure;
    const isKnown = error instanceof ServiceError;
    start.reject(
      isKnown && failure.code !== "start_cancelled"
        ? new ServiceError(error.code, error.message, details, error)
        : error,
    );
  }

  /** The process has ended: by our own stop, which then goes on by itself, or else as a crash. */
  #handleExit(running: Running, exit: Exit): void {
    if (!this.#isCurrent(running)) return;
    const { config, log } = this.#context;
    const { lab, restarts } = running;
    const tidied = lab.clear(config.stopTimeoutMs, false);
    removeConnection(config.connectionFile);
    if (exit.code === 0) {
      const message = "JupyterLab was shut down from its own menu or by a signal from outside";
      log("info", "server ended", { reason: message });
      this.#enterStopping({ kind: "rest" }, tidied, { ...lab.explain(exit), code: null, message });
      return;
    }
    const lastExit = lab.explain(exit);
    log("error", "server crashed", { exit: describeExit(exit), code: lastExit.code, reason: lastExit.message });
    const start = planStart(lab.options, lab.token, restarts, lastExit);
    if (!config.autoRestart || !this.#restart(start, tidied)) this.#enterStopping({ kind: "rest" }, tidied, lastExit);
  }

  /** Begins an automatic restart where the policy allows one more. False: it does not. */
  #restart(start: Start, tidied: Promise<void> = Promise.resolve()): boolean {
    const pause = this.#restarts.grant();
    if (pause === undefined) return false;
    start.restarts += 1;
    this.#context.log("warn", "server restarting", { restarts: start.restarts, pause_ms: pause });
    const paused = sleep(pause, undefined, { signal: start.cancel.signal }).catch(() => {});
    this.#begin(start, async () => {
      await Promise.all([tidied, paused]);
      return await startServer(this.#context, start);
    });
    return true;
  }
}
