/** The Prometheus metrics, from the history of the lifecycle and from the current state. */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Supervisor } from "../jupyter.ts";
import type { Sample } from "../lab/history.ts";
import { STATES } from "../lab/schemas.ts";
import type { Services } from "../lab/start.ts";
import { readProportionalBytes, readResidentBytes } from "../lib/procfs.ts";
import manifest from "../package.json" with { type: "json" };
import type { ProxyStats } from "./proxy.ts";
import { VISIT_RESULTS } from "./visits.ts";

/** From an armed start (8 ms) to the default limit of a start (60 s); a stop has the same scale. */
const BUCKETS_S = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
const MS_PER_S = 1000;

/** Counts from the start of the program: the history keeps the samples that came before. */
export class Metrics {
  #registry = new Registry();
  #services: Services;
  #supervisor: Supervisor;
  #proxyStats: ProxyStats | undefined;
  /** Number of the last sample that was counted. */
  #counted = 0;
  #starts = this.#make(Counter, "starts_total", "Starts that have ended.", ["kind", "result"]);
  #restarts = this.#make(Counter, "restarts_total", "Automatic restarts.", []);
  #startTimes = this.#make(Histogram, "start_duration_seconds", "How long starts took.", ["kind", "result"]);
  #phaseTimes = this.#make(Histogram, "start_phase_duration_seconds", "How long the phases of starts took.", [
    "kind",
    "phase",
  ]);
  #stopTimes = this.#make(Histogram, "stop_duration_seconds", "How long stops took.", ["result"]);
  #state = this.#make(Gauge, "state", "1 for the current state, 0 for the others.", ["state"]);
  #kernels = this.#make(Gauge, "kernels", "Running kernels; NaN if the activity is not known.", []);
  #connections = this.#make(Gauge, "kernel_connections", "Open websockets to kernels.", []);
  #busy = this.#make(Gauge, "busy", "1 if a kernel, terminal or transfer is busy, or if that is unknown.", []);
  #idle = this.#make(
    Gauge,
    "idle_seconds",
    "Seconds since the last activity; 0 while busy, and when no JupyterLab runs.",
    [],
  );
  #gateway = this.#make(Gauge, "gateway_up", "1 if kernels can run at the gateway; absent without one.", []);
  #visits = this.#make(Counter, "visits_total", "Visits to JupyterLab through the proxy, by how they ended.", [
    "result",
  ]);
  #requests = this.#make(Counter, "proxy_requests_total", "Requests to JupyterLab through the proxy.", []);
  #websockets = this.#make(Gauge, "proxy_websockets", "Open websockets through the proxy.", []);
  #standby = this.#make(Gauge, "standby_ready", "1 if a warm process is ready.", []);
  #memory = this.#make(
    Gauge,
    "resident_memory_bytes",
    "Resident memory by process; of the standby without the part that others share.",
    ["process"],
  );
  #info = this.#make(Gauge, "build_info", "Always 1; its labels tell the version.", ["version"]);

  constructor(services: Services, supervisor: Supervisor, proxyStats?: ProxyStats) {
    this.#services = services;
    this.#supervisor = supervisor;
    this.#proxyStats = proxyStats;
    this.#info.set({ version: manifest.version }, 1);
    this.#count();
    // Every later sample is counted at once, before the history can drop it.
    services.history.samples.listen(() => this.#count());
  }

  /** Content type of `render`. */
  get contentType(): string {
    return this.#registry.contentType;
  }

  /** All metrics as text. Takes as long as the activity, at most 2.2 s. Never rejects. */
  async render(): Promise<string> {
    const activity = await this.#supervisor.activity();
    const { state } = this.#supervisor;
    for (const name of STATES) this.#state.set({ state: name }, name === state.state ? 1 : 0);
    this.#kernels.set(activity.unknown === null ? activity.kernels.length : Number.NaN);
    this.#connections.set(activity.connections);
    this.#busy.set(activity.busy ? 1 : 0);
    this.#idle.set(activity.idle_seconds);
    const running = state.state === "running" ? state.running : undefined;
    if (running?.gateway) this.#gateway.set(running.gateway.error === null ? 1 : 0);
    else this.#gateway.remove();
    this.#setProxy();
    this.#memory.set({ process: "control_api" }, process.memoryUsage().rss);
    this.#memory.set({ process: "jupyterlab" }, running ? readResidentBytes(running.lab.pid) : 0);
    const warm = this.#services.standby.pids();
    this.#standby.set(warm.length > 0 ? 1 : 0);
    this.#memory.set(
      { process: "standby" },
      warm.reduce((sum, pid) => sum + readProportionalBytes(pid), 0),
    );
    // Sums of binary fractions: 0.024300000000000002 is 0.0243.
    return (await this.#registry.metrics()).replace(/\d+\.\d{12,}$/gm, (sum) =>
      String(Number(Number(sum).toPrecision(12))),
    );
  }

  #setProxy(): void {
    if (!this.#proxyStats) return;
    const { requests, websockets, visits } = this.#proxyStats;
    this.#requests.reset();
    this.#requests.inc(requests);
    this.#websockets.set(websockets);
    this.#visits.reset();
    for (const result of VISIT_RESULTS) this.#visits.inc({ result }, visits.get(result) ?? 0);
  }

  #count(): void {
    const { samples } = this.#services.history;
    for (const sample of samples.after(this.#counted)) this.#add(sample);
    this.#counted = samples.count;
  }

  #add(sample: Sample): void {
    switch (sample.what) {
      case "start": {
        const { kind, result, ms, phases } = sample;
        this.#starts.inc({ kind, result });
        this.#startTimes.observe({ kind, result }, ms / MS_PER_S);
        for (const [phase, ms] of phases) this.#phaseTimes.observe({ kind, phase }, ms / MS_PER_S);
        return;
      }
      case "stop":
        this.#stopTimes.observe({ result: sample.result }, sample.ms / MS_PER_S);
        return;
      case "restart":
        this.#restarts.inc();
    }
  }

  #make<T>(
    // biome-ignore lint/suspicious/noExplicitAny: the three kinds share their options, and no type
    Kind: new (options: any) => T,
    name: string,
    help: string,
    labelNames: string[],
  ): T {
    const options = { name: `jupyter_server_${name}`, help, labelNames, registers: [this.#registry] };
    return new Kind(Kind === (Histogram as unknown) ? { ...options, buckets: BUCKETS_S } : options);
  }
}
