import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { createLog, LOG_LEVELS, type LogFormat, type LogLevel } from "../../lib/log.ts";
import {
  equalsSecret,
  findSecretValues,
  isSecretName,
  listForms,
  listStrings,
  MASK,
  Secrets,
} from "../../lib/redact.ts";
import { PROJECT, PYTHON } from "../support/helpers.ts";

const TOKEN = "5f2c9a7e11d04b3c8e6a";

function mask(text: string, ...secrets: string[]): string {
  const known = new Secrets();
  known.add(...secrets);
  return known.mask(text);
}

const MASKED: [what: string, text: string, secrets: string[], expected: string][] = [
  ["a long secret, wherever it stands", `x${TOKEN}y ${TOKEN}`, [TOKEN], "x***y ***"],
  ["a short one as a word of its own", "a cat, a-b (a) a_b", ["a"], "*** cat, ***-b (***) a_b"],
  ["one with the signs of a pattern", "x a.b*c(d) axb*c(d)", ["a.b*c(d)"], "x *** axb*c(d)"],
  ["the longer one of two that begin alike", "abcdefgh12", ["abcdefgh", "abcdefgh12"], "***"],
  ["one that is encoded for a URL", "/lab?x=my%20secret%2Ftoken", ["my secret/token"], "/lab?x=***"],
  [
    "the longer one where the other is masked as a word",
    "hunter2 hunter2-prod-db",
    ["hunter2", "hunter2-prod-db"],
    "*** ***",
  ],
  ["one that is escaped for JSON", String.raw`{"x":"say \"secret\""}`, ['say "secret"'], '{"x":"***"}'],
];

const PYTHON_MASK = `
import io, json, sys
sys.path.append(sys.argv[1])
from masked_log import MaskedStream
def mask(text, secrets):
    stream = MaskedStream(io.BytesIO(), "utf-8", write_through=True)
    stream.mask(secrets)
    stream.write(text)
    return stream.buffer.getvalue().decode()
print(json.dumps([mask(text, secrets) for text, secrets in json.load(sys.stdin)]))
`;

describe("mask", () => {
  test.each(MASKED)("hides %s", (_, text, secrets, expected) => {
    expect(mask(text, ...secrets)).toBe(expected);
  });

  test("hides in JupyterLab, which masks its own log, what it hides here", () => {
    const input = JSON.stringify(MASKED.map(([, text, secrets]) => [text, secrets.flatMap(listForms)]));
    const command = [PYTHON, "-c", PYTHON_MASK, join(PROJECT, "python")];
    const { stdout } = Bun.spawnSync(command, { stdin: Buffer.from(input) });
    expect(JSON.parse(stdout.toString())).toEqual(MASKED.map(([, , , expected]) => expected));
  });

  test("hides nothing for an empty secret", () => {
    expect(mask("abc", "")).toBe("abc");
  });

  test.each([
    ["http://a/lab?token=abc&x=1", "http://a/lab?token=***&x=1"],
    ["http://a/?x=1&access_token=abc#top", "http://a/?x=1&access_token=***"],
    ["GET /api?token=abc (127.0.0.1)", "GET /api?token=*** (127.0.0.1)"],
    ["http://127.0.0.1:8888/lab?token=...", "http://127.0.0.1:8888/lab?token=***"],
    ["password=abc", "password=***"],
    ["Authorization: Bearer abc", "Authorization: Bearer ***"],
    ["authorization: token abc", "authorization: token ***"],
    ["{'Authorization': 'token abc', 'x': 1}", "{'Authorization': 'token ***', 'x': 1}"],
    ['{"authorization":"Basic abc"}', '{"authorization":"Basic ***"}'],
    ["env: {'HOME': '/', 'JUPYTER_TOKEN': 'abc', 'A': 'b'}", "env: {'HOME': '/', 'JUPYTER_TOKEN': '***', 'A': 'b'}"],
    ['"JUPYTER_GATEWAY_AUTH_TOKEN": "abc"}', '"JUPYTER_GATEWAY_AUTH_TOKEN": "***"}'],
    ["the token is in the mail; tokens=3", "the token is in the mail; tokens=3"],
  ])("hides what stands where secrets stand: %s", (text, expected) => {
    expect(mask(text)).toStartWith(expected);
    expect(mask(text)).not.toContain("abc");
  });
});

describe("the known secrets", () => {
  test("are forgotten when each was removed as often as it was added", () => {
    const secrets = new Secrets();
    secrets.add(TOKEN, TOKEN, undefined, "");
    expect(secrets.values()).toEqual([TOKEN]);
    secrets.remove(TOKEN);
    expect(secrets.mask(TOKEN)).toBe(MASK);
    secrets.remove(TOKEN, undefined, "never added");
    expect(secrets.values()).toEqual([]);
    expect(secrets.mask(TOKEN)).toBe(TOKEN);
  });

  test.each([
    ["none", "abc", ["12345678"], "abc"],
    ["the longest one", "x 12341234", ["12341234x", "34x45678"], "x ***"],
    ["one in another form", String.raw`{"x":"say \"se`, ['say "secret"'], '{"x":"***'],
    ["one that a whole secret overlaps", "x 12341234", ["12341234"], "x ***"],
    ["one that a whole secret is in", "x abc12341234d", ["12341234", "abc12341234def"], "x ***"],
  ])("are masked at the end of an unfinished text where they may continue: %s", (_, text, values, expected) => {
    const secrets = new Secrets();
    secrets.add(...values);
    expect(secrets.maskUnfinished(text)).toBe(expected);
  });

  test("can be any text that JSON can hold", () => {
    const secrets = new Secrets();
    secrets.add("half a pair: \ud83d");
    expect(secrets.mask("x half a pair: \ud83d y")).toBe("x *** y");
  });
});

test.each([
  ["token", true],
  ["GITHUB_TOKEN", true],
  ["ServerApp.cookie_secret", true],
  ["PasswordIdentityProvider.hashed_password", true],
  ["AWS_SECRET_ACCESS_KEY", true],
  ["GatewayClient.http_pwd", true],
  ["GatewayClient.headers", true],
  ["JUPYTER_GATEWAY_HEADERS", true],
  ["JUPYTER_GATEWAY_HTTP_PWD", true],
  ["MappingKernelManager.cull_idle_timeout", false],
  ["KEYBOARD", false],
  ["PWD", false],
])("isSecretName(%j) is %j", (name, expected) => {
  expect(isSecretName(name)).toBe(expected);
});

test.each([
  [TOKEN, TOKEN, true],
  ["", "", true],
  [TOKEN.slice(1), TOKEN, false],
  [TOKEN.toUpperCase(), TOKEN, false],
  ["", TOKEN, false],
  ["é", "e\u0301", false],
])("equalsSecret(%j, %j) is %j", (given, expected, verdict) => {
  expect(equalsSecret(given, expected)).toBe(verdict);
});

describe("createLog", () => {
  function logAt(logLevel: LogLevel, logFormat: LogFormat, ...known: string[]) {
    const written: string[] = [];
    const secrets = new Secrets();
    secrets.add(...known);
    return { log: createLog({ logLevel, logFormat }, secrets, (line) => void written.push(line)), written };
  }

  test("writes text: time, level, event and the fields, quoted where they need it", () => {
    const { log, written } = logAt("info", "text");
    log("warn", "server running", { pid: 7, ok: true, none: null, gone: undefined, text: 'a "b"\nc', empty: "" });
    const fields = String.raw`pid=7 ok=true none=null text="a \"b\"\nc" empty=""`;
    expect(written).toEqual([expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z WARN {2}server running pid=7 .*\n$/)]);
    expect(written[0]).toEndWith(` server running ${fields}\n`);
  });

  test("writes JSON: one object a line", () => {
    const { log, written } = logAt("info", "json");
    log("error", "server failed", { code: "crashed", text: "a\nb" });
    expect(written).toEqual([expect.stringMatching(/^[^\n]*\n$/)]);
    const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    expect(JSON.parse(written[0] ?? "")).toEqual({
      time,
      level: "error",
      event: "server failed",
      code: "crashed",
      text: "a\nb",
    });
  });

  test.each(LOG_LEVELS.map((level, index) => [level, LOG_LEVELS.slice(index)]))(
    "at level %s writes %j",
    (level, expected) => {
      const { log, written } = logAt(level as LogLevel, "json");
      for (const each of LOG_LEVELS) log(each, "x");
      expect(written.map((line) => JSON.parse(line).level)).toEqual(expected);
    },
  );

  test.each(["text", "json"] as const)("masks what it writes as %s", (format) => {
    const { log, written } = logAt("info", format, 'my "secret"');
    log("info", "x", { url: "http://a/?token=abc", text: 'my "secret"' });
    expect(written[0]).toContain("token=***");
    expect(written[0]).not.toMatch(/abc|secret/);
  });

  test.each(["n", "level"])("a line stays JSON where %j is a secret", (secret) => {
    const { log, written } = logAt("info", "json", secret);
    log("info", "x", { text: "line\n", other: `is ${secret} here` });
    expect(JSON.parse(written[0] ?? "")).toMatchObject({
      level: "info",
      event: "x",
      text: "line\n",
      other: "is *** here",
    });
  });
});

const PYTHON_FORMS = `
import json, sys
from urllib.parse import quote, quote_plus
for secret in json.load(sys.stdin):
    forms = [repr(secret), ascii(secret), repr([secret]), repr({"x": repr(secret)}), json.dumps(secret), json.dumps(json.dumps(secret)),
        json.dumps(secret, ensure_ascii=False), repr(secret.encode()), repr([str(secret.encode())]), repr(json.dumps(secret)), quote(secret), quote(secret, safe=""), quote_plus(secret)]
    print(json.dumps(forms))
`;

test("a secret is masked in every form in which Python writes it", () => {
  const values = [
    `both ' and " quotes`,
    `both ' and " with ü`,
    `it's one`,
    `a "double" one`,
    "back\\slash/and/slash",
    "line\nend\ttab\u0000\u001b",
    "snow☃man😀\u00a0é\u200b",
    "a b+c&d=e?f%20(g)!*~",
  ];
  const { stdout } = Bun.spawnSync([PYTHON, "-c", PYTHON_FORMS], { stdin: Buffer.from(JSON.stringify(values)) });
  const lines = stdout.toString().trim().split("\n");
  expect(lines).toHaveLength(values.length);
  for (const [index, line] of lines.entries()) {
    const secrets = new Secrets();
    secrets.add(values[index]);
    // Nothing is left but quotes and brackets.
    for (const form of JSON.parse(line) as string[])
      expect(secrets.mask(form)).toMatch(/^[[\]{}'"\\xb: ]*\*\*\*[[\]{}'"\\]*$/);
  }
});

test("the lines of a secret are secrets too, and those of JSON are not", () => {
  const key = "-----BEGIN KEY-----\r\n  bGluZSBvbmU=\n-----END KEY-----\n";
  const lines = ["-----BEGIN KEY-----", "bGluZSBvbmU=", "-----END KEY-----"];
  expect(findSecretValues({ MY_KEY: "a\nb", TLS_PRIVATE_KEY: key })).toEqual([key, ...lines]);
  const text = JSON.stringify({ type: "service_account", private_key: key }, null, 2);
  expect(listStrings(text)).toEqual([text, "service_account", key, ...lines]);
});

test("the values in a list, an object or their JSON are secrets too", () => {
  const text = JSON.stringify({ Authorization: "Bearer 123456", More: ["another-one"] });
  expect(findSecretValues({ JUPYTER_GATEWAY_HEADERS: text })).toEqual([text, "Bearer 123456", "another-one"]);
  expect(listStrings(["one", { two: "three" }])).toEqual(["one", "three"]);
});
