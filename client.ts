/** HTTP requests to JupyterLab and to gateways: each with a deadline and a bounded answer, none through a proxy. */
import * as http from "node:http";
import * as https from "node:https";

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

/** Kernelspec documents carry their resources' addresses and stay far below; anything larger is not what was asked for. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;

/**
 * Sends one request and reads its answer, whatever its status. Redirects are not followed: they would carry a token to
 * another host. Rejects with the system's error, `ETIMEDOUT` after the deadline, `EMSGSIZE` over 4 MiB.
 *
 * This is `node:http`, not `fetch`: `fetch` sends even loopback requests through `HTTP_PROXY`, and names no reason when
 * it fails.
 */
export function ask(url: string, options: AskOptions): Promise<Answer> {
  const { method = "GET", headers = {}, timeoutMs, signal, tls = {} } = options;
  const client = url.startsWith("https:") ? https : http;
  return new Promise<Answer>((settle, reject) => {
    const request = client.request(url, { method, headers, agent: false, ...tls, ...(signal ? { signal } : {}) });
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
