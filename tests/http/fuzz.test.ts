/**
 * Generated requests to every route that the OpenAPI document names: no unexpected error, no hang, no echo of what was
 * sent, and every answer as the document promises it. FUZZ_REQUESTS for each route (`bun run fuzz`: 20,000), FUZZ_SEED
 * to repeat a run.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import Ajv from "ajv";
import addFormats from "ajv-formats";
import fc from "fast-check";
import { createApp } from "../../app.ts";
import { parseConfig } from "../../config.ts";
import { STATUS_BY_CODE } from "../../lib/errors.ts";
import { character, host } from "../support/arbitraries.ts";
import type { Json } from "../support/helpers.ts";
import { exchange } from "../support/raw.ts";
import { TestServer } from "../support/test-server.ts";

const REQUESTS = Number(process.env.FUZZ_REQUESTS ?? 300);
const SEED = Number(process.env.FUZZ_SEED ?? 20_261_124);
const ANSWER_LIMIT_MS = 10_000;
const LAUNCH_LIMIT_MS = 60_000;
const API_TOKEN = "of-the-api";
/** Stands in every value that is sent; no answer may hold it. */
const CANARY = "zqCanary";

const document: Json = await (async () => {
  const config = parseConfig({}, import.meta.dirname);
  const { app } = createApp(config, { writeLog: () => {}, writeOutput: () => {} });
  return (await app.fetch(new Request("http://localhost/docs/json"))).json();
})();

const routes = Object.entries(document.paths as Json).flatMap(([path, methods]) =>
  Object.entries(methods as Json).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
);

const ajv = new Ajv({ strict: false, allErrors: false });
addFormats(ajv);
const validators = new Map<object, ReturnType<typeof ajv.compile>>();

/** What an answer breaks of the document's promises; undefined where it keeps them. */
async function findBreach(response: Response, path: string, method: string): Promise<string | undefined> {
  const type = response.headers.get("content-type")?.split(";")[0] ?? "";
  const isStream = type === "text/event-stream";
  if (isStream) await response.body?.cancel();
  const text = isStream ? "" : await response.text();
  if (text.includes(CANARY)) return `echoes what was sent: ${text.slice(0, 300)}`;
  // The answer to a HEAD is that to a GET, without its body.
  if (method === "HEAD") return text === "" && response.status < 500 ? undefined : `status ${response.status} ${text}`;
  const body: Json = type.endsWith("json") ? JSON.parse(text) : undefined;
  if (response.status >= 500 && response.status !== 503) return `status ${response.status}: ${text.slice(0, 500)}`;
  if (response.status >= 400) {
    if (type !== "application/problem+json") return `an error of type ${type}`;
    if (STATUS_BY_CODE[body.code as keyof typeof STATUS_BY_CODE] !== response.status) return `code ${body.code}`;
  }
  const operation: Json = document.paths[path]?.[method.toLowerCase()];
  if (!operation) return response.status >= 400 ? undefined : `status ${response.status} where nothing is documented`;
  // What the frame of every route answers, whatever the route is.
  if (["forbidden_origin", "unauthorized", "method_not_allowed", "not_found"].includes(body?.code)) return undefined;
  const answer: Json = operation.responses[response.status];
  if (!answer) return `status ${response.status} is not documented: ${text.slice(0, 200)}`;
  const media: Json = answer.content?.[type];
  if (!media) return text === "" ? undefined : `type ${type} is not documented for ${response.status}`;
  if (!media.schema || !body) return undefined;
  let validate = validators.get(media.schema);
  if (!validate) {
    validate = ajv.compile(media.schema);
    validators.set(media.schema, validate);
  }
  return validate(body) ? undefined : `body: ${ajv.errorsText(validate.errors)} ${text.slice(0, 200)}`;
}

const poison = fc.string({ unit: character, maxLength: 40 }).map((text) => `${text}${CANARY}`);
/** An unknown key or parameter is named in the answer where it looks like one: this never does. */
const badKey = poison.map((text) => `${text}$`);
const url = fc.constantFrom(
  `http://${CANARY}`,
  `ftp://${CANARY}`,
  `http://a:b@${CANARY}/`,
  `https://${CANARY}/?token=1`,
);
const path = fc.oneof(
  poison,
  poison.map((text) => `/${text}`),
  fc.constantFrom(`/../${CANARY}`, `//${CANARY}`, "/", "/lab"),
);
const wrong = fc.oneof(fc.jsonValue(), poison, fc.integer(), fc.constant(null));
const option = (valid: fc.Arbitrary<unknown>) =>
  fc.option(fc.oneof({ weight: 3, arbitrary: valid }, wrong), { nil: undefined });
/** Bodies by the schema and off it. */
const body = fc.oneof(
  fc.record({
    "gateway-url": option(url),
    "gateway-auth-token": option(poison),
    "gateway-required": option(fc.boolean()),
    "base-url": option(path),
    "ServerApp.base_url": option(path),
    token: option(poison),
    "notebook-dir": option(path),
    "default-url": option(path),
    env: option(fc.dictionary(fc.oneof(fc.constantFrom("PATH", "A_B", "API_TOKEN"), badKey), poison)),
    "safe-mode": option(fc.boolean()),
    embed: option(fc.array(url)),
    "ServerApp.port": option(fc.integer()),
    "MappingKernelManager.cull_idle_timeout": option(fc.integer()),
  }),
  fc.dictionary(fc.oneof(badKey, fc.constantFrom("__proto__", "constructor", "ServerApp.x", "a.b")), wrong),
  fc.jsonValue(),
);
const rawBody = fc.oneof(
  { weight: 6, arbitrary: body.map((value) => JSON.stringify(value)) },
  poison,
  fc.constantFrom("", "{", "[".repeat(20_000), `"${"x".repeat(70_000)}"`, '{"token": "\\ud800"}', "\u0000"),
);
const header = (...values: string[]) => fc.option(fc.constantFrom(...values), { nil: undefined });
const headers = fc.record({
  "content-type": header("application/json", "application/json; charset=utf-8", "text/plain", `x/${CANARY}`),
  "content-length": header("5", "999999", "-1", CANARY),
  "content-encoding": header("gzip", "br"),
  origin: header(`https://${CANARY}.example.org`, "null", "http://localhost"),
  "sec-fetch-site": header("same-origin", "cross-site", "none", CANARY),
  authorization: header(`Bearer ${CANARY}`, `Basic ${CANARY}`),
  accept: header("text/html", "text/event-stream", CANARY),
  prefer: header("respond-async", `wait=1, ${CANARY}`),
  "last-event-id": header("0", "12", "999999999999", "-1", CANARY),
  cookie: header(`a=${CANARY}`),
  "x-forwarded-host": header(CANARY),
});
const query = fc.oneof(
  { weight: 3, arbitrary: fc.constant("") },
  fc.constantFrom(
    "?if-idle=true",
    `?if-idle=${CANARY}`,
    "?tail=5",
    "?tail=-1",
    `?tail=${CANARY}`,
    "?follow=true",
    "?tail=1e9",
    "?%",
    "?a[]=1",
  ),
  badKey.map((text) => `?${encodeURIComponent(text.toWellFormed())}=1`),
);
const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"];

/** Requests to one route: mostly by its own method, with and without the slash at its end. */
const requestsTo = (route: { path: string; method: string }) =>
  fc.record({
    method: fc.oneof({ weight: 4, arbitrary: fc.constant(route.method) }, fc.constantFrom(...METHODS)),
    path: fc.constantFrom(route.path, route.path.replace(/\/$/, "") || "/"),
    query,
    headers,
    body: rawBody,
  });

describe("each route keeps its promises:", () => {
  let server: TestServer;
  beforeAll(async () => {
    // A kernel of the stand-in is busy for ever, so that `if-idle` never stops it.
    server = await TestServer.start({ FAKE_MODE: "busy" });
  }, LAUNCH_LIMIT_MS);
  // It runs already, unless a test before has failed.
  beforeEach(async () => {
    await server.start();
  }, LAUNCH_LIMIT_MS);
  afterAll(() => server[Symbol.asyncDispose]());

  test.each(routes)(
    "$method $path",
    async (route) => {
      await fc.assert(
        fc.asyncProperty(requestsTo(route), async ({ method, path, query, headers, body }) => {
          // What stops or restarts the server has tests of its own.
          if (method === "DELETE" || path.endsWith("restart")) query = query === "" ? "?if-idle=true" : query;
          if (method === "DELETE" && query !== "?if-idle=true") return;
          if (method === "POST" && path.endsWith("restart")) headers = { ...headers, "sec-fetch-site": "cross-site" };
          const sent = Object.entries(headers).filter((entry): entry is [string, string] => entry[1] !== undefined);
          const withBody = method !== "GET" && method !== "HEAD" && body !== "";
          const response = await fetch(`${server.url}${path}${query}`, {
            method,
            headers: sent.filter(([name]) => name !== "content-length"),
            redirect: "manual",
            signal: AbortSignal.timeout(ANSWER_LIMIT_MS),
            ...(withBody ? { body } : {}),
          });
          const breach = await findBreach(response, route.path, method);
          if (breach) throw new Error(breach);
        }),
        { numRuns: REQUESTS, seed: SEED, endOnFailure: false },
      );
      expect((await server.show()).status).toBe(200);
    },
    { timeout: 60_000 + REQUESTS * 20 },
  );
});

const routePath = fc.constantFrom(
  ...routes.map(({ path }) => path).filter((path) => !path.endsWith("restart")),
  "/",
  "/docs",
  "/docs/json",
  "/nothing",
  "*",
  "",
);
const target = fc.oneof(
  { weight: 4, arbitrary: routePath },
  fc
    .tuple(
      fc.constantFrom("http", "HTTP", "https", "ftp", "ws", "file", "javascript", "a+b.c", "blob:http"),
      host,
      routePath,
    )
    .map(([scheme, host, path]) => `${scheme}://${host}${path}`),
  fc
    .tuple(fc.constantFrom("//", "/\\", "/@", "/%2e%2e/", "/%00", "/;/", "?", "#", "/a#"), host)
    .map((parts) => parts.join("")),
  host,
);
const site = fc.constantFrom("none", "same-origin", "cross-site", CANARY);
/** Header fields that routes and guards read, each as often as it likes. */
const guardField = fc.oneof(
  { weight: 3, arbitrary: host.map((host) => `Host: ${host}`) },
  {
    weight: 3,
    arbitrary: fc
      .tuple(fc.constantFrom("http", "https", "null", "a+b", "file"), host)
      .map(([scheme, host]) => `Origin: ${scheme}://${host}`),
  },
  { weight: 2, arbitrary: fc.constant(`Authorization: Bearer ${API_TOKEN}`) },
  site.map((site) => `Sec-Fetch-Site: ${site}`),
  fc.constantFrom(
    "Origin: null",
    "Origin:",
    `Authorization: Bearer ${CANARY}`,
    "Connection: close, upgrade",
    "Upgrade: websocket",
    "Content-Length: 0",
    "Transfer-Encoding: gzip",
    `Forwarded: host=${CANARY}`,
    "X-HTTP-Method-Override: DELETE",
  ),
);
/** Whole requests with such hosts and targets, but those that stop or restart the server. */
const wholeRequest = fc
  .record({
    method: fc.constantFrom("GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"),
    target,
    version: fc.constantFrom("HTTP/1.1", "HTTP/1.1", "HTTP/1.0"),
    host: fc.option(host, { nil: undefined }),
    fields: fc.array(guardField, { maxLength: 4 }),
  })
  .map(({ method, target, version, host, fields }) =>
    [`${method} ${target} ${version}`, ...(host === undefined ? [] : [`Host: ${host}`]), ...fields, "", ""].join(
      "\r\n",
    ),
  );

const line = fc.oneof(
  fc.constantFrom(
    "GET / HTTP/1.1",
    "GET /api/servers/ HTTP/1.1",
    "POST /api/servers/ HTTP/1.1",
    "GET /api/servers/ HTTP/9.9",
    "\u0000",
  ),
  fc.string({ unit: character, maxLength: 200 }),
  fc.constant(`GET /${"a".repeat(20_000)} HTTP/1.1`),
  poison.map((text) => `GET /${encodeURIComponent(text.toWellFormed())}/../%2e%2e/ HTTP/1.1`),
);
const field = fc.oneof(
  fc.constantFrom(
    "Host: localhost",
    "Host:",
    "Content-Length: 7",
    "Content-Length: x",
    "Transfer-Encoding: chunked",
    "Expect: 100-continue",
  ),
  fc.string({ unit: character, maxLength: 100 }),
  fc.constant(`X: ${"y".repeat(30_000)}`),
);

const bytes = fc
  .tuple(line, fc.array(field, { maxLength: 6 }), fc.string({ maxLength: 50 }))
  .map(([first, fields, rest]) => `${[first, ...fields].join("\r\n")}\r\n\r\n${rest}`);

describe.each([
  ["with and without an API token, any host and target", wholeRequest, [{}, { API_TOKEN }]],
  ["bytes that are no request", bytes, [{}]],
] as const)("%s", (_, sent, environments) => {
  test.each(environments)(
    "get an answer or a closed connection, and the next request is served: %o",
    async (environment) => {
      await using server = await TestServer.start({ ...environment });
      await server.start();
      await fc.assert(
        fc.asyncProperty(sent, async (request) => {
          const text = await exchange(Number(server.env.PORT), Buffer.from(request, "latin1"));
          if (text.includes(CANARY)) throw new Error(`echoes what was sent: ${text}`);
          if (/^HTTP\/1\.1 500/.test(text)) throw new Error(text);
        }),
        { numRuns: REQUESTS, seed: SEED, endOnFailure: true },
      );
      expect(server.log.filter((line) => line.includes("unexpected"))).toEqual([]);
      // A request that happened to be a whole one has started a server.
      expect([200, 202, 404]).toContain((await server.show()).status);
    },
    { timeout: 60_000 + REQUESTS * 20 },
  );
});
