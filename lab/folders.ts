/** The files and folders that a start needs: checked in advance, and explained by owner and mode when they fail. */
import { accessSync, constants, existsSync, mkdirSync, mkdtempSync, readlinkSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Config, PROGRAM_DIR } from "../config.ts";
import { errorCode, explainShortage, ServiceError } from "../lib/errors.ts";
import { isSpecialFile, removePath, resolveInside } from "../lib/files.ts";
import type { Log } from "../lib/log.ts";
import { writeCookieSecret } from "./cookie-secret.ts";
import { SAFE_MODE_ADVICE } from "./diagnosis.ts";
import { requireLock } from "./lock.ts";
import type { StartOptions } from "./options.ts";

/** A runtime folder's name is the connection file's name, this suffix, and random characters. */
export const RUNTIME_DIR_SUFFIX = ".lab-";

/** The variable (`NAME=value`) by which the processes are found that were started with this runtime folder. */
export function markOf(runtimeDir: string): string {
  return `JUPYTER_RUNTIME_DIR=${runtimeDir}`;
}

/** The folders of compressed assets: of the image, and of what was installed later. They need not exist. */
export function listCopies({ connectionFile }: Config): [image: string, own: string] {
  return [join(PROGRAM_DIR, "asset-copies"), `${connectionFile}.assets`];
}

/** Checks and makes the folders of a start, so that a missing permission is reported before Python starts. */
export function checkFolders(config: Config, options: StartOptions): void {
  if (!options.safeMode && !isFile(config.jupyterConfigFile)) {
    throw new ServiceError(
      "config_error",
      `JUPYTER_CONFIG_FILE must be a readable file; ${config.jupyterConfigFile} is not${SAFE_MODE_ADVICE}`,
    );
  }
  requireFolder("NOTEBOOK_DIR", config.notebookDir, 0o777);
  requireInside(config, options);
  requireFolder("The notebook folder", options.notebookDir, 0o777);
  requireFolder("The folder of LOG_FILE", dirname(config.logFile), 0o700);
  requireConnectionFolder(config);
  requirePlainFile("CONNECTION_FILE", config.connectionFile);
}

/** Throws `permission_denied` if there is something at a path that is not a plain file. */
export function requirePlainFile(name: string, path: string): void {
  if (isSpecialFile(path))
    throw new ServiceError("permission_denied", `${name} must be a writable file; ${path} is not a plain file`);
}

/**
 * Throws `invalid_options` if a start's notebook folder leads out of NOTEBOOK_DIR: it was checked when it was asked for, and
 * it, or a folder above it, can have been replaced by a link since.
 */
export function requireInside({ notebookDir: root }: Config, { notebookDir }: StartOptions): void {
  if (notebookDir === root) return;
  if (existsSync(root) && resolveInside(root, findExisting(notebookDir)) !== undefined) return;
  throw new ServiceError(
    "invalid_options",
    `"notebook-dir" must be a folder inside NOTEBOOK_DIR, links resolved; ${notebookDir} now leads outside it`,
  );
}

/** The folder of the connection file, which others must not use at the same time. */
function requireConnectionFolder({ connectionFile }: Config): void {
  requireFolder("The folder of CONNECTION_FILE", dirname(connectionFile), 0o700);
  requireLock(connectionFile);
}

/**
 * Makes the folder for JupyterLab's runtime files, and what is in it at a start with this token; undefined: a zygote's.
 * Each process has its own, so its name marks everything that the process starts. Throws `permission_denied`,
 * `out_of_resources` or `config_error`; then there is none.
 */
export function makeRuntimeDir(config: Config, token?: string): string {
  requireConnectionFolder(config);
  let folder: string | undefined;
  try {
    folder = mkdtempSync(config.connectionFile + RUNTIME_DIR_SUFFIX);
    if (token !== undefined) writeCookieSecret(folder, token);
    return folder;
  } catch (error) {
    if (folder) removePath(folder);
    throw explainShortage(error, `No folder can be made beside CONNECTION_FILE ${config.connectionFile}`) ?? error;
  }
}

/** Removes such a folder; one that can't be removed is logged. */
export function removeRuntimeDir(folder: string, log: Log): void {
  const reason = removePath(folder);
  if (reason) log("warn", "runtime folder left", { folder, reason });
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
 * Makes a folder if it is missing. Throws `permission_denied`, `out_of_resources`, or `config_error` if something else is in
 * its place. The message names the owner and mode of the folder, or of the nearest existing parent, and the process's uid
 * and gid.
 */
export function requireFolder(name: string, path: string, mode: number): void {
  try {
    mkdirSync(path, { recursive: true, mode });
    accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    const code = errorCode(error);
    const shortage = explainShortage(error, `${name} ${path} can't be used`);
    if (shortage) throw shortage;
    const denied = code === "EACCES" || code === "EPERM" || code === "EROFS";
    const message = `${name} must be a writable folder; ${path} is not (${code}; ${describeOwner(path)})`;
    throw new ServiceError(denied ? "permission_denied" : "config_error", message, {}, error);
  }
}

function describeOwner(path: string): string {
  const target = existsSync(path) ? undefined : readLink(path);
  if (target !== undefined) return `it is a link to ${target}, which does not exist`;
  const found = findExisting(path);
  const { uid, gid, mode } = statSync(found);
  const which = found === path ? "it" : found;
  const ids = `${process.getuid?.()}:${process.getgid?.()}`;
  return `${which} belongs to ${uid}:${gid} with mode ${(mode & 0o7777).toString(8)}, this process runs as ${ids}`;
}

function readLink(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
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
