/** The policy for kernels' pods: against Kubernetes' schemas and types, and its expressions against pods, as the API server evaluates them. */
import { expect, test } from "bun:test";
import { evaluate } from "@marcbachmann/cel-js";
import type { Json } from "../support/helpers.ts";
import { compile, readObjects, validate } from "../support/manifests.ts";

const LIMIT_MS = 60_000;
const objects = readObjects("examples", "kernel-admission.yaml");
const [{ spec: policy }, binding] = objects;
const gateway = readObjects("components", "gateway", "enterprise-gateway.yaml");
const namespace = "jupyter";

/** A kernel's pod as Enterprise Gateway's own template makes it, after the API server has added its defaults. */
const kernel = (): Json => ({
  metadata: {
    name: "jupyter-server-0-kernel",
    labels: { app: "enterprise-gateway", component: "kernel", kernel_id: "5", source: "kernel-pod.yaml" },
  },
  spec: {
    serviceAccountName: "kernel",
    containers: [{ name: "kernel", image: "elyra/kernel-py:3.2.3", env: [{ name: "KERNEL_ID", value: "5" }] }],
  },
});

/** The first rule that a pod breaks, if any. */
function findRefusal(change: (pod: Json) => void): string | undefined {
  const object = kernel();
  change(object);
  const context = { object, request: { namespace } };
  const { variables: written } = policy;
  const variables = Object.fromEntries(
    written.map(({ name, expression }: Json) => [name, evaluate(expression, context)]),
  );
  const passes = ({ expression }: Json) => evaluate(expression, { ...context, variables }) === true;
  return policy.validations.find((rule: Json) => !passes(rule))?.message;
}

test(
  "it keeps to the schema and the types",
  async () => {
    for (const object of objects) await validate(object);
    // These types lack the fields that a rule's type embeds.
    const typed = structuredClone(objects);
    typed[0].spec.matchConstraints.resourceRules = [];
    expect(compile(typed)).toBe("");
  },
  LIMIT_MS,
);

test("it is for the pods that the gateway of a bound namespace makes", () => {
  const account = gateway.find(({ kind }) => kind === "Deployment").spec.template.spec.serviceAccountName;
  const [{ expression }] = policy.matchConditions;
  const isMatched = (username: string) => evaluate(expression, { request: { namespace, userInfo: { username } } });
  expect(isMatched(`system:serviceaccount:${namespace}:${account}`)).toBe(true);
  expect(isMatched(`system:serviceaccount:other:${account}`)).toBe(false);
  expect(isMatched("system:serviceaccount:kube-system:statefulset-controller")).toBe(false);
  expect(binding.spec.policyName).toBe(objects[0].metadata.name);
  const [{ values }] = binding.spec.matchResources.namespaceSelector.matchExpressions;
  for (const name of ["team", "gpu"]) {
    const [overlay] = readObjects("overlays", name, "kustomization.yaml");
    expect(values).toContain(overlay.namespace);
  }
});

test("a kernel's own pod passes, with a scratch volume too", () => {
  expect(findRefusal(() => {})).toBeUndefined();
  expect(findRefusal(({ spec }) => Object.assign(spec, { volumes: [{ name: "shm", emptyDir: {} }] }))).toBeUndefined();
});

const [container] = kernel().spec.containers;
const key = { name: "jupyter-server-tokens", key: "jupyter-server-0" };

test.each<[rule: RegExp, more: { spec?: Json; labels?: Json }]>([
  [
    /volume/,
    { spec: { volumes: [{ name: "v", persistentVolumeClaim: { claimName: "notebooks-jupyter-server-0" } }] } },
  ],
  [/volume/, { spec: { volumes: [{ name: "v", secret: { secretName: "jupyter-server-tokens" } }] } }],
  [/volume/, { spec: { volumes: [{ name: "v", hostPath: { path: "/" } }] } }],
  [/volume/, { spec: { volumes: [{ name: "v", projected: { sources: [{ serviceAccountToken: {} }] } }] } }],
  [/service account/, { spec: { serviceAccountName: "enterprise-gateway" } }],
  [/environment/, { spec: { containers: [{ ...container, env: [{ name: "T", valueFrom: { secretKeyRef: key } }] }] } }],
  [/environment/, { spec: { containers: [{ ...container, envFrom: [{ secretRef: { name: key.name } }] }] } }],
  [/environment/, { spec: { initContainers: [{ ...container, envFrom: [{ secretRef: { name: key.name } }] }] } }],
  [/labels/, { labels: { app: "jupyter-server" } }],
  [/labels/, { labels: { component: "enterprise-gateway" } }],
  [/labels/, { labels: { "jupyter-server-client": "true" } }],
  [/labels/, { labels: { "statefulset.kubernetes.io/pod-name": "jupyter-server-0" } }],
])("a pod that is more than a kernel breaks the rule %p: %j", (rule, { spec, labels }) => {
  const refusal = findRefusal((pod) => {
    Object.assign(pod.spec, spec);
    Object.assign(pod.metadata.labels, labels);
  });
  expect(refusal).toMatch(rule);
});
