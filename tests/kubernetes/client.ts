/**
 * Two users of a cluster, and who runs it: `bun client.ts NAMESPACE FOLDER`, with kubectl on PATH. FOLDER has manifests.yaml,
 * which is applied, and team.yaml, of which the API server is asked only whether it would take it.
 */
import { deepStrictEqual as equal, ok } from "node:assert";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort, type Json } from "../helpers.ts";
import { startKernel } from "../kernel.ts";

const READY_LIMIT_MS = 180_000;
const STEP_LIMIT_MS = 60_000;
const GRACE_MS = 30_000;

const [namespace = "", folder = ""] = process.argv.slice(2);
const manifests = join(folder, "manifests.yaml");
const tokens = ["token-of-user-0", "token-of-user-1"];
const forwards: Bun.Subprocess[] = [];

try {
  await proveApply();
  await proveUser();
  await proveSecondUser();
  await proveRemoval();
} finally {
  for (const forward of forwards) forward.kill();
}
process.exit(0);

async function proveApply(): Promise<void> {
  const began = performance.now();
  kubectl(["create", "namespace", namespace]);
  const keys = tokens.map((token, user) => `--from-literal=jupyter-server-${user}=${token}`);
  kubectl(["create", "secret", "generic", "jupyter-server-tokens", ...keys]);
  kubectl(["apply", "--validate=false", "-f", manifests]);
  await ready(0);
  say(`applied and ready in ${since(began)}`);
  equal(kubectl(["get", "statefulset", "jupyter-server", "--output=jsonpath={.spec.replicas}"]), "1");
  const team = Bun.YAML.parse(readFileSync(join(folder, "team.yaml"), "utf8")) as Json[];
  const own = team.filter(({ apiVersion }) => !/^(monitoring|gateway)\./.test(apiVersion));
  for (const { metadata } of own) metadata.namespace = namespace;
  const file = join(folder, "team.json");
  writeFileSync(file, JSON.stringify({ apiVersion: "v1", kind: "List", items: own }));
  kubectl(["apply", "--validate=false", "--dry-run=server", "-f", file]);
  say(`the API server takes the team's ${own.length} objects; ${team.length - own.length} are of kinds that it lacks`);
}

/** Starts JupyterLab through the Service, saves a file, and loses the pod in the middle of a cell. */
async function proveUser(): Promise<void> {
  const user = await connect("service/jupyter-server");
  equal((await ask(user, "wrong", "GET", "/api/servers/")).status, 401);
  const began = performance.now();
  const server = await start(user, tokens[0]);
  say(
    `POST to a usable JupyterLab through the Service: ${since(began)} (${server.start_kind}, ${server.start_ms.total} ms)`,
  );
  const kernel = await startKernel(server);
  equal(await kernel.run("1+1"), "2");
  equal(await kernel.run("open('kept.txt', 'w').write('kept')"), "4");
  say(`memory of the pod with JupyterLab and a kernel: ${memory()}`);
  void kernel.run("while True: pass").catch(() => {});
  await until("a busy kernel", async () => {
    const { body } = await ask(user, tokens[0], "GET", "/api/servers/activity");
    return body.busy;
  });
  kernel[Symbol.dispose]();
  const uid = uidOf(0);
  const deleted = performance.now();
  kubectl(["delete", "pod", "jupyter-server-0", "--wait=true"]);
  const stopMs = performance.now() - deleted;
  ok(stopMs < GRACE_MS, `The pod took ${stopMs} ms, which is longer than its grace period`);
  await until("another pod", async () => !["", uid].includes(uidOf(0)));
  await ready(0);
  say(`deleted with a busy kernel in ${Math.round(stopMs)} ms, and ready again after ${since(deleted)}`);
  const again = await connect("pod/jupyter-server-0");
  const { url, token } = await start(again, tokens[0]);
  equal(await (await fetch(`${url}files/kept.txt?token=${token}`)).text(), "kept");
}

/** A second user, who gets neither to the first one's server nor to her files; a third one who has no token. */
async function proveSecondUser(): Promise<void> {
  const uid = uidOf(0);
  kubectl(["scale", "statefulset", "jupyter-server", "--replicas=2"]);
  await ready(1);
  const user = await connect("pod/jupyter-server-1");
  equal((await ask(user, tokens[0], "GET", "/api/servers/")).status, 401);
  const server = await start(user, tokens[1]);
  const listing = await fetch(`${server.url}api/contents?token=${server.token}`);
  equal(((await listing.json()) as Json).content, []);
  kubectl(["apply", "--validate=false", "-f", manifests]);
  equal(kubectl(["get", "statefulset", "jupyter-server", "--output=jsonpath={.spec.replicas}"]), "2");
  kubectl(["scale", "statefulset", "jupyter-server", "--replicas=3"]);
  const path = "--output=jsonpath={.status.containerStatuses[0]['state','lastState']}";
  const state = () => kubectl(["get", "pod", "jupyter-server-2", path, "--ignore-not-found"]);
  await until("the third pod's failure", async () => /exitCode|Error/.test(state()), READY_LIMIT_MS);
  say(`a pod without a token does not start: ${state()}`);
  kubectl(["set", "env", "statefulset/jupyter-server", "DEBUG=true"]);
  kubectl(["scale", "statefulset", "jupyter-server", "--replicas=2"]);
  await until("its end", async () => state() === "");
  equal([uidOf(0), await runs(user)], [uid, 200]);
  say("a new setting and a broken pod have ended nobody's session");
}

/** What `kubectl delete` leaves. */
async function proveRemoval(): Promise<void> {
  kubectl(["delete", "-f", manifests]);
  await until("no pod", async () => kubectl(["get", "pods", "--output=name"]) === "", READY_LIMIT_MS);
  const claims = kubectl(["get", "persistentvolumeclaims", "--output=name"]).split("\n");
  ok(claims.some((claim) => claim.endsWith("notebooks-jupyter-server-0")));
  say(`deleted; ${claims.length} volume claims are still there`);
  kubectl(["delete", "namespace", namespace, "--wait=false"]);
}

interface User {
  api: string;
  lab: string;
}

async function connect(target: string): Promise<User> {
  const [apiPort, labPort] = [await freePort(), await freePort()];
  const command = ["kubectl", "--namespace", namespace, "port-forward", target, `${apiPort}:8080`, `${labPort}:8888`];
  const forward = Bun.spawn(command, { stdout: "ignore", stderr: "inherit" });
  forwards.push(forward);
  const user = { api: `http://127.0.0.1:${apiPort}`, lab: `http://127.0.0.1:${labPort}/` };
  await until("the port-forward", async () => {
    if (forward.exitCode !== null) throw new Error(`kubectl port-forward ended with ${forward.exitCode}`);
    return (await fetch(`${user.api}/health/live`).catch(() => undefined))?.ok ?? false;
  });
  return user;
}

/** Starts JupyterLab and answers with the server, at the forwarded port. */
async function start(user: User, token: string | undefined): Promise<Json> {
  const { status, body } = await ask(user, token, "POST", "/api/servers/");
  equal([status, body.message], [201, undefined]);
  const { status: shown } = await fetch(`${user.lab}api/status?token=${body.token}`);
  equal(shown, 200);
  return { ...body, url: user.lab };
}

async function ask({ api }: User, token: string | undefined, method: string, path: string) {
  const headers = { authorization: `Bearer ${token}` };
  const response = await fetch(`${api}${path}`, { method, headers, signal: AbortSignal.timeout(STEP_LIMIT_MS) });
  return { status: response.status, body: (await response.json()) as Json };
}

const runs = async (user: User) => (await ask(user, tokens[1], "GET", "/api/servers/")).status;

const uidOf = (pod: number) =>
  kubectl(["get", "pod", `jupyter-server-${pod}`, "--output=jsonpath={.metadata.uid}", "--ignore-not-found"]);

async function ready(pod: number): Promise<void> {
  const path = "--output=jsonpath={.status.conditions[?(@.type=='Ready')].status}";
  const get = () => kubectl(["get", "pod", `jupyter-server-${pod}`, path, "--ignore-not-found"]);
  await until(`pod ${pod}`, async () => get() === "True", READY_LIMIT_MS);
}

/** What the kernel counts as the pod's, less what it can drop. */
function memory(): string {
  const v1 =
    "cat /sys/fs/cgroup/memory/memory.usage_in_bytes; sed -n 's/^total_inactive_file //p' /sys/fs/cgroup/memory/memory.stat";
  const v2 = "cat /sys/fs/cgroup/memory.current; sed -n 's/^inactive_file //p' /sys/fs/cgroup/memory.stat";
  const text = kubectl(["exec", "jupyter-server-0", "--", "sh", "-c", `{ ${v1}; } 2>/dev/null || { ${v2}; }`]);
  const [used = Number.NaN, droppable = 0] = text.split("\n").map(Number);
  return `${Math.round((used - droppable) / 1e6)} MB`;
}

function kubectl(arguments_: string[]): string {
  const { exitCode, stdout, stderr } = Bun.spawnSync(["kubectl", "--namespace", namespace, ...arguments_]);
  if (exitCode !== 0) throw new Error(`kubectl ${arguments_.join(" ")}: ${stderr}`);
  return stdout.toString().trim();
}

async function until(what: string, check: () => Promise<boolean>, limitMs = STEP_LIMIT_MS): Promise<void> {
  const limit = performance.now() + limitMs;
  while (!(await check())) {
    if (performance.now() > limit) throw new Error(`Waited in vain for: ${what}`);
    await sleep(100);
  }
}

function since(began: number): string {
  return `${Math.round(performance.now() - began)} ms`;
}

function say(text: string): void {
  console.error(`kubernetes: ${text}`);
}
