/** What JupyterLab signs its login cookies with: the same for each start with the same token. */
import { createHmac, randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

/** Jupyter reads this file of the runtime folder, unless a setting of the user names another one or the secret itself. */
const FILE_NAME = "jupyter_cookie_secret";
const PURPOSE = "cookie secret of JupyterLab";
/** Used where there is no token: anybody could derive a secret from an empty one. */
const KEY_WITHOUT_TOKEN = randomBytes(32);

/**
 * Writes the cookie secret of a JupyterLab with this token into its runtime folder, which is another one for each start.
 * Browsers stay logged in over a restart then, and those that had another token do not. Throws the system's error.
 */
export function writeCookieSecret(runtimeDir: string, token: string): void {
  const secret = createHmac("sha256", token || KEY_WITHOUT_TOKEN)
    .update(PURPOSE)
    .digest("base64");
  writeFileSync(join(runtimeDir, FILE_NAME), `${secret}\n`, { mode: 0o600, flag: "wx" });
}
