/** The lifecycle's edges, with a small program in JupyterLab's place. */
import { describe, expect, test } from "bun:test";
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expectNextStartWorks, expectNothingLeft, mode } from "../support/fake.ts";
import { FAKE, read, until } from "../support/helpers.ts";
import { type Answer, TestServer } from "../support/test-server.ts";

describe("start", () => {
  test("answers 201 with the server, then 200 for the same options", async () => {
    await using server = await TestServer.start();
    const { status, body } = await server.start({ "base-url": "/a/b" });
    expect(status).toBe(201);
    expect(body).toMatchObject({ state: "running", base_url: "/a/b/", start_kind: "cold", restarts: 0, gateway: null });
    expect(body.token).toMatch(/^[0-9a-f]{48}$/);
    expect(body.url).toBe(`http://127.0.0.1:${server.env.JUPYTER_PORT}/a/b/`);
    expect(body.lab_url).toBe(`${body.url}lab?token=${body.token}`);
    const phases = Object.entries(body.start_ms as Record<string, number>).filter(([name]) => name !== "total");
    expect(phases.reduce((sum, [, ms]) => sum + ms, 0)).toBeCloseTo(body.start_ms.total, 5);
    const again = await server.start({ "ServerApp.base_url": "/a/b/" });
    expect(again.status).toBe(200);
    expect(again.body.pid).toBe(body.pid);
    const other = await server.start({ "base-url": "/c" });
    expect([other.status, other.body.code]).toEqual([409, "already_running"]);
    expect((await server.show()).body).toEqual(body);
  });

  test.each([
    ["/lab/tree/a.ipynb#part", "lab/tree/a.ipynb?token=t#part"],
    ["/lab?reset#part", "lab?reset&token=t#part"],
    ["/", "?token=t"],
  ])("default-url %s gives a lab_url that lets in", async (asked, expected) => {
    await using server = await TestServer.start();
    const { body } = await server.start({ "default-url": asked, token: "t" });
    expect(body.lab_url).toBe(body.url + expected);
  });

  test("writes the connection file for its owner only", async () => {
    await using server = await TestServer.start();
    const { body } = await server.start();
    const path = server.env.CONNECTION_FILE ?? "";
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(statSync(join(path, "..")).mode & 0o777).toBe(0o700);
    expect(await Bun.file(path).json()).toMatchObject({ token: body.token, pid: body.pid, port: body.port });
  });

  test("fails where the connection file can't be written, and leaves nothing", async () => {
    await using server = await TestServer.start();
    const path = server.env.CONNECTION_FILE ?? "";
    mkdirSync(join(path, "in the way"), { recursive: true });
    const { status, body } = await server.start();
    expect([status, body.code]).toEqual([500, "permission_denied"]);
    expect(body.message).toContain(path);
    expect(server.tree()).toEqual([]);
    rmSync(path, { recursive: true });
    await expectNextStartWorks(server);
  });

  test("warns of a PYTHON that does not exec", async () => {
    const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
    const PYTHON = join(folder, "python");
    const write = (command: string) => writeFileSync(PYTHON, `#!/bin/sh\n${command}\n`, { mode: 0o755 });
    write(`${FAKE} "$@"; exit`);
    await using server = await TestServer.start({ PYTHON }, folder);
    expect((await server.start()).body.warnings).toEqual([expect.stringContaining("End it with exec")]);
    await server.stop();
    write(`exec ${FAKE} "$@"`);
    expect((await server.start()).body.warnings).toEqual([]);
  });

  test("a JupyterLab that only writes its own file is found by it, and has each phase once", async () => {
    await using server = await TestServer.start();
    const { status, body } = await server.start(mode("plain"));
    expect([status, body.version]).toEqual([201, "0.0.0"]);
    const { text } = await server.ask("GET", "/metrics");
    expect(text).toMatch(/start_phase_duration_seconds_count\{[^}]*phase="import"[^}]*\} 1\n/);
  });

  test("twenty at once are one process", async () => {
    await using server = await TestServer.start();
    const answers = await Promise.all(Array.from({ length: 20 }, () => server.start()));
    expect(answers.map((answer) => answer.status)).toEqual(Array(20).fill(201));
    expect(new Set(answers.map((answer) => answer.body.pid)).size).toBe(1);
    expect(server.tree()).toEqual([answers[0]?.body.pid]);
  });

  test("other options during a start are refused", async () => {
    await using server = await TestServer.start();
    const gate = join(server.folder, "gate");
    const first = server.start(mode("slow", { FAKE_GATE: gate }));
    const show = await until("starting", async () => [(await server.show()).status].find((status) => status === 202));
    expect(show).toBe(202);
    expect((await server.start()).body.code).toBe("already_running");
    writeFileSync(gate, "");
    expect((await first).status).toBe(201);
  });

  test.each([
    ["", {}],
    ["/u/ann", { PROXY: "true", PUBLIC_URL: "http://127.0.0.1/u/ann" }],
  ])("Prefer: respond-async answers 202 at once, with a location below %p", async (prefix, env) => {
    await using server = await TestServer.start(env);
    const gate = join(server.folder, "gate");
    const { status, headers } = await server.start(mode("slow", { FAKE_GATE: gate }), { prefer: "respond-async" });
    expect([status, headers.get("location")]).toEqual([202, `${prefix}/api/servers/`]);
    writeFileSync(gate, "");
    await until("running", async () => (await server.show()).status === 200);
  });

  test("DELETE cancels it", async () => {
    await using server = await TestServer.start();
    const start = server.start(mode("hang"));
    await until("a process", () => server.tree().length >= 2);
    const refused = await server.ask("DELETE", "/api/servers/?if-idle=true");
    expect([refused.status, refused.body.code]).toEqual([409, "busy"]);
    expect(refused.body.message).toBe("The server was not stopped: it is starting");
    expect((await server.stop()).body).toEqual({ message: "Server shutdown was successful" });
    expect((await start).body.code).toBe("start_cancelled");
    await expectNothingLeft(server);
    expect((await server.show()).body).toMatchObject({ code: "not_running", state: "stopped" });
    await expectNextStartWorks(server);
  });
});

describe("stop", () => {
  test("404 where nothing runs, and after a stop", async () => {
    await using server = await TestServer.start();
    const expectNone = ({ status, body }: Answer) => {
      expect([status, body.code, body.message]).toEqual([404, "not_running", "No running server"]);
    };
    expectNone(await server.stop());
    await server.start();
    expect((await server.stop()).status).toBe(200);
    expectNone(await server.stop());
    expectNone(await server.show());
    expectNone(await server.ask("POST", "/api/servers/restart"));
  });

  test.each(["tree", "stubborn"])("leaves nothing of a %s", async (name) => {
    await using server = await TestServer.start({ STOP_TIMEOUT_S: "1" });
    await server.start(mode(name));
    const tree = await until("a tree of three", () => (server.tree().length === 3 ? server.tree() : undefined));
    expect((await server.stop()).status).toBe(200);
    expect(tree.filter((pid) => existsSync(`/proc/${pid}`) && server.tree().includes(pid))).toEqual([]);
    await expectNothingLeft(server);
  });

  test("a POST during a stop waits, then starts", async () => {
    await using server = await TestServer.start({ STOP_TIMEOUT_S: "1" });
    const first = await server.start(mode("stubborn"));
    const stop = server.stop();
    await until("stopping", async () => (await server.show()).body.state === "stopping");
    const second = await server.start();
    expect(second.status).toBe(201);
    expect(second.body.pid).not.toBe(first.body.pid);
    expect((await stop).status).toBe(200);
  });

  test("a POST that waits for one is cancelled by another DELETE", async () => {
    await using server = await TestServer.start({ STOP_TIMEOUT_S: "1" });
    await server.start(mode("stubborn"));
    const stop = server.stop();
    await until("stopping", async () => (await server.show()).body.state === "stopping");
    expect((await server.start({}, { prefer: "respond-async" })).status).toBe(202);
    expect((await server.stop()).status).toBe(200);
    expect((await stop).status).toBe(200);
    expect((await server.show()).body).toMatchObject({ code: "not_running", state: "stopped" });
    await expectNothingLeft(server);
  });

  test("two at once share it", async () => {
    await using server = await TestServer.start();
    await server.start();
    const answers = await Promise.all([server.stop(), server.stop()]);
    expect(answers.map((answer) => answer.status)).toEqual([200, 200]);
  });

  test("?if-idle=true spares a busy kernel", async () => {
    await using server = await TestServer.start();
    await server.start(mode("busy"));
    for (const word of ["yes", "True", "1", ""]) {
      const { status, body } = await server.ask("DELETE", `/api/servers/?if-idle=${word}`);
      expect([status, body.code, body.message]).toEqual([422, "invalid_options", '"if-idle" must be true or false']);
    }
    const refused = await server.ask("DELETE", "/api/servers/?if-idle=true");
    expect([refused.status, refused.body.code]).toEqual([409, "busy"]);
    expect((await server.show()).status).toBe(200);
    await server.stop();
    await server.start(mode("idle"));
    expect((await server.ask("DELETE", "/api/servers/?if-idle=true")).status).toBe(200);
  });
});

describe("restart", () => {
  test("keeps options, port and token", async () => {
    await using server = await TestServer.start();
    const first = (await server.start({ "base-url": "/x" })).body;
    const { status, body } = await server.ask("POST", "/api/servers/restart");
    expect(status).toBe(201);
    expect(body).toMatchObject({
      token: first.token,
      port: first.port,
      base_url: "/x/",
      options: first.options,
      restarts: 0,
    });
    expect(body.pid).not.toBe(first.pid);
    expect(server.tree()).toEqual([body.pid]);
  });

  test("keeps the secret of cookies, which is another one with another token, and nobody's without one", async () => {
    await using server = await TestServer.start();
    const readSecret = () => {
      const [file = ""] = new Bun.Glob("run/*/jupyter_cookie_secret").scanSync({ cwd: server.folder, absolute: true });
      expect(statSync(file).mode & 0o777).toBe(0o600);
      return read(file);
    };
    const secrets = [];
    for (const token of ["one", "", "two", "one"]) {
      await server.start({ token });
      const secret = readSecret();
      expect(secret).toMatch(/^[A-Za-z0-9+/]{43}=\n$/);
      await server.ask("POST", "/api/servers/restart");
      expect(readSecret()).toBe(secret);
      secrets.push(secret);
      await server.stop();
    }
    expect(secrets[3]).toBe(secrets[0] ?? "");
    expect(new Set(secrets).size).toBe(3);
  });

  test("a DELETE during it wins", async () => {
    await using server = await TestServer.start({ STOP_TIMEOUT_S: "1" });
    await server.start(mode("stubborn"));
    const restart = server.ask("POST", "/api/servers/restart");
    await until("stopping", async () => (await server.show()).body.state === "stopping");
    expect((await server.stop()).status).toBe(200);
    expect((await restart).body.code).toBe("start_cancelled");
    expect((await server.show()).status).toBe(404);
    await expectNothingLeft(server);
  });
});

describe("a crash", () => {
  test("is seen, told and answered with the same port and token", async () => {
    await using server = await TestServer.start();
    const first = (await server.start(mode("tree"))).body;
    process.kill(first.pid, "SIGKILL");
    const next = await server.awaitRestart(first);
    expect(next).toMatchObject({ token: first.token, port: first.port, restarts: 1 });
    expect(next.last_exit).toMatchObject({ code: "crashed", signal: "SIGKILL", exit_code: null });
    expect(next.last_exit.log_tail).toEqual(["fake mode=tree"]);
    await until("one tree", () => server.tree().length === 3);
  });

  test("loop ends as failed, and a POST works again", async () => {
    await using server = await TestServer.start();
    const gate = join(server.folder, "gate");
    await server.start(mode("crash-later", { FAKE_GATE: gate }));
    writeFileSync(gate, "");
    const { body } = await until("failed", async () => {
      const answer = await server.show();
      return answer.body.state === "failed" ? answer : undefined;
    });
    expect(body.last_exit).toMatchObject({ exit_code: 9, code: "crashed" });
    expect(server.log.filter((line) => line.includes("server restarting"))).toHaveLength(3);
    await expectNothingLeft(server);
    rmSync(gate);
    expect((await server.start(mode("crash-later", { FAKE_GATE: gate }))).status).toBe(201);
  }, 30_000);

  test("is final without AUTO_RESTART", async () => {
    await using server = await TestServer.start({ AUTO_RESTART: "false" });
    const { body } = await server.start();
    process.kill(body.pid, "SIGKILL");
    await until("failed", async () => (await server.show()).body.state === "failed");
    await expectNothingLeft(server);
    await expectNextStartWorks(server);
  });

  test("that is none: an end with code 0 is a stop", async () => {
    await using server = await TestServer.start();
    const { body } = await server.start();
    const log = join(server.folder, "run", "jupyterlab.log");
    appendFileSync(
      log,
      'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nValueError: survived\n',
    );
    process.kill(body.pid, "SIGTERM");
    const state = await until("stopped", async () => {
      const { body } = await server.show();
      return body.state === "stopped" ? body : undefined;
    });
    expect(state.last_exit).toMatchObject({ exit_code: 0, code: null, traceback: null });
  });

  test("a DELETE during the pause before a restart cancels it", async () => {
    await using server = await TestServer.start({}, undefined, { restartsMs: [0, 60_000] });
    const gate = join(server.folder, "gate");
    await server.start(mode("crash-later", { FAKE_GATE: gate }));
    writeFileSync(gate, "");
    await until("the second restart", () => server.log.some((line) => line.includes("restarts=2")));
    expect((await server.stop()).status).toBe(200);
    expect((await server.show()).body.state).toBe("stopped");
    await expectNothingLeft(server);
  });
});
