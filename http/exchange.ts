/** HTTP between a browser and JupyterLab, on Bun and on Deno. */
import type { Transfers } from "../lab/transfers.ts";
import { errorCode, ServiceError } from "../lib/errors.ts";
import { splitList } from "../lib/values.ts";
import { CONNECTION_IDLE_S } from "./request.ts";

declare const Deno: { createHttpClient(options: object): unknown };
export const IS_DENO = "Deno" in globalThis;

/** How JupyterLab is reached: over loopback, so no proxy of the environment, and its certificate names another host. */
export const CONNECTION = {
  proxy: false,
  tls: { rejectUnauthorized: false },
  // Only such a client sends the `Host` that it is given.
  ...(IS_DENO ? { client: Deno.createHttpClient({ allowHost: true }) } : {}),
};

const HOP_BY_HOP =
  "connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade expect".split(
    " ",
  );
/** The longest limit that Bun has for a connection without traffic, for a client that takes its time. */
const LARGE_IDLE_S = 255;
/** A short answer is read whole, and keeps its length: Bun sends streams without it. Slow browsers can hold many of them. */
const SHORT_BYTES = 64 * 1024;

/** Sends a request on. Bodies are streams both ways but for short answers, and the answer stays compressed. */
export async function exchange(
  { method, body, signal }: Pick<Request, "method" | "body" | "signal">,
  address: string,
  given: Headers,
): Promise<Response> {
  const headers = removeHopByHop(given);
  if (body === null) headers.delete("content-length");
  const init = { ...CONNECTION, decompress: false, timeout: false, redirect: "manual", method, headers, body, signal };
  try {
    const answer = await fetch(address, { ...init, ...(IS_DENO && body ? { duplex: "half" } : {}) } as RequestInit);
    const { status, statusText } = answer;
    const kept = removeHopByHop(answer.headers);
    // Deno decompresses these, and compresses answers again by itself.
    if (IS_DENO && /^(gzip|br)$/.test(kept.get("content-encoding") ?? ""))
      for (const name of ["content-encoding", "content-length"]) kept.delete(name);
    const content = answer.body && isShort(kept) ? await answer.arrayBuffer() : answer.body;
    return new Response(content, { status, statusText, headers: kept });
  } catch (error) {
    throw new ServiceError("jupyterlab_unreachable", `JupyterLab did not answer (${errorCode(error)})`, {}, error);
  }
}

/** Headers without the hop-by-hop ones, which belong to one connection (RFC 9110). */
export function removeHopByHop(headers: Headers): Headers {
  const kept = new Headers(headers);
  for (const name of [...HOP_BY_HOP, ...splitList(headers.get("connection") ?? "")])
    if (/^[\w-]+$/.test(name)) kept.delete(name);
  return kept;
}

function isShort(headers: Headers): boolean {
  return Number(headers.get("content-length") ?? Number.POSITIVE_INFINITY) <= SHORT_BYTES;
}

/**
 * The connection has no idle limit while JupyterLab is slow; it has one while the browser is, and once the answer is complete.
 * Until then the answer is one of `transfers`, if it is one that ends: an open page can keep an event stream for ever.
 */
export function keepOpen(answer: Response, limit: (seconds?: number) => void, transfers?: Transfers): Response {
  if (isShort(answer.headers) || !answer.body) {
    limit();
    return answer;
  }
  const reader = answer.body.getReader();
  const isEndless = /^text\/event-stream\b/i.test(answer.headers.get("content-type") ?? "");
  const transfer = isEndless ? undefined : transfers?.begin();
  const atEnd = answer.headers.has("content-length") ? LARGE_IDLE_S : CONNECTION_IDLE_S;
  const source = {
    async pull(controller: ReadableStreamDefaultController<Uint8Array>) {
      limit(0);
      try {
        const { done, value } = await reader.read();
        limit(done ? atEnd : LARGE_IDLE_S);
        if (transfer) transfer.movedAt = Date.now();
        if (!done) return controller.enqueue(value);
        transfer?.end();
        controller.close();
      } catch {
        transfer?.end();
        // The client has to see that this is not the end. Bun would write any reason to stderr, its URL with a token included.
        controller.error();
        limit();
      }
    },
    cancel: (reason: unknown) => {
      transfer?.end();
      return reader.cancel(reason);
    },
  };
  const { status, statusText, headers } = answer;
  return new Response(new ReadableStream(source, { highWaterMark: 0 }), { status, statusText, headers });
}
