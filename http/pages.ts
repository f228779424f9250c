/** The control page: the files in `page/`, for people who would rather not use curl. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Elysia } from "elysia";
import { PROGRAM_DIR } from "../config.ts";

const SCRIPTS = ["main.js", "form.js", "log.js", "view.js", "wire.js"];
const FILES: Record<string, [name: string, type: string]> = {
  "/": ["index.html", "text/html; charset=utf-8"],
  "/page/style.css": ["style.css", "text/css; charset=utf-8"],
  ...Object.fromEntries(SCRIPTS.map((name) => [`/page/${name}`, [name, "text/javascript; charset=utf-8"]])),
};

/** The page runs its own script and asks its own origin, and nobody may show it in a page of theirs. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/** Routes of the page, which holds nothing to protect: it asks for the API token itself. A file is read once, when it is asked for. */
export function page() {
  const kept = new Map<string, string>();
  const app = new Elysia({ normalize: false });
  for (const [path, [name, type]] of Object.entries(FILES)) {
    const headers = { "content-type": type, "content-security-policy": POLICY, "referrer-policy": "no-referrer" };
    const read = () => {
      const text = kept.get(name) ?? readFileSync(join(PROGRAM_DIR, "page", name), "utf8");
      kept.set(name, text);
      return new Response(text, { headers });
    };
    app.get(path, read, { detail: { hide: true } });
  }
  return app;
}
