/** The supervisor: the lifecycle of the one JupyterLab. It knows no HTTP. */
import { setTimeout as sleep } from "node:timers/promises";
import { ActivityMonitor, describeBusy, describeNoActivity } from "./lab/activity.ts";
import { removeConnection } from "./lab/connection.ts";
import { reportExit, reportFailure, reportGone } from "./lab/last-exit.ts";
import { LastStart } from "./lab/last-start.ts";
import { releaseLock } from "./lab/lock.ts";
import { RestartPolicy, startMonitors } from "./lab/monitors.ts";
import type { StartOptions } from "./lab/options.ts";
import { clearLeftovers, findLeftovers, recoverServer } from "./lab/recovery.ts";
import { Remains } from "./lab/remains.ts";
import type { Activity } from "./lab/schemas.ts";
import { type Services, startServer } from "./lab/start.ts";
import {
  cancelled,
  findPendingStart,
  type Next,
  notRunning,
  planStart,
  type Running,
  requireOpen,
  requireSame,
  type Start,
  type State,
  shuttingDown,
} from "./lab/state.ts";
import { describeFailure, explainShortage, type LastExit, ServiceError, withFailure } from "./lib/errors.ts";
import type { Exit } from "./lib/spawn.ts";

/** How long the standby may take to end after a stop that has taken all of its time. The whole is less than Docker's 10 s. */
const MIN_CLOSE_MS = 1000;

/** Runs at most one JupyterLab. Each method changes the state at once; its promise settles when the change is complete. */
export class Supervisor {
  #services: Services;
  #current: State = { state: "stopped", lastExit: null, closed: false };
  #restarts: RestartPolicy;
  #remains: Remains;
  #last: LastStart;
  #activityMonitor: ActivityMonitor;

  /** Starts nothing and touches nothing. */
  constructor(services: Services) {
    this.#services = services;
    this.#restarts = new RestartPolicy(services.pauses.restartsMs);
    this.#remains = new Remains(services);
    this.#last = new LastStart(services);
    this.#activityMonitor = new ActivityMonitor(services.transfers);
    services.history.recordState(this.#current);
  }

  get state(): Readonly<State> {
    return this.#current;
  }

  /** Every change of the lifecycle is one assignment, which the history records. */
  set #state(state: State) {
    this.#current = state;
    this.#services.history.recordState(state);
  }

  /** Makes the standby, which is kept to the end. A start does not need it; without it a start is only slower. */
  prepare(): void {
    this.#services.standby.keep();
  }

  /**
   * Recovers from the death of an earlier control API with the same connection file: its JupyterLab is kept if it answers,
   * and everything else that it left is ended. Has to be called before the first request.
   */
  recover(): void {
    const leftovers = findLeftovers(this.#services);
    const { record, info, folders } = leftovers;
    if (!record && folders.length === 0) return;
    if (record) this.#last.restore(record);
    if (record && info) {
      const start = planStart(record.supervisor.options, record.token);
      this.#begin(start, ({ cancel }) => recoverServer(this.#services, record, info, folders, cancel.signal));
      return;
    }
    const lastExit = record ? reportGone(this.#services.log, record.pid) : null;
    this.#waitFor(clearLeftovers(this.#services, leftovers), { kind: "none" }, lastExit, () => {});
  }

  /**
   * Returns the running server if it has the same options, otherwise the promise of one. Starts with equal options share
   * one start. A start during a stop waits for it, and can be cancelled meanwhile. Throws or rejects with
   * `already_running`, `shutting_down`, `start_cancelled` or the reason why JupyterLab could not be started.
   */
  start(options: StartOptions): Running | Promise<Running> {
    requireOpen(this.#current);
    const state = this.#current;
    const current = state.state === "running" ? state.running.lab : findPendingStart(state);
    if (current) requireSame(current.options, options);
    return this.#join() ?? this.#enqueue(planStart(options, undefined));
  }

  /**
   * Returns the server, whatever its options, or the promise of the start under way. If there is neither, it starts one
   * with the options and the token of the last start, so that open tabs work again; at first with the defaults. Throws or
   * rejects as `start` does.
   */
  wake(): Running | Promise<Running> {
    requireOpen(this.#current);
    return this.#join() ?? this.#enqueue(this.#last.plan());
  }

  /** The token that the server has, or will have when it is woken; undefined if that is not known. */
  get expectedToken(): string | undefined {
    const state = this.#current;
    if (state.state === "running") return state.running.lab.token;
    if (state.state === "starting") return state.start.token ?? state.start.options.token;
    return this.#last.token;
  }

  /**
   * Stops the server or cancels its start. Resolves when nothing of it is left, and rejects with `stop_incomplete` if that
   * is not known; then a further stop tries again. Throws `not_running`.
   */
  stop(): Promise<void> {
    return this.#beginStop({ kind: "none" });
  }

  /** Stops the server if it is idle. Rejects with `busy` if it is not, if that can't be determined, and while it starts. */
  async stopIfIdle(): Promise<void> {
    const state = this.#current;
    // Somebody waits for it, and one that is recovered can have kernels at work.
    if (findPendingStart(state)) throw new ServiceError("busy", "The server was not stopped: it is starting");
    const activity = await this.activity();
    // The answer is about a server that has changed since.
    if (this.#current !== state) return this.stopIfIdle();
    if (activity.busy) throw new ServiceError("busy", `The server was not stopped: ${describeBusy(activity)}`);
    await this.stop();
  }

  /** The server's activity. Asking is not activity. Never rejects, and takes at most 2.2 s. */
  async activity(): Promise<Activity> {
    const state = this.#current;
    return state.state === "running"
      ? await this.#activityMonitor.check(state.running)
      : describeNoActivity(state.state);
  }

  /** Stops the server and starts it with the same options and token. Throws `not_running`. */
  restart(): Promise<Running> {
    requireOpen(this.#current);
    const state = this.#current;
    if (state.state === "starting") return state.start.promise;
    if (state.state === "stopping" && state.next.kind === "start") return state.next.start.promise;
    if (state.state !== "running") throw notRunning(state);
    const { options, token } = state.running.lab;
    const start = planStart(options, token);
    this.#restarts.reset();
    this.#beginStop({ kind: "start", start });
    return start.promise;
  }

  /** Refuses new starts and stops the server. Resolves when nothing is left. */
  async shutdown(): Promise<void> {
    const startedAt = performance.now();
    const { config, standby, log } = this.#services;
    const state = this.#current;
    try {
      if ((state.state === "stopped" || state.state === "failed") && this.#remains.isEmpty)
        this.#state = { state: "stopped", lastExit: state.lastExit, closed: true };
      else await this.#beginStop({ kind: "exit" });
      const left = config.stopTimeoutMs - (performance.now() - startedAt);
      await standby.close(Math.max(left, MIN_CLOSE_MS));
      releaseLock(config.connectionFile, log);
    } finally {
      this.#services.history.close();
    }
  }

  /** Kills JupyterLab and everything that belongs to it, and does not wait: for a second signal, or a failed shutdown. */
  kill(): void {
    const { config, labs, log, standby } = this.#services;
    void standby.close(0);
    for (const lab of labs) lab.kill();
    removeConnection(config.connectionFile);
    releaseLock(config.connectionFile, log);
  }

  /** The running server, or the promise of the start that is pending. */
  #join(): Running | Promise<Running> | undefined {
    return this.#current.state === "running" ? this.#current.running : findPendingStart(this.#current)?.promise;
  }

  /** Begins a start, at once or after the stop in progress. */
  #enqueue(start: Start): Promise<Running> {
    const state = this.#current;
    this.#restarts.reset();
    if (state.state !== "stopping") return this.#begin(start);
    this.#state = { ...state, next: { kind: "start", start } };
    return start.promise;
  }

  #beginStop(next: Next): Promise<void> {
    const state = this.#current;
    switch (state.state) {
      case "running":
        return this.#enterStopping(next, Promise.all([state.running.lab.stop(), this.#remains.end()]), null);
      case "starting":
        state.start.cancel.abort(cancelled());
        return this.#enterStopping(next, state.start.promise, null);
      case "stopping":
        if (state.next.kind === "start") state.next.start.reject(next.kind === "exit" ? shuttingDown() : cancelled());
        if (state.next.kind !== "exit") this.#state = { ...state, next };
        return state.done;
      case "stopped":
      case "failed":
        if (this.#remains.isEmpty) throw notRunning(state);
        return this.#enterStopping(next, this.#remains.end(), state.lastExit);
    }
  }

  #enterStopping(next: Next, work: Promise<unknown>, lastExit: LastExit | null): Promise<void> {
    const { log } = this.#services;
    const startedAt = performance.now();
    log("info", "server stopping");
    return this.#waitFor(work, next, lastExit, () => {
      log("info", "server stopped", { ms: Math.round(performance.now() - startedAt) });
    });
  }

  /** Waits for `work` and then enters the next state in the same turn, so that no request can come in between. */
  #waitFor(work: Promise<unknown>, next: Next, lastExit: LastExit | null, finish: () => void): Promise<void> {
    const proceed = () => {
      removeConnection(this.#services.config.connectionFile);
      const error = this.#remains.explain();
      if (error === undefined) {
        finish();
        return this.#endStop();
      }
      this.#endStop(describeFailure(error));
      throw error;
    };
    const done = work.then(proceed, proceed);
    done.catch(() => {});
    this.#state = { state: "stopping", done, next, lastExit };
    return done;
  }

  #endStop(failure: LastExit | null = null): void {
    if (this.#current.state !== "stopping") return;
    const { next } = this.#current;
    const lastExit = failure ?? this.#current.lastExit;
    if (next.kind === "start") this.#begin(next.start);
    else if (lastExit?.code && next.kind === "none") this.#state = { state: "failed", lastExit };
    else this.#state = { state: "stopped", lastExit, closed: next.kind === "exit" };
    if (next.kind === "none") this.prepare();
  }

  /** Begins a start. `launch` creates the server. */
  #begin(
    start: Start,
    launch: (start: Start) => Promise<Running> = (start) => startServer(this.#services, start),
  ): Promise<Running> {
    this.#state = { state: "starting", start };
    const launched = !this.#remains.isEmpty ? this.#remains.end().then(() => launch(start)) : launch(start);
    launched.then(
      (running) => this.#handleSuccess(start, running),
      (error) => this.#handleFailure(start, explainShortage(error, "The server was not started") ?? error),
    );
    return start.promise;
  }

  #handleSuccess(start: Start, running: Running): void {
    const { standby } = this.#services;
    const { lab } = running;
    const { aborted, reason } = start.cancel.signal;
    if (aborted) {
      // The stop that cancelled this start waits for its promise.
      const fail = () => this.#handleFailure(start, reason);
      lab.stop().then(fail, fail);
      return;
    }
    this.#state = { state: "running", running };
    this.#last.remember(lab.options, lab.token);
    standby.keep(lab.options, lab.token);
    lab.exited.then((exit) => this.#handleExit(running, exit));
    const handle = { isCurrent: () => this.#isCurrent(running), stop: () => this.stop() };
    startMonitors(this.#services, running, this.#activityMonitor, handle);
    start.resolve(running);
  }

  #isCurrent(running: Running): boolean {
    return this.#current.state === "running" && this.#current.running === running;
  }

  #handleFailure(start: Start, error: unknown): void {
    const failure = reportFailure(this.#services.log, error);
    // The stop that cancelled this start waits for its promise and changes the state itself.
    if (this.#current.state === "starting" && this.#current.start === start) {
      if (start.restarts > 0) start.lastExit = failure;
      if (start.restarts > 0 && this.#restart(start)) return;
      this.#state = { state: "failed", lastExit: failure };
      this.prepare();
    }
    start.reject(failure.code === "start_cancelled" ? error : withFailure(error, failure));
  }

  /** The process has ended. If no stop is in progress it has crashed, or was shut down from inside. */
  #handleExit(running: Running, exit: Exit): void {
    if (!this.#isCurrent(running)) return;
    const { config, log } = this.#services;
    const { lab, restarts } = running;
    const cleared = lab.clear();
    removeConnection(config.connectionFile);
    const lastExit = reportExit(log, lab, exit);
    const start = planStart(lab.options, lab.token, restarts, lastExit);
    const restarting = exit.code !== 0 && config.autoRestart && this.#restart(start, cleared);
    if (!restarting) this.#enterStopping({ kind: "none" }, cleared, lastExit);
  }

  /** Begins an automatic restart. False if the restart policy does not allow one. */
  #restart(start: Start, cleared: Promise<void> = Promise.resolve()): boolean {
    const pause = this.#restarts.grant();
    if (pause === undefined) return false;
    start.restarts += 1;
    start.pauseMs = pause;
    this.#services.log("warn", "server restarting", { restarts: start.restarts, pause_ms: pause });
    const paused = sleep(pause, undefined, { signal: start.cancel.signal }).catch(() => {});
    this.#begin(start, async () => {
      await Promise.all([cleared, paused]);
      return await startServer(this.#services, start);
    });
    return true;
  }
}
