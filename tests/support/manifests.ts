/** Kubernetes objects under test: read from files, checked against schemas, and against types, which catch what the others miss. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Json, PROJECT } from "./helpers.ts";

export const DEPLOY = join(PROJECT, "deploy");
/** Published schemas of what is not Kubernetes' own. */
const PACKAGES: Record<string, string> = {
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator/monitoring.coreos.com",
  "gateway.networking.k8s.io": "@kubernetes-models/gateway-api/gateway.networking.k8s.io",
};

/** The objects of a YAML text. */
export function parseObjects(text: string): Json[] {
  return [Bun.YAML.parse(text)].flat();
}

export function readObjects(...path: string[]): Json[] {
  return parseObjects(readFileSync(join(DEPLOY, ...path), "utf8"));
}

/** Throws where an object does not keep to the published schema of its kind. */
export async function validate(object: Json): Promise<void> {
  const [version, group = ""] = object.apiVersion.split("/").reverse();
  const name = PACKAGES[group] ?? ["kubernetes-models", group].filter(Boolean).join("/");
  const Model = (await import(`${name}/${version}`))[object.kind];
  if (!Model) throw new Error(`There is no schema for ${object.apiVersion} ${object.kind}`);
  new Model(object).validate();
}

/** What the compiler says of Kubernetes' own objects; a field that no type has is an error. `change` is made to their text. */
export function compile(objects: Json[], change = (text: string) => text): string {
  const folders: Record<string, string> = { "": "core" };
  const own = objects.filter(({ apiVersion }) => !(apiVersion.split("/")[0] in PACKAGES));
  const lines = own.map((object, index) => {
    const [version, group = ""] = object.apiVersion.split("/").reverse();
    const type = `import("kubernetes-types/${folders[group] ?? group.split(".")[0]}/${version}").${object.kind}`;
    return `export const object${index}: ${type} = ${JSON.stringify(object)};`;
  });
  // Inside the project, so that the compiler finds the packages.
  const scratch = mkdtempSync(join(PROJECT, "node_modules", ".manifests-"));
  const file = join(scratch, "objects.ts");
  writeFileSync(file, change(lines.join("\n")));
  // On one thread: its threads check the types that files share once each.
  const options =
    "--singleThreaded --noEmit --strict --skipLibCheck --module preserve --target esnext --ignoreConfig --types";
  const { stdout } = Bun.spawnSync([join(PROJECT, "node_modules", ".bin", "tsc"), ...options.split(" "), "", file]);
  rmSync(scratch, { recursive: true });
  return stdout.toString();
}

/** A quantity as a number: 512Mi, 100m, 2. */
export function parseQuantity(quantity: string): number {
  const [, digits = "", unit = ""] = /^([\d.]+)(m|[KMGT]i?)?$/.exec(quantity) ?? [];
  const power = "KMGT".indexOf(unit[0] ?? "?") + 1;
  const factor = unit === "m" ? 0.001 : (unit.endsWith("i") ? 1024 : 1000) ** power;
  return digits === "" ? Number.NaN : Number(digits) * factor;
}
