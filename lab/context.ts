/** What every part of the supervisor works with. */
import type { Config } from "../config.ts";
import type { Log } from "../lib/log.ts";
import type { Secrets } from "../lib/redact.ts";
import type { LogFile } from "./log-file.ts";
import type { Pauses } from "./pauses.ts";

/** A JupyterLab that is not known to be gone. */
export interface LiveLab {
  kill: () => void;
  /** Ends what is left of it. */
  clear: () => Promise<void>;
  /** Why it is not known to be gone after `clear`, as the end of a sentence; empty before that. */
  readonly remains: string;
}

export interface Context {
  config: Config;
  secrets: Secrets;
  log: Log;
  /** JupyterLab's output. */
  logFile: LogFile;
  /** Every JupyterLab that is not known to be gone: a second signal kills all of them. */
  labs: Set<LiveLab>;
  pauses: Pauses;
}
