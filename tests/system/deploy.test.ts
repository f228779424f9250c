/**
 * The manifests that users deploy: against Kubernetes' own schemas and types, which each catch what the other misses, and
 * against each other. The compose file against itself; `docker compose config` knows its schema.
 */
import { afterAll, expect, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Json, PROJECT } from "../helpers.ts";

const DEPLOY = join(PROJECT, "deploy");
const objects: Json[] = Bun.YAML.parse(readFileSync(join(DEPLOY, "kubernetes.yaml"), "utf8")) as Json;
const kustomization: Json = Bun.YAML.parse(readFileSync(join(DEPLOY, "kustomization.yaml"), "utf8"));
const compose: Json = Bun.YAML.parse(readFileSync(join(PROJECT, "compose.yaml"), "utf8"));
const EXPECTED = [
  "StatefulSet",
  "Service",
  "PodDisruptionBudget",
  "NetworkPolicy",
  "Deployment",
  "Role",
  "RoleBinding",
];
const named = objects.map((object): [string, Json] => [`${object.kind} ${object.metadata.name}`, object]);
const find = (name: string): Json => Object.fromEntries(named)[name];
const podsOf = objects.filter(({ spec }) => spec?.template).map(({ spec }): Json => spec.template);

// Inside the project, so that the compiler finds the packages.
const scratch = mkdtempSync(join(PROJECT, "node_modules", ".deploy-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

test("everything is there", () => {
  expect(objects.map(({ kind }) => kind)).toEqual(expect.arrayContaining(EXPECTED));
});

test.each(named)("%s keeps to the schema", async (_name, object) => {
  const [group, version] = object.apiVersion.includes("/") ? object.apiVersion.split("/") : ["", object.apiVersion];
  const models = await import(["kubernetes-models", group, version].filter(Boolean).join("/"));
  const Model = models[object.kind];
  expect(Model).toBeFunction();
  new Model(object).validate();
});

test("no field is unknown to the types", () => {
  const folders: Record<string, string> = {
    "": "core",
    "rbac.authorization.k8s.io": "rbac",
    "networking.k8s.io": "networking",
  };
  const lines = objects.map((object, index) => {
    const [version, group = ""] = object.apiVersion.split("/").reverse();
    const type = `import("kubernetes-types/${folders[group] ?? group}/${version}").${object.kind}`;
    return `export const object${index}: ${type} = ${JSON.stringify(object)};`;
  });
  const file = join(scratch, "objects.ts");
  const compile = (text: string) => {
    writeFileSync(file, text);
    const options = [
      "--noEmit",
      "--strict",
      "--skipLibCheck",
      "--module",
      "preserve",
      "--target",
      "esnext",
      "--types",
      "",
    ];
    return Bun.spawnSync([
      join(PROJECT, "node_modules", ".bin", "tsc"),
      "--ignoreConfig",
      ...options,
      file,
    ]).stdout.toString();
  };
  expect(compile(lines.join("\n"))).toBe("");
  expect(compile(lines.join("\n").replace('"replicas"', '"replica"'))).toContain(`'"replica"' does not exist`);
}, 30_000);

test("selectors, ports and probes find what they name", () => {
  const fits = (labels: Json) =>
    podsOf.some(({ metadata }) => Object.entries(labels).every(([k, v]) => metadata.labels[k] === v));
  for (const [name, { kind, spec }] of named) {
    const labels = kind === "Service" ? spec.selector : (spec?.selector?.matchLabels ?? spec?.podSelector?.matchLabels);
    // Kernel pods are made by the gateway, with these labels.
    if (labels && labels.component !== "kernel") expect([name, fits(labels)]).toEqual([name, true]);
    for (const { targetPort } of kind === "Service" ? spec.ports : []) {
      const ports = podsOf.flatMap((pod) => pod.spec.containers.flatMap((container: Json) => container.ports));
      expect(ports.map((port) => port.name)).toContain(targetPort);
    }
  }
  for (const container of podsOf.flatMap((pod) => pod.spec.containers)) {
    const ports = container.ports.map((port: Json) => port.name);
    for (const probe of ["startupProbe", "livenessProbe", "readinessProbe"]) {
      expect(ports).toContain((container[probe].httpGet ?? container[probe].tcpSocket).port);
    }
  }
  expect(find("StatefulSet jupyter-server").spec.serviceName).toBe(find("Service jupyter-server").metadata.name);
  const mounts = find("StatefulSet jupyter-server").spec.template.spec;
  expect(mounts.containers[0].volumeMounts.map((mount: Json) => mount.name).sort()).toEqual(
    ["notebooks", ...mounts.volumes.map((volume: Json) => volume.name)].sort(),
  );
});

test("secrets come from the generator, with its keys", () => {
  const [secret, ...others] = kustomization.secretGenerator;
  expect(others).toEqual([]);
  const keys = secret.files.map((file: string) => file.replace("tokens/", ""));
  const used = [...JSON.stringify(objects).matchAll(/"secretKeyRef":\{"name":"([^"]+)","key":"([^"]+)"/g)];
  expect(used.length).toBe(2);
  for (const [, name = "", key = ""] of used) expect([name, keys.includes(key)]).toEqual([secret.name, true]);
  const { secret: volume } = find("StatefulSet jupyter-server").spec.template.spec.volumes.find(
    (one: Json) => one.secret,
  );
  expect([volume.secretName, keys.includes(volume.items[0].key)]).toEqual([secret.name, true]);
  expect(kustomization.resources.every((file: string) => readdirSync(DEPLOY).includes(file))).toBe(true);
});

test("kustomize builds it, where there is a kubectl", () => {
  if (!Bun.which("kubectl")) return console.warn("NOT RUN: there is no kubectl here");
  const copy = mkdtempSync(join(tmpdir(), "deploy-"));
  cpSync(DEPLOY, copy, { recursive: true });
  mkdirSync(join(copy, "tokens"), { recursive: true });
  for (const name of ["api-token", "gateway-token"]) writeFileSync(join(copy, "tokens", name), name);
  const { stdout, stderr, exitCode } = Bun.spawnSync(["kubectl", "kustomize", copy]);
  rmSync(copy, { recursive: true });
  expect([exitCode, stderr.toString()]).toEqual([0, ""]);
  expect(stdout.toString()).not.toMatch(/name: jupyter-server-tokens$/m);
});

test("the compose file names only what it declares, and says nothing that is no text", () => {
  for (const service of Object.values<Json>(compose.services)) {
    for (const secret of service.secrets) expect(compose.secrets).toHaveProperty(secret);
    for (const volume of service.volumes) expect(compose.volumes).toHaveProperty(volume.split(":")[0]);
    for (const other of Object.keys(service.depends_on ?? {}))
      expect(compose.services[other].healthcheck).toBeDefined();
    for (const value of [...service.command, ...Object.values(service.environment)]) expect(value).toBeString();
    for (const word of service.healthcheck?.test ?? []) expect(word).toBeString();
  }
});
