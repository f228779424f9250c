/**
 * What other platforms accept, written from their documented fields: agent-sandbox v1beta1, Kubeflow Notebooks v1beta1,
 * jupyter-k8s v1alpha1 and JupyterHub. Parts that are Kubernetes' own are `KUBERNETES` here; tests/support/manifests.ts checks those.
 */
type Schema = Record<string, unknown>;

const KUBERNETES: Schema = {};
const text = (more: Schema = {}): Schema => ({ type: "string", minLength: 1, ...more });
const oneOf = (...values: string[]): Schema => ({ enum: values });
const list = (items: Schema, more: Schema = {}): Schema => ({ type: "array", items, ...more });
const whole = (minimum: number, more: Schema = {}): Schema => ({ type: "integer", minimum, ...more });
const texts: Schema = { type: "object", additionalProperties: { type: "string" } };
/** An object with these properties and no other; a name that ends in `?` is optional. */
function object(properties: Record<string, Schema>): Schema {
  const entries = Object.entries(properties).map(([name, schema]) => [name.replace("?", ""), schema]);
  const required = Object.keys(properties).filter((name) => !name.endsWith("?"));
  return { type: "object", additionalProperties: false, required, properties: Object.fromEntries(entries) };
}
const kind = (apiVersion: string, name: string, spec: Schema): Schema =>
  object({
    apiVersion: { const: apiVersion },
    kind: { const: name },
    metadata: object({ name: text(), "namespace?": text(), "labels?": texts, "annotations?": texts }),
    spec,
  });

const SANDBOX = "extensions.agents.x-k8s.io/v1beta1";
const policy = oneOf("Disallowed", "Allowed", "Overrides");
const claims = list(object({ "metadata?": KUBERNETES, spec: KUBERNETES }));

const asset = {
  oneOf: [
    object({ url: text() }),
    object({
      configMap: object({ name: text(), namespace: text(), key: text(), mediaType: { const: "image/svg+xml" } }),
    }),
  ],
};
const option = (spec: Schema): Schema =>
  object({
    spawner: object({ default: text({ maxLength: 256 }) }),
    values: list(
      object({
        id: text({ maxLength: 256 }),
        spawner: object({
          displayName: text({ minLength: 2, maxLength: 128 }),
          "description?": text({ minLength: 2, maxLength: 1024 }),
          "labels?": list(object({ key: text({ minLength: 2, maxLength: 64 }), value: text({ maxLength: 64 }) })),
          "hidden?": { type: "boolean" },
        }),
        "redirect?": KUBERNETES,
        spec,
      }),
      { minItems: 1 },
    ),
  });
const portId = text({ maxLength: 32, pattern: "^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$" });
const intervals = {
  "minProbeIntervalSeconds?": whole(1, { maximum: 31_536_000 }),
  "probeIntervalSeconds?": whole(1, { maximum: 31_536_000 }),
};

const idleShutdown = object({
  enabled: { type: "boolean" },
  idleTimeoutInMinutes: whole(1),
  detection: object({
    "httpGet?": object({
      "path?": text(),
      port: whole(1, { maximum: 65_535 }),
      "host?": text(),
      "scheme?": oneOf("HTTP", "HTTPS"),
      "transport?": oneOf("podExec", "network"),
      "lastActivityTimestamp?": object({ "responseBodyPath?": text(), "format?": oneOf("RFC3339", "unix") }),
    }),
  }),
});
const WORKSPACE = "workspace.jupyter.org/v1alpha1";
const access = oneOf("Public", "OwnerOnly");
const reference = object({ name: text(), "namespace?": text() });

/** The schemas by kind. */
export const PLATFORMS: Record<string, Schema> = {
  SandboxTemplate: kind(
    SANDBOX,
    "SandboxTemplate",
    object({
      podTemplate: object({ spec: KUBERNETES, "metadata?": object({ "labels?": texts, "annotations?": texts }) }),
      "volumeClaimTemplates?": claims,
      "service?": { type: "boolean" },
      "networkPolicy?": object({ "ingress?": list(KUBERNETES), "egress?": list(KUBERNETES) }),
      "networkPolicyManagement?": oneOf("Managed", "Unmanaged"),
      "envVarsInjectionPolicy?": policy,
      "volumeClaimTemplatesPolicy?": policy,
    }),
  ),
  SandboxWarmPool: kind(
    SANDBOX,
    "SandboxWarmPool",
    object({
      "replicas?": whole(0),
      sandboxTemplateRef: object({ name: text() }),
      "updateStrategy?": object({ "type?": oneOf("Recreate", "OnReplenish") }),
    }),
  ),
  SandboxClaim: kind(
    SANDBOX,
    "SandboxClaim",
    object({
      warmPoolRef: object({ name: text() }),
      "lifecycle?": object({
        "shutdownTime?": text({ format: "date-time" }),
        "ttlSecondsAfterFinished?": whole(0),
        "shutdownPolicy?": oneOf("Delete", "DeleteForeground", "Retain"),
      }),
      "additionalPodMetadata?": object({ "labels?": texts, "annotations?": texts }),
      "env?": list(object({ name: text(), value: text(), "containerName?": text() })),
      "volumeClaimTemplates?": claims,
    }),
  ),
  WorkspaceKind: kind(
    "kubeflow.org/v1beta1",
    "WorkspaceKind",
    object({
      spawner: object({
        displayName: text({ minLength: 2, maxLength: 128 }),
        description: text({ minLength: 2, maxLength: 4096 }),
        "hidden?": { type: "boolean" },
        "deprecated?": { type: "boolean" },
        "deprecationMessage?": text({ minLength: 2, maxLength: 256 }),
        icon: asset,
        logo: asset,
      }),
      "activityRules?": list(
        object({
          config: object({ secondsSinceActive: whole(16), "minRunningSeconds?": whole(0) }),
          "match?": KUBERNETES,
          effect: object({ pauseWorkspace: { type: "boolean" } }),
        }),
      ),
      "filterRules?": list(KUBERNETES),
      podTemplate: object({
        "podMetadata?": object({ "labels?": texts, "annotations?": texts }),
        "serviceAccount?": object({ "clusterRoles?": list(object({ name: text() })) }),
        "activityProbe?": {
          oneOf: [
            object({
              ...intervals,
              podExec: object({ "timeoutSeconds?": whole(1), script: text({ maxLength: 2048, pattern: "^#!" }) }),
            }),
            object({ ...intervals, jupyter: object({ lastActivity: { const: true }, portId }) }),
          ],
        },
        "probes?": object({ "startupProbe?": KUBERNETES, "livenessProbe?": KUBERNETES, "readinessProbe?": KUBERNETES }),
        volumeMounts: object({ home: text({ minLength: 2, maxLength: 4096, pattern: "^/[^/].*$" }) }),
        ports: list(
          object({
            id: portId,
            protocol: { const: "HTTP" },
            defaultDisplayName: text({ minLength: 2, maxLength: 64 }),
            "httpProxy?": object({ "removePathPrefix?": { type: "boolean" }, "requestHeaders?": KUBERNETES }),
          }),
          { minItems: 1 },
        ),
        "extraEnv?": list(KUBERNETES),
        "extraVolumeMounts?": list(KUBERNETES),
        "extraVolumes?": list(KUBERNETES),
        "securityContext?": KUBERNETES,
        "containerSecurityContext?": KUBERNETES,
        options: object({
          imageConfig: option(
            object({
              image: text({ minLength: 2 }),
              "imagePullPolicy?": oneOf("Always", "IfNotPresent", "Never"),
              ports: list(
                object({
                  id: portId,
                  port: whole(1, { maximum: 65_535 }),
                  "displayName?": text({ minLength: 2, maxLength: 64 }),
                }),
                { minItems: 1 },
              ),
            }),
          ),
          podConfig: option(
            object({
              "affinity?": KUBERNETES,
              "nodeSelector?": texts,
              "tolerations?": list(KUBERNETES),
              "resources?": KUBERNETES,
            }),
          ),
        }),
      }),
    }),
  ),
  WorkspaceTemplate: kind(
    WORKSPACE,
    "WorkspaceTemplate",
    object({
      displayName: text({ maxLength: 100 }),
      "description?": text({ maxLength: 500 }),
      defaultImage: text({ maxLength: 500 }),
      "allowedImages?": list(text(), { maxItems: 50 }),
      "defaultResources?": KUBERNETES,
      "primaryStorage?": object({
        "defaultSize?": text(),
        "minSize?": text(),
        "maxSize?": text(),
        "defaultStorageClassName?": text(),
        "defaultMountPath?": text(),
      }),
      "defaultContainerConfig?": object({ "command?": list(text()), "args?": list(text()) }),
      "baseEnv?": list(KUBERNETES, { maxItems: 50 }),
      "defaultIdleShutdown?": idleShutdown,
      "idleShutdownOverrides?": object({
        "allow?": { type: "boolean" },
        "minIdleTimeoutInMinutes?": whole(1),
        "maxIdleTimeoutInMinutes?": whole(1),
      }),
      "defaultAccessStrategy?": reference,
      "defaultReadinessProbe?": KUBERNETES,
      "defaultPodSecurityContext?": KUBERNETES,
      "defaultContainerSecurityContext?": KUBERNETES,
    }),
  ),
  Workspace: kind(
    WORKSPACE,
    "Workspace",
    object({
      displayName: text(),
      "image?": text(),
      "desiredStatus?": oneOf("Running", "Stopped"),
      "ownershipType?": access,
      "accessType?": access,
      "storage?": object({ "storageClassName?": text(), "size?": text(), "mountPath?": text() }),
      "env?": list(KUBERNETES),
      "accessStrategy?": reference,
      "templateRef?": reference,
      "idleShutdown?": idleShutdown,
    }),
  ),
};

/** What JupyterHub 5 and KubeSpawner 7 accept, as far as their documentation names it. */
export const JUPYTERHUB: Schema = object({
  JupyterHub: object({ spawner_class: text(), "template_vars?": texts }),
  KubeSpawner: object({
    image: text(),
    "cmd?": { oneOf: [{ type: "null" }, text(), list(text())] },
    "port?": whole(0, { maximum: 65_535 }),
    "environment?": texts,
    "lifecycle_hooks?": object({ "postStart?": KUBERNETES, "preStop?": KUBERNETES }),
    "uid?": whole(0),
    "gid?": whole(0),
    "fs_gid?": whole(0),
    "container_security_context?": KUBERNETES,
    "mem_guarantee?": text({ pattern: "^\\d+(\\.\\d+)?[KMGT]$" }),
    "mem_limit?": text({ pattern: "^\\d+(\\.\\d+)?[KMGT]$" }),
    "cpu_limit?": { type: "number" },
    "delete_grace_period?": whole(0),
    "storage_pvc_ensure?": { type: "boolean" },
    "storage_capacity?": text(),
    "volumes?": list(KUBERNETES),
    "volume_mounts?": list(KUBERNETES),
  }),
});
