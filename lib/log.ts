/** The control API's own log: one line per event on stderr, as text or JSON, with secrets masked. */
import type { Secrets } from "./redact.ts";

export const LOG_LEVELS = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];
export type LogFormat = "text" | "json";
type Fields = Record<string, string | number | boolean | null | undefined>;

/** Writes one event: its level, a short fixed name (`server running`), and its fields. */
export type Log = (level: LogLevel, event: string, fields?: Fields) => void;

/** Creates a log. `write` gets whole lines, newline included. */
export function createLog(
  settings: { logLevel: LogLevel; logFormat: LogFormat },
  secrets: Secrets,
  write: (line: string) => void,
): Log {
  const threshold = LOG_LEVELS.indexOf(settings.logLevel);
  const format = settings.logFormat === "json" ? formatJson : formatText;
  return (level, event, fields = {}) => {
    if (LOG_LEVELS.indexOf(level) < threshold) return;
    // Masked before formatting, because a short secret can equal a part of the format itself.
    const masked = Object.entries(fields).map(([name, value]) => [
      name,
      typeof value === "string" ? secrets.mask(value) : value,
    ]);
    write(`${format(new Date().toISOString(), level, secrets.mask(event), Object.fromEntries(masked))}\n`);
  };
}

function formatJson(time: string, level: LogLevel, event: string, fields: Fields): string {
  return JSON.stringify({ time, level, event, ...fields });
}

function formatText(time: string, level: LogLevel, event: string, fields: Fields): string {
  const pairs = Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => {
      const text = String(value);
      return `${name}=${/^[^\s"=]+$/.test(text) ? text : JSON.stringify(text)}`;
    });
  return [time, level.toUpperCase().padEnd(5), event, ...pairs].join(" ");
}
