/** Visits through the proxy: who is let in, and what starts a stopped JupyterLab. */
import { describe, expect, test } from "bun:test";
import { FAKE, type Json } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";
import { handshake, LIMIT_MS, startProxy, stateOf, visit } from "./proxied.ts";

const countStarts = async (api: TestServer) =>
  Number(/starts_total\{.*result="success"\} (\d+)/.exec((await api.ask("GET", "/metrics")).text)?.[1] ?? 0);

describe("who is let in", () => {
  test(
    "without an API token: whoever opens a page by a known name, once",
    async () => {
      await using api = await startProxy();
      await api.start({ token: "t" });
      expect(await (await visit(api, "/lab")).text()).toBe("JupyterLab");
      // A token from before does not stand in the way.
      expect(await (await visit(api, "/lab?token=old&reset")).text()).toBe("JupyterLab");
      expect((await visit(api, "/lab", { "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe" })).status).toBe(302);
      expect((await visit(api, "/lab", { "sec-fetch-mode": "cors" })).status).toBe(302);
      expect((await visit(api, "/lab", { accept: "application/json" })).status).toBe(302);
      for (const path of ["/lab", "/headers", "/ws/echo"]) {
        const foreign = await visit(api, path, { host: "evil.example.org" });
        expect([path, foreign.status]).toEqual([path, 403]);
      }
      expect((await visit(api, "/lab", { host: "gateway" })).status).toBe(200);
      const got: Json = await (await fetch(`${api.url}/headers`)).json();
      expect(got.authorization).toBeUndefined();
    },
    LIMIT_MS,
  );

  test(
    "with an API token: a session, JupyterLab's own token, or a program with the API token",
    async () => {
      await using api = await startProxy({ API_TOKEN: "s3cret", PUBLIC_URL: "https://hub.org/u/ann" });
      const { body } = await api.start({ token: "t" });
      const asked = await visit(api, "/lab/tree/a?b=c");
      expect([asked.status, asked.headers.get("location")]).toEqual([200, null]);
      const sent = await visit(api, "/lab?b=c");
      expect([sent.status, sent.headers.get("location")]).toEqual([303, "/u/ann/?next=%2Fu%2Fann%2Flab%3Fb%3Dc"]);
      expect(await (await visit(api, "/lab?token=t")).text()).toBe("JupyterLab");
      const bearer = { authorization: "Bearer s3cret" };
      expect(await (await fetch(`${api.url}/lab`, { headers: bearer })).text()).toBe("JupyterLab");
      expect((await (await fetch(`${api.url}/headers`, { headers: bearer })).json()) as Json).toMatchObject({
        authorization: "token t",
      });
      expect((await fetch(`${api.url}/api/servers/session`, { method: "POST" })).status).toBe(401);
      const session = await api.ask("POST", "/api/servers/session");
      const [set = ""] = session.headers.getSetCookie();
      expect(set).toMatch(
        /^jupyter-session-[0-9a-f]{16}=\d+\.[0-9a-f]{64}; Path=\/u\/ann\/; Max-Age=604800; HttpOnly; SameSite=Lax; Secure$/,
      );
      const cookie = set.split(";")[0] ?? "";
      expect(await (await visit(api, "/lab", { cookie: `a=b; ${cookie}` })).text()).toBe("JupyterLab");
      const got: Json = await (await visit(api, "/headers", { cookie: `a=b; ${cookie}; c=d` })).json();
      expect(got.cookie).toBe("a=b; c=d");
      // A browser can have one of an earlier API token, of the other kind, beside it.
      const earlier = cookie.replace(/\.\w+/, `.${"0".repeat(64)}`);
      for (const both of [`${earlier}; ${cookie}`, `${cookie}; ${earlier}`]) {
        expect((await visit(api, "/lab", { cookie: both })).status).toBe(200);
        const passedOn: Json = await (await visit(api, "/headers", { cookie: `${both}; c=d` })).json();
        expect(passedOn.cookie).toBe("c=d");
      }
      // It opens JupyterLab and nothing else, and an altered or expired one opens nothing.
      for (const [method, path] of [
        ["GET", "/api/servers/"],
        ["POST", "/api/servers/"],
        ["GET", "/metrics"],
      ] as const)
        expect((await fetch(`${api.url}${path}`, { method, headers: { cookie } })).status).toBe(401);
      const later = cookie.replace(/=(\d+)/, (_, time) => `=${Number(time) + 1}`);
      expect((await visit(api, "/lab", { cookie: later })).status).toBe(303);
      expect(body.token).toBe("t");
    },
    LIMIT_MS,
  );

  test(
    "a session is for frames of other sites where EMBED_ORIGINS names some, on https",
    async () => {
      const more = { API_TOKEN: "s3cret", EMBED_ORIGINS: "https://a.org" };
      await using api = await startProxy(more);
      const over = async (scheme: string) =>
        (await api.ask("POST", "/api/servers/session", undefined, { "x-forwarded-proto": scheme })).headers.get(
          "set-cookie",
        );
      expect(await over("https")).toEndWith("HttpOnly; SameSite=None; Partitioned; Secure");
      expect(await over("http")).toEndWith("HttpOnly; SameSite=Lax");
    },
    LIMIT_MS,
  );
});

describe("a stopped JupyterLab", () => {
  test(
    "is started by a visit, with the last options and token, and by 20 at once only once",
    async () => {
      await using api = await startProxy();
      const first = (await api.start({ "base-url": "/x" })).body;
      await api.stop();
      const answers = await Promise.all(Array.from({ length: 20 }, () => visit(api, "/x/lab")));
      expect(await Promise.all(answers.map((answer) => answer.text()))).toEqual(Array(20).fill("JupyterLab"));
      const { body } = await api.show();
      expect(body).toMatchObject({ base_url: "/x/", token: first.token });
      expect(await countStarts(api)).toBe(2);
      const metrics = (await api.ask("GET", "/metrics")).text;
      expect(metrics).toMatch(/visits_total\{result="started"\} 20$/m);
      expect(api.log.join("\n")).toMatch(/server starting.*by_visit=true/);
      // A visit during a stop waits for it.
      const stopping = api.stop();
      expect((await visit(api, "/x/lab")).status).toBe(200);
      await stopping;
      expect((await api.show()).body.token).toBe(first.token);
    },
    LIMIT_MS,
  );

  test(
    "is started with JUPYTER_TOKEN by a bookmark, and at first with the defaults",
    async () => {
      await using api = await startProxy({ API_TOKEN: "s3cret", JUPYTER_TOKEN: "fixed" });
      const unknown = await visit(api, "/lab?token=wrong");
      expect([unknown.status, await stateOf(api)]).toEqual([303, "stopped"]);
      expect(await (await visit(api, "/lab?token=fixed")).text()).toBe("JupyterLab");
      expect((await api.show()).body.token).toBe("fixed");
    },
    LIMIT_MS,
  );

  test(
    "is not started by what a forgotten tab does, and is by what somebody does in it",
    async () => {
      await using api = await startProxy();
      const { body } = await api.start();
      await api.stop();
      const authorization = `token ${body.token}`;
      const ask = (method: string, path: string, headers = { authorization }) =>
        fetch(`${api.url}${path}`, { method, headers });
      // biome-ignore format: a table reads best in rows
      for (const [method, path] of [
        ["GET", "/api/kernels"], ["GET", "/api/sessions"], ["GET", "/api/contents/a?content=1"], ["GET", "/api/contents"],
        ["PUT", "/lab/api/workspaces/default"], ["HEAD", "/api/contents/a?content=0"],
      ] as const) {
        const answer = await ask(method, path);
        expect([path, answer.status, answer.headers.get("retry-after")]).toEqual([path, 503, "5"]);
      }
      expect(await handshake(api, `/api/events/subscribe?token=${body.token}`, [])).toStartWith("HTTP/1.1 503");
      for (const other of ["token wrong", "token ", ""])
        expect((await ask("PUT", "/api/contents/a", { authorization: other })).status).toBe(503);
      expect(await stateOf(api)).toBe("stopped");
      for (const [method, path] of [
        ["GET", "/api/contents/a?content=0"],
        ["PUT", "/api/contents/a"],
        ["POST", "/api/sessions"],
      ] as const) {
        expect((await ask(method, path)).status).toBe(200);
        expect((await api.show()).body.token).toBe(body.token);
        await api.stop();
      }
    },
    LIMIT_MS,
  );

  test.each([
    ["without an API token, by a page of this origin", {}],
    ["with an API token, by a page with a session", { API_TOKEN: "s3cret" }],
  ])(
    "that has no token is started by a save %s, and by no other page",
    async (_title, env) => {
      await using api = await startProxy(env);
      await api.start({ token: "" });
      await api.stop();
      const session = await api.ask("POST", "/api/servers/session");
      const cookie = (session.headers.getSetCookie()[0] ?? "").split(";")[0] ?? "";
      const save = (headers: Record<string, string>) => fetch(`${api.url}/api/contents/a`, { method: "PUT", headers });
      const foreign = [{ origin: "http://evil.example.org" }, { origin: api.url, "sec-fetch-site": "cross-site" }];
      const strangers = cookie ? [{ origin: api.url }, ...foreign] : foreign;
      for (const headers of strangers) expect((await save(headers)).status).toBe(503);
      for (const headers of foreign) expect((await save({ ...headers, cookie })).status).toBe(503);
      expect(await stateOf(api)).toBe("stopped");
      expect((await save({ origin: api.url, cookie })).status).toBe(200);
      expect((await api.show()).body).toMatchObject({ state: "running", token: "" });
    },
    LIMIT_MS,
  );

  test(
    "stays stopped with START_ON_VISIT=false, and a person reads why",
    async () => {
      await using api = await startProxy({ START_ON_VISIT: "false" });
      const answer = await visit(api, "/lab");
      expect([answer.status, answer.headers.get("retry-after")]).toEqual([503, "5"]);
      expect(await answer.text()).toContain("<h1>JupyterLab is not running</h1>");
      expect(await stateOf(api)).toBe("stopped");
    },
    LIMIT_MS,
  );

  test(
    "that can't be started shows a page with the reason and the traceback, escaped",
    async () => {
      const broken = { PYTHON: FAKE, FAKE_MODE: "die-after-listening", PUBLIC_URL: "http://127.0.0.1/p" };
      await using api = await startProxy(broken);
      const crashed = await (await visit(api, "/lab")).text();
      expect(crashed).toContain("<summary>Traceback</summary><pre>Traceback (most recent call last):");
      expect(crashed).toContain("ValueError: not today");
      expect(crashed).toContain('<a href="/p/">open the control page</a>, which offers safe mode');
      expect(crashed).not.toContain("&#34;safe-mode&#34;");
      expect((await api.ask("GET", "/metrics")).text).toMatch(/visits_total\{result="failed"\} 1$/m);
      await using blocked = await TestServer.start({ PROXY: "true", PYTHON: "/nowhere/<python>&" });
      const answer = await visit(blocked, "/lab");
      const page = await answer.text();
      expect([answer.status, answer.headers.get("content-type")]).toEqual([500, "text/html; charset=utf-8"]);
      expect(page).toContain("There is no Python at /nowhere/&#60;python&#62;&#38;");
      expect(answer.headers.get("content-security-policy")).toMatch(
        /^default-src 'none'; style-src 'sha256-.*frame-ancestors 'none'$/,
      );
      expect(await visit(blocked, "/lab", { accept: "*/*" }).then((answer) => answer.json())).toMatchObject({
        code: "jupyterlab_stopped",
      });
    },
    LIMIT_MS,
  );
});
