/** A Jupyter gateway, asked directly: whether it is there, and which kernels are to be deleted from it. */
import { type Answer, ask, parseJson } from "./client.ts";
import { type Config, errorCode, isLoopback } from "./config.ts";
import type { ErrorCode } from "./errors.ts";

/** Where a gateway is and how it is entered. */
export interface Gateway {
  /** Without a slash at its end. */
  url: string;
  token: string | undefined;
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

const REASONS: Record<string, string> = {
  ECONNREFUSED: "connection refused",
  ENOTFOUND: "the host name does not resolve",
  EAI_AGAIN: "the host name does not resolve now",
  ETIMEDOUT: `no answer within ${GATEWAY_TIMEOUT_MS / 1000} s`,
  ECONNRESET: "the connection was closed without an answer",
  EHOSTUNREACH: "no route to the host",
  ENETUNREACH: "no route to the network",
};

/** Asks a gateway for its kernelspecs, which is what every kind of gateway answers. Never rejects. */
export async function askGateway(gateway: Gateway, config: Config): Promise<GatewayVerdict> {
  const { url } = gateway;
  if (isOwnAddress(url, config)) {
    const error = `connection refused: ${url} is the address of this JupyterLab itself, not of a gateway`;
    return { code: "gateway_unreachable", status: { url, reachable: false, status: null, kernelspecs: null, error } };
  }
  try {
    const answer = await ask(`${url}/api/kernelspecs`, {
      headers: authorization(gateway),
      timeoutMs: GATEWAY_TIMEOUT_MS,
    });
    return judge(url, answer);
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

/** Deletes kernels at a gateway side by side. Resolves with the ids that are not known to be gone; never rejects. */
export async function deleteKernels(gateway: Gateway, ids: readonly string[], timeoutMs: number): Promise<string[]> {
  const left = await Promise.all(
    ids.map(async (id) => {
      const options = { method: "DELETE" as const, headers: authorization(gateway), timeoutMs };
      const answer = await ask(`${gateway.url}/api/kernels/${encodeURIComponent(id)}`, options).catch(() => undefined);
      return answer && (answer.status < 300 || answer.status === 404) ? undefined : id;
    }),
  );
  return left.filter((id) => id !== undefined);
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

function authorization({ token }: Gateway): Record<string, string> {
  return token ? { Authorization: `token ${token}` } : {};
}

/** JupyterLab can't be its own gateway, and would answer there as soon as it listens. */
function isOwnAddress(url: string, config: Config): boolean {
  const { hostname, port, protocol } = new URL(url);
  const host = hostname.replace(/^\[|\]$/g, "");
  const samePort = Number(port || (protocol === "https:" ? 443 : 80)) === config.jupyterPort;
  return samePort && (isLoopback(host) || host === "0.0.0.0" || host === "::" || host === config.jupyterHost);
}
