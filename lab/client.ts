/** HTTP requests to JupyterLab and to gateways: each with a deadline and a bounded answer, none through a proxy. */
import type { ClientRequest } from "node:http";

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
  /** Certificates of an https connection; left out: the system's authorities decide. */
  tls?: Tls;
}

/** How the other side of an https connection is trusted, and shown who we are: contents of PEM files. */
export interface Tls {
  ca?: string;
  cert?: string;
  key?: string;
  rejectUnauthorized?: boolean;
}

/** What sends requests takes a tenth of the program's launch to load: it is loaded after it. */
export function loadClient() {
  return Promise.all([import("node:http"), import("node:https")]);
}

/** Kernelspec documents carry their resources' addresses and stay far below; anything larger is not what was asked for. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

/**
 * Sends one request and reads its answer, whatever its status. Redirects are not followed: they would carry a token to
 * another host. Rejects with the system's error, `ETIMEDOUT` after the deadline, `EMSGSIZE` over 4 MiB.
 *
 * This is `node:http`, not `fetch`: `fetch` sends even loopback requests through `HTTP_PROXY`, and names no reason when
 * it fails.
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
    const deadline = setTimeout(() => fail(systemError("ETIMEDOUT", `no answer within ${timeoutMs} ms`)), timeoutMs);
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

/** Where a server that listens on `hostname` is reached from this machine: over loopback, where it listens there. */
export function toLocalHost(hostname: string): string {
  return { "0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1" }[hostname] ?? hostname;
}

/** A body as JSON; undefined where it is none. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function systemError(code: string, message: string): Error {
  return Object.assign(new Error(message), { code });
}
