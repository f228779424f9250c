/**
 * A stand-in for JupyterLab behind the proxy: it takes the launch spec, says that it runs, and its paths do what the tests
 * of the relay need. `installUpstream` writes a program that a control API runs as its PYTHON.
 */
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Server, ServerWebSocket } from "bun";

/** Writes the program into a folder and gives its path. */
export function installUpstream(folder: string): string {
  const program = join(folder, "upstream");
  writeFileSync(program, `#!/bin/sh\nexec ${process.execPath} ${import.meta.filename} "$@"\n`);
  chmodSync(program, 0o755);
  return program;
}

const BLAST_MESSAGE_BYTES = 256 * 1024;
export const LARGE_BYTES = 64 * 1024 * 1024;

interface Socket {
  path: string;
  query: URLSearchParams;
}

/** What happened here that a test asks for: `/seen`. */
const seen: Record<string, number> = { aborted: 0, open: 0, received: 0 };
const count = (name: string, change = 1) => {
  seen[name] = (seen[name] ?? 0) + change;
};

const routes: Record<string, (request: Request, query: URLSearchParams) => Response | Promise<Response>> = {
  "/seen": () => Response.json(seen),
  "/headers": async (request) => Response.json({ ...Object.fromEntries(request.headers), "": request.url }),
  "/set": () =>
    new Response("set", {
      status: 201,
      statusText: "Made",
      headers: [
        ["set-cookie", "a=1; Path=/"],
        ["set-cookie", "b=2; Path=/"],
        ["connection", "x-private"],
        ["x-private", "1"],
        ["x-public", "1"],
      ],
    }),
  "/gzip": () => new Response(Bun.gzipSync("a".repeat(10_000)), { headers: { "content-encoding": "gzip" } }),
  "/redirect": () => new Response(null, { status: 302, headers: { location: "/elsewhere?a=b" } }),
  "/status": (_, query) => new Response(null, { status: Number(query.get("code")) }),
  // To the control API it is a JupyterLab in which nothing happens.
  "/api/kernels": () => Response.json([]),
  "/api/terminals": () => Response.json([]),
  "/metrics": ({ url }, query) =>
    query.has("no_track_activity")
      ? new Response("jupyter_server_last_activity_timestamp_seconds 1.0\n")
      : Response.json({ path: new URL(url).pathname }),
  "/file": () => new Response("0123456789"),
  // More than the buffers between here and a client that reads none of it.
  "/large": () => new Response(new Uint8Array(LARGE_BYTES)),
  "/size": async (request) => {
    let size = 0;
    for await (const chunk of request.body ?? []) size += (chunk as Uint8Array).length;
    return Response.json({ size, declared: request.headers.get("content-length") });
  },
  // One chunk at once, and another when `/go` is asked for.
  "/stream": (_, query) =>
    new Response(
      new ReadableStream({
        start(controller) {
          controller.enqueue(new TextEncoder().encode("one"));
          release = () => {
            controller.enqueue(new TextEncoder().encode("two"));
            controller.close();
          };
        },
        cancel: () => count("aborted"),
      }),
      { headers: { "content-type": query.get("type") ?? "application/octet-stream" } },
    ),
  // Answered when `/go` is asked for.
  "/late": () =>
    new Promise((settle) => {
      release = () => settle(new Response("late"));
    }),
  "/go": () => {
    release();
    for (const accept of late.splice(0)) accept();
    return new Response();
  },
  "/die": () => {
    process.exit(9);
  },
  "/login": () => new Response("login"),
  // As JupyterLab does: whoever is not known is sent to the login page.
  "/lab": (request, query) => {
    const given = request.headers.get("authorization") === `token ${token}` || query.get("token") === token;
    return given
      ? new Response("JupyterLab")
      : new Response(null, { status: 302, headers: { location: `${base}login` } });
  },
};
let release = () => {};
/** Websockets of `/ws/late`, which are accepted when `/go` is asked for. */
const late: (() => void)[] = [];
let token = "";
let base = "/";

/** Websockets by path: `/ws/echo`, `/ws/close?code=…`, `/ws/kill`, `/ws/blast?count=…`, `/ws/late`, `/ws/ping`. */
const sockets = {
  open(socket: ServerWebSocket<Socket>) {
    count("open");
    const { path, query } = socket.data;
    if (path === "/ws/close") socket.close(Number(query.get("code")), "as asked");
    if (path === "/ws/kill") socket.terminate();
    if (path === "/ws/talk-and-kill") {
      socket.send("last words");
      socket.terminate();
    }
    if (path === "/ws/blast") blast(socket);
  },
  async message(socket: ServerWebSocket<Socket>, message: string | Buffer) {
    count("received", message.length);
    const { path } = socket.data;
    if (path === "/ws/echo") socket.send(message);
    if (path === "/ws/ping") socket.ping("are you there");
    if (path === "/ws/kill-on-message") socket.terminate();
  },
  pong: () => count("pong"),
  drain: (socket: ServerWebSocket<Socket>) => {
    if (socket.data.path === "/ws/blast") blast(socket);
  },
  close(_: ServerWebSocket<Socket>, code: number) {
    count("open", -1);
    count(`closed ${code}`);
  },
};

/** Numbered messages, as fast as they are taken. */
function blast(socket: ServerWebSocket<Socket>): void {
  const { query } = socket.data;
  for (let sent = Number(query.get("sent") ?? 0); sent < Number(query.get("count")); sent += 1) {
    query.set("sent", String(sent + 1));
    const message = new Uint8Array(BLAST_MESSAGE_BYTES);
    new DataView(message.buffer).setUint32(0, sent);
    if (socket.send(message) <= 0) return;
  }
}

async function answer(request: Request, server: Server<Socket>): Promise<Response | undefined> {
  const { pathname, searchParams } = new URL(request.url);
  const path = pathname.replace(base, "/");
  if (path.startsWith("/ws/")) {
    if (path === "/ws/refuse") return new Response("no", { status: Number(searchParams.get("code")) });
    if (path === "/ws/late") {
      count("late");
      request.signal.addEventListener("abort", () => count("late", -1));
      await new Promise<void>((settle) => late.push(settle));
    }
    const protocol = searchParams.get("protocol") ?? "";
    const upgraded = server.upgrade(request, {
      data: { path, query: searchParams },
      headers: { "sec-websocket-protocol": protocol },
    });
    return upgraded ? undefined : new Response(null, { status: 400 });
  }
  return (routes[path] ?? (() => Response.json({ path: pathname })))(request, searchParams);
}

if (import.meta.main) {
  const spec = JSON.parse((await Bun.stdin.text()).split("\n")[0] ?? "");
  const settings = Object.fromEntries(
    spec.settings.map(([name, trait, value]: [string, string, unknown]) => [`${name}.${trait}`, value]),
  );
  token = settings["IdentityProvider.token"];
  base = settings["ServerApp.base_url"];
  const tell = (phase: string, more = {}) => process.stdout.write(`${JSON.stringify({ phase, ...more })}\n`);
  process.on("SIGTERM", () => process.exit(0));
  Bun.serve<Socket>({
    hostname: settings["ServerApp.ip"],
    port: settings["ServerApp.port"],
    idleTimeout: 0,
    maxRequestBodySize: 2 ** 30,
    fetch: answer,
    websocket: { ...sockets, backpressureLimit: 2 ** 31 - 1, closeOnBackpressureLimit: false, idleTimeout: 0 },
  });
  tell("imported");
  tell("configured");
  const server = {
    hostname: settings["ServerApp.ip"],
    port: settings["ServerApp.port"],
    secure: false,
    base_url: base,
    root_dir: settings["ServerApp.root_dir"],
    password: false,
    pid: process.pid,
    version: "0.0.0",
  };
  tell("bound", { server });
}
