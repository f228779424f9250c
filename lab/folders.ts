/** The files and folders that a start needs: checked in advance, and explained by owner and mode when they fail. */
import { accessSync, constants, mkdirSync, mkdtempSync, statSync } from "node:fs";
import { dirname } from "node:path";
import type { Config } from "../config.ts";
import { errorCode, ServiceError } from "../lib/errors.ts";
import type { StartOptions } from "./options.ts";

/** A runtime folder's name is the connection file's name, this suffix, and random characters. */
export const RUNTIME_DIR_SUFFIX = ".lab-";

/** Checks and makes the folders of a start, so that a missing permission is reported before Python starts. */
export function checkFolders(config: Config, options: StartOptions): void {
  if (!options.safeMode && !isFile(config.jupyterConfigFile)) {
    throw new ServiceError(
      "config_error",
      `JUPYTER_CONFIG_FILE must be a readable file; ${config.jupyterConfigFile} is not`,
    );
  }
  requireFolder("NOTEBOOK_DIR", config.notebookDir, 0o777);
  requireFolder("The notebook folder", options.notebookDir, 0o777);
  requireFolder("The folder of LOG_FILE", dirname(config.logFile), 0o700);
}

/**
 * Makes the folder for JupyterLab's runtime files. Each process has its own, so its name marks everything that the
 * process starts. Throws `permission_denied` or `config_error`.
 */
export function makeRuntimeDir(config: Config): string {
  const parent = dirname(config.connectionFile);
  requireFolder("The folder of CONNECTION_FILE", parent, 0o700);
  return mkdtempSync(config.connectionFile + RUNTIME_DIR_SUFFIX);
}

function isFile(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/**
 * Makes a folder if it is missing. Throws `permission_denied`, or `config_error` if something else is in its place. The
 * message names the owner and mode of the folder, or of the nearest existing parent, and the process's uid and gid.
 */
export function requireFolder(name: string, path: string, mode: number): void {
  try {
    mkdirSync(path, { recursive: true, mode });
    accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    const code = errorCode(error);
    const denied = code === "EACCES" || code === "EPERM" || code === "EROFS";
    const message = `${name} must be a writable folder; ${path} is not (${code}; ${describeOwner(path)})`;
    throw new ServiceError(denied ? "permission_denied" : "config_error", message, {}, error);
  }
}

function describeOwner(path: string): string {
  const found = findExisting(path);
  const { uid, gid, mode } = statSync(found);
  const which = found === path ? "it" : found;
  const ids = `${process.getuid?.()}:${process.getgid?.()}`;
  return `${which} belongs to ${uid}:${gid} with mode ${(mode & 0o7777).toString(8)}, this process runs as ${ids}`;
}

/** The path itself, or its nearest parent that exists; the root always does. */
function findExisting(path: string): string {
  try {
    statSync(path);
    return path;
  } catch {
    return findExisting(dirname(path));
  }
}
