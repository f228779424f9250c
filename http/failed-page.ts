/** What a person sees when JupyterLab can't be opened: the reason, and the way to the control page. Programs get JSON. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Config, PROGRAM_DIR } from "../config.ts";
import { removeSafeModeAdvice } from "../lab/diagnosis.ts";
import type { ErrorCode, Problem } from "../lib/errors.ts";

const TITLES: Partial<Record<ErrorCode, string>> = {
  jupyterlab_stopped: "JupyterLab is not running",
  jupyterlab_unreachable: "JupyterLab did not answer",
  forbidden_origin: "This address is not allowed",
};
const RETRY_AFTER_S = "5";

let template: { text: string; policy: string } | undefined;

/** Answers a request to JupyterLab with a problem, for a person as a page. */
export function answerProblem(problem: Problem, asPage: boolean, config: Config): Response {
  const { status } = problem;
  const common = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    ...(status === 503 ? { "retry-after": RETRY_AFTER_S } : {}),
  };
  if (!asPage) {
    const policy = "default-src 'none'; frame-ancestors 'none'";
    const headers = { ...common, "content-type": "application/problem+json", "content-security-policy": policy };
    return new Response(JSON.stringify(problem), { status, headers });
  }
  template ??= readTemplate();
  const frames = config.embedOrigins.length > 0 ? ["'self'", ...config.embedOrigins].join(" ") : "'none'";
  const values: Record<string, string> = {
    title: TITLES[problem.code] ?? "JupyterLab could not be started",
    message: escapeHtml(removeSafeModeAdvice(problem.message)),
    details: describeDetails(problem),
    next: describeNextStep(problem, `${config.prefix}/`),
  };
  const page = template.text.replace(/\{\{(\w+)\}\}/g, (_, name) => values[name] ?? "");
  const headers = {
    ...common,
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": `${template.policy}; frame-ancestors ${frames}`,
    "referrer-policy": "no-referrer",
  };
  return new Response(page, { status, headers });
}

function describeNextStep({ code, message }: Problem, home: string): string {
  // The control page is refused at this address as well.
  if (code === "forbidden_origin")
    return "Open this page by its IP address or by one of these names. Whoever runs it can allow this name with <code>ALLOWED_HOSTS</code>.";
  const isAdvised = removeSafeModeAdvice(message) !== message;
  const more = isAdvised ? ", which offers safe mode: a start without configuration files and extensions" : "";
  return `Reload this page to try again, or <a href="${escapeHtml(home)}">open the control page</a>${more}.`;
}

function describeDetails({ traceback, log_tail }: Problem): string {
  const parts = [
    ["Traceback", traceback ?? ""],
    ["Last lines of JupyterLab's log", log_tail?.join("\n") ?? ""],
  ];
  return parts
    .filter(([, text]) => text)
    .map(([name = "", text = ""]) => `<details><summary>${name}</summary><pre>${escapeHtml(text)}</pre></details>`)
    .join("\n");
}

/** The page's own style is all that it may load. */
function readTemplate(): { text: string; policy: string } {
  const text = readFileSync(join(PROGRAM_DIR, "page", "failed.html"), "utf8");
  const style = /<style>(.*)<\/style>/s.exec(text)?.[1] ?? "";
  const hash = createHash("sha256").update(style).digest("base64");
  return {
    text,
    policy: `default-src 'none'; style-src 'sha256-${hash}'; img-src data:; base-uri 'none'; form-action 'none'`,
  };
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
}
