/** Compresses what JupyterLab's pages load, in the background, where the image was not built with compressed copies. */
import { join } from "node:path";
import { PROGRAM_DIR } from "../config.ts";
import { describeExit, messageOf } from "../lib/errors.ts";
import { settlesWithin, spawnChild } from "../lib/spawn.ts";
import type { Context } from "./context.ts";
import { listCopies } from "./folders.ts";
import type { Lab } from "./lab.ts";

const PROGRAM = join(PROGRAM_DIR, "lab", "compress-assets.ts");
/** All of JupyterLab takes up to a minute of a processor's time, which others may need. */
const LIMIT_MS = 15 * 60 * 1000;
const STDERR = 2;

/**
 * Makes the copies of a JupyterLab that has been running for a while, so that neither its start nor its first cell waits
 * for it. It ends with JupyterLab, and continues with the next one. Never rejects: without copies assets are only larger.
 */
export async function compressAssets({ config, log, pauses }: Context, lab: Lab): Promise<void> {
  if (lab.assetFolders.length === 0 || (await settlesWithin(lab.exited, pauses.compressAfterMs))) return;
  const [, copies] = listCopies(config);
  const { PATH = "" } = config.jupyterEnv;
  const run = "Bun" in globalThis ? [] : ["run", "--allow-all"];
  const startedAt = performance.now();
  try {
    const child = await spawnChild([process.execPath, ...run, PROGRAM, copies, ...lab.assetFolders], {
      cwd: PROGRAM_DIR,
      env: { PATH },
      stderr: STDERR,
    });
    child.closeInput();
    const end = () => child.signal("SIGKILL");
    const timer = setTimeout(end, LIMIT_MS);
    lab.exited.then(end);
    const said = (await new Response(child.output).text()).trim();
    const exit = await child.exited;
    clearTimeout(timer);
    if (exit.code === 0 && Number(said) > 0)
      log("info", "assets compressed", { copies: Number(said), ms: Math.round(performance.now() - startedAt) });
    else if (exit.code !== 0 && exit.code !== null)
      log("warn", "assets not compressed", { reason: said || describeExit(exit) });
  } catch (error) {
    log("warn", "assets not compressed", { reason: messageOf(error) });
  }
}
