/** Arbitraries of the fuzz tests: any character, and hosts. */
import fc from "fast-check";

const MAX_CODE_POINT = 0x10ffff;
/** The code of a text that is one character. */
function codeOf(text: unknown): number {
  if (typeof text !== "string" || [...text].length !== 1) throw new Error("It is not one character");
  return text.codePointAt(0) ?? 0;
}
/** Any character. fast-check's unit `binary` is the same, but lists all million of them first, which takes seconds. */
export const character = fc
  .nat({ max: MAX_CODE_POINT })
  .map((code) => String.fromCodePoint(code), codeOf)
  .filter((text) => text.isWellFormed());

const authority = fc.webAuthority({ withIPv4: true, withIPv4Extended: true, withIPv6: true });
/** A user, or a user and a password. That of fast-check lists all characters as well. */
const userInfo = fc
  .array(fc.string({ unit: character }).map(encodeURIComponent), { minLength: 1, maxLength: 2 })
  .map((parts) => parts.join(":"));
/** Hosts on and off every rule: names, addresses, ports, punycode, and what URL parsers read as something else. */
const name = fc.oneof(
  fc.constantFrom(
    "localhost",
    "LOCALHOST.",
    "lab",
    "evil.test",
    "xn--",
    "xn--a.test",
    "xn--nxasmq6b",
    "1.2.3.4.5",
    "256.0.0.1",
  ),
  fc.constantFrom(
    "127.1",
    "0x7f.1",
    "[::1]",
    "[::1",
    "[fe80::1%25eth0]",
    "[::ffff:127.0.0.1]",
    "[v1.a]",
    "..",
    "-",
    "_",
    "%6c",
    "",
  ),
  fc.constantFrom(
    "a/b",
    "a?b",
    "a#b",
    "a\\b",
    "a b",
    "a, b",
    "user:secret@localhost",
    "\u00e9.test",
    "a\u0000b",
    "a".repeat(9000),
  ),
  authority,
  fc.tuple(userInfo, authority).map((parts) => parts.join("@")),
  fc.domain(),
  fc.string({ unit: character, maxLength: 20 }),
);
const port = fc.oneof(
  fc.constantFrom("", ":", ":80", ":0", ":65535", ":65536", ":99999", ":-1", ":8e3", ":080"),
  fc.nat().map((port) => `:${port}`),
);
export const host = fc.tuple(name, port).map((parts) => parts.join(""));
