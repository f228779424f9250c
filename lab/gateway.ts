/** A Jupyter gateway, asked directly: whether it is there, and which kernels are to be deleted from it. */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Config, errorCode, GATEWAY_VARIABLES, isLoopback } from "../config.ts";
import type { ErrorCode } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import { readTextFile } from "../lib/spawn.ts";
import { type Answer, ask, parseJson, type Tls } from "./client.ts";
import { buildEnv } from "./launch-spec.ts";
import type { StartOptions } from "./options.ts";

/** Where a gateway is and how it is entered: as JupyterLab enters it, by the same variables. */
export interface Gateway {
  /** Without a slash at its end. */
  url: string;
  token: string | undefined;
  /** JupyterLab's environment. */
  env: Record<string, string>;
}

/** The gateway of a start; undefined where its kernels are local. */
export function findGateway(options: StartOptions, config: Config): Gateway | undefined {
  const { gatewayUrl: url, gatewayToken: token } = options;
  return url ? { url, token, env: buildEnv(options, "", config) } : undefined;
}

/** What a gateway said when it was last asked. */
export interface GatewayStatus {
  url: string;
  /** Whether it answered at all. */
  reachable: boolean;
  /** HTTP status of its answer, or null. */
  status: number | null;
  /** Names of its kernels, or null where it did not tell. */
  kernelspecs: string[] | null;
  /** Why kernels can't run there, or null where they can. */
  error: string | null;
}

/** A status, and the error code that a start which requires the gateway fails with. */
export interface GatewayVerdict {
  status: GatewayStatus;
  code: Extract<ErrorCode, `gateway_${string}`> | null;
}

/** A gateway has this long to answer; it is asked while JupyterLab starts, so that a dead one costs no time. */
export const GATEWAY_TIMEOUT_MS = 2000;
const WATCH_PAUSE_MS = 5000;
const KERNELS_FILE = "gateway-kernels";

const REASONS: Record<string, string> = {
  ECONNREFUSED: "connection refused",
  ENOTFOUND: "the host name does not resolve",
  EAI_AGAIN: "the host name does not resolve now",
  ETIMEDOUT: `no answer within ${GATEWAY_TIMEOUT_MS / 1000} s`,
  ECONNRESET: "the connection was closed without an answer",
  EHOSTUNREACH: "no route to the host",
  ENETUNREACH: "no route to the network",
};

/**
 * Asks a gateway for its kernelspecs, which is what every kind of gateway answers, until `signal` says that nobody waits
 * for it. Never rejects.
 */
export async function askGateway(gateway: Gateway, config: Config, signal?: AbortSignal): Promise<GatewayVerdict> {
  const { url } = gateway;
  if (isOwnAddress(url, config)) {
    const error = `connection refused: ${url} is the address of this JupyterLab itself, not of a gateway`;
    return { code: "gateway_unreachable", status: { url, reachable: false, status: null, kernelspecs: null, error } };
  }
  try {
    return judge(url, await askAt(gateway, "GET", "api/kernelspecs", GATEWAY_TIMEOUT_MS, signal));
  } catch (error) {
    const reason =
      REASONS[errorCode(error)] ?? `${errorCode(error)}: ${error instanceof Error ? error.message : "unknown"}`;
    const status = {
      url,
      reachable: false,
      status: null,
      kernelspecs: null,
      error: `${url} did not answer: ${reason}`,
    };
    return { code: "gateway_unreachable", status };
  }
}

/** Asks a gateway every few seconds, for as long as somebody listens: what was said of it last is at most 7 s old. */
export async function* watchGateway(gateway: Gateway, config: Config): AsyncGenerator<GatewayStatus, never> {
  for (;;) {
    await sleep(WATCH_PAUSE_MS, undefined, { ref: false });
    yield (await askGateway(gateway, config)).status;
  }
}

/**
 * Deletes the kernels at a gateway that a JupyterLab has written down in its runtime folder (`gateway.py`), side by side.
 * False: some are not known to be gone, and the log names them. Never rejects.
 */
export async function releaseKernels(
  gateway: Gateway,
  runtimeDir: string,
  timeoutMs: number,
  log: Log,
): Promise<boolean> {
  const file = join(runtimeDir, KERNELS_FILE);
  const ids = readTextFile(file).split("\n").filter(Boolean);
  const answers = await Promise.all(
    ids.map((id) =>
      askAt(gateway, "DELETE", `api/kernels/${encodeURIComponent(id)}`, timeoutMs).catch(() => undefined),
    ),
  );
  const lost = ids.filter((_, index) => !isGone(answers[index]));
  if (lost.length === 0) rmSync(file, { force: true });
  else log("error", "kernels left at the gateway", { url: gateway.url, kernels: lost.join(" ") });
  return lost.length === 0;
}

function isGone(answer: Answer | undefined): boolean {
  return answer !== undefined && (answer.status < 300 || answer.status === 404);
}

function judge(url: string, { status, body }: Answer): GatewayVerdict {
  const verdict = (code: GatewayVerdict["code"], error: string | null, kernelspecs: string[] | null = null) => ({
    code,
    status: { url, reachable: true, status, kernelspecs, error },
  });
  if (status === 401 || status === 403) {
    return verdict("gateway_unauthorized", `${url} refused the gateway token (status ${status})`);
  }
  const document = parseJson(body) as { kernelspecs?: unknown } | null | undefined;
  const specs = typeof document === "object" ? document?.kernelspecs : undefined;
  if (status !== 200 || typeof specs !== "object" || specs === null) {
    return verdict(
      "gateway_invalid",
      `${url} answered, but is no Jupyter gateway: no kernelspecs at ${url}/api/kernelspecs (status ${status})`,
    );
  }
  return verdict(null, null, Object.keys(specs).sort());
}

async function askAt(
  gateway: Gateway,
  method: "GET" | "DELETE",
  path: string,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<Answer> {
  const options = { method, headers: buildHeaders(gateway), timeoutMs, tls: readTls(gateway.env) };
  return await ask(`${gateway.url}/${path}`, { ...options, ...(signal ? { signal } : {}) });
}

/** The headers that JupyterLab would send: its token, or a name and a password, and what else was asked for. */
function buildHeaders({ token, env }: Gateway): Record<string, string> {
  const { headers, authHeader, authScheme, user, password } = GATEWAY_VARIABLES;
  const more = parseJson(env[headers] ?? "{}");
  const basic = Buffer.from(`${env[user]}:${env[password] ?? ""}`).toString("base64");
  return {
    ...(env[user] ? { Authorization: `Basic ${basic}` } : {}),
    ...(token ? { [env[authHeader] || "Authorization"]: `${env[authScheme] || "token"} ${token}` } : {}),
    ...(typeof more === "object" ? more : {}),
  };
}

/** Rejects with the system's error where a file can't be read. */
function readTls(env: Record<string, string>): Tls {
  const { caCerts, systemCerts, clientCert, clientKey, validateCert } = GATEWAY_VARIABLES;
  const read = (...names: string[]) => {
    const name = names.find((name) => env[name]);
    return name && readFileSync(env[name] ?? "", "utf8");
  };
  const [ca, cert, key] = [read(caCerts, systemCerts), read(clientCert), read(clientKey)];
  return {
    ...(ca ? { ca } : {}),
    ...(cert ? { cert } : {}),
    ...(key ? { key } : {}),
    ...(["no", "false"].includes(env[validateCert] ?? "") ? { rejectUnauthorized: false } : {}),
  };
}

/** JupyterLab can't be its own gateway, and would answer there as soon as it listens. */
function isOwnAddress(url: string, config: Config): boolean {
  const { hostname, port, protocol } = new URL(url);
  const host = hostname.replace(/^\[|\]$/g, "");
  const samePort = Number(port || (protocol === "https:" ? 443 : 80)) === config.jupyterPort;
  return samePort && (isLoopback(host) || host === "0.0.0.0" || host === "::" || host === config.jupyterHost);
}
