/** A real JupyterLab through the proxy: its own client, its own protection, terminals, uploads and https. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeCertificate } from "../support/certificate.ts";
import { cookiesOf } from "../support/cookies.ts";
import { type Json, PYTHON, until } from "../support/helpers.ts";
import { startKernel, waitFor } from "../support/kernel.ts";
import { TestServer } from "../support/test-server.ts";
import { Client, headOf, requestOf } from "./proxied.ts";

const LIMIT_MS = 180_000;
const CHUNK_BYTES = 1024 * 1024;
const CHUNKS = 20;

const openLab = (api: TestServer) => fetch(`${api.url}/lab`, { headers: { accept: "text/html" } });

let api: TestServer;
beforeAll(async () => {
  api = await TestServer.start({ PROXY: "true", PYTHON, STANDBY: "on" });
  api.prepare();
}, LIMIT_MS);
afterAll(() => api[Symbol.asyncDispose]());

describe("JupyterLab", () => {
  let cookie: string;
  let token: string;
  beforeAll(async () => {
    const page = await openLab(api);
    expect([page.status, (await page.text()).includes("jupyter-config-data")]).toEqual([200, true]);
    cookie = cookiesOf(page);
    token = (await api.show()).body.token;
  }, LIMIT_MS);

  test("logs the browser in by its own cookie, whose name belongs to the container", () => {
    expect(cookie).toMatch(/jupyter-login-[0-9a-f]{16}=/);
    expect(cookie).not.toContain("127-0-0-1");
  });

  test("keeps its protection against requests of other pages", async () => {
    const xsrf = /_xsrf=([^;]+)/.exec(cookie)?.[1] ?? "";
    const post = (headers: Record<string, string>) =>
      fetch(`${api.url}/api/contents`, { method: "POST", body: "{}", headers: { cookie, ...headers } });
    expect((await post({})).status).toBe(403);
    expect([403, 404]).toContain((await post({ "x-xsrftoken": xsrf, origin: "http://evil.example.org" })).status);
    expect((await post({ "x-xsrftoken": xsrf, origin: api.url })).status).toBe(201);
    expect((await fetch(`${api.url}/api/contents`)).status).toBe(403);
  });

  test.each([
    ["own", 101],
    ["foreign", 403],
  ])("a websocket of its %s origin gets %i", async (whose, status) => {
    const origin = whose === "own" ? api.url : "http://evil.example.org";
    const socket = new WebSocket(`${api.url.replace("http", "ws")}/api/events/subscribe`, {
      headers: { cookie, origin },
    } as unknown as string[]);
    const opened = await new Promise<boolean>((settle) => {
      socket.onopen = () => settle(true);
      socket.onerror = () => settle(false);
    });
    socket.close();
    expect(opened).toBe(status === 101);
  });

  test.each(["GET", "POST"])("a websocket's handshake with a body is answered: %s", async (method) => {
    const [head] = requestOf("/api/events/subscribe", []).replace("GET", method).split("\r\n\r\n");
    const request = `${head}\r\nCookie: ${cookie}\r\nContent-Length: 5\r\n\r\nhello`;
    expect(await headOf(api, request)).toStartWith(method === "GET" ? "HTTP/1.1 101" : "HTTP/1.1 403");
  });

  test(
    "runs, interrupts and restarts a kernel through its own client",
    async () => {
      using client = await startKernel({ url: `${api.url}/`, token });
      expect(await client.run("6 * 7")).toBe("42");
      const endless = client.run("import time\nopen('started', 'w').close()\ntime.sleep(1000)");
      await until("the cell", () => existsSync(join(api.env.NOTEBOOK_DIR ?? "", "started")));
      await client.kernel.interrupt();
      await endless;
      await client.kernel.restart();
      expect(await client.run("'time' in globals()")).toBe("False");
      await client.kernel.shutdown();
    },
    LIMIT_MS,
  );

  test(
    "gives a kernel's client that comes back what was printed meanwhile, whatever protocol it offers",
    async () => {
      const headers = { authorization: `token ${token}` };
      const { id } = (await (await fetch(`${api.url}/api/kernels`, { method: "POST", headers })).json()) as Json;
      const path = `/api/kernels/${id}/channels?token=${token}&session_id=back`;
      const gate = join(api.folder, "gate");
      const first = new Client(api, path);
      await first.opened;
      const header = { msg_id: "cell", msg_type: "execute_request", session: "back", username: "", version: "5.3" };
      const content = { code: `${waitFor(gate)}print("mean" + "while")`, silent: false, store_history: false };
      const message = { channel: "shell", header, parent_header: {}, metadata: {}, content, buffers: [] };
      first.socket.send(JSON.stringify(message));
      const stateIs = async (state: string) => {
        const { kernels } = (await api.ask("GET", "/api/servers/activity")).body;
        return kernels.some((kernel: Json) => kernel.id === id && kernel.state === state && kernel.connections === 0);
      };
      await until("the cell", () => first.messages.some((text) => String(text).includes("execute_input")));
      first.socket.close();
      await until("a busy kernel without a client", () => stateIs("busy"));
      writeFileSync(gate, "");
      await until("its end", () => stateIs("idle"));
      // A browser's client would close a connection that takes no protocol.
      const socket = connect(Number(api.env.PORT), "127.0.0.1");
      let text = "";
      socket.on("data", (chunk) => {
        text += chunk;
      });
      socket.write(requestOf(path, ["unknown"]));
      await until("what was printed", () => text.includes("meanwhile"));
      expect(text).toStartWith("HTTP/1.1 101");
      socket.destroy();
      await fetch(`${api.url}/api/kernels/${id}`, { method: "DELETE", headers });
    },
    LIMIT_MS,
  );

  test(
    "has terminals",
    async () => {
      const headers = { authorization: `token ${token}` };
      const made = await fetch(`${api.url}/api/terminals`, { method: "POST", headers });
      const { name } = (await made.json()) as Json;
      const socket = new WebSocket(`${api.url.replace("http", "ws")}/terminals/websocket/${name}?token=${token}`);
      let output = "";
      socket.onmessage = ({ data }) => {
        const [kind, text] = JSON.parse(String(data));
        if (kind === "stdout") output += text;
      };
      // What is typed before the shell reads is lost.
      await until("a prompt", () => /[$#]/.test(output));
      socket.send(JSON.stringify(["stdin", "echo $((6 * 7))\r"]));
      await until("the shell's answer", () => /^42\r?$/m.test(output));
      socket.close();
      await fetch(`${api.url}/api/terminals/${name}`, { method: "DELETE", headers });
    },
    LIMIT_MS,
  );

  test(
    "takes an upload in chunks, and gives the file back",
    async () => {
      const headers = { authorization: `token ${token}`, "content-type": "application/json" };
      const chunk = Buffer.alloc(CHUNK_BYTES, "x").toString("base64");
      for (let number = 1; number <= CHUNKS; number += 1) {
        const body = { type: "file", format: "base64", content: chunk, chunk: number === CHUNKS ? -1 : number };
        const answer = await fetch(`${api.url}/api/contents/large.bin`, {
          method: "PUT",
          headers,
          body: JSON.stringify(body),
        });
        expect(answer.ok).toBe(true);
      }
      expect(statSync(join(api.env.NOTEBOOK_DIR ?? "", "large.bin")).size).toBe(CHUNKS * CHUNK_BYTES);
      const back = await fetch(`${api.url}/files/large.bin`, { headers });
      expect((await back.arrayBuffer()).byteLength).toBe(CHUNKS * CHUNK_BYTES);
    },
    LIMIT_MS,
  );

  test(
    "answers while its log grows by more than the log's bound, which it stays within, and stops like any other",
    async () => {
      using client = await startKernel({ url: `${api.url}/`, token });
      // 100 MB at once are a minute's worth. The kernel's own descriptor 2 is a pipe to another of its threads, which would
      // take the processor as long.
      const log = `open("/proc/%d/fd/2" % os.getppid(), "ab", 0)`;
      await client.run(`import os\nlog = ${log}\nfor _ in range(100_000): log.write(b"x" * 999 + b"\\n")`);
      await until("an answer", async () => (await fetch(`${api.url}/health/live`)).ok);
      const file = join(api.folder, "run", "jupyterlab.log");
      await until("the bound", () => statSync(file).size <= 10 * 1024 * 1024 + 64 * 1024);
      // A flood is skipped and leaves no older file; what comes slower is kept in one.
      const older = `${file}.1`;
      expect(existsSync(older) ? statSync(older).size : 0).toBeLessThan(64 * 1024 * 1024);
      expect(await client.run("2+2")).toBe("4");
      expect((await api.stop()).status).toBe(200);
      expect(api.tree()).toEqual(api.standbyPids());
    },
    LIMIT_MS,
  );
});

test.skipIf(process.env.RUNTIME === "deno" || !existsSync("/usr/bin/openssl"))(
  "JupyterLab on https is reached as well",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "certificate-"));
    const { cert, key } = makeCertificate(folder, "DNS:lab.example.org");
    await api.stop();
    const { body } = await api.start({ "ServerApp.certfile": cert, "ServerApp.keyfile": key });
    expect(body).toMatchObject({ secure: true, url: `${api.url}/` });
    expect((await openLab(api)).status).toBe(200);
    using client = await startKernel({ url: `${api.url}/`, token: body.token });
    expect(await client.run("6 * 7")).toBe("42");
    rmSync(folder, { recursive: true });
  },
  LIMIT_MS,
);
