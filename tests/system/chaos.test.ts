/**
 * Random sequences of what can happen to it, against the real JupyterLab; after each step everything that is promised is
 * looked at from outside. One sequence, or CHAOS_S seconds of them (`bun run chaos`: 540); CHAOS_SEED to repeat a run, CHAOS_SHRINK=true to
 * look for a shorter sequence that fails.
 */
import { expect, test } from "bun:test";
import fc from "fast-check";
import { World } from "../support/world.ts";

/** 0: one sequence. */
const LIMIT_S = Number(process.env.CHAOS_S ?? 0);
/** The one sequence of the suite is the same every time; a long run is another each time. */
const SEED = Number(process.env.CHAOS_SEED ?? (process.env.CHAOS_S ? Date.now() % 2 ** 31 : 20_261_124));
const SEQUENCE_LIMIT_MS = 240_000;
/** Long enough, in a long run, for a time limit of most kinds to pass meanwhile. */
const MAX_FREEZE_MS = LIMIT_S > 0 ? 5000 : 200;

/** There is no model: what holds is looked up from outside, and every step can follow every other. */
type Step = fc.AsyncCommand<object, World>;

let steps = 0;

const step = (name: string, act: (world: World) => unknown): Step => ({
  check: () => true,
  run: async (_model, world) => {
    await act(world);
    steps += 1;
    await world.check();
  },
  toString: () => name,
});

const POST_BODIES = [{}, { token: "a" }, { "base-url": "/x/" }, { "safe-mode": true }, { "ServerApp.nonsense": "1" }];
const SERVERS = "/api/servers/";

/** Most of what can go wrong needs a server that runs, and one with a kernel: these come more often than the rest. */
const startServer = fc.constant(step("POST {}", (world) => world.ask("POST", SERVERS, {})));
const startKernel = fc.constant(step("start a kernel", (world) => world.startKernel()));

const commands: fc.Arbitrary<Step>[] = [
  ...[startServer, startServer, startServer, startKernel, startKernel],
  fc
    .constantFrom(...POST_BODIES)
    .map((body) => step(`POST ${JSON.stringify(body)}`, (world) => world.ask("POST", SERVERS, body))),
  fc.constantFrom(...POST_BODIES).map((body) =>
    step(`POST ${JSON.stringify(body)} and DELETE meanwhile`, async (world) => {
      const posted = world.ask("POST", SERVERS, body);
      await Promise.all([posted, world.ask("DELETE", SERVERS), world.ask("GET", SERVERS)]);
    }),
  ),
  fc.constant(
    step("POST with a gateway that hangs", async (world) =>
      world.ask("POST", SERVERS, { "gateway-url": await world.peers.hangingGateway() }),
    ),
  ),
  fc
    .constantFrom("", "?if-idle=true")
    .map((query) => step(`DELETE ${query}`, (world) => world.ask("DELETE", SERVERS + query))),
  fc.constant(step("restart", (world) => world.ask("POST", "/api/servers/restart"))),
  fc
    .tuple(fc.constantFrom("lab", "kernel", "standby"), fc.constantFrom("SIGKILL", "SIGTERM"))
    .map(([who, name]) => step(`${name} to ${who}`, (world) => world.signal(who, name))),
  fc.constant(
    step("SIGSTOP to JupyterLab, then DELETE", (world) => {
      world.signal("lab", "SIGSTOP");
      return world.ask("DELETE", SERVERS);
    }),
  ),
  fc.constant(step("SIGSTOP to the standby", (world) => world.signal("standby", "SIGSTOP"))),
  fc.tuple(fc.integer({ min: 10, max: MAX_FREEZE_MS }), fc.boolean()).map(([durationMs, isMidway]) =>
    step(`a freeze of ${durationMs} ms${isMidway ? " during a start" : ""}`, async (world) => {
      const posted = isMidway ? world.ask("POST", SERVERS, {}) : undefined;
      await world.freeze(durationMs);
      await posted;
    }),
  ),
  fc.constant(step("take or free the port", (world) => world.peers.occupyPort())),
  fc.constant(step("fill or free the disk", (world) => world.disk.fill())),
  fc.constant(step("take or return the disk's inodes", (world) => world.disk.takeInodes())),
  fc
    .boolean()
    .map((isRemoved) => step(`${isRemoved ? "remove" : "rotate"} the log file`, (world) => world.moveLog(isRemoved))),
  fc.constant(step("remove the connection file with its folder", (world) => world.removeRun())),
  fc
    .constantFrom("same", "new")
    .map((kind) => step(`a loop of forks (${kind} session), and DELETE`, (world) => world.stopForkLoop(kind))),
  fc.constant(step("hold or close connections", (world) => world.peers.holdConnections(world.isUp))),
  fc
    .constantFrom(["DELETE", SERVERS, ""], ["POST", SERVERS, "{}"], ["POST", "/api/servers/restart", ""])
    .map(([method = "", path = "", body]) =>
      step(`${method} ${path} without descriptors`, (world) => world.askWithoutDescriptors(method, path, body)),
    ),
  fc.constant(step("lock or unlock the notebooks' folder", (world) => world.disk.lock())),
  fc.constant(step("a slow client", (world) => world.peers.openSlowClient(world.isUp))),
  fc.boolean().map((isMidway) =>
    step(`SIGKILL to the control API${isMidway ? " during a start" : ""}, and the next one`, async (world) => {
      if (isMidway) void world.ask("POST", SERVERS, {});
      await world.endControlApi("SIGKILL");
      await world.startControlApi();
    }),
  ),
  fc.boolean().map((isMidway) =>
    step(`SIGTERM to the control API${isMidway ? " during a start" : ""}, and the next one`, async (world) => {
      if (isMidway) void world.ask("POST", SERVERS, {});
      const code = await world.endControlApi("SIGTERM");
      if (code !== 0) throw new Error(`the control API ended with ${code}`);
      if (world.findListener()) throw new Error("JupyterLab outlived an orderly end");
      await world.startControlApi();
    }),
  ),
];

test(
  `keeps its promises, whatever happens (${LIMIT_S > 0 ? `${LIMIT_S} s` : "one sequence"}, seed ${SEED})`,
  async () => {
    const limit = performance.now() + LIMIT_S * 1000;
    const property = fc.asyncProperty(fc.commands(commands, { maxCommands: 40, size: "max" }), async (sequence) => {
      await using world = await World.create();
      await fc.asyncModelRun(() => ({ model: {}, real: world }), sequence);
    });
    // A sequence at a time, each to its end: the first one too, on a machine that takes longer for it than there is time.
    for (let seed = SEED; seed === SEED || performance.now() < limit; seed += 1) {
      // A shorter sequence that fails is worth minutes to a reader, and a failure has its seed anyway.
      await fc.assert(property, { seed, numRuns: 1, endOnFailure: process.env.CHAOS_SHRINK !== "true" });
    }
    console.log(`chaos: ${steps} steps, seed ${SEED}`);
    expect(steps).toBeGreaterThan(0);
  },
  { timeout: LIMIT_S * 1000 + SEQUENCE_LIMIT_MS },
);
