/** The two pages for people: the control page at `/` and the API's documentation at `/docs`, from files alone. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Elysia } from "elysia";
import { PROGRAM_DIR } from "../config.ts";

const HTML = "text/html; charset=utf-8";
const CSS = "text/css; charset=utf-8";
const SCRIPT = "text/javascript; charset=utf-8";

const STYLES = ["activity.css", "base.css", "control.css", "docs.css", "failure.css", "form.css", "log.css"];
const SCRIPTS = [
  "activity.js",
  "api.js",
  "docs.js",
  "dom.js",
  "failure.js",
  "form.js",
  "format.js",
  "log.js",
  "main.js",
  "session.js",
  "token.js",
  "view.js",
];

/** A page runs its own scripts, sends requests to its own origin, and can't be framed, because of clickjacking. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";
/** Swagger UI writes styles into its elements. */
const DOCS_POLICY = POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'");

/** Where a file of a page is, what it is, and what it may do. */
interface PageFile {
  folder: string;
  name: string;
  type: string;
  policy: string;
}

const inPage = (name: string, type: string, policy = POLICY): PageFile => ({ folder: "page", name, type, policy });
const inSwagger = (name: string, type: string): PageFile => ({
  folder: join("node_modules", "swagger-ui-dist"),
  name,
  type,
  policy: DOCS_POLICY,
});

const FILES: Record<string, PageFile> = {
  "/": inPage("index.html", HTML),
  "/docs": inPage("docs.html", HTML, DOCS_POLICY),
  "/docs/swagger-ui.css": inSwagger("swagger-ui.css", CSS),
  "/docs/swagger-ui-bundle.js": inSwagger("swagger-ui-bundle.js", SCRIPT),
  ...Object.fromEntries(STYLES.map((name) => [`/page/${name}`, inPage(name, CSS)])),
  ...Object.fromEntries(SCRIPTS.map((name) => [`/page/${name}`, inPage(name, SCRIPT)])),
};

/** Paths in these files begin at the root, as the page at `/docs` has an address with and without a slash at its end. */
const ROOTED = ["docs.html", "docs.js"];

/** Routes of the pages, which hold nothing to protect: they ask for the API token themselves. `prefix` is before each path. */
export function pages(prefix: string) {
  const app = new Elysia({ normalize: false });
  for (const [path, { folder, name, type, policy }] of Object.entries(FILES)) {
    const headers = { "content-type": type, "content-security-policy": policy, "referrer-policy": "no-referrer" };
    const read = () => {
      const file = readFileSync(join(PROGRAM_DIR, folder, name));
      const isRooted = prefix !== "" && ROOTED.includes(name);
      return new Response(isRooted ? file.toString().replaceAll('"/', `"${prefix}/`) : file, { headers });
    };
    app.get(path, read, { detail: { hide: true } });
  }
  return app;
}
