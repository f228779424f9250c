import { expect, test } from "bun:test";
import { diagnose, type Evidence, findTraceback } from "../../lab/diagnosis.ts";
import { type ErrorCode, ServiceError, stackOf } from "../../lib/errors.ts";

const OWN = "/app/settings.py";
const OTHER = "/etc/jupyter/jupyter_server_config.py";
const SITE = "/venv/lib/python3.11/site-packages";
const LAUNCH = `  File "/app/python/launcher.py", line 127, in become_jupyterlab
    sys.exit(LabApp.launch_instance())
             ^^^^^^^^^^^^^^^^^^^^^^^^`;
const BIND = `${LAUNCH}
  File "/env/tornado/netutil.py", line 162, in bind_sockets
    sock.bind(sockaddr)`;
const LOAD = `${LAUNCH}
  File "${SITE}/traitlets/config/application.py", line 959, in load_config_file
    for config, fname in self._load_config_files(`;
const EXEC = `${LOAD}
  File "${SITE}/traitlets/config/loader.py", line 658, in _read_file_as_dict
    exec(compile(f.read(), conf_filename, "exec"), namespace, namespace)  # noqa: S102`;
const IMPORT = `  File "/app/python/launcher.py", line 78, in become_jupyterlab
    from jupyterlab.labapp import LabApp`;

/** Lines as JupyterLab prints them. */
const line = (level: string, text: string) => `[${level} 2026-08-01 10:00:00.123 ServerApp] ${text}`;
const failAt = (frames: string, error: string) => `Traceback (most recent call last):\n${frames}\n${error}`.split("\n");
const failIn = (file: string, code: string, error: string) =>
  failAt(`${EXEC}\n  File "${file}", line 7, in <module>\n    ${code}`, error);
const noModule = (name: string) => `ModuleNotFoundError: No module named '${name}'`;

const SETUP = `${LAUNCH}
  File "${SITE}/jupyter_server/serverapp.py", line 2235, in init_webapp
    f()`;
const NO_PASSWORD = line("C", "Jupyter servers are configured to only be run with a password.");
const INFO = line("I", "jupyterlab | extension was successfully linked.");
const TRAIT = "The 'cull_interval' trait of an AsyncMappingKernelManager instance expected an int, not the str 'abc'.";
const BAD_CONFIG = "Bad config encountered during initialization:";
const CAUSE = ["", "The above exception was the direct cause of the following exception:", ""];
const HANDLING = ["", "During handling of the above exception, another exception occurred:", ""];
const ENDED = "RuntimeError: A configuration file ended the program with sys.exit(3)";
const SYNTAX = `  File "${OWN}", line 2\n    c.ServerApp.x = = 1\n                    ^\nSyntaxError: invalid syntax`;
const DENIED = "PermissionError: [Errno 13] Permission denied: '/x'";
const NO_ADDRESS = "OSError: [Errno 99] Cannot assign requested address";
const INVALID = "OSError: [Errno 22] Invalid argument";
const NO_NAME = "socket.gaierror: [Errno -2] Name or service not known";
const NOT_HERE = "/usr/bin/python3: No module named jupyterlab";
const NO_PORT = line("C", "ERROR: the Jupyter server could not be started because port 8888 is not available.");

const KILLED: Partial<Evidence> = { exit: { code: null, signal: "SIGKILL" } };
const KILLED_LATER: Partial<Evidence> = { ...KILLED, bound: true };

const SITUATION: Omit<Evidence, "log"> = {
  exit: { code: 1, signal: null },
  bound: false,
  imported: false,
  usable: false,
  safeMode: false,
  settings: {},
  oomKilled: false,
  configFile: OWN,
  jupyterHost: "203.0.113.7",
  jupyterPort: 8888,
  python: "/venv/bin/python",
};

type Case = [what: string, log: string[], message: string, more?: Partial<Evidence>];
// biome-ignore format: a table reads best in rows
const CASES: Partial<Record<ErrorCode, Case[]>> = {
  config_error: [
    ["a configuration file with a syntax error", failAt(EXEC, SYNTAX), `${OWN} does not load (line 2): SyntaxError`],
    ["one that raises", failIn(OWN, "f()", "ValueError: x"), `${OWN} does not load (line 7): ValueError: x`],
    ["one that imports what is missing", failIn(OWN, "import a", noModule("jupyterlab_git")), noModule("jupyterlab_git")],
    ["one that reads what it may not", failIn(OWN, "open('/x')", DENIED), `(line 7): ${DENIED}`],
    ["one that exits", [...failIn(OWN, "exit(3)", "SystemExit: 3"), ...CAUSE, ...failAt(LOAD, ENDED)], `(line 7): ${ENDED}`],
    ["one of somebody else", failIn(OTHER, "x", "NameError: x"), `${OTHER} does not load (line 7): NameError: x`],
    ["one in broken JSON", failAt(LOAD, "json.decoder.JSONDecodeError: x"), "A configuration file does not load: json"],
    ["a setting of a wrong type", [INFO, line("C", `${BAD_CONFIG} ${TRAIT}`)], `A Jupyter setting is wrong: ${TRAIT}`],
    ["a wrong type that nothing catches", failAt(LAUNCH, `traitlets.traitlets.TraitError: ${TRAIT}`), TRAIT],
    ["an address of another machine", failAt(LAUNCH, NO_ADDRESS), `JUPYTER_HOST must be an address of this machine; 203.0.113.7 is not: ${NO_ADDRESS}`],
    ["an address that is no whole one", failAt(BIND, INVALID), `203.0.113.7 is not: ${INVALID}`],
    ["a name that nobody knows", failAt(LAUNCH, NO_NAME), `203.0.113.7 is not: ${NO_NAME}`],
    ["a pattern that is none", failAt(SETUP, "re.error: missing )"), "can't be set up with its settings: re.error: missing )"],
    ["a password that is required and missing", [NO_PASSWORD], "PasswordIdentityProvider.password_required needs a hashed_password"],
    ["a root that is missing", [line("C", `${BAD_CONFIG} No such directory: ''/x''`)], "No such directory: ''/x''"],
  ],
  port_in_use: [
    ["a port that is taken", [line("I", "The port 8888 is already in use."), NO_PORT], "Port 8888 is used"],
  ],
  permission_denied: [
    ["a port that is refused", [line("W", "Permission to listen on port 8888 denied."), NO_PORT], "is not allowed to listen on port 8888"],
    ["a folder that is refused", failAt(LAUNCH, DENIED), DENIED],
  ],
  jupyter_not_found: [
    ["no JupyterLab", failAt(IMPORT, noModule("jupyterlab")), "The Python at /venv/bin/python has no JupyterLab"],
    ["no Jupyter Server", failAt(IMPORT, noModule("jupyter_server")), "set PYTHON"],
    ["no JupyterLab, asked for by -m", [NOT_HERE], "set PYTHON"],
  ],
  import_error: [
    ["a missing module", failAt(IMPORT, noModule("tornado")), noModule("tornado")],
    ["a broken module that gives advice", failAt(IMPORT, "ImportError: no libzmq\n\nReinstall pyzmq."), "ImportError: no libzmq"],
  ],
  out_of_memory: [
    ["a MemoryError", failAt(LAUNCH, "MemoryError"), "Memory ran out while JupyterLab was running: MemoryError"],
    ["no memory for a fork", failAt(LAUNCH, "OSError: [Errno 12] Cannot allocate memory"), "[Errno 12]"],
    ["the out-of-memory killer", [INFO], "because memory ran out", { ...KILLED, oomKilled: true }],
  ],
  out_of_resources: [
    ["a full disk while it is set up", failAt(SETUP, "OSError: [Errno 28] No space"), "disk space or of file descriptors: OSError"],
  ],
  crashed: [
    ["an address that is not ours", failAt(LAUNCH, "OSError: [Errno 99] x"), "exit code 1 before it was ready: OSError: [Errno 99]"],
    ["a last error line", [line("E", "no cookie for you"), INFO], "no cookie for you"],
    ["a Python that can't begin", ["Fatal Python error: init_x: y", "Python runtime state: z"], "Fatal Python error: init_x: y"],
    ["nothing at all", [], "JupyterLab ended with exit code 1 before it was ready"],
    ["the out-of-memory killer, for another process", [INFO], "exit code 1", { oomKilled: true }],
    ["a kill", [INFO], "JupyterLab ended with signal SIGKILL before it was ready", KILLED],
    ["a kill while it runs", [INFO], "JupyterLab ended with signal SIGKILL", KILLED_LATER],
    ["a fault in the configuration file's code, later", failIn(OWN, "f()", "ValueError: x"), "1: ValueError: x", { bound: true }],
    ["a kill after a kernel's port was taken", ["OSError: Address already in use"], "signal SIGKILL", KILLED_LATER],
    ["a kill after a kernel missed JupyterLab", [NOT_HERE], "signal SIGKILL", KILLED_LATER],
    ["a kill after a folder was refused", failAt(LAUNCH, DENIED), "JupyterLab ended with signal SIGKILL", KILLED_LATER],
  ],
};
for (const [code, cases] of Object.entries(CASES)) {
  test.each(cases)(`${code}: %s`, (_, log, message, more = {}) => {
    const verdict = diagnose({ ...SITUATION, log, ...more });
    expect(verdict).toMatchObject({ code, traceback: more.exit ? null : findTraceback(log) });
    expect(verdict.message).toContain(message);
    expect(verdict.message).not.toContain("safe-mode");
  });
}

// biome-ignore format: a table reads best in rows
const REFUSALS: [what: string, code: ErrorCode, refusal: Evidence["refusal"], message: string][] = [
  ["a file", "config_error", { file: OTHER, line: 7, reason: "ValueError: x" }, `The configuration file ${OTHER} does not load (line 7): ValueError: x; a start with "safe-mode": true leaves it out`],
  ["a file without a line", "config_error", { file: OTHER, line: null, reason: "it is a folder" }, `${OTHER} does not load: it is a folder`],
  ["a setting of a file", "config_error", { file: OTHER, key: "A.b", reason: "must be an int" }, `${OTHER} sets A.b, which must be an int`],
  ["a setting of the start", "invalid_options", { file: null, key: "A.b", reason: "must be an int" }, '"A.b" must be an int, got ["x"]'],
  ["a secret of the start", "invalid_options", { file: null, key: "A.token", reason: "must be an int" }, '"A.token" must be an int, got ***'],
];
test.each(REFUSALS)("what the launcher has named comes first: %s", (_, code, refusal, message) => {
  const settings = { "A.b": ["x"], "A.token": "secret" };
  const verdict = diagnose({ ...SITUATION, log: failAt(LAUNCH, "ValueError: y"), imported: true, settings, refusal });
  expect(verdict.code).toBe(code);
  expect(verdict.message).toContain(message);
  expect(verdict.message.includes("safe-mode")).toBe(code === "config_error");
});

const BAD = [line("C", `${BAD_CONFIG} ${TRAIT}`)];
const MISSING = failAt(LAUNCH, noModule("their_extension"));
const STARTED: Partial<Evidence> = { imported: true };
const SEGFAULT: Partial<Evidence> = { ...STARTED, exit: { code: null, signal: "SIGSEGV" } };
const PORT: Partial<Evidence> = { ...STARTED, settings: { "ServerApp.max_body_size": 1 } };
// biome-ignore format: a table reads best in rows
const ADVICE: [what: string, advised: boolean, log: string[], more: Partial<Evidence>][] = [
  ["a configuration file that raises", true, failIn(OWN, "f()", "ValueError: x"), STARTED],
  ["a wrong setting that only a file can have made", true, BAD, PORT],
  ["a wrong setting that the start asked for", false, BAD, { ...STARTED, settings: { "MappingKernelManager.cull_interval": "x" } }],
  ["a module that a file or an extension wants", true, MISSING, STARTED],
  ["a module that JupyterLab itself wants", false, MISSING, {}],
  ["an end without a word", true, [], STARTED],
  ["an end without a word in safe mode", false, [], { ...STARTED, safeMode: true }],
  ["a fault in somebody's machine code", true, [], SEGFAULT],
  ["a fault in machine code while it was in use", false, [], { ...SEGFAULT, bound: true, usable: true }],
  ["a kill from outside", false, [], { ...STARTED, ...KILLED }],
  ["too little memory", false, failAt(LAUNCH, "MemoryError"), STARTED],
  ["a port that is taken", false, [NO_PORT], STARTED],
];
test.each(ADVICE)("%s: safe mode is advised: %p", (_, advised, log, more) => {
  expect(diagnose({ ...SITUATION, log, ...more }).message.includes('"safe-mode": true')).toBe(advised);
});

const FIRST = failIn(OWN, "f()", "KeyError: 'a'");
const SECOND = failAt(LAUNCH, "ValueError: b");
const INDENTED = FIRST.map((text) => `    ${text}`);
// biome-ignore format: a table reads best in rows
const LOGS: [what: string, log: string[], expected: string[]][] = [
  ["one between log lines", [INFO, ...FIRST, INFO], FIRST],
  ["one at the end, without the blank lines after it", [...FIRST, "", ""], FIRST],
  ["one that is indented", [line("W", "x"), ...INDENTED], INDENTED],
  ["the last of two that log lines separate", [...FIRST, INFO, ...SECOND], SECOND],
  ["the last of two that nothing joins", [...FIRST, ...SECOND], SECOND],
  ["a chain by cause, from its first cause on", [INFO, ...FIRST, ...CAUSE, ...SECOND], [...FIRST, ...CAUSE, ...SECOND]],
  ["a chain while handling", [...FIRST, ...HANDLING, ...SECOND, INFO], [...FIRST, ...HANDLING, ...SECOND]],
  ["the last chain only", [...FIRST, INFO, ...SECOND, ...HANDLING, ...FIRST], [...SECOND, ...HANDLING, ...FIRST]],
  ["a syntax error, which has no head line", [INFO, ...SYNTAX.split("\n")], SYNTAX.split("\n")],
];
test.each(LOGS)("findTraceback gives %s", (_, log, expected) => {
  expect(findTraceback(log)).toBe(expected.join("\n"));
});

test("findTraceback gives null where there is none", () => {
  expect(findTraceback([INFO, "KeyError: 'a'"])).toBeNull();
});

test("the log of an unexpected error has its cause too", () => {
  const error = new ServiceError("internal", "what is told", {}, new Error("what it was", { cause: "a text" }));
  expect(stackOf(error)).toMatch(/what is told[\s\S]*\ncaused by [\s\S]*what it was[\s\S]*\ncaused by a text$/);
  expect(stackOf("no error at all")).toBe("no error at all");
});
