/** The HTTP interface, the same under Bun and under Deno (RUNTIME=deno): access, errors, documents, and one real JupyterLab. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { NO_TEMPLATE, PYTHON } from "../support/helpers.ts";
import { exchange } from "../support/raw.ts";
import { TestServer } from "../support/test-server.ts";

let server: TestServer;
let guarded: TestServer;
beforeAll(async () => {
  [server, guarded] = await Promise.all([
    TestServer.start({ ALLOWED_HOSTS: "hub.example.org", PUBLIC_URL: "https://lab.example.org" }),
    TestServer.start({ API_TOKEN: "of-the-api" }),
  ]);
}, 60_000);
afterAll(async () => {
  await Promise.all([server[Symbol.asyncDispose](), guarded[Symbol.asyncDispose]()]);
});

describe("errors", () => {
  const json = { "content-type": "application/json" };
  test.each([
    ["POST", "/api/servers/", "{", json, 400, "invalid_json"],
    ["POST", "/api/servers/", "[]", json, 422, "invalid_options"],
    ["POST", "/api/servers", "null", json, 422, "invalid_options"],
    ["POST", "/api/servers/", '{"nonsense": 1}', json, 422, "invalid_options"],
    ["POST", "/api/servers/", '{"token": 5}', json, 422, "invalid_options"],
    ["POST", "/api/servers/", "[".repeat(30_000) + "]".repeat(30_000), json, 422, "invalid_options"],
    ["POST", "/api/servers/", `${'{"a":'.repeat(10_000)}1${"}".repeat(10_000)}`, json, 422, "invalid_options"],
    ["POST", "/api/servers/", "{}", { "content-type": "text/plain" }, 415, "unsupported_media_type"],
    [
      "POST",
      "/api/servers/",
      "a=b",
      { "content-type": "application/x-www-form-urlencoded" },
      415,
      "unsupported_media_type",
    ],
    ["POST", "/api/servers/", JSON.stringify({ token: "x".repeat(65 * 1024) }), json, 413, "payload_too_large"],
    ["POST", "/api/servers/restart/", undefined, {}, 404, "not_running"],
    ["PUT", "/api/servers/", undefined, {}, 405, "method_not_allowed"],
    ["GET", "/api/servers/restart", undefined, {}, 405, "method_not_allowed"],
    ["GET", "/nothing/here", undefined, {}, 404, "not_found"],
    ["GET", "/api/servers", undefined, {}, 404, "not_running"],
    ["DELETE", "/api/servers", undefined, {}, 404, "not_running"],
  ] as const)("%s %s %#", async (method, path, body, headers, status, code) => {
    const answer = await server.ask(method, path, body, headers);
    expect([answer.status, answer.body.code, answer.body.status]).toEqual([status, code, status]);
    expect(answer.headers.get("content-type")).toBe("application/problem+json");
    expect(answer.body).toMatchObject({
      type: expect.any(String),
      title: expect.any(String),
      message: answer.body.detail,
    });
  });

  test("405 names the methods", async () => {
    const { headers } = await server.ask("PATCH", "/api/servers/");
    expect(headers.get("allow")?.split(", ").sort()).toEqual(["DELETE", "GET", "HEAD", "POST"]);
  });

  test("422 names every key and its rule, and repeats no value", async () => {
    const { body } = await server.start({ token: 5, "base-url": "no-slash-here", nonsense: "kept-quiet" });
    expect(body.message).toContain('"token" must be a string without control characters');
    expect(body.message).toContain('"nonsense" is not an option');
    expect(body.message).not.toMatch(/kept-quiet|no-slash-here/);
  });

  test.each([
    ["if_idle=true", '"if_idle" is not a parameter of this query; the parameters are if-idle'],
    ["if-idle=true&if_idle=kept-quiet&x", '"if_idle" is not a parameter of this query; "x" is not'],
    ["%3Cb%3E=1", "A key with unusual characters is not a parameter of this query"],
    ["__proto__=1", '"__proto__" is not'],
    ["if-idle=kept-quiet", '"if-idle" must be true or false'],
    ["if-idle=true&if-idle=false", '"if-idle" must be given once'],
  ])("422 names the parameters of ?%s, and repeats no value", async (query, named) => {
    const { status, body } = await server.ask("DELETE", `/api/servers/?${query}`);
    expect([status, body.code, body.message]).toEqual([422, "invalid_options", expect.stringContaining(named)]);
    expect(body.message).not.toMatch(/kept-quiet|<b>/);
  });
});

test("413 also where the size is not told beforehand", async () => {
  const chunk = new TextEncoder().encode("x".repeat(10_000));
  let left = 10;
  const body = new ReadableStream({
    pull: (controller) => (left-- > 0 ? controller.enqueue(chunk) : controller.close()),
  });
  const headers = { "content-type": "application/json" };
  const answer = await fetch(`${server.url}/api/servers/`, { method: "POST", headers, body });
  expect([answer.status, ((await answer.json()) as { code: string }).code]).toEqual([413, "payload_too_large"]);
});

test.each([
  ["Content-Length: 7", "{}"],
  ["Transfer-Encoding: chunked", "5\r\n{}"],
  ["Transfer-Encoding: chunked", "x\r\n{}"],
])("a client that breaks off its body (%s, %j) is no error of this program", async (field, body) => {
  const head = ["POST /api/servers/ HTTP/1.1", "Host: localhost", "Content-Type: application/json", field];
  await exchange(Number(server.env.PORT), [...head, "", body]);
  expect((await server.show()).status).toBe(404);
  expect(server.log.filter((line) => line.includes("unexpected"))).toEqual([]);
});

describe("access", () => {
  const show = (headers: Record<string, string>) => server.ask("GET", "/api/servers/", undefined, headers);

  test.each([
    [{ "sec-fetch-site": "same-origin" }, 404],
    [{ "sec-fetch-site": "none" }, 404],
    [{ "sec-fetch-site": "same-site" }, 403],
    [{ "sec-fetch-site": "cross-site" }, 403],
    [{ origin: "https://example.org" }, 403],
    [{ origin: "null" }, 403],
  ])("a browser with %o gets %d", async (headers, status) => {
    const answer = await show(headers as Record<string, string>);
    expect(answer.status).toBe(status);
    if (status === 403) expect(answer.body.code).toBe("forbidden_origin");
  });

  test.each([
    "127.0.0.1",
    "[::1]:8080",
    "localhost",
    "LOCALHOST.:8080",
    "jupyter-server",
    "lab:8080",
    "hub.example.org",
    "HUB.example.org.:80",
    "lab.example.org",
  ])("without an API token, Host %s is let in", async (host) => {
    expect((await show({ host })).body.code).toBe("not_running");
    expect((await show({ host, "sec-fetch-site": "same-origin" })).body.code).toBe("not_running");
  });

  test.each([
    "rebind.evil.test",
    "rebind.evil.test:8080",
    "REBIND.EVIL.TEST.",
    "127.0.0.1.evil.test",
    "hub.example.org.evil.test",
    "localhost@evil.test",
    "localhost, evil.test",
    "evil.test#localhost",
    "localhost/",
    "a b",
    "lab:99999",
    "xn--",
    "1.2.3.4.5",
    "[::1%25eth0]",
  ])("without an API token, Host %s is refused with and without the headers of a browser", async (host) => {
    for (const browser of [{}, { "sec-fetch-site": "same-origin" }, { origin: `http://${host}` }]) {
      const { status, body } = await show({ host, ...browser } as Record<string, string>);
      expect([status, body.code]).toEqual([403, "forbidden_origin"]);
      expect(body.message).toContain("ALLOWED_HOSTS");
    }
    for (const path of ["/", "/docs", "/docs/json", "/metrics", "/api/servers/logs", "/nothing"])
      expect((await server.ask("GET", path, undefined, { host })).status).toBe(403);
    for (const method of ["POST", "DELETE", "OPTIONS"])
      expect((await server.ask(method, "/api/servers/", undefined, { host })).status).toBe(403);
    // Deno takes a part of such a host for a part of the path.
    if (/[/#]/.test(host)) return;
    expect((await server.ask("GET", "/health/ready", undefined, { host })).body.message).toBe("ready");
    expect((await guarded.ask("GET", "/api/servers/", undefined, { host })).body.code).toBe("not_running");
  });

  test("a fragment is no part of the path, for authorization as for routing", async () => {
    const text = await exchange(Number(guarded.env.PORT), ["GET /#/../api/servers/ HTTP/1.1", "Host: lab", "", ""]);
    expect(text).toMatch(/^HTTP\/1\.1 200.*<!doctype html>/is);
  });

  test("a request without a Host has no known one", async () => {
    for (const fields of [[], ["Host:"]]) {
      const text = await exchange(Number(server.env.PORT), ["GET /api/servers/ HTTP/1.0", ...fields, "", ""]);
      // Deno gives such a request the address that it listens on.
      expect(text).toMatch(process.env.RUNTIME === "deno" && fields.length === 0 ? /"not_running"/ : /ALLOWED_HOSTS/);
    }
  });

  test.each(["http", "HTTP", "ftp", "x+y"])("a target's own host with scheme %s does not count", async (scheme) => {
    for (const authority of ["localhost", "user:secret@localhost", "evil.test:99999"]) {
      const target = `${scheme}://${authority}/api/servers/`;
      const text = await exchange(Number(server.env.PORT), [`GET ${target} HTTP/1.1`, "Host: evil.test", "", ""]);
      expect(text).toMatch(/^HTTP\/1\.1 40[03]/);
    }
  });

  test.each([
    ["abc/health", "/api/servers/"],
    ["a/health", "/api/servers/"],
    ["a/b", "/health/xxx/api/servers/"],
    ["a b", "/docs/xxxxx/api/servers/"],
    ["localhost", "/health/%2e%2e/api/servers/"],
  ])("with an API token, Host %s opens no way to a server at %s", async (host, path) => {
    const { status, body } = await guarded.ask("GET", path, undefined, { host, authorization: "" });
    expect([status, body.code]).toBeOneOf([
      [401, "unauthorized"],
      [404, "not_found"],
    ]);
  });

  test("pages may be linked to", async () => {
    const answer = await server.ask("GET", "/docs", undefined, { "sec-fetch-site": "cross-site" });
    expect([answer.status, answer.headers.get("content-type")]).toEqual([200, "text/html; charset=utf-8"]);
    expect(answer.text).not.toMatch(/https?:\/\//);
  });

  test.each([
    [{ authorization: "" }, 401],
    [{ authorization: "Bearer wrong" }, 401],
    [{ authorization: "Basic of-the-api" }, 401],
    [{ authorization: "Bearer of-the-api" }, 404],
    [{ authorization: "token of-the-api" }, 404],
  ])("with an API token, %o gets %d", async (headers, status) => {
    const answer = await guarded.ask("GET", "/api/servers/", undefined, headers as Record<string, string>);
    expect(answer.status).toBe(status);
    if (status === 401) expect(answer.headers.get("www-authenticate")).toStartWith("Bearer");
  });

  test("with an API token, probes and pages need none, the document does", async () => {
    const status = async (path: string) => (await fetch(`${guarded.url}${path}`)).status;
    expect(await status("/health/live")).toBe(200);
    expect(await status("/health/ready")).toBe(200);
    expect(await status("/docs")).toBe(200);
    expect(await status("/docs/swagger-ui.css")).toBe(200);
    expect(await status("/docs/json")).toBe(401);
    expect((await guarded.ask("HEAD", "/", undefined, { authorization: "" })).status).toBe(200);
  });
});

test("the OpenAPI document has the schema that checks, and only JSON bodies", async () => {
  const { body } = await server.ask("GET", "/docs/json");
  const post = body.paths["/api/servers/"].post;
  expect(Object.keys(post.requestBody.content)).toEqual(["application/json"]);
  expect(Object.keys(post.requestBody.content["application/json"].schema.properties)).toContain("gateway-required");
  expect(Object.keys(post.responses).sort()).toEqual([
    "200",
    "201",
    "202",
    "400",
    "401",
    "403",
    "409",
    "413",
    "415",
    "422",
    "500",
    "502",
    "503",
    "504",
  ]);
});

test("events are streamed, and end when their reader goes", async () => {
  const response = await fetch(`${server.url}/api/servers/events`);
  expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
  expect(response.headers.get("cache-control")).toBe("no-store, no-transform");
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  let text = "";
  while (!/"state":"stopped".*\n\n/.test(text)) text += new TextDecoder().decode((await reader.read()).value);
  expect(text).toMatch(/id: \d{16}\nevent: state\n/);
  await reader.cancel();
  for (const path of ["/api/servers/events", "/api/servers/logs?follow=true"]) {
    const { status, headers } = await server.ask("HEAD", path);
    expect([status, headers.get("content-type")]).toEqual([200, "text/event-stream; charset=utf-8"]);
  }
});

test("starts and stops a real JupyterLab", async () => {
  await using real = await TestServer.start({ PYTHON, ...NO_TEMPLATE });
  const { status, body } = await real.start({ "base-url": "/x" });
  expect(status).toBe(201);
  const me = await fetch(`${body.url}api/status`, { headers: { authorization: `token ${body.token}` } });
  expect(me.status).toBe(200);
  expect((await fetch(`${body.url}api/status`)).status).toBe(403);
  expect((await real.stop()).status).toBe(200);
  expect(real.tree()).toEqual([]);
}, 20_000);

const NO_PAGE = "default-src 'none'; frame-ancestors 'none'";

test.each([
  ["GET", "/health/live"],
  ["GET", "/api/servers/"],
  ["GET", "/api/servers/activity"],
  ["GET", "/api/servers/logs"],
  ["GET", "/docs/json"],
  ["GET", "/metrics"],
  ["GET", "/nothing"],
  ["HEAD", "/api/servers/"],
  ["HEAD", "/api/servers/events"],
  ["HEAD", "/api/servers/logs?follow=true"],
  ["OPTIONS", "/api/servers/"],
  ["PUT", "/api/servers/"],
  ["POST", "/api/servers/restart"],
  ["DELETE", "/api/servers/"],
])("the answer to %s %s can't be shown in a frame, nor read by another origin", async (method, path) => {
  for (const one of [server, guarded]) {
    for (const browser of [{}, { authorization: "" }, { "sec-fetch-site": "cross-site" }]) {
      const entry = one === guarded ? { authorization: "Bearer of-the-api" } : {};
      const { headers, body } = await fetch(`${one.url}${path}`, { method, headers: { ...entry, ...browser } });
      await body?.cancel();
      expect(headers.get("content-security-policy")).toBe(NO_PAGE);
      expect(headers.get("cross-origin-opener-policy")).toBe("same-origin");
      expect(headers.get("cross-origin-resource-policy")).toBe("same-origin");
    }
  }
});

test("a compressed body is refused, and a broken one is told by line and column", async () => {
  const packed = await server.ask("POST", "/api/servers/", "{}", { "content-encoding": "gzip" });
  expect([packed.status, packed.body.code]).toEqual([415, "unsupported_media_type"]);
  const broken = await server.ask("POST", "/api/servers/", '{"token": "a",\n  "env": {"A": }}');
  expect([broken.status, broken.body.code]).toEqual([400, "invalid_json"]);
  expect(broken.body.message).toContain("line 2, column 16");
});

test("an event stream has the headers of every answer, and a page a policy of its own", async () => {
  for (const path of ["/api/servers/events", "/api/servers/logs?follow=true"]) {
    const { headers, body } = await fetch(`${server.url}${path}`);
    expect(headers.get("content-security-policy")).toBe(NO_PAGE);
    expect(headers.get("cross-origin-opener-policy")).toBe("same-origin");
    await body?.cancel();
  }
  for (const path of ["/", "/docs", "/page/base.css", "/docs/swagger-ui.css"]) {
    const { headers } = await server.ask("GET", path);
    expect(headers.get("content-security-policy")).toMatch(/script-src|default-src 'self'/);
    expect(headers.get("cross-origin-opener-policy")).toBe("same-origin");
    expect(headers.get("cross-origin-resource-policy")).toBe("same-origin");
  }
});
