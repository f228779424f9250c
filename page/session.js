/** With an API token: lets this browser open JupyterLab at the same address, and takes it to the page it wanted to open. */
import { ANSWER_LIMIT_MS, currentToken, fetchWithToken } from "./token.js";

/** The API token that the session was begun with. */
let used;

/**
 * To be called once the control API has accepted a request. Does its work once for each token. Resolves with the reason
 * if the page that was wanted can't be opened.
 */
export async function openSession() {
  const token = currentToken();
  if (used === token) return "";
  used = token;
  await beginSession();
  const next = new URL(new URLSearchParams(location.search).get("next") ?? "", location.href);
  if (next.search === location.search || next.origin !== location.origin) return "";
  // Without the cookie, the browser would be sent here again.
  if (!(await beginSession())) return "JupyterLab could not be opened: this browser kept no cookie of this address.";
  location.replace(next.href);
  return "";
}

/** Asks for the cookie. Resolves with whether the browser had it already. */
async function beginSession() {
  const response = await fetchWithToken("api/servers/session", { method: "POST", timeoutMs: ANSWER_LIMIT_MS });
  return response.ok && (await response.json()).had_session;
}
