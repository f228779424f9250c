/** With an API token: lets this browser open JupyterLab at the same address, and takes it to the page it wanted to open. */
import { ANSWER_LIMIT_MS, currentToken, fetchWithToken } from "./token.js";

const TRIED = "jupyter-server-next";

let isOpen = false;

/** To be called once the control API has accepted a request. Does its work once, and only where there is a token. */
export async function openSession() {
  if (isOpen || currentToken() === undefined) return;
  isOpen = true;
  const response = await fetchWithToken("api/servers/session", { method: "POST", timeoutMs: ANSWER_LIMIT_MS });
  const next = new URL(new URLSearchParams(location.search).get("next") ?? "", location.href);
  // A browser that keeps no cookie would be sent here again.
  if (!response.ok || next.search === location.search || sessionStorage.getItem(TRIED) === next.href) return;
  sessionStorage.setItem(TRIED, next.href);
  if (next.origin === location.origin) location.replace(next.href);
}
