/** JupyterLab's cookies, as a browser keeps and sends them. */
import type { Json } from "./helpers.ts";

/** The `Cookie` header after an answer. */
export const cookiesOf = (response: Response) =>
  response.headers
    .getSetCookie()
    .map((cookie) => cookie.split(";")[0])
    .join("; ");

/** The `Cookie` header of a browser that has logged in by the token. */
export const logIn = async ({ url, token }: Json) =>
  cookiesOf(await fetch(`${url}api/status?token=${encodeURIComponent(token)}`));

/** The `Cookie` header of a browser that has logged in by a password. */
export async function logInByPassword({ url }: Json, password: string): Promise<string> {
  const xsrf = cookiesOf(await fetch(`${url}login`));
  const body = new URLSearchParams({ password, _xsrf: xsrf.replace(/^_xsrf=/, "") });
  return cookiesOf(await fetch(`${url}login`, { method: "POST", body, headers: { cookie: xsrf }, redirect: "manual" }));
}

/** The status of an answer to a browser with these cookies. */
export const statusWith = async ({ url }: Json, cookie: string) =>
  (await fetch(`${url}api/status`, { headers: { cookie } })).status;
