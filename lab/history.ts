/** The history of the lifecycle: state changes and start phases for event streams, and samples for the metrics. */
import type { LastExit } from "../lib/errors.ts";
import type { Secrets } from "../lib/redact.ts";
import { RingBuffer } from "../lib/ring.ts";
import type { Exit } from "../lib/spawn.ts";
import type { StartKind } from "./launch-spec.ts";
import type { State } from "./state.ts";

/** A state that was entered. */
interface StateEvent {
  state: State["state"];
  at: string;
  /** Duration of the state before it, in milliseconds. */
  ms: number;
  /** Automatic restarts since the last requested start. */
  restarts: number;
  /** With `starting`: true if a visit to JupyterLab caused it. */
  by_visit?: boolean;
  /** With `running`: how the server was started. */
  kind?: StartKind;
  /** After a failure: the error code and the message. */
  code?: string;
  message?: string;
}

/** A phase of a start that has ended. */
interface PhaseEvent {
  phase: string;
  ms: number;
  /** Milliseconds since the start began. */
  total_ms: number;
}

export type LifecycleEvent = { event: "state"; data: StateEvent } | { event: "phase"; data: PhaseEvent };

/** What the metrics count. A result is `success` or an error code. */
export type Sample =
  | { what: "start"; kind: string; result: string; ms: number; phases: [phase: string, ms: number][] }
  | { what: "stop"; result: "success" | "killed" | "crashed" | "cancelled"; ms: number }
  | { what: "restart" };

/** About two hundred starts. */
const MAX_EVENTS = 2000;
export const MAX_SAMPLES = 1000;

/** Keeps the last events and samples, with secrets masked. */
export class History {
  readonly events = new RingBuffer<LifecycleEvent>(MAX_EVENTS);
  readonly samples = new RingBuffer<Sample>(MAX_SAMPLES);
  #secrets: Secrets;
  #state: State | undefined;
  #enteredAt = performance.now();
  /** Number of the event that reports the current state. */
  #current = 0;
  #kind: StartKind | undefined;
  #phases: [phase: string, ms: number][] = [];
  #pauseMs = 0;
  /** How the process of the last server ended; undefined while it runs. */
  #exit: Exit | undefined;
  /** The state before a stop that is in progress. */
  #stoppedFrom: State["state"] | undefined;

  constructor(secrets: Secrets) {
    this.#secrets = secrets;
  }

  /** Number of the event before the one that reports the current state: a new reader begins after it. */
  get beforeCurrent(): number {
    return this.#current - 1;
  }

  /** Records a change of the lifecycle. A stop that is to be followed by something else is not a new state. */
  recordState(state: State): void {
    const before = this.#state;
    this.#state = state;
    if (before?.state === state.state && state.state !== "starting") return;
    const now = performance.now();
    const ms = Math.round((now - this.#enteredAt) * 10) / 10;
    this.#enteredAt = now;
    if (before) this.#addSamples(before, state, ms);
    this.events.add({ event: "state", data: this.#describe(state, before ? ms : 0) });
    this.#current = this.events.count;
    if (state.state === "starting") {
      this.#kind = undefined;
      this.#phases = [];
      this.#pauseMs = state.start.pauseMs;
    }
  }

  /** Records the end of a start's phase: its duration, and the time since the start began. */
  recordPhase(kind: StartKind, phase: string, ms: number, totalMs: number): void {
    // After a stale process the start continues as one of another kind, with phases of its own.
    if (this.#kind !== kind) this.#phases = [];
    this.#kind = kind;
    this.#phases.push([phase, ms]);
    this.events.add({ event: "phase", data: { phase, ms, total_ms: totalMs } });
  }

  /** The program ends: readers are done once they have read everything. */
  close(): void {
    this.events.close();
  }

  #describe(state: State, ms: number): StateEvent {
    const event: StateEvent = { state: state.state, at: new Date().toISOString(), ms, restarts: countRestarts(state) };
    if (state.state === "starting" && state.start.byVisit) event.by_visit = true;
    if (state.state === "running") event.kind = state.running.lab.kind;
    const failure = findFailure(state);
    if (failure?.code) event.code = failure.code;
    if (failure) event.message = this.#secrets.mask(failure.message);
    return event;
  }

  #addSamples(before: State, state: State, ms: number): void {
    if (before.state === "starting") {
      const kind = this.#kind ?? (state.state === "running" ? "adopted" : "none");
      const startMs = Math.max(0, ms - this.#pauseMs);
      this.samples.add({ what: "start", kind, result: describeResult(state), ms: startMs, phases: this.#phases });
    }
    if (state.state === "starting" && state.start.restarts > 0) this.samples.add({ what: "restart" });
    if (state.state === "running") {
      this.#exit = undefined;
      state.running.lab.exited.then((exit) => {
        this.#exit = exit;
      });
    }
    if (state.state === "stopping") this.#stoppedFrom = before.state;
    // What an earlier program left behind is ended, but never ran under this one.
    if (before.state === "stopping" && (this.#stoppedFrom === "running" || this.#stoppedFrom === "starting")) {
      const ended = before.lastExit?.code ? "crashed" : this.#exit?.signal === "SIGKILL" ? "killed" : "success";
      this.samples.add({ what: "stop", result: this.#stoppedFrom === "starting" ? "cancelled" : ended, ms });
    }
  }
}

function describeResult(state: State): string {
  if (state.state === "running") return "success";
  return state.state === "stopping" ? "start_cancelled" : (findFailure(state)?.code ?? "internal");
}

function findFailure(state: State): LastExit | null {
  if (state.state === "starting") return state.start.lastExit;
  return state.state === "running" ? null : state.lastExit;
}

function countRestarts(state: State): number {
  if (state.state === "starting") return state.start.restarts;
  return state.state === "running" ? state.running.restarts : 0;
}
