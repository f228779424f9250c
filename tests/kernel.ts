/** A kernel for a test, by the client that JupyterLab itself uses. */
import services from "@jupyterlab/services";
import type { Json } from "./helpers.ts";

const { KernelManager, ServerConnection } = services;

/** A kernel of a running server, through the client that JupyterLab itself uses. */
export async function startKernel({ url, token }: { url: string; token: string }) {
  const serverSettings = ServerConnection.makeSettings({
    baseUrl: url,
    wsUrl: url.replace(/^http/, "ws"),
    token,
    appendToken: true,
  });
  const kernel = await new KernelManager({ serverSettings }).startNew({ name: "python3" });
  /** Runs a cell and gives what it printed and what it came to. */
  const run = async (code: string): Promise<string> => {
    let output = "";
    const future = kernel.requestExecute({ code });
    future.onIOPub = ({ content }: { content: Json }) => {
      output += content.data?.["text/plain"] ?? content.text ?? content.evalue ?? "";
    };
    await future.done;
    return output.trim();
  };
  return { kernel, run, [Symbol.dispose]: () => kernel.dispose() };
}
