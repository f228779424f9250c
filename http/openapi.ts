/** The OpenAPI document, made from the routes. */
import { type AnyElysia, Elysia } from "elysia";
import { loadOnce } from "../lib/load-once.ts";
import manifest from "../package.json" with { type: "json" };

const DESCRIPTION =
  "Starts, monitors and stops one JupyterLab. Paths work with and without a trailing slash. With `API_TOKEN` set, every path except `/health/*` and the pages requires it as a bearer token.";

/**
 * The route of the OpenAPI document, for an app whose other routes are there already. What makes the document is loaded
 * when it is first asked for: most control APIs never are, and it would cost each of them a fifth of its launch.
 */
export function openapi(documented: AnyElysia, prefix: string) {
  const load = loadOnce(() => describe(documented, prefix));
  const headers = { "content-type": "application/json; charset=utf-8" };
  return new Elysia({ normalize: false }).get("/docs/json", async () => new Response(await load(), { headers }));
}

interface Document {
  paths: Record<string, Record<string, { requestBody?: { required: boolean } }>>;
}

/** The OpenAPI document of an app's routes, as JSON. */
async function describe(documented: AnyElysia, prefix: string): Promise<string> {
  const { swagger } = await import("@elysiajs/swagger");
  // The routes alone: the hooks of the app would ask this request for the API token.
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
        servers: [{ url: `${prefix}/` }],
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
