/** Why a JupyterLab ended: a pure function from evidence to an error code, a message and a traceback. */
import { basename } from "node:path";
import { describeExit, type ErrorCode } from "../lib/errors.ts";
import type { Exit } from "../lib/spawn.ts";
import { describeRefusal, type Refusal, type SettingValue } from "./settings.ts";

/** What is known about a process that has ended. */
export interface Evidence {
  exit: Exit;
  /** All the lines of its log that are kept, not only the tail in the answer. */
  log: readonly string[];
  /** Whether its port was bound. */
  bound: boolean;
  /** Whether JupyterLab was imported: configuration files and extensions have an effect only after that. */
  imported: boolean;
  /** Whether it answered an authenticated request. */
  usable: boolean;
  safeMode: boolean;
  /** The requested settings, which safe mode keeps. */
  settings: Readonly<Record<string, SettingValue>>;
  /** The configuration file or the setting that the launcher has named. */
  refusal?: Refusal | undefined;
  /** Whether the kernel's out-of-memory killer acted while it ran. */
  oomKilled: boolean;
  configFile: string;
  jupyterHost: string;
  jupyterPort: number;
  python: string;
}

/** The result, for people and programs. */
interface Diagnosis {
  code: ErrorCode;
  message: string;
  traceback: string | null;
}

/** Finds the reason. The rules are ordered by certainty, the most certain first. */
export function diagnose(evidence: Evidence): Diagnosis {
  const { exit, log, configFile, jupyterHost, jupyterPort, python } = evidence;
  // An error that it logged and survived is not the reason.
  const isKilled = isSentByOthers(exit);
  const traceback = isKilled ? null : findTraceback(log);
  const text = log.join("\n");
  const lastLine = traceback ? findException(traceback) : "";
  const ended = `JupyterLab ended with ${describeExit(exit)}`;
  const result = (code: ErrorCode, message: string): Diagnosis => ({
    code,
    message: adviseSafeMode(code, message, evidence),
    traceback,
  });

  if (evidence.oomKilled && exit.signal === "SIGKILL") {
    return result(
      "out_of_memory",
      "The operating system killed JupyterLab because memory ran out; give the container more memory",
    );
  }
  if (/^(MemoryError|.*Cannot allocate memory)/m.test(lastLine) || /^MemoryError\b/m.test(text)) {
    return result("out_of_memory", `Memory ran out while JupyterLab was running: ${lastLine || "MemoryError"}`);
  }
  if (evidence.refusal && !evidence.bound) {
    const isRequested = evidence.refusal.file === null;
    const message = describeRefusal(evidence.refusal, evidence.settings);
    return result(isRequested ? "invalid_options" : "config_error", message);
  }
  if (!evidence.bound && /Permission to listen on port/.test(text)) {
    return result(
      "permission_denied",
      `JupyterLab is not allowed to listen on port ${jupyterPort}; set JUPYTER_PORT to a port above 1023`,
    );
  }
  if (!evidence.bound && /port \d+ is not available|The port \d+ is already in use|Address already in use/.test(text)) {
    return result(
      "port_in_use",
      `Port ${jupyterPort} is used by another program; free it or set JUPYTER_PORT to another port`,
    );
  }
  if (!evidence.bound && /No module named '?jupyter(lab|_server)'?$/m.test(text)) {
    return result(
      "jupyter_not_found",
      `The Python at ${python} has no JupyterLab; install requirements.txt there or set PYTHON to a Python that has it`,
    );
  }
  const configError = evidence.bound ? undefined : findConfigError(log, traceback, lastLine, configFile);
  if (configError) return result("config_error", configError);
  const isNoAddress =
    /^(OSError: .*Cannot assign requested address|socket\.gaierror: )/.test(lastLine) ||
    (/^OSError: .*Invalid argument/.test(lastLine) && /^ +sock\.bind\(/m.test(traceback ?? ""));
  if (!evidence.bound && isNoAddress) {
    const message = `JUPYTER_HOST must be an address of this machine; ${jupyterHost} is not: ${lastLine}`;
    return { code: "config_error", message, traceback };
  }
  if (/^(ModuleNotFoundError|ImportError):/.test(lastLine) && !evidence.bound) {
    return result("import_error", `JupyterLab could not import what it needs: ${lastLine}`);
  }
  if (/^OSError: \[Errno (23|24|28|122)\]|: database or disk is full$/.test(lastLine))
    return result("out_of_resources", `JupyterLab ran out of disk space or of file descriptors: ${lastLine}`);
  if (/^PermissionError:/.test(lastLine))
    return result("permission_denied", `JupyterLab was denied access to a file or folder: ${lastLine}`);
  // An exception there comes from the value of a setting, unless it is an error of the system.
  if (!evidence.bound && traceback && SETUP_FRAME.test(traceback) && !/^OSError:/.test(lastLine))
    return result("config_error", `JupyterLab can't be set up with its settings: ${lastLine}`);
  const when = evidence.bound ? "" : " before it was ready";
  const reason = isKilled ? "" : findLoggedError(log);
  return result("crashed", `${ended}${when}${reason ? `: ${reason}` : ""}`);
}

/** What a log says was wrong in the end: its last exception, or its last error line; empty if there is neither. */
export function findLoggedError(log: readonly string[]): string {
  const traceback = findTraceback(log);
  const exception = traceback ? findException(traceback) : "";
  return exception || log.findLast((line) => /^(\[[CE] |Fatal Python error: )/.test(line)) || "";
}

/** A method in which Jupyter Server makes its parts from its settings. */
const SETUP_FRAME = /, in init_(resources|configurables|webapp|httpserver)$/m;

/** The end of a message about one file or setting that safe mode leaves out. */
export const SAFE_MODE_ADVICE = '; a start with "safe-mode": true leaves it out';
/** Any advice of safe mode at the end of a message. */
const ANY_SAFE_MODE_ADVICE = /; [^;]*"safe-mode": true[^;]*$/;

/** A message without the advice of safe mode, which is in words of the API. */
export function removeSafeModeAdvice(message: string): string {
  return message.replace(ANY_SAFE_MODE_ADVICE, "");
}

/** Failures that a configuration file or an extension can cause. */
const SAFE_MODE_HELPS: ReadonlySet<ErrorCode> = new Set(["config_error", "import_error", "crashed", "start_timeout"]);

/** Adds the advice to try safe mode to the reason of a failed start, if safe mode may help. */
export function adviseSafeMode(code: ErrorCode, message: string, evidence: Omit<Evidence, "log">): string {
  const { exit, imported, usable, safeMode, settings, refusal } = evidence;
  if (safeMode || usable || !imported || !SAFE_MODE_HELPS.has(code)) return message;
  if (code === "crashed" && isSentByOthers(exit)) return message;
  const trait = /The '(\w+)' trait/.exec(message)?.[1];
  // Safe mode keeps the settings of the start itself.
  const isOwn = (name: string) => (trait ? name.endsWith(`.${trait}`) : !refusal?.file && message.includes(name));
  if (Object.keys(settings).some(isOwn)) return message;
  if (refusal) return `${message}${SAFE_MODE_ADVICE}`;
  return `${message}; if a configuration file or an extension is the cause, a start with "safe-mode": true leaves them out`;
}

/** Whether it was ended by a signal that no process of this kind sends itself. */
function isSentByOthers({ signal }: Exit): boolean {
  return signal === "SIGKILL" || signal === "SIGTERM";
}

/** The last Python traceback in a log, from its first line to the exception; null if there is none. */
export function findTraceback(log: readonly string[]): string | null {
  const first = log.findLastIndex((line) => /^\s*Traceback \(most recent call last\):/.test(line));
  if (first < 0) return findSyntaxError(log);
  // Chained exceptions belong together: include the tracebacks that lead to the last one.
  let start = first;
  for (let index = first - 1; index >= 0; index -= 1) {
    const line = log[index] ?? "";
    if (/^\[[A-Z] \d{4}-/.test(line)) break;
    if (/^\s*Traceback \(most recent call last\):/.test(line)) {
      if (!/^\s*(The above exception was|During handling of)/m.test(log.slice(index, start).join("\n"))) break;
      start = index;
    }
  }
  const lines = [log[start] ?? ""];
  for (const line of log.slice(start + 1)) {
    if (/^\[[A-Z] \d{4}-/.test(line)) break;
    lines.push(line);
  }
  return lines.join("\n").trimEnd();
}

function findSyntaxError(log: readonly string[]): string | null {
  const last = log.findLastIndex((line) => /^(SyntaxError|IndentationError|TabError):/.test(line));
  if (last < 0) return null;
  const first = log.slice(0, last).findLastIndex((line) => /^\s+File "/.test(line));
  return log.slice(first < 0 ? last : first, last + 1).join("\n");
}

/** The line of the last exception: the first line after its frames that is not indented. */
function findException(traceback: string): string {
  // JupyterLab indents the traceback of a request that failed.
  const indent = /^\s*/.exec(traceback)?.[0] ?? "";
  const lines = traceback.split("\n").map((line) => (line.startsWith(indent) ? line.slice(indent.length) : line));
  const head = lines.findLastIndex((line) => /^Traceback /.test(line));
  return lines.slice(head + 1).find((line) => /^\S/.test(line)) ?? "";
}

function findConfigError(
  log: readonly string[],
  traceback: string | null,
  lastLine: string,
  configFile: string,
): string | undefined {
  const bad = log.map((line) => /Bad config encountered during initialization: (.*)/.exec(line)?.[1]).find(Boolean);
  if (bad) return `A Jupyter setting is wrong: ${bad}`;
  if (log.some((line) => line.endsWith("configured to only be run with a password.")))
    return "A Jupyter setting is wrong: PasswordIdentityProvider.password_required needs a hashed_password";
  if (!traceback) return undefined;
  const files = [...traceback.matchAll(/File "([^"]+)", line (\d+)/g)];
  const own = files.findLast((match) => match[1] === configFile);
  if (own) return `The configuration file ${configFile} does not load (line ${own[2]}): ${lastLine}`;
  const other = files.findLast((match) => /^jupyter_.*config\.(py|json)$/.test(basename(match[1] ?? "")));
  if (other) return `The configuration file ${other[1]} does not load (line ${other[2]}): ${lastLine}`;
  if (/in load_config_file/.test(traceback)) return `A configuration file does not load: ${lastLine}`;
  if (/traitlets\.traitlets\.TraitError|^TraitError/.test(lastLine)) return `A Jupyter setting is wrong: ${lastLine}`;
  return undefined;
}
