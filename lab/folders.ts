/** What a start needs on disk: files that can be read, folders that can be written, and whose they are where not. */
import { accessSync, constants, mkdirSync, mkdtempSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { type Config, errorCode } from "../config.ts";
import { ServiceError } from "../lib/errors.ts";
import type { StartOptions } from "./options.ts";

/** What the name of a runtime folder has after the connection file's: it tells whose it is. */
export const RUNTIME_DIR_SUFFIX = ".lab-";

/** Checks and makes what a start needs on disk, so that a missing right is named before Python is started. */
export function checkFolders(config: Config, options: StartOptions): void {
  if (!options.safeMode && !isFile(config.jupyterConfigFile)) {
    throw new ServiceError(
      "config_error",
      `JUPYTER_CONFIG_FILE must be a file that can be read, ${config.jupyterConfigFile} is not`,
    );
  }
  requireFolder("NOTEBOOK_DIR", config.notebookDir, 0o777);
  requireFolder("The notebook folder", options.notebookDir, 0o777);
  requireFolder("The folder of LOG_FILE", dirname(config.logFile), 0o700);
}

/**
 * Makes the folder that JupyterLab keeps its runtime files in: one for each process, so that its name marks what the
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
 * Makes a folder where it is missing. Throws `permission_denied`, or `config_error` where something is in its way; the
 * message names whose the folder is, or the one that it can't be made in, and who we are.
 */
export function requireFolder(name: string, path: string, mode: number): void {
  try {
    mkdirSync(path, { recursive: true, mode });
    accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    const code = errorCode(error);
    const denied = code === "EACCES" || code === "EPERM" || code === "EROFS";
    const message = `${name} must be a folder that we can write, ${path} is not (${code}; ${describeOwner(path)})`;
    throw new ServiceError(denied ? "permission_denied" : "config_error", message, {}, error);
  }
}

function describeOwner(path: string): string {
  const found = findExisting(path);
  const { uid, gid, mode } = statSync(found);
  const which = found === path ? "it" : found;
  const rights = (mode & 0o7777).toString(8);
  return `${which} belongs to ${uid}:${gid} with mode ${rights}, we are ${process.getuid?.()}:${process.getgid?.()}`;
}

/** The path itself, or the nearest folder above it that can be looked at; the root always can. */
function findExisting(path: string): string {
  try {
    statSync(path);
    return path;
  } catch {
    return findExisting(dirname(path));
  }
}
