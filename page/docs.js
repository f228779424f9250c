/** The documentation's page: the OpenAPI document, rendered by Swagger UI, whose requests carry the API token. */
import { currentToken, fetchWithToken } from "./token.js";

const DOCUMENT = "/docs/json";

// Swagger UI's own stylesheet has a dark mode, switched by a class.
const darkScheme = matchMedia("(prefers-color-scheme: dark)");
const applyScheme = () => document.documentElement.classList.toggle("dark-mode", darkScheme.matches);
darkScheme.addEventListener("change", applyScheme);
applyScheme();

try {
  const response = await fetchWithToken(DOCUMENT);
  show(await response.json());
} catch {
  document.getElementById("disconnected").hidden = false;
}

function show(spec) {
  const ui = SwaggerUIBundle({
    spec,
    dom_id: "#content",
    deepLinking: true,
    plugins: [{ fn: { resolveSubtree } }],
    onComplete() {
      // Addresses in the document are relative to its own.
      ui.specActions.updateUrl(DOCUMENT);
      const token = currentToken();
      if (token !== undefined) ui.preauthorizeApiKey("token", token);
    },
  });
}

/** A part of the document. It has no references; looking for them takes Swagger UI seconds, in which the page stands still. */
async function resolveSubtree(spec, path) {
  return { spec: path.reduce((part, key) => part?.[key], spec), errors: [] };
}
