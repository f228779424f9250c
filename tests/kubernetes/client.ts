/**
 * Two users of a cluster, and who runs it: `bun client.ts NAMESPACE FOLDER`, with kubectl on PATH. FOLDER has manifests.yaml,
 * which is applied, and team.yaml and gpu.yaml, of which the API server is asked only whether it would take them.
 */
import { deepStrictEqual as equal, match, ok } from "node:assert";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort, type Json } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";
import { DEPLOY } from "../support/manifests.ts";

const READY_LIMIT_MS = 180_000;
const STEP_LIMIT_MS = 60_000;
const CLAIMS = 5;

const [namespace = "", folder = ""] = process.argv.slice(2);
const manifests = join(folder, "manifests.yaml");
const tokens = ["token-of-user-0", "token-of-user-1"];
const children: Bun.Subprocess[] = [];

try {
  await proveApply();
  await proveUser();
  await proveSecondUser();
  await proveRemoval();
} finally {
  for (const child of children) child.kill();
}
process.exit(0);

async function proveApply(): Promise<void> {
  kubectl(["create", "namespace", namespace]);
  kubectl(["apply", "--dry-run=server", "-f", join(DEPLOY, "cluster.yaml")]);
  for (const name of ["team", "gpu"]) tryOverlay(name);
  const began = performance.now();
  const keys = tokens.map((token, user) => `--from-literal=jupyter-server-${user}=${token}`);
  kubectl(["create", "secret", "generic", "jupyter-server-tokens", ...keys]);
  kubectl(["apply", "--validate=false", "-f", manifests]);
  await ready(0);
  say(`applied and ready in ${since(began)}`);
  equal(kubectl(["get", "statefulset", "jupyter-server", "--output=jsonpath={.spec.replicas}"]), "1");
}

/** Asks the API server whether it would take an overlay, whose kinds of other groups it may lack. */
function tryOverlay(name: string): void {
  const objects = Bun.YAML.parse(readFileSync(join(folder, `${name}.yaml`), "utf8")) as Json[];
  const own = objects.filter(({ apiVersion }) => !/^(monitoring|gateway)\./.test(apiVersion));
  for (const { metadata, subjects = [] } of own) for (const one of [metadata, ...subjects]) one.namespace = namespace;
  const file = join(folder, `${name}.json`);
  writeFileSync(file, JSON.stringify({ apiVersion: "v1", kind: "List", items: own }));
  kubectl(["apply", "--validate=false", "--dry-run=server", "-f", file]);
  say(
    `the API server takes ${own.length} objects of ${name}; ${objects.length - own.length} are of kinds that it may lack`,
  );
}

/** Starts JupyterLab through the Service, saves a file, and loses the pod in the middle of a cell. */
async function proveUser(): Promise<void> {
  const user = await connect("service/jupyter-server");
  equal((await ask(user, "wrong", "GET", "/api/servers/")).status, 401);
  await warm(user);
  say(`memory of a pod that waits: ${memory()}`);
  const began = performance.now();
  const server = await start(user, tokens[0]);
  const told = `${server.start_kind}, ${server.start_ms.total} ms by its own clock`;
  say(`POST to a usable JupyterLab, through the API server's port-forward: ${since(began)} (${told})`);
  say(`memory of the pod with JupyterLab: ${memory()}`);
  const kernel = await startKernel(server);
  equal(await kernel.run("1+1"), "2");
  equal(await kernel.run("open('kept.txt', 'w').write('kept')"), "4");
  say(`and with a kernel: ${memory()}`);
  void kernel.run("while True: pass").catch(() => {});
  await until("a busy kernel", async () => {
    const { body } = await ask(user, tokens[0], "GET", "/api/servers/activity");
    return body.busy;
  });
  kernel[Symbol.dispose]();
  const uid = uidOf(0);
  const ended = watchEnd(0);
  const deleted = performance.now();
  kubectl(["delete", "pod", "jupyter-server-0", "--wait=true"]);
  const stopped = since(deleted);
  await until("another pod", async () => !["", uid].includes(uidOf(0)));
  await ready(0);
  say(`with a busy kernel: deleted in ${stopped}, and ready again after ${since(deleted)}`);
  say(`of which it took ${await ended} ms to end JupyterLab and its kernels`);
  const again = (await connectDirectly(0)) ?? (await connect("pod/jupyter-server-0"));
  const { url, token } = await start(again, tokens[0]);
  equal(await (await fetch(`${url}files/kept.txt?token=${token}`)).text(), "kept");
  await measureClaims(again);
}

/** A claim of a pod that waits, as a warm pool has it, is one POST. */
async function measureClaims(user: User): Promise<void> {
  const durations: string[] = [];
  for (let claim = 0; claim < CLAIMS; claim += 1) {
    equal((await ask(user, tokens[0], "DELETE", "/api/servers/")).status, 200);
    await warm(user);
    const began = performance.now();
    const { start_kind: kind, start_ms: ms } = await start(user, tokens[0]);
    durations.push(`${since(began)} (${kind}, ${Math.round(ms.total)} ms by its own clock)`);
  }
  say(`claims, from POST to usable: ${durations.join(", ")}`);
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
  say(`user 1 at user 0's address, with a token of her own: ${askFromPod(1, 0)}`);
  kubectl(["apply", "--validate=false", "-f", manifests]);
  equal(kubectl(["get", "statefulset", "jupyter-server", "--output=jsonpath={.spec.replicas}"]), "2");
  kubectl(["scale", "statefulset", "jupyter-server", "--replicas=3"]);
  const path = "--output=jsonpath={.status.containerStatuses[0]['state','lastState']}";
  const state = () => kubectl(["get", "pod", "jupyter-server-2", path, "--ignore-not-found"]);
  await until("the third pod's failure", async () => /exitCode|Error/.test(state()), READY_LIMIT_MS);
  say(`a pod without a token does not start: ${state()}`);
  kubectl(["set", "env", "statefulset/jupyter-server", "DEBUG=true"]);
  kubectl(["scale", "statefulset", "jupyter-server", "--replicas=2"]);
  await until("its end", async () => state() === "", READY_LIMIT_MS);
  equal([uidOf(0), (await ask(user, tokens[1], "GET", "/api/servers/")).status], [uid, 200]);
  say("a new setting and a broken pod have ended nobody's session");
}

/** What `kubectl delete` leaves. */
async function proveRemoval(): Promise<void> {
  kubectl(["delete", "-f", manifests]);
  await until("no pod", async () => kubectl(["get", "pods", "--output=name"]) === "", READY_LIMIT_MS);
  const claims = kubectl(["get", "persistentvolumeclaims", "--output=name"]).split("\n");
  ok(claims.some((claim) => claim.endsWith("notebooks-jupyter-server-0")));
  say(`deleted; ${claims.length} volume claims are still there`);
  kubectl(["delete", "namespace", namespace]);
  equal(kubectl(["get", "namespace", namespace, "--ignore-not-found"]), "");
  say("the namespace is deleted, and nothing of it is left");
}

interface User {
  api: string;
  lab: string;
}

/** A pod by its own address, where that is reached from here. */
async function connectDirectly(pod: number): Promise<User | undefined> {
  const address = kubectl(["get", "pod", `jupyter-server-${pod}`, "--output=jsonpath={.status.podIP}"]);
  const user = { api: `http://${address}:8080`, lab: `http://${address}:8888/` };
  const answer = await fetch(`${user.api}/health/live`, { signal: AbortSignal.timeout(2000) }).catch(() => undefined);
  return answer?.ok ? user : undefined;
}

async function connect(target: string): Promise<User> {
  const [apiPort, labPort] = [await freePort(), await freePort()];
  const command = ["kubectl", "--namespace", namespace, "port-forward", target, `${apiPort}:8080`, `${labPort}:8888`];
  const forward = Bun.spawn(command, { stdout: "ignore", stderr: "inherit" });
  children.push(forward);
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

/** Waits until the pod of the first user has what a quick start needs. */
async function warm({ api }: User): Promise<void> {
  const headers = { authorization: `Bearer ${tokens[0]}` };
  const isReady = async () =>
    /^jupyter_server_standby_ready 1$/m.test(await (await fetch(`${api}/metrics`, { headers })).text());
  await until("the standby", isReady);
}

/** What tells a pod from another one of the same name; empty where there is none. */
function uidOf(pod: number): string {
  return kubectl(["get", "pod", `jupyter-server-${pod}`, "--output=jsonpath={.metadata.uid}", "--ignore-not-found"]);
}

/**
 * How long a pod that is about to be deleted takes for its own end, by its log. What a kubelet has killed, because its grace
 * period was over, has no last line.
 */
async function watchEnd(pod: number): Promise<number> {
  const command = ["kubectl", "--namespace", namespace, "logs", `jupyter-server-${pod}`, "--follow"];
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "ignore", signal: AbortSignal.timeout(STEP_LIMIT_MS) });
  children.push(child);
  const text = await new Response(child.stdout).text();
  const find = (message: string) => text.split("\n").findLast((line) => line.includes(`"${message}"`));
  const [first, last] = [find("control API ending"), find("server stopped")];
  if (!first || !last) throw new Error(`The pod was killed before it had ended: ${text}`);
  return Date.parse(JSON.parse(last).time) - Date.parse(JSON.parse(first).time);
}

async function ready(pod: number): Promise<void> {
  const path = "--output=jsonpath={.status.conditions[?(@.type=='Ready')].status}";
  const get = () => kubectl(["get", "pod", `jupyter-server-${pod}`, path, "--ignore-not-found"]);
  await until(`pod ${pod}`, async () => get() === "True", READY_LIMIT_MS);
}

/** What a program in one user's pod gets from another's: 401, or nothing where network policies are enforced. */
function askFromPod(pod: number, other: number): string {
  const script = `
import http.client
connection = http.client.HTTPConnection("jupyter-server-${other}.jupyter-server", 8080, timeout=5)
try:
    connection.request("GET", "/api/servers/", headers={"Authorization": "Bearer " + open("/var/secrets/api-token").read()})
    print(connection.getresponse().status)
except OSError as error:
    print(type(error).__name__)`;
  const answer = kubectl(["exec", `jupyter-server-${pod}`, "--", "python3", "-c", script]);
  match(answer, /^(401|TimeoutError|ConnectionRefusedError)$/);
  return answer;
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
