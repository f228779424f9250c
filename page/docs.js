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
    onComplete() {
      // Addresses in the document are relative to its own.
      ui.specActions.updateUrl(DOCUMENT);
      const token = currentToken();
      if (token !== undefined) ui.preauthorizeApiKey("token", token);
    },
  });
}
