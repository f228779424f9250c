/**
 * jupyter-server as a member of other people's fleets: the examples against what those platforms accept, and what they ask
 * of a running server against a server that runs.
 */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Ajv from "ajv";
import addFormats from "ajv-formats";
import { parseConfig } from "../../config.ts";
import { type Json, NO_TEMPLATE, PATH, PYTHON } from "../support/helpers.ts";
import { compile, DEPLOY, readObjects, validate } from "../support/manifests.ts";
import { JUPYTERHUB, PLATFORMS } from "../support/platform-schemas.ts";
import { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 60_000;
const folder = mkdtempSync(join(tmpdir(), "jupyter-platforms-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const ajv = new Ajv({ allErrors: true });
addFormats(ajv);

const sandbox = readObjects("examples", "agent-sandbox.yaml");
const kubeflow = readObjects("examples", "kubeflow.yaml");
const workspaces = readObjects("examples", "jupyter-k8s.yaml");
const examples = [...sandbox, ...kubeflow, ...workspaces];
const [{ spec: sandboxTemplate }] = sandbox;
const [{ spec: workspaceKind }] = kubeflow;
const [{ spec: workspaceTemplate }] = workspaces;

test.each(examples.map((object): [string, Json] => [object.kind, object]))(
  "%s has the platform's fields",
  (kind, object) => {
    const accepts = ajv.compile(PLATFORMS[kind] ?? {});
    expect([accepts(object), accepts.errors]).toEqual([true, null]);
    expect(accepts({ ...object, spec: { ...object.spec, unknown: 1 } })).toBe(false);
  },
);

/** JupyterHub's configuration, with what its functions say of each user. */
function readHubConfig(...users: string[]): Json[] {
  const script = `
import json, sys
from types import SimpleNamespace
from traitlets.config import Config
path, *names = sys.argv[1:]
config = Config()
exec(compile(open(path).read(), path, "exec"), {"get_config": lambda: config})
for user in map(lambda name: SimpleNamespace(name=name), names):
    user.user = user
    print(json.dumps(config, default=lambda function: function(user)))`;
  const command = [PYTHON, "-c", script, join(DEPLOY, "examples", "jupyterhub_config.py"), ...users];
  const { stdout, stderr, exitCode } = Bun.spawnSync(command, { env: { JUPYTER_SERVER_SECRET: "of the hub" } });
  if (exitCode !== 0) throw new Error(stderr.toString());
  return stdout
    .toString()
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}

const [ann, bob] = readHubConfig("ann", "bob");

/** The pods that the platforms make of the examples, as far as the examples say. */
function makePods(): Json[] {
  const { podTemplate } = workspaceKind;
  const [{ spec: image }] = podTemplate.options.imageConfig.values;
  const main = { name: "main", image: image.image, imagePullPolicy: image.imagePullPolicy };
  const kubeflowPod = {
    securityContext: podTemplate.securityContext,
    volumes: podTemplate.extraVolumes,
    containers: [
      {
        ...main,
        ...podTemplate.probes,
        env: podTemplate.extraEnv,
        volumeMounts: podTemplate.extraVolumeMounts,
        securityContext: podTemplate.containerSecurityContext,
        resources: podTemplate.options.podConfig.values[0].spec.resources,
      },
    ],
  };
  const workspacePod = {
    securityContext: workspaceTemplate.defaultPodSecurityContext,
    containers: [
      {
        name: "main",
        image: workspaceTemplate.defaultImage,
        env: workspaceTemplate.baseEnv,
        resources: workspaceTemplate.defaultResources,
        readinessProbe: workspaceTemplate.defaultReadinessProbe,
        securityContext: workspaceTemplate.defaultContainerSecurityContext,
      },
    ],
  };
  const { KubeSpawner: hub } = ann;
  const hubPod = {
    securityContext: { fsGroup: hub.fs_gid },
    volumes: hub.volumes,
    containers: [
      {
        name: "notebook",
        image: hub.image,
        lifecycle: hub.lifecycle_hooks,
        securityContext: { ...hub.container_security_context, runAsUser: hub.uid, runAsGroup: hub.gid },
        volumeMounts: hub.volume_mounts,
      },
    ],
  };
  return [sandboxTemplate.podTemplate.spec, kubeflowPod, workspacePod, hubPod].map((spec) => ({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name: "example" },
    spec,
  }));
}

test(
  "their pods, and the policy of the pool, are Kubernetes' own objects",
  async () => {
    const networkPolicy = {
      apiVersion: "networking.k8s.io/v1",
      kind: "NetworkPolicy",
      metadata: { name: "pool" },
      spec: { podSelector: {}, policyTypes: ["Ingress", "Egress"], ...sandboxTemplate.networkPolicy },
    };
    const objects = [...makePods(), networkPolicy];
    for (const object of objects) await validate(object);
    expect(compile(objects)).toBe("");
  },
  LIMIT_MS,
);

test("their environment is one that the program accepts, on the port that the platform asks", () => {
  const token = join(folder, "api-token");
  writeFileSync(token, "a-token");
  const readEnv = (env: Json[]) => {
    const pairs = env.map(({ name, value }): [string, string] => [name, value.replace(/\{\{.*\}\}/, "/workspace/")]);
    const given = Object.fromEntries(pairs);
    return parseConfig({ ...given, ...(given.API_TOKEN_FILE && { API_TOKEN_FILE: token }) }, folder);
  };
  const [poolPod] = makePods();
  const [{ env, ports }] = poolPod.spec.containers;
  expect(readEnv(env).port).toBe(ports[0].containerPort);
  const [{ spec: image }] = workspaceKind.podTemplate.options.imageConfig.values;
  expect(readEnv(workspaceKind.podTemplate.extraEnv).port).toBe(image.ports[0].port);
  expect(readEnv(workspaceTemplate.baseEnv).port).toBe(workspaceTemplate.defaultIdleShutdown.detection.httpGet.port);
  for (const probe of Object.values<Json>(workspaceKind.podTemplate.probes))
    expect(probe.httpGet.port).toBe(image.ports[0].port);
});

test("the pool, its template and the claim name each other", () => {
  const [, pool, claim] = sandbox;
  expect([pool.spec.sandboxTemplateRef.name, claim.spec.warmPoolRef.name]).toEqual([
    sandbox[0].metadata.name,
    pool.metadata.name,
  ]);
  // Either would make the claim start a pod anew.
  expect(Object.keys(claim.spec)).not.toContainAnyValues(["env", "volumeClaimTemplates"]);
  const [, workspace] = workspaces;
  expect(workspace.spec.templateRef.name).toBe(workspaces[0].metadata.name);
});

test(
  "Kubeflow's probe tells a stopped, an idle and an unreachable server",
  async () => {
    const script = join(folder, "probe");
    writeFileSync(script, workspaceKind.podTemplate.activityProbe.podExec.script, { mode: 0o755 });
    const output = join(folder, "output.json");
    const probe = (port = "") => {
      rmSync(output, { force: true });
      const env = { PATH, PORT: port, OUTPUT_JSON_PATH: output };
      return Bun.spawnSync([script], { env, stderr: "ignore" }).exitCode;
    };
    const read = () => JSON.parse(readFileSync(output, "utf8"));
    await using server = await TestServer.start();
    // Not in this process: the probe is waited for, and the server answers here.
    const ask = async () => {
      const env = { PATH, PORT: server.env.PORT ?? "", OUTPUT_JSON_PATH: output };
      expect(await Bun.spawn([script], { env }).exited).toBe(0);
      return read();
    };
    expect(await ask()).toEqual({ has_activity: false });
    await server.start({ env: { FAKE_MODE: "idle" } });
    const { body } = await server.ask("GET", "/api/servers/activity");
    expect(await ask()).toEqual(body.busy ? { has_activity: true } : { last_activity: body.last_activity });
    // A failed probe pauses nobody.
    expect(probe("1")).not.toBe(0);
  },
  LIMIT_MS,
);

test(
  "jupyter-k8s reads a time from a running server, and none from a stopped one",
  async () => {
    const { path, lastActivityTimestamp } = workspaceTemplate.defaultIdleShutdown.detection.httpGet;
    await using server = await TestServer.start();
    const read = async () => (await server.ask("GET", path)).body[lastActivityTimestamp.responseBodyPath];
    expect(await read()).toBeNull();
    await server.start({ env: { FAKE_MODE: "idle" } });
    expect(await read()).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/);
  },
  LIMIT_MS,
);

test("JupyterHub's configuration has its settings, and a token for each user that the hub's page tells", () => {
  const accepts = ajv.compile(JUPYTERHUB);
  expect([accepts(ann), accepts.errors]).toEqual([true, null]);
  const { environment, port } = ann.KubeSpawner;
  const config = parseConfig({ ...environment, JUPYTERHUB_SERVICE_PREFIX: "/user/ann/" }, folder);
  expect([config.port, config.apiToken]).toEqual([port, environment.API_TOKEN]);
  expect(environment.API_TOKEN).not.toBe(bob.KubeSpawner.environment.API_TOKEN);
  expect(ann.JupyterHub.template_vars.announcement_home).toContain(environment.API_TOKEN);
});

test(
  "JupyterHub finds the server at its path once the hook of its start has run",
  async () => {
    const { environment, lifecycle_hooks: hooks } = ann.KubeSpawner;
    const { PROXY, API_TOKEN } = environment;
    const prefix = "/user/ann/";
    const own = { PYTHON, ...NO_TEMPLATE, PROXY, API_TOKEN, JUPYTERHUB_SERVICE_PREFIX: prefix };
    await using server = await TestServer.start(own);
    // What the hub asks before it shows a server to its user; anything below 500 will do.
    const askAsHub = async () => (await fetch(`${server.url}${prefix}api`, { redirect: "manual" })).status;
    expect(await askAsHub()).toBe(503);
    const [, ...script] = hooks.postStart.exec.command;
    const env = { PATH: process.env.PATH ?? "", PORT: server.env.PORT ?? "", API_TOKEN };
    expect(await Bun.spawn([PYTHON, ...script], { env }).exited).toBe(0);
    expect(await askAsHub()).toBe(200);
  },
  LIMIT_MS,
);
