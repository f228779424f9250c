/** What every part of the supervisor works with. */
import type { Config } from "../config.ts";
import type { Log } from "../lib/log.ts";
import type { Secrets } from "../lib/redact.ts";
import type { LogFile } from "./log-file.ts";
import type { Pauses } from "./pauses.ts";

export interface Context {
  config: Config;
  secrets: Secrets;
  log: Log;
  /** JupyterLab's output. */
  logFile: LogFile;
  /** Every JupyterLab that is not known to be gone: a second signal kills all of them. */
  labs: Set<{ kill: () => void }>;
  pauses: Pauses;
}
