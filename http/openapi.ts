/** The API's documentation: the OpenAPI document made from the routes, and a page that shows it without any other host. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type AnyElysia, Elysia } from "elysia";
import { PROGRAM_DIR } from "../config.ts";
import manifest from "../package.json" with { type: "json" };

const DESCRIPTION =
  "Starts, watches and stops the one JupyterLab of this container. Paths work with and without the trailing slash. With API_TOKEN set, every path except /health/* and the pages wants it as a bearer token.";

/** The page's files, out of the package that makes them; its parts are named so that nothing else can be asked for. */
const ASSETS: Record<string, string> = {
  "swagger-ui.css": "text/css; charset=utf-8",
  "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
};

/** What is tried out there really happens: nobody may show it in a page of theirs, either. */
const POLICY =
  "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

const PAGE = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>jupyter-server API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
<div id="gate" class="swagger-ui" hidden>
  <form class="wrapper">
    <h2>API token</h2>
    <p>This control API wants a token: the value of its <code>API_TOKEN</code>. It is kept until this tab is closed.</p>
    <label>Token <input name="token" type="password" autocomplete="off" required pattern="[!-~]+" title="Visible ASCII characters, without blanks"></label>
    <button class="btn authorize">Go on</button>
    <p role="alert"></p>
  </form>
</div>
<div id="docs"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
`;

/** Under a token it is asked for where the control page has not been given it in this tab. */
const START = `const KEY = "jupyter-server-api-token";
const gate = document.getElementById("gate");
const form = gate.querySelector("form");

async function open() {
  const token = sessionStorage.getItem(KEY);
  const response = await fetch("/docs/json", token === null ? {} : { headers: { authorization: "Bearer " + token } });
  gate.hidden = response.status !== 401;
  if (response.ok) return show(await response.json(), token);
  form.querySelector("[role=alert]").textContent = token === null ? "" : "The control API does not know this token.";
  form.token.focus();
}

function show(spec, token) {
  const onComplete = () => {
    ui.specActions.updateUrl("/docs/json");
    if (token !== null) ui.preauthorizeApiKey("token", token);
  };
  const ui = SwaggerUIBundle({ spec, dom_id: "#docs", deepLinking: true, onComplete });
}

form.onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, form.token.value);
  form.reset();
  open();
};
open();
`;

/**
 * Routes under `/docs`, for an app whose other routes are there already. What makes the document is loaded when it is
 * first asked for: most control APIs never are, and it would cost each of them a fifth of its launch.
 */
export function docs(documented: AnyElysia) {
  let document: Promise<string> | undefined;
  const serve = (body: string, type: string) => () =>
    new Response(body, {
      headers: {
        "content-type": type,
        "content-security-policy": POLICY,
      },
    });
  const app = new Elysia({ normalize: false })
    .get("/docs", serve(PAGE, "text/html; charset=utf-8"))
    .get("/docs/start.js", serve(START, "text/javascript; charset=utf-8"))
    .get("/docs/json", async () => {
      document ??= describe(documented);
      return new Response(await document, { headers: { "content-type": "application/json; charset=utf-8" } });
    });
  for (const [file, type] of Object.entries(ASSETS)) {
    app.get(`/docs/${file}`, () =>
      serve(readFileSync(join(PROGRAM_DIR, "node_modules", "swagger-ui-dist", file), "utf8"), type)(),
    );
  }
  return app;
}

interface Document {
  paths: Record<string, Record<string, { requestBody?: { required: boolean } }>>;
}

/** The OpenAPI document of an app's routes, as JSON. */
async function describe(documented: AnyElysia): Promise<string> {
  const { swagger } = await import("@elysiajs/swagger");
  // The routes alone: with its hooks the app would keep this request out, as it does strangers.
  const app = new Elysia({ normalize: false });
  for (const { method, path, hooks } of documented.routes) app.route(method, path, () => "", hooks);
  app.use(
    swagger({
      path: "/docs",
      exclude: [/^\/docs/],
      documentation: {
        info: {
          title: manifest.name,
          version: manifest.version,
          description: DESCRIPTION,
          license: { name: "MIT", url: "https://opensource.org/license/mit" },
        },
        components: { securitySchemes: { token: { type: "http", scheme: "bearer" } } },
        security: [{}, { token: [] }],
        servers: [{ url: "/" }],
      },
    }),
  );
  const document = (await (await app.handle(new Request("http://localhost/docs/json"))).json()) as Document;
  // The plugin says that a body must be there; here none must.
  for (const { requestBody } of Object.values(document.paths).flatMap((methods) => Object.values(methods)))
    if (requestBody) requestBody.required = false;
  // The plugin says 3.0; the schemas are JSON Schema of today (`const`, `null`), which is 3.1.
  return JSON.stringify({ ...document, openapi: "3.1.0" });
}
