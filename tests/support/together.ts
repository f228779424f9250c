/** Runs several control APIs in one process, starts a server with each, tells of them, and kills itself. */
import { writeSync } from "node:fs";
import type { Json } from "./helpers.ts";
import { TestServer } from "./test-server.ts";

const starts: { folder: string; env: Record<string, string>; body: Json }[] = await Bun.stdin.json();
const servers = starts.map(async ({ folder, env, body }) => {
  const api = await TestServer.start(env, folder);
  const answer = await api.start(body);
  if (answer.status !== 201) throw new Error(answer.text);
  return answer.body;
});
writeSync(1, JSON.stringify(await Promise.all(servers)));
process.kill(process.pid, "SIGKILL");
