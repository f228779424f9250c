/** The OpenAPI document: what a linter says of it, and what it must hold. */
import { beforeAll, expect, test } from "bun:test";
import { createConfig, lintFromString } from "@redocly/openapi-core";
import { STATUS_BY_CODE } from "../../lib/errors.ts";
import type { Json } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";

let text: string;
let document: Json;
beforeAll(async () => {
  await using server = await TestServer.start();
  ({ text, body: document } = await server.ask("GET", "/docs/json"));
});

const operations = (): [string, Json][] =>
  Object.entries(document.paths as Json).flatMap(([path, methods]) =>
    Object.entries(methods as Json).map(([method, operation]): [string, Json] => [`${method} ${path}`, operation]),
  );

test("passes a linter with its strictest rules but two", async () => {
  const config = await createConfig({
    extends: ["recommended-strict"],
    rules: {
      // The contract's own paths; those without the slash work too.
      "no-path-trailing-slash": "off",
      // Probes of health can't be wrong.
      "operation-4xx-response": "off",
    },
  });
  const problems = await lintFromString({ source: text, absoluteRef: "openapi.json", config });
  expect(problems.map(({ ruleId, message, location }) => `${ruleId}: ${message} ${location[0]?.pointer}`)).toEqual([]);
});

test("has every route, described, with examples of what it answers", () => {
  expect(
    operations()
      .map(([name]) => name)
      .sort(),
  ).toEqual([
    "delete /api/servers/",
    "get /api/servers/",
    "get /api/servers/activity",
    "get /api/servers/events",
    "get /api/servers/logs",
    "get /health/live",
    "get /health/ready",
    "get /metrics",
    "post /api/servers/",
    "post /api/servers/restart",
    "post /api/servers/session",
  ]);
  for (const [name, { summary, responses }] of operations()) {
    expect([name, summary]).toEqual([name, expect.any(String)]);
    for (const [status, { description, content }] of Object.entries(responses as Json) as [string, Json][]) {
      expect([name, status, description]).toEqual([name, status, expect.any(String)]);
      for (const [type, media] of Object.entries(content as Json) as [string, Json][]) {
        const hasExample = media.example !== undefined || media.schema.examples?.length > 0;
        expect([name, status, type, hasExample]).toEqual([name, status, type, true]);
      }
    }
  }
});

test("has no references, which its page does not look for", () => {
  expect(text).not.toContain('"$ref"');
});

test("describes the headers that a client has to know, and where it needs no token", () => {
  const { post, get } = document.paths["/api/servers/"];
  expect(post.parameters.map(({ name }: Json) => name)).toContain("prefer");
  expect(Object.keys(post.responses[202].headers)).toEqual(["Location", "Preference-Applied"]);
  expect(Object.keys(get.responses[401].headers)).toEqual(["WWW-Authenticate"]);
  expect(Object.keys(post.requestBody.content)).toEqual(["application/json"]);
  expect(post.requestBody.required).toBe(false);
  const isOpen = ([, { security }]: [string, Json]) => security?.length === 0;
  expect(
    operations()
      .filter(isOpen)
      .map(([name]) => name),
  ).toEqual(["get /health/live", "get /health/ready"]);
});

/** The codes of the errors that a route is said to answer with; more than one can have the same status. */
const errorsOf = (name: string): string[] => {
  const { responses } = Object.fromEntries(operations())[name];
  const descriptions = Object.values(responses as Json).map(({ description }: Json) => description);
  return descriptions.flatMap((text) => text.split(", ")).filter((word) => word in STATUS_BY_CODE);
};

test("a restart, which reads no body and compares no options, has the errors of a start without those", () => {
  const ofStart = ["invalid_json", "payload_too_large", "unsupported_media_type", "already_running"];
  const [start, restart] = [errorsOf("post /api/servers/"), errorsOf("post /api/servers/restart")];
  expect(start).toEqual(expect.arrayContaining(ofStart));
  const expected = [...start.filter((code) => !ofStart.includes(code)), "not_running"];
  expect(restart.toSorted()).toEqual(expected.toSorted());
});

test("every POST, and every event stream, can be refused because of the open connections", () => {
  const limited = operations().filter(([name]) => errorsOf(name).includes("too_many_connections"));
  expect(limited.map(([name]) => name).toSorted()).toEqual([
    "get /api/servers/events",
    "get /api/servers/logs",
    "post /api/servers/",
    "post /api/servers/restart",
    "post /api/servers/session",
  ]);
});
