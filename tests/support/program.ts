/** The program's parts, for a test that runs them in a process of its own. */
export { createApp } from "../../app.ts";
export { parseConfig } from "../../config.ts";
export { parseOptions } from "../../lab/options.ts";
