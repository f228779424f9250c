/** Rules for values: what a value must be, and its parser. */
import { resolve } from "node:path";
import { hasControls, isHost, parseBaseUrl, parseJson, splitList } from "./values.ts";

/** What a value must be, and its parser, which returns undefined for a value that breaks the rule. */
export interface Rule<T> {
  rule: string;
  parse: (text: string, cwd: string) => T | undefined;
  /** Whether an error must not repeat the value. */
  isSecret?: true;
}

const BOOLEANS = new Map([
  ["true", true],
  ["1", true],
  ["false", false],
  ["0", false],
]);

export const BOOLEAN: Rule<boolean> = { rule: "true or false", parse: (text) => BOOLEANS.get(text.toLowerCase()) };
export const HOST: Rule<string> = {
  rule: "a host name or an IP address, without a port",
  parse: (text) => (isHost(text) ? text : undefined),
};
export const PORT = integer(1, 65535);
export const PATH: Rule<string> = {
  rule: "a path without control characters",
  parse: (text, cwd) => (hasControls(text) ? undefined : resolve(cwd, text)),
};
/** JupyterLab's output is passed on to standard output anyway, and a pipe can't be read again. */
export const LOG_PATH: Rule<string> = {
  rule: `${PATH.rule}, and not /dev/stdout or the like, where JupyterLab's output goes anyway`,
  parse: (text, cwd) => {
    const path = PATH.parse(text, cwd);
    return path && /^\/(dev\/(std(in|out|err)|fd\/)|proc\/(self|thread-self)\/)/.test(path) ? undefined : path;
  },
};
export const PROGRAM: Rule<string> = {
  rule: PATH.rule,
  parse: (text, cwd) => (text.includes("/") || hasControls(text) ? PATH.parse(text, cwd) : text),
};
export const URL_RULE: Rule<string> = {
  rule: "an http or https URL without user, password, query or fragment",
  parse: parseBaseUrl,
};
export const SECONDS: Rule<string> = {
  rule: "a number of seconds",
  parse: (text) => (/^(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i.test(text) ? text : undefined),
};
/** A secret, because headers can carry credentials. */
export const HEADERS: Rule<unknown> = {
  rule: "a JSON object of strings",
  isSecret: true,
  parse: (text) => {
    const headers = parseJson(text);
    const isObject = typeof headers === "object" && headers !== null && !Array.isArray(headers);
    return isObject && Object.values(headers).every((value) => typeof value === "string") ? headers : undefined;
  },
};

/** A whole number from `min` to `max`, in decimal digits. */
export function integer(min: number, max: number): Rule<number> {
  const parse = (text: string) => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
    return value >= min && value <= max ? value : undefined;
  };
  return { rule: `a whole number from ${min} to ${max}`, parse };
}

/** A number of seconds, parsed to milliseconds. */
export function seconds(min: number, max: number): Rule<number> {
  const { rule, parse } = integer(min, max);
  return { rule, parse: (text) => mapDefined(parse(text, ""), (value) => value * 1000) };
}

/** One of these words, in this spelling. */
export function choice<T extends string>(...choices: T[]): Rule<T> {
  return { rule: `one of ${choices.join(", ")}`, parse: (text) => choices.find((one) => one === text) };
}

/** A comma-separated list whose entries `parse` accepts. */
export function list(rule: string, parse: (entry: string) => string | undefined): Rule<string[]> {
  return {
    rule,
    parse: (text) => {
      const entries = splitList(text).map(parse);
      return entries.every((entry) => entry !== undefined) ? entries : undefined;
    },
  };
}

/** Maps a value, unless it is undefined. */
export function mapDefined<T, U>(value: T | undefined, map: (value: T) => U): U | undefined {
  return value === undefined ? undefined : map(value);
}
