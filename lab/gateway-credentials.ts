/** Whose credentials a start's gateway gets: the environment's go to the environment's gateway only. */
import { type Config, GATEWAY_VARIABLES } from "../config.ts";

/** What a start says of its gateway. */
interface GatewayOptions {
  gatewayUrl: string | undefined;
  env: Record<string, string>;
  settings: Record<string, unknown>;
}

/** The websocket address that Jupyter derives from a gateway's URL, with its path as it is. */
export function toSocketUrl(gatewayUrl: string): string {
  return gatewayUrl.replace(/^http/i, "ws");
}

/**
 * Whether every address of a start's gateway is the environment's. Kernels are reached at the websocket address, and
 * JupyterLab sends the token and the headers there too: a start that names any address of its own brings its own.
 */
export function usesConfiguredGateway({ gatewayUrl, env, settings }: GatewayOptions, config: Config): boolean {
  if (gatewayUrl !== config.gatewayUrl) return false;
  const { socketUrl } = GATEWAY_VARIABLES;
  const configured = config.jupyterEnv[socketUrl] || toSocketUrl(gatewayUrl ?? "");
  // A class inherits the settings of its base classes, so the class does not matter.
  const traits = Object.entries(settings).filter(([name]) => name.endsWith(".ws_url"));
  return [env[socketUrl] || configured, ...traits.map(([, value]) => value)].every((address) => address === configured);
}
