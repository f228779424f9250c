/** A typed client of the control API: paths, options and answers are checked by the compiler. */
import { treaty } from "@elysiajs/eden";
import type { App } from "../../index.ts";

/** Starts JupyterLab with its pages under `/me/` and gives the address to open. */
export async function openLab(url: string, token = ""): Promise<string> {
  const { api } = treaty<App>(url, { headers: token ? { authorization: `Bearer ${token}` } : {} });
  const { data, error } = await api.servers.post({ "base-url": "/me" });
  if (error) throw new Error(JSON.stringify(error.value));
  if (!("lab_url" in data)) throw new Error("It is on its way");
  return data.lab_url;
}
