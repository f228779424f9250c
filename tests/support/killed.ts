/** A control API that was killed, and the next one. */
import type { Pauses } from "../../lab/pauses.ts";
import { type Json, runProgram, TestServer, until } from "./helpers.ts";

/** A control API that has started a server and was killed. */
export async function killOne(folder: string, body: object = {}, more: Record<string, string> = {}) {
  const first = await runProgram(folder, more);
  await first.ready();
  const server = (await (await first.start(body)).json()) as Json;
  first.child.kill("SIGKILL");
  await first.ended();
  return { server, env: first.env, log: first.log };
}

/** The next control API, with the same environment. */
export async function runNext(folder: string, env: Record<string, string>, pauses: Partial<Pauses> = {}) {
  const next = await TestServer.start(env, folder, pauses);
  const settled = () =>
    until("the end of the recovery", async () => {
      const answer = await next.show();
      return answer.status === 202 ? undefined : answer;
    });
  return Object.assign(next, { settled });
}
