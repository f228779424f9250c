/** A Jupyter gateway, asked directly, with the credentials that JupyterLab has: whether kernels can run there. */
import { type Config, GATEWAY_VARIABLES } from "../config.ts";
import { type ErrorCode, errorCode, messageOf, ServiceError } from "../lib/errors.ts";
import { readPlainFile } from "../lib/files.ts";
import { isLoopback, parseJson } from "../lib/values.ts";
import { type Answer, ask, type Tls } from "./client.ts";
import { buildEnv } from "./launch-spec.ts";
import type { StartOptions } from "./options.ts";
import type { GatewayStatus } from "./schemas.ts";

/** A gateway's address and credentials: what JupyterLab uses, from the same variables. */
export interface Gateway {
  /** Without a trailing slash. */
  url: string;
  token: string | undefined;
  /** JupyterLab's environment. */
  env: Record<string, string>;
}

/** The gateway of a start; undefined if its kernels are local. */
export function findGateway(options: StartOptions, config: Config): Gateway | undefined {
  const { gatewayUrl: url, gatewayToken: token } = options;
  return url ? { url, token, env: buildEnv(options, "", config) } : undefined;
}

/** A status, and the error code of a start that requires the gateway. */
interface GatewayVerdict {
  status: GatewayStatus;
  code: Extract<ErrorCode, `gateway_${string}`> | null;
}

/** Deadline of a gateway's answer. It is asked while JupyterLab starts, so a dead gateway does not slow a start down. */
export const GATEWAY_TIMEOUT_MS = 2000;
/** The system's certificate authorities are a quarter of a MiB. */
const MAX_CERTIFICATE_BYTES = 4 * 1024 * 1024;
const { caCerts, systemCerts, clientCert, clientKey, validateCert } = GATEWAY_VARIABLES;

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
 * Asks a gateway for its kernelspecs, because every kind of gateway answers that request. `signal` ends the wait. Never
 * rejects.
 */
export async function askGateway(gateway: Gateway, config: Config, signal?: AbortSignal): Promise<GatewayVerdict> {
  const { url } = gateway;
  const unreachable = (error: string): GatewayVerdict => ({
    code: "gateway_unreachable",
    status: { url, reachable: false, status: null, kernelspecs: null, error },
  });
  if (isOwnAddress(url, config))
    return unreachable(`connection refused: ${url} is the address of this JupyterLab itself, not of a gateway`);
  try {
    return evaluate(url, await requestGateway(gateway, "GET", "api/kernelspecs", GATEWAY_TIMEOUT_MS, signal));
  } catch (error) {
    const reason = REASONS[errorCode(error)] ?? `${errorCode(error)}: ${messageOf(error)}`;
    return unreachable(`${url} did not answer: ${reason}`);
  }
}

function evaluate(url: string, { status, body }: Answer): GatewayVerdict {
  const result = (code: GatewayVerdict["code"], error: string | null, kernelspecs: string[] | null = null) => ({
    code,
    status: { url, reachable: true, status, kernelspecs, error },
  });
  if (status === 401 || status === 403) {
    return result("gateway_unauthorized", `${url} refused the gateway token (status ${status})`);
  }
  if (status >= 300 && status < 400) {
    return result(
      "gateway_invalid",
      `${url} redirects (status ${status}), and Jupyter needs the gateway's own address`,
    );
  }
  const document = parseJson(body) as { kernelspecs?: unknown } | null | undefined;
  const specs = typeof document === "object" ? document?.kernelspecs : undefined;
  if (status !== 200 || typeof specs !== "object" || specs === null) {
    return result(
      "gateway_invalid",
      `${url} answered, but is no Jupyter gateway: no kernelspecs at ${url}/api/kernelspecs (status ${status})`,
    );
  }
  return result(null, null, Object.keys(specs).sort());
}

/** Sends a request with the credentials that JupyterLab has. Rejects with a system error, also where a certificate can't be read. */
export async function requestGateway(
  gateway: Gateway,
  method: "GET" | "DELETE",
  path: string,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<Answer> {
  const options = { method, headers: buildHeaders(gateway), timeoutMs, tls: readTls(gateway.env) };
  return await ask(`${gateway.url}/${path}`, { ...options, ...(signal ? { signal } : {}) });
}

/** The headers that JupyterLab sends: the configured extra ones, and the token or a user and a password. */
function buildHeaders({ token, env }: Gateway): Record<string, string> {
  const { headers, authHeader, authScheme, user, password } = GATEWAY_VARIABLES;
  const extra = parseJson(env[headers] ?? "{}");
  const basic = Buffer.from(`${env[user]}:${env[password] ?? ""}`).toString("base64");
  // In the order in which JupyterLab sets them: a later one replaces an earlier one.
  return {
    ...(typeof extra === "object" ? extra : {}),
    ...(token ? { [env[authHeader] || "Authorization"]: `${env[authScheme] || "token"} ${token}` } : {}),
    ...(env[user] ? { Authorization: `Basic ${basic}` } : {}),
  };
}

/** Throws the system's error if a file can't be read. */
function readTls(env: Record<string, string>): Tls {
  const read = (...names: string[]) => {
    const path = names.map((name) => env[name]).find(Boolean);
    return path && readPlainFile(path, MAX_CERTIFICATE_BYTES);
  };
  const [ca, cert, key] = [read(caCerts, systemCerts), read(clientCert), read(clientKey)];
  return {
    ...(ca ? { ca } : {}),
    ...(cert ? { cert } : {}),
    ...(key ? { key } : {}),
    ...(["no", "false"].includes(env[validateCert] ?? "") ? { rejectUnauthorized: false } : {}),
  };
}

/**
 * Throws `config_error` if a file that a gateway's variables name is no plain one, or is too large: JupyterLab would wait
 * for the other end of a FIFO, or read a device for ever.
 */
export function requireGatewayFiles({ env }: Gateway): void {
  for (const name of [caCerts, systemCerts, clientCert, clientKey]) {
    try {
      if (env[name]) readPlainFile(env[name], MAX_CERTIFICATE_BYTES);
    } catch (error) {
      const rule = `${name} must be a plain file of at most ${MAX_CERTIFICATE_BYTES / 1024 / 1024} MiB`;
      const code = errorCode(error);
      // With a missing file `askGateway` reports the gateway as unreachable.
      if (code === "EFTYPE" || code === "EFBIG")
        throw new ServiceError("config_error", `${rule}; ${env[name]} is not`, {}, error);
    }
  }
}

/** JupyterLab can't be its own gateway: it would answer at this address as soon as it listens. */
function isOwnAddress(url: string, config: Config): boolean {
  const { hostname, port, protocol } = new URL(url);
  const host = hostname.replace(/^\[|\]$/g, "");
  const samePort = Number(port || (protocol === "https:" ? 443 : 80)) === config.jupyterPort;
  return samePort && (isLoopback(host) || host === "0.0.0.0" || host === "::" || host === config.jupyterHost);
}
