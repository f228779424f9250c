/** A control API that was killed, and the next one. */
import { join } from "node:path";
import type { Pauses } from "../../lab/pauses.ts";
import { type Json, makeEnv, runProgram, until } from "./helpers.ts";
import { TestServer } from "./test-server.ts";

/** A control API that has started a server and was killed. */
export async function killOne(folder: string, body: object = {}, more: Record<string, string> = {}) {
  const first = await runProgram(folder, more);
  await first.ready();
  const server = (await (await first.start(body)).json()) as Json;
  first.child.kill("SIGKILL");
  await first.ended();
  return { server, env: first.env };
}

/** What a control API has left that was killed. */
export interface Killed {
  folder: string;
  server: Json;
  env: Record<string, string>;
}

/**
 * Control APIs of one process, each with a folder and a server of its own, and that process has killed itself: in a tenth
 * of the time that programs of their own take.
 */
export async function killTogether(
  starts: { folder: string; body?: object; more?: Record<string, string> }[],
): Promise<Killed[]> {
  const all: Killed[] = [];
  for (const { folder, more } of starts) all.push({ folder, server: undefined, env: await makeEnv(folder, more) });
  const input = all.map(({ folder, env }, index) => ({ folder, env, body: starts[index]?.body ?? {} }));
  const command = [process.execPath, join(import.meta.dirname, "together.ts")];
  const child = Bun.spawn(command, { stdin: Buffer.from(JSON.stringify(input)), stdout: "pipe", stderr: "inherit" });
  const servers = (await new Response(child.stdout).json()) as Json[];
  await child.exited;
  return all.map((one, index) => ({ ...one, server: servers[index] }));
}

/** What a control API answers once it has recovered. */
export const awaitRecovery = <T extends { status: number }>(api: { show: () => Promise<T> }): Promise<T> =>
  until("the end of the recovery", async () => {
    const answer = await api.show();
    return answer.status === 202 ? undefined : answer;
  });

/** The next control API, with the same environment. */
export async function runNext(folder: string, env: Record<string, string>, pauses: Partial<Pauses> = {}) {
  const next = await TestServer.start(env, folder, pauses);
  return Object.assign(next, { settled: () => awaitRecovery(next) });
}
