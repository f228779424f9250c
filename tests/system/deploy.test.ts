/**
 * The manifests that users deploy: against Kubernetes' own schemas and types, against each other, and against what hurts in
 * production. The compose file against itself; `docker compose config` knows its schema.
 */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Json, PROJECT } from "../support/helpers.ts";
import { compile, DEPLOY, parseObjects, parseQuantity, readObjects, validate } from "../support/manifests.ts";

const LIMIT_MS = 60_000;
const UNSET_IMAGE = "registry.invalid/jupyter-server";

const cluster = readObjects("cluster.yaml");
const base = [...readObjects("base", "jupyter-server.yaml"), ...readObjects("base", "limits.yaml")];
const gateway = readObjects("components", "gateway", "enterprise-gateway.yaml");
const monitoring = ["alerts.yaml", "pod-monitor.yaml"].flatMap((name) => readObjects("components", "monitoring", name));
const routes = readObjects("overlays", "team", "routes.yaml");
const ingress = readObjects("examples", "ingress.yaml");
const written = [...cluster, ...base, ...gateway, ...monitoring, ...routes, ...ingress];
const compose: Json = Bun.YAML.parse(readFileSync(join(PROJECT, "compose.yaml"), "utf8"));

/** What `kubectl apply -k` would send, by overlay. */
const overlays: [name: string, objects: Json[]][] = Bun.which("kubectl")
  ? readdirSync(join(DEPLOY, "overlays")).map((name) => [name, build(name)])
  : [];
if (overlays.length === 0) console.warn("NOT RUN: there is no kubectl here, so no overlay is built");

function build(name: string): Json[] {
  const { stdout, stderr, exitCode } = Bun.spawnSync(["kubectl", "kustomize", join(DEPLOY, "overlays", name)]);
  if (exitCode !== 0) throw new Error(stderr.toString());
  return parseObjects(stdout.toString());
}

const find = (objects: Json[], kind: string, name = "jupyter-server"): Json =>
  objects.find((object) => object.kind === kind && object.metadata.name === name);
const podsOf = (objects: Json[]): Json[] => objects.flatMap(({ spec }) => spec?.template ?? []);
const containersOf = (objects: Json[]): Json[] => podsOf(objects).flatMap(({ spec }) => spec.containers);

test.each(written.map((object): [string, Json] => [`${object.kind} ${object.metadata.name}`, object]))(
  "%s keeps to the schema",
  async (_name, object) => validate(object),
);

test(
  "no field is unknown to the types",
  () => {
    expect(compile(written)).toBe("");
    const misspelt = compile(written, (text) => text.replace('"replicas"', '"replica"'));
    expect(misspelt).toContain(`'"replica"' does not exist`);
  },
  LIMIT_MS,
);

test("selectors, ports and probes find what they name", () => {
  const pods = podsOf(written);
  const fits = (labels: Json) =>
    pods.some(({ metadata }) => Object.entries(labels).every(([key, value]) => metadata.labels[key] === value));
  const ports = containersOf(written).flatMap((container) => container.ports.map((port: Json) => port.name));
  for (const { kind, metadata, spec } of written) {
    const labels = kind === "Service" ? spec.selector : (spec?.selector?.matchLabels ?? spec?.podSelector?.matchLabels);
    // Kernel pods are made by the gateway, and a StatefulSet's pods are labelled with their names.
    const isOther = labels?.component === "kernel" || labels?.["statefulset.kubernetes.io/pod-name"];
    if (labels && !isOther) expect([metadata.name, fits(labels)]).toEqual([metadata.name, true]);
    for (const { targetPort } of kind === "Service" ? spec.ports : []) expect(ports).toContain(targetPort);
    for (const { port } of spec?.podMetricsEndpoints ?? []) expect(ports).toContain(port);
  }
  for (const container of containersOf(written)) {
    const named = container.ports.map((port: Json) => port.name);
    for (const probe of ["startupProbe", "livenessProbe", "readinessProbe"])
      expect(named).toContain((container[probe].httpGet ?? container[probe].tcpSocket).port);
  }
  const { spec } = find(base, "StatefulSet");
  expect(spec.serviceName).toBe(find(base, "Service").metadata.name);
  const [{ env, ports: own, volumeMounts }] = spec.template.spec.containers;
  expect(own[0].containerPort).toBe(Number(env.find(({ name }: Json) => name === "PORT").value));
  expect(volumeMounts.map(({ name }: Json) => name).sort()).toEqual(
    ["notebooks", ...spec.template.spec.volumes.map(({ name }: Json) => name)].sort(),
  );
  // A headless Service maps no port.
  for (const { port, targetPort } of find(base, "Service").spec.ports)
    expect(own.find(({ name }: Json) => name === targetPort).containerPort).toBe(port);
});

test("each route leads to a Service of one user's pod", () => {
  const services = routes.filter(({ kind }) => kind === "Service").map(({ metadata }) => metadata.name);
  for (const { metadata, spec } of routes.filter(({ kind }) => kind === "Service"))
    expect(spec.selector).toEqual({ "statefulset.kubernetes.io/pod-name": metadata.name });
  const [{ spec: route }] = routes.filter(({ kind }) => kind === "HTTPRoute");
  const routed = route.rules.map(({ backendRefs }: Json) => backendRefs[0].name);
  const passed = ingress[0].spec.rules[0].http.paths.map(({ backend }: Json) => backend.service.name);
  expect([routed, passed]).toEqual([services, services]);
  const { spec: monitor } = monitoring.find(({ kind }) => kind === "PodMonitor");
  const watched = monitor.podMetricsEndpoints.map(({ authorization, relabelings }: Json) => [
    authorization.credentials.key,
    relabelings[0].regex,
  ]);
  expect(watched).toEqual(services.map((name) => [name, name]));
});

test("a pod gets its own token only, and every Secret is one that the documentation makes", () => {
  const [container] = find(base, "StatefulSet").spec.template.spec.containers;
  const mount = container.volumeMounts.find(({ name }: Json) => name === "tokens");
  const [, variable] = /^\$\((\w+)\)$/.exec(mount.subPathExpr) ?? [];
  const { valueFrom } = container.env.find(({ name }: Json) => name === variable);
  expect(valueFrom.fieldRef.fieldPath).toBe("metadata.name");
  expect(container.env).toContainEqual({ name: "API_TOKEN_FILE", value: mount.mountPath });
  const text = JSON.stringify([...written, ...readObjects("components", "gateway", "jupyter-server.yaml")]);
  const used = [
    ...text.matchAll(/"secretKeyRef":\{"name":"([^"]+)"/g),
    ...text.matchAll(/"credentials":\{"name":"([^"]+)"/g),
    ...text.matchAll(/"secretName":"([^"]+-tokens?)"/g),
  ].map(([, name]) => name);
  expect(used.length).toBeGreaterThan(4);
  const documentation = readFileSync(join(PROJECT, "docs", "kubernetes.md"), "utf8");
  for (const name of new Set(used)) expect(documentation).toContain(`create secret generic ${name}`);
});

test("nothing ends a session that nobody ended", () => {
  const { spec } = find(base, "StatefulSet");
  expect(spec.replicas).toBeUndefined();
  expect(spec.updateStrategy).toEqual({ type: "OnDelete" });
  const { maxUnavailable, unhealthyPodEvictionPolicy } = find(base, "PodDisruptionBudget").spec;
  expect([maxUnavailable, unhealthyPodEvictionPolicy]).toEqual([expect.stringMatching(/^\d+%$/), "AlwaysAllow"]);
  for (const { metadata } of podsOf(written)) {
    expect(metadata.annotations).toEqual({
      "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
      "karpenter.sh/do-not-disrupt": "true",
    });
  }
  const { priorityClassName } = find(gateway, "Deployment", "enterprise-gateway").spec.template.spec;
  expect(find(cluster, "PriorityClass", priorityClassName)).toBeDefined();
});

test("an image that nobody chose can't be pulled", () => {
  expect(containersOf(base).map(({ image }) => image)).toEqual([`${UNSET_IMAGE}:unset`]);
  expect(containersOf(gateway).map(({ image }) => image)).toEqual([expect.stringMatching(/:\d+\.\d+\.\d+$/)]);
});

test("user code reaches the internet and names, and not the nodes' metadata or the cluster", () => {
  for (const [objects, name] of [
    [base, "jupyter-server"],
    [gateway, "kernel"],
  ] as const) {
    const { policyTypes, egress } = find(objects, "NetworkPolicy", name).spec;
    expect(policyTypes).toContain("Egress");
    const blocks = egress.flatMap(({ to }: Json) => to).flatMap(({ ipBlock }: Json) => ipBlock ?? []);
    const except = blocks.find(({ cidr }: Json) => cidr === "0.0.0.0/0").except;
    expect(except).toEqual(expect.arrayContaining(["169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]));
  }
  const dns = find(base, "NetworkPolicy", "dns").spec;
  expect(dns.egress[0].to).toContainEqual({ ipBlock: { cidr: "169.254.20.10/32" } });
  // It would cut the gateway off from the API server.
  expect(dns.podSelector.matchExpressions).toEqual([
    { key: "component", operator: "NotIn", values: ["enterprise-gateway"] },
  ]);
});

test.each(overlays)("overlay %s builds, whole and with everything set", async (name, objects) => {
  for (const object of objects) await validate(object);
  const kinds = objects.map(({ kind }) => kind);
  expect(kinds).toEqual(
    expect.arrayContaining(["StatefulSet", "Service", "NetworkPolicy", "ResourceQuota", "LimitRange"]),
  );
  for (const kind of ["Namespace", "Secret", "PersistentVolumeClaim"]) expect(kinds).not.toContain(kind);
  const [{ namespace }] = objects.map(({ metadata }) => metadata);
  for (const { metadata } of objects) expect([metadata.name, metadata.namespace]).toEqual([metadata.name, namespace]);
  for (const { subjects } of objects.filter(({ kind }) => kind === "RoleBinding"))
    expect(subjects.map((subject: Json) => subject.namespace)).toEqual([namespace]);
  expect(find(objects, "StatefulSet").spec.replicas).toBeUndefined();
  for (const { image } of containersOf(objects)) {
    expect(image).not.toContain(UNSET_IMAGE);
    expect(image).toMatch(/:\d+\.\d+\.\d+$|@sha256:/);
  }
  const hasGateway = find(objects, "Deployment", "enterprise-gateway") !== undefined;
  const { egress } = find(objects, "NetworkPolicy").spec;
  expect([name, egress.some(({ to }: Json) => to.some(({ ipBlock }: Json) => ipBlock))]).toEqual([name, !hasGateway]);
});

test.each(overlays)("overlay %s asks for no more than its own limits allow", (_name, objects) => {
  const limits = find(objects, "LimitRange", "jupyter").spec.limits;
  const { max } = limits.find(({ type }: Json) => type === "Container");
  const asked = containersOf(objects).flatMap(({ resources, env }): [string, string][] => {
    const value = (name: string) => env.find((one: Json) => one.name === name)?.value ?? "0";
    const kernel = { cpu: value("KERNEL_CPUS_LIMIT"), memory: value("KERNEL_MEMORY_LIMIT") };
    return [resources.limits, resources.requests, kernel].flatMap((one) => Object.entries<string>(one));
  });
  for (const [resource, quantity] of asked)
    expect([resource, quantity, parseQuantity(quantity) <= parseQuantity(max[resource])]).toEqual([
      resource,
      quantity,
      true,
    ]);
  const [{ spec: claim }] = find(objects, "StatefulSet").spec.volumeClaimTemplates;
  const { max: size } = limits.find(({ type }: Json) => type === "PersistentVolumeClaim");
  expect(parseQuantity(claim.resources.requests.storage)).toBeLessThanOrEqual(parseQuantity(size.storage));
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
  // Podman's containers have no port below 1024 without it, and this one would restart for ever.
  expect(compose.services["jupyter-server"].sysctls).toEqual(["net.ipv4.ip_unprivileged_port_start=0"]);
});
