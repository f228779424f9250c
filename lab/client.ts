/** HTTP requests to JupyterLab and to gateways, each with a deadline and a bounded answer, and without a proxy. */
import type { ClientRequest } from "node:http";
import { systemError } from "../lib/files.ts";

/** An answer, read to its end. */
export interface Answer {
  status: number;
  body: string;
}

interface AskOptions {
  method?: "GET" | "POST" | "DELETE";
  headers?: Record<string, string>;
  /** Deadline of the whole exchange. */
  timeoutMs: number;
  signal?: AbortSignal;
  /** How an https connection is verified. The default is the system's certificate authorities. */
  tls?: Tls;
}

/** TLS options: the contents of PEM files. */
export interface Tls {
  ca?: string;
  cert?: string;
  key?: string;
  rejectUnauthorized?: boolean;
}

/** Loads the HTTP client. It is loaded after the launch, because loading it takes a tenth of the launch. */
export function loadClient() {
  return Promise.all([import("node:http"), import("node:https")]);
}

/** A list of kernelspecs is far below this; a larger answer is not one. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

/**
 * Sends one request and reads its answer, whatever its status. Redirects are not followed, because they would send a token
 * to another host. Rejects with the system's error, `ETIMEDOUT` after the deadline, `EMSGSIZE` over 4 MiB.
 *
 * It uses `node:http`, because `fetch` sends even loopback requests through `HTTP_PROXY` and gives no reason when it fails.
 */
export async function ask(url: string, options: AskOptions): Promise<Answer> {
  const { method = "GET", headers = {}, timeoutMs, signal, tls = {} } = options;
  const [http, https] = await loadClient();
  const client = url.startsWith("https:") ? https : http;
  const request = client.request(url, { method, headers, agent: false, ...tls, ...(signal ? { signal } : {}) });
  return await readAnswer(request, timeoutMs);
}

function readAnswer(request: ClientRequest, timeoutMs: number): Promise<Answer> {
  return new Promise<Answer>((settle, reject) => {
    const fail = (error: Error) => {
      clearTimeout(deadline);
      request.destroy();
      reject(error);
    };
    const deadline = setTimeout(
      () => fail(systemError("ETIMEDOUT", `no answer within ${timeoutMs} ms`)),
      Math.max(0, timeoutMs),
    );
    request.once("error", fail);
    request.once("response", (response) => {
      const chunks: Buffer[] = [];
      let size = 0;
      response.on("data", (chunk: Buffer) => {
        size += chunk.length;
        if (size > MAX_ANSWER_BYTES) fail(systemError("EMSGSIZE", `an answer of over ${MAX_ANSWER_BYTES} bytes`));
        else chunks.push(chunk);
      });
      response.once("error", fail);
      response.once("end", () => {
        clearTimeout(deadline);
        settle({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString("utf8") });
      });
    });
    request.end();
  });
}

/** The host at which this machine reaches a server that listens on `hostname`: loopback if it listens everywhere. */
export function toLocalHost(hostname: string): string {
  return { "0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1" }[hostname] ?? hostname;
}
