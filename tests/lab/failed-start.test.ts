/** What a start that fails tells of it, with a small program in JupyterLab's place. */
import { describe, expect, test } from "bun:test";
import { expectNextStartWorks, expectNothingLeft, mode } from "../support/fake.ts";
import { type Json, until } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";

describe("a failed start explains itself", () => {
  const cases: [string, Json][] = [
    [
      "crash",
      {
        status: 500,
        code: "crashed",
        exit_code: 1,
        signal: null,
        traceback: expect.stringContaining("ValueError: no start today"),
      },
    ],
    ["exit", { status: 500, code: "crashed", exit_code: 3, traceback: null, log_tail: ["fake mode=exit"] }],
    ["memory", { status: 500, code: "out_of_memory", exit_code: 1 }],
    ["killed", { status: 500, code: "crashed", exit_code: null, signal: "SIGKILL" }],
    [
      "die-after-listening",
      { status: 500, code: "crashed", exit_code: 7, traceback: expect.stringContaining("not today") },
    ],
    ["refuse-token", { status: 500, code: "config_error" }],
  ];
  test.each(cases)("%s", async (name, expected) => {
    await using server = await TestServer.start();
    const { status, headers, body } = await server.start(mode(name));
    expect(headers.get("content-type")).toBe("application/problem+json");
    expect({ ...body, status }).toMatchObject(expected);
    expect(body.message).toBe(body.detail);
    expect(body.log_tail[0]).toContain("fake mode");
    await expectNothingLeft(server);
    const { status: shown, body: state } = await server.show();
    expect(shown).toBe(404);
    expect(state).toMatchObject({
      message: "No running server",
      state: "failed",
      last_exit: { code: body.code, message: body.message },
    });
    await expectNextStartWorks(server);
  });

  test("a server that answers every request with an error is given up soon, with the error that it logged", async () => {
    await using server = await TestServer.start();
    const { status, body } = await server.start(mode("errors"));
    expect([status, body.code]).toEqual([500, "config_error"]);
    const logged = "[E 2026-01-01 00:00:00.000 ServerApp] Illegal cookie name";
    expect(body.message).toStartWith(
      `JupyterLab answers every request with an error (status 500 at /api/me); its log says: ${logged}`,
    );
    await expectNothingLeft(server);
  });

  test("a start that hangs ends with its tree", async () => {
    await using server = await TestServer.start({ START_TIMEOUT_S: "1" });
    // On a loaded machine a second is not always enough for the first line, nor for a whole start.
    const body = await until("a start that has written its line", async () => {
      const { status, body } = await server.start(mode("hang"));
      expect([status, body.code]).toEqual([504, "start_timeout"]);
      await expectNothingLeft(server);
      return body.log_tail.length > 0 ? body : undefined;
    });
    expect(body.log_tail).toEqual(["fake mode=hang"]);
    await until("the next start", async () => (await server.start()).status === 201);
    expect((await server.stop()).status).toBe(200);
  });

  test("the log tail has 50 lines and no token", async () => {
    await using server = await TestServer.start();
    const { body, text } = await server.start({ ...mode("talk"), token: "a-token-of-mine" });
    expect(body.log_tail).toHaveLength(50);
    expect(body.log_tail.slice(-2)).toEqual(["token=*** ***", "last words without an end: ***"]);
    const { text: logs } = await server.ask("GET", "/api/servers/logs");
    const { text: next } = await server.start(mode("exit"));
    for (const written of [text, logs, next, ...server.output]) expect(written).not.toContain("a-token-of-mine");
    expect(server.output).toContain("last words without an end: ***");
  });

  test.each([
    ["no Python", { PYTHON: "/nowhere/python" }, 500, "jupyter_not_found"],
    ["no configuration file", { JUPYTER_CONFIG_FILE: "/nowhere/config.py" }, 500, "config_error"],
    ["a notebook folder that can't be made", { NOTEBOOK_DIR: "/proc/nowhere" }, 500, "config_error"],
  ])("%s", async (_title, env, status, code) => {
    await using server = await TestServer.start(env as Record<string, string>);
    const { body, ...answer } = await server.start();
    expect([answer.status, body.code]).toEqual([status, code]);
    expect(body.message).toContain(Object.values(env)[0]);
    // Only what safe mode leaves out is a reason to advise it.
    expect(body.message.includes('"safe-mode": true')).toBe("JUPYTER_CONFIG_FILE" in env);
    expect(body).toMatchObject({ exit_code: null, signal: null, log_tail: [], traceback: null });
    expect(server.tree()).toEqual([]);
  });
});
