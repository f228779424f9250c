/**
 * The API token, for both pages: the form that asks for it, and requests that carry it. It is kept in this module's memory
 * alone: whatever else a page could keep it in, other pages of the origin could read.
 */

// No password manager: on a shared origin it would fill the token into forms of JupyterLab's pages as well.
const FORM = `
  <h1>API token</h1>
  <p>This control API requires the value of its <code>API_TOKEN</code>. It stays in this page’s memory: after a reload you will be asked again.</p>
  <form novalidate>
    <div class="field">
      <label for="api-token">Token</label>
      <div class="input-row">
        <input id="api-token" type="password" autocomplete="off" spellcheck="false" aria-describedby="api-token-error">
        <button type="submit" class="button primary">Continue</button>
      </div>
      <p id="api-token-error" class="error" role="alert"></p>
    </div>
  </form>`;

/** How long an answer may take that does not wait for JupyterLab's start or stop. */
export const ANSWER_LIMIT_MS = 10_000;

const $ = (id) => document.getElementById(id);
let token;
/** The form that is shown, or undefined. */
let form;
/** Settles when a token has been entered. Shared by every request that needs one. */
let entered;

/** The token that the control API has accepted; undefined where it wants none. */
export function currentToken() {
  return token;
}

/**
 * `fetch` with the API token. Asks for a token as long as the control API refuses the one it gets. `timeoutMs` limits each
 * try, and not the time in which a person enters the token.
 */
export async function fetchWithToken(path, { headers = {}, timeoutMs, ...init } = {}) {
  for (;;) {
    const sent = token;
    const credentials = sent === undefined ? {} : { authorization: `Bearer ${sent}` };
    const limit = timeoutMs && { signal: AbortSignal.timeout(timeoutMs) };
    const response = await fetch(path, { ...init, ...limit, headers: { ...headers, ...credentials } });
    if (response.status !== 401) {
      closeForm();
      return response;
    }
    if (token === sent) token = undefined;
    if (token !== undefined) continue;
    entered ??= askForToken(sent !== undefined);
    await entered;
  }
}

/** Shows the form in place of the page's `#content`. Resolves when a token has been entered. */
function askForToken(wasRefused) {
  openForm();
  const field = $("api-token");
  const showError = (message) => {
    $("api-token-error").textContent = message;
    field.setAttribute("aria-invalid", String(message !== ""));
    field.focus();
  };
  showError(wasRefused ? "Invalid token." : "");
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      const value = field.value.trim();
      if (value === "") return showError("Enter the token.");
      // Other characters can't be sent in a header.
      if (!/^[\x21-\x7e]+$/.test(value)) return showError("A token has only visible ASCII characters and no spaces.");
      token = value;
      field.value = "";
      entered = undefined;
      resolve();
    };
  });
}

function openForm() {
  // An open dialog would take the keyboard.
  document.querySelector("dialog[open]")?.close();
  $("content").hidden = true;
  $("disconnected").hidden = true;
  if (form) return;
  form = document.createElement("section");
  form.id = "token-form";
  form.innerHTML = FORM;
  $("content").before(form);
}

function closeForm() {
  if (!form) return;
  form.remove();
  form = undefined;
  $("content").hidden = false;
}
