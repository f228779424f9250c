/** The journal: each move of the lifecycle and each phase of a start, for event streams and for the meters. */
import type { LastExit } from "../lib/errors.ts";
import type { Secrets } from "../lib/redact.ts";
import { Feed } from "../lib/ring.ts";
import type { Exit } from "../lib/spawn.ts";
import type { Handover } from "./standby.ts";
import type { State } from "./state.ts";

type StartKind = Handover["kind"];

/** A state that was entered. */
export interface StateEvent {
  state: State["state"];
  at: string;
  /** Milliseconds that the state before it lasted: of a start, of a stop, of a run. */
  ms: number;
  /** Automatic restarts since the last request to start. */
  restarts: number;
  /** With `running`: which way the start took. */
  kind?: StartKind;
  /** Why, where that was a failure: the error code, and a sentence. */
  code?: string;
  message?: string;
}

/** A phase of a start that has ended. */
export interface PhaseEvent {
  phase: string;
  ms: number;
  /** Since the start began. */
  total_ms: number;
}

export type Entry = { event: "state"; data: StateEvent } | { event: "phase"; data: PhaseEvent };

/** What the meters count. Results are `success`, or an error code. */
export type Sample =
  | { what: "start"; kind: string; result: string; ms: number; phases: [phase: string, ms: number][] }
  | { what: "stop"; result: "success" | "killed" | "crashed" | "cancelled"; ms: number }
  | { what: "restart" };

/** Some two hundred starts. */
const MAX_ENTRIES = 2000;
export const MAX_SAMPLES = 1000;

/** Keeps the last entries and samples, secrets masked. */
export class Journal {
  readonly entries = new Feed<Entry>(MAX_ENTRIES);
  readonly samples = new Feed<Sample>(MAX_SAMPLES);
  #secrets: Secrets;
  #state: State | undefined;
  #enteredAt = performance.now();
  /** Number of the entry that tells the present state. */
  #present = 0;
  #kind: StartKind | undefined;
  #phases: [phase: string, ms: number][] = [];
  /** How the process of the last server ended; undefined while it runs. */
  #exit: Exit | undefined;
  /** What a stop that is under way was entered from. */
  #origin: State["state"] | undefined;

  constructor(secrets: Secrets) {
    this.#secrets = secrets;
  }

  /** Number of the entry before the one that tells the present state: a reader that is new begins after it. */
  get past(): number {
    return this.#present - 1;
  }

  /** Notes a move of the lifecycle. A stop that is to be followed by something else is no new state. */
  recordState(state: State): void {
    const before = this.#state;
    this.#state = state;
    if (before?.state === state.state && state.state !== "starting") return;
    const now = performance.now();
    const ms = Math.round((now - this.#enteredAt) * 10) / 10;
    this.#enteredAt = now;
    if (before) this.#count(before, state, ms);
    this.entries.add({ event: "state", data: this.#describe(state, before ? ms : 0) });
    this.#present = this.entries.count;
    if (state.state === "starting") {
      this.#kind = undefined;
      this.#phases = [];
    }
  }

  /** Notes the end of a start's phase: how long it took, and how long after the start's begin that is. */
  recordPhase(kind: StartKind, phase: string, ms: number, totalMs: number): void {
    // A standby that went stale was followed by a cold start.
    if (this.#kind !== kind) this.#phases = [];
    this.#kind = kind;
    this.#phases.push([phase, ms]);
    this.entries.add({ event: "phase", data: { phase, ms, total_ms: totalMs } });
  }

  /** The end of the program: readers are done when they have read all. */
  close(): void {
    this.entries.close();
  }

  #describe(state: State, ms: number): StateEvent {
    const told: StateEvent = { state: state.state, at: new Date().toISOString(), ms, restarts: countRestarts(state) };
    if (state.state === "running") told.kind = state.running.lab.kind;
    const failure = findFailure(state);
    if (failure?.code) told.code = failure.code;
    if (failure) told.message = this.#secrets.mask(failure.message);
    return told;
  }

  #count(before: State, state: State, ms: number): void {
    if (before.state === "starting") {
      const kind = this.#kind ?? (state.state === "running" ? "adopted" : "none");
      this.samples.add({ what: "start", kind, result: judgeStart(state), ms, phases: this.#phases });
    }
    if (state.state === "starting" && state.start.restarts > 0) this.samples.add({ what: "restart" });
    if (state.state === "running") {
      this.#exit = undefined;
      state.running.lab.exited.then((exit) => {
        this.#exit = exit;
      });
    }
    if (state.state === "stopping") this.#origin = before.state;
    // What an earlier program has left is ended without ever having run here.
    if (before.state === "stopping" && (this.#origin === "running" || this.#origin === "starting")) {
      const ended = before.lastExit?.code ? "crashed" : this.#exit?.signal === "SIGKILL" ? "killed" : "success";
      this.samples.add({ what: "stop", result: this.#origin === "starting" ? "cancelled" : ended, ms });
    }
  }
}

function judgeStart(state: State): string {
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
