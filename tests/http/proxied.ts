/** What the proxy's tests share: a control API whose JupyterLab is a stand-in, and the ends of its clients. */
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Json } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";
import { installUpstream } from "../support/upstream.ts";

export const LIMIT_MS = 120_000;
export const IS_DENO = process.env.RUNTIME === "deno";

const FOLDER = mkdtempSync(join(tmpdir(), "upstream-"));
export const UPSTREAM = installUpstream(FOLDER);
process.once("exit", () => rmSync(FOLDER, { recursive: true, force: true }));

export const startProxy = (more: Record<string, string> = {}) =>
  TestServer.start({ PROXY: "true", PYTHON: UPSTREAM, ...more });

/** One whose JupyterLab runs, with the token `t`. */
export async function startProxiedLab(): Promise<TestServer> {
  const api = await startProxy();
  await api.start({ token: "t" });
  return api;
}

/** A person opens a page. Redirects are shown, not followed. */
export const visit = (api: TestServer, path: string, headers: Record<string, string> = {}) =>
  fetch(`${api.url}${path}`, { headers: { accept: "text/html,*/*", ...headers }, redirect: "manual" });

/** What JupyterLab's stand-in has counted. */
export const seen = async (api: TestServer): Promise<Json> => (await fetch(`${api.url}/seen`)).json();

export const stateOf = async (api: TestServer) => (await api.show()).body.state;

/** A browser's end of a websocket, and all that it is told. */
export class Client {
  readonly socket: WebSocket;
  readonly messages: (string | ArrayBuffer)[] = [];
  readonly pings: string[] = [];
  readonly opened: Promise<boolean>;
  readonly closed: Promise<{ code: number; reason: string }>;

  constructor(api: TestServer, path: string, options: object = {}) {
    this.socket = new WebSocket(`${api.url.replace("http", "ws")}${path}`, options as string[]);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => void this.messages.push(data);
    this.socket.addEventListener("ping" as "message", ({ data }) => void this.pings.push(Buffer.from(data).toString()));
    this.opened = new Promise((settle) => {
      this.socket.onopen = () => settle(true);
      this.socket.onerror = () => settle(false);
    });
    this.closed = new Promise((settle) => {
      this.socket.onclose = ({ code, reason }) => settle({ code, reason });
    });
  }
}

/** A websocket's handshake, as a browser sends it. */
export function requestOf(path: string, protocols: string[]): string {
  const offered = protocols.length > 0 ? `Sec-WebSocket-Protocol: ${protocols.join(", ")}\r\n` : "";
  return `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${offered}\r\n`;
}

/** The head of the answer to a websocket's handshake. */
export const handshake = (api: TestServer, path: string, protocols: string[]) =>
  headOf(api, requestOf(path, protocols));

/** The head of the answer to a request, which is sent as it is. */
export function headOf(api: TestServer, request: string): Promise<string> {
  return new Promise((settle) => {
    const socket = connect(Number(api.env.PORT), "127.0.0.1");
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
      if (!text.includes("\r\n\r\n")) return;
      socket.destroy();
      settle(text);
    });
    socket.write(request);
  });
}
