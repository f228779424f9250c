/** Python kernels that are forked: they do all that a spawned one does, and where one would differ it is spawned. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readProcess } from "../../lib/procfs.ts";
import { makeEnvironment, write } from "../support/config-files.ts";
import { type Json, pidsWith, read, until } from "../support/helpers.ts";
import { addSpec, findTemplate, IS_FORKED, startForkedKernel, startKernel, waitFor } from "../support/kernel.ts";
import { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 120_000;
/** More than the descriptors that may be open for other reasons. */
const ROUNDS = 5;
const LOCAL_PROVISIONER = "local-provisioner";

const home = mkdtempSync(join(tmpdir(), "kernels-"));
afterAll(() => rmSync(home, { recursive: true, force: true }));

let api: TestServer;
/** The folder for packages of the user, which does not exist when the warm processes start. */
let userPackages: string;
/** That of the environment, with a file that runs at Python's start. */
let packages: string;
beforeAll(async () => {
  packages = makeEnvironment(join(home, "environment"));
  write(packages, { "start.pth": "import os, sys; sys.at_start = os.environ.get('COVERAGE_PROCESS_START')" });
  const python = join(home, "environment", "bin", "python");
  userPackages = Bun.spawnSync([python, "-m", "site", "--user-site"], { env: { HOME: home } })
    .stdout.toString()
    .trim();
  // With PYTHONSAFEPATH a program's own folder is not in `sys.path`: the tests of equality have it there.
  const env = { HOME: home, IPYTHONDIR: join(home, "ipython"), PYTHONSAFEPATH: "1" };
  api = await TestServer.start({ PYTHON: python, STANDBY: "on", JUPYTER_PATH: home, AUTO_RESTART: "false", ...env });
  api.prepare();
  await api.standby(1);
}, LIMIT_MS);
afterAll(() => api[Symbol.asyncDispose](), LIMIT_MS);

/** JupyterLab with these options, in place of one that runs. */
async function startServer(options: object = {}): Promise<Json> {
  await api.stop();
  const { body } = await api.start(options);
  expect(body).toMatchObject({ state: "running" });
  return body;
}

const ask = async (server: Json, method: string, path: string, body?: object): Promise<Json> => {
  const response = await fetch(`${server.url}api/${path}`, {
    method,
    headers: { authorization: `token ${server.token}` },
    ...(body && { body: JSON.stringify(body) }),
  });
  return response.status === 204 ? undefined : await response.json();
};

/** A kernel's state as JupyterLab tells it. */
const stateOf = async (server: Json, { id }: { id: string }): Promise<string> =>
  (await ask(server, "GET", `kernels/${id}`)).execution_state;

const untilState = (server: Json, kernel: { id: string }, state: string, limitMs?: number) =>
  until(`a kernel that is ${state}`, async () => (await stateOf(server, kernel)) === state, limitMs);

/** What the one cell of `executed.ipynb` prints that nbconvert executes: whether its kernel was forked. */
async function executeNotebook({ url, token }: Json): Promise<string> {
  const response = await fetch(`${url}nbconvert/notebook/executed.ipynb?token=${token}`);
  expect(response.status).toBe(200);
  return ((await response.json()) as Json).cells[0].outputs[0].text.join("").trim();
}

const countZombies = (pid: number) =>
  read(`/proc/${pid}/task/${pid}/children`)
    .split(" ")
    .filter((child) => child && !readProcess(Number(child))).length;

// Before the tests that change what is imported: the zygote serves no start after that.
test.each([
  ["a setting", { "KernelProvisionerFactory.default_provisioner_name": LOCAL_PROVISIONER }],
  ["the environment", { env: { JUPYTER_DEFAULT_PROVISIONER_NAME: LOCAL_PROVISIONER } }],
])(
  "kernels are spawned where %s says so",
  async (_title, options) => {
    const server = await startServer(options);
    expect(server.start_kind).toBe("standby");
    using client = await startKernel(server);
    expect(await client.run(IS_FORKED)).toBe("False");
    expect(findTemplate(server)).toBeUndefined();
  },
  LIMIT_MS,
);

describe("a forked kernel", () => {
  let server: Json;
  beforeAll(async () => {
    addSpec(home, "own-variable", { env: { MY_VARIABLE: "mine" } });
    addSpec(home, "own-interpreter-variable", { env: { PYTHONHASHSEED: "7" } });
    addSpec(home, "own-start-variable", { env: { COVERAGE_PROCESS_START: "is read" } });
    addSpec(home, "own-search-path", { env: { IPYTHONDIR: join(home, "ipython") } });
    addSpec(home, "own-provisioner", { metadata: { kernel_provisioner: { provisioner_name: LOCAL_PROVISIONER } } });
    // It tells then how it connects to a kernel.
    server = await startServer({ "ServerApp.log_level": "DEBUG", "ExecutePreprocessor.enabled": true });
    mkdirSync(join(home, "ipython", "profile_default", "startup"), { recursive: true });
    writeFileSync(join(home, "ipython", "profile_default", "startup", "first.py"), "FROM_STARTUP = 'read'");
    const cell = { cell_type: "code", execution_count: null, id: "a", metadata: {}, outputs: [], source: IS_FORKED };
    const notebook = { cells: [cell], metadata: {}, nbformat: 4, nbformat_minor: 5 };
    writeFileSync(join(api.folder, "notebooks", "executed.ipynb"), JSON.stringify(notebook));
    // The first kernel of this JupyterLab, so that it is nbconvert that makes what all kernels share.
    expect(await executeNotebook(server)).toBe("False");
    // From here to the tests of another template there is one that is ready.
    const client = await startForkedKernel(server);
    await client.kernel.shutdown();
    client[Symbol.dispose]();
  }, LIMIT_MS);

  test(
    "is made beside a kernel that nbconvert starts in another thread, and after it",
    async () => {
      const kernels = Array.from({ length: 2 }, () => ask(server, "POST", "kernels", {}));
      expect(await executeNotebook(server)).toBe("False");
      for (const { id } of await Promise.all(kernels)) {
        using client = await startKernel(server, { id, name: "python3" });
        expect(await client.run("1+1")).toBe("2");
        await client.kernel.shutdown();
      }
      using client = await startForkedKernel(server);
      await client.kernel.shutdown();
    },
    LIMIT_MS,
  );

  test(
    "is JupyterLab's child, in the notebook's folder and session",
    async () => {
      mkdirSync(join(api.folder, "notebooks", "deep"), { recursive: true });
      const notebook = { path: "deep/a.ipynb", type: "notebook", name: "a", kernel: { name: "python3" } };
      const { id, kernel } = await ask(server, "POST", "sessions", notebook);
      using client = await startKernel(server, kernel);
      expect(await client.run(IS_FORKED)).toBe("True");
      const facts = `import os, sys; print(os.getcwd(), os.environ["JPY_SESSION_NAME"], os.getppid(), os.getpid(), sep="\\n")`;
      const [folder, name, parent, pid] = (await client.run(facts)).split("\n");
      expect([folder, parent]).toEqual([join(api.folder, "notebooks", "deep"), String(server.pid)]);
      expect(name).toEndWith("deep/a");
      expect(await client.run("FROM_STARTUP")).toContain("read");
      expect(read(`/proc/${pid}/cmdline`)).toContain(`ipykernel_launcher\0-f\0`);
      expect(api.tree()).toContain(Number(pid));
      await ask(server, "DELETE", `sessions/${id}`);
      expect(readProcess(Number(pid))).toBeUndefined();
    },
    LIMIT_MS,
  );

  test(
    "is not restarted where its folder is gone, and its template stays",
    async () => {
      const folder = join(api.folder, "notebooks", "gone");
      mkdirSync(folder);
      const notebook = { path: "gone/a.ipynb", type: "notebook", name: "a", kernel: { name: "python3" } };
      const { kernel } = await ask(server, "POST", "sessions", notebook);
      const template = await until("a template", () => findTemplate(server));
      rmSync(folder, { recursive: true });
      expect((await ask(server, "POST", `kernels/${kernel.id}/restart`)).message).toContain(
        "Exception restarting kernel",
      );
      expect(findTemplate(server)).toBe(template);
      await ask(server, "DELETE", `kernels/${kernel.id}`);
    },
    LIMIT_MS,
  );

  test(
    "has a websocket that sends at once with the shipped configuration file, and no line in the log that nobody here can follow: of Control-C, sockets on loopback, or Jupyter's own settings",
    async () => {
      expect((await api.readOutput()).join("\n")).toContain("is running at");
      const from = (await api.readOutput()).length;
      using client = await startForkedKernel(server);
      expect(await client.run("1+1")).toBe("2");
      const log = (await api.readOutput()).slice(from).join("\n");
      expect(log).toContain(client.kernel.id);
      expect(log).toContain("Connecting to kernel");
      expect(log).toContain("sends at once");
      expect(log).not.toContain("without encryption");
      expect((await api.readOutput()).join("\n")).not.toMatch(/Control-C|ping_timeout/);
    },
    LIMIT_MS,
  );

  test(
    "is interrupted, asks for input, talks over comms with buffers, runs children, answers in a subshell while a cell runs, and can use `multiprocessing`",
    async () => {
      using client = await startForkedKernel(server);
      const { kernel, run } = client;
      const started = join(home, "interrupt-me");
      const sleeping = run(
        `import time\nprint('sleeps')\nopen(${JSON.stringify(started)}, "w").close()\ntime.sleep(1000)`,
      );
      await until("the cell at work", () => existsSync(started));
      await kernel.interrupt();
      expect(await sleeping).toContain("sleeps");
      const asking = kernel.requestExecute({ code: "word = input('say it: ')", allow_stdin: true });
      asking.onStdin = (message: Json) => {
        if (message.header.msg_type === "input_request")
          kernel.sendInputReply({ status: "ok", value: `${message.content.prompt}yes` }, message.parent_header);
      };
      await asking.done;
      expect(await run("word")).toContain("say it: yes");
      const buffers: Json[] = [];
      kernel.registerCommTarget("echo", (comm: Json) => {
        comm.onMsg = (message: Json) => void buffers.push(...message.buffers);
      });
      await run("from comm import create_comm\ncomm = create_comm('echo')\ncomm.send({}, buffers=[b'123', b'4'])");
      await until("the buffers", () => buffers.length === 2);
      expect(buffers.map((buffer) => buffer.byteLength)).toEqual([3, 1]);
      expect(await run("!echo from a shell")).toContain("from a shell");
      const pool =
        "import multiprocessing, os\nprint(multiprocessing.get_context(way).Pool(1).apply(os.getppid) == os.getpid())";
      expect(await run(`way = 'fork'\n${pool}`)).toContain("True");
      expect(await run(`way = 'spawn'\n${pool}`)).toContain("True");
      const content: Json = (await kernel.requestCreateSubshell({}).done).content;
      expect(content.status).toBe("ok");
      const ends = join(home, "subshell-gate");
      const waiting = `${waitFor(ends)}'waited'`;
      const cell = run(waiting);
      await until("a busy kernel", () => kernel.status === "busy");
      kernel.subshellId = content.subshell_id;
      expect(await run("import threading; threading.current_thread() is threading.main_thread()")).toBe("False");
      kernel.subshellId = null;
      writeFileSync(ends, "");
      expect(await cell).toBe("'waited'");
      const pools = "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))";
      expect(await run(`import multiprocessing\n${pools}`)).toBe("[1, 2]");
    },
    LIMIT_MS,
  );

  test(
    "is busy for as long as a cell runs, whatever else it answers meanwhile, and not after a restart in a cell",
    async () => {
      using client = await startForkedKernel(server);
      const { kernel } = client;
      const [gate, none] = [join(home, "busy-gate"), join(home, "no-gate")];
      const cell = client.run(`${waitFor(gate)}'waited'`);
      await until("a busy kernel", () => kernel.status === "busy");
      // JupyterLab's own client sends a comm's messages to a subshell.
      const { subshell_id: subshell }: Json = (await kernel.requestCreateSubshell({}).done).content;
      for (let round = 0; round < 5; round += 1) {
        kernel.subshellId = subshell;
        expect(await client.run("1+1")).toBe("2");
        kernel.subshellId = null;
        await kernel.requestListSubshell({}).done;
        expect(await stateOf(server, kernel)).toBe("busy");
      }
      expect((await api.ask("DELETE", "/api/servers/?if-idle=true")).body.code).toBe("busy");
      writeFileSync(gate, "");
      expect(await cell).toBe("'waited'");
      await untilState(server, kernel, "idle");
      void client.run(waitFor(none)).catch(() => {});
      await untilState(server, kernel, "busy");
      await kernel.restart();
      expect(await client.run("2+2")).toBe("4");
      await untilState(server, kernel, "idle");
      await kernel.shutdown();
    },
    LIMIT_MS,
  );

  test(
    "tells its state also after its death, when it comes back at another port",
    async () => {
      using client = await startForkedKernel(server);
      const { kernel } = client;
      const find = () => pidsWith(`kernel-${kernel.id}`).find((pid) => readProcess(pid)?.ppid === server.pid);
      const pid = find() ?? 0;
      const file = read(`/proc/${pid}/cmdline`).split("\0")[4] ?? "";
      const readPort = () => JSON.parse(read(file)).iopub_port;
      const port = readPort();
      process.kill(pid, "SIGKILL");
      const occupant = await until("its port", () => {
        const listener = createServer().listen(port, "127.0.0.1");
        return new Promise<Server | undefined>((settle) => {
          listener.once("listening", () => settle(listener)).once("error", () => settle(undefined));
        });
      });
      await until("another process", () => ![undefined, pid].includes(find()));
      occupant.close();
      expect(readPort()).not.toBe(port);
      await kernel.reconnect();
      // A kernel that was spawned binds late, and JupyterLab may connect to it after its first words.
      expect(await client.run("1+1")).toBe("2");
      const gate = join(home, "port-gate");
      const cell = client.run(`${waitFor(gate)}'waited'`);
      await untilState(server, kernel, "busy", 10_000).finally(() => writeFileSync(gate, ""));
      expect(await cell).toBe("'waited'");
      await untilState(server, kernel, "idle");
      await kernel.shutdown();
    },
    LIMIT_MS,
  );

  test(
    "stops at a breakpoint, and continues",
    async () => {
      using client = await startForkedKernel(server);
      const { kernel } = client;
      let seq = 0;
      const debug = async (command: string, args: object = {}) => {
        seq += 1;
        const request = { seq, type: "request", command, arguments: args } as Json;
        const { content } = await (kernel.requestDebug(request).done as Promise<Json>);
        return content;
      };
      const stopped = Promise.withResolvers<Json>();
      kernel.iopubMessage.connect((_kernel: unknown, { content }: Json) => {
        if (content.event === "stopped") stopped.resolve(content.body);
      });
      expect((await debug("initialize", { clientID: "test", adapterID: "", pathFormat: "path" })).success).toBe(true);
      expect((await debug("attach")).success).toBe(true);
      const code = "a = 1\nb = a + 1\nprint(b)";
      const { sourcePath } = (await debug("dumpCell", { code })).body;
      await debug("setBreakpoints", { source: { path: sourcePath }, breakpoints: [{ line: 2 }] });
      await debug("configurationDone");
      const running = client.run(code);
      const { threadId } = await stopped.promise;
      await debug("continue", { threadId });
      expect(await running).toBe("2");
    },
    LIMIT_MS,
  );

  test(
    "has random numbers of its own, is new after a restart and after its own death, and leaves nothing",
    async () => {
      const numbers = "import random, uuid, tempfile, os\nprint(random.random(), uuid.uuid4(), tempfile.mktemp())";
      const seen = new Set<string>();
      using client = await startForkedKernel(server);
      const descriptors = () => readdirSync(`/proc/${server.pid}/fd`).length;
      await client.run("kept = 1");
      for (const word of (await client.run(numbers)).split(" ")) seen.add(word);
      await client.kernel.restart();
      expect(await client.run("kept")).toContain("not defined");
      for (const word of (await client.run(numbers)).split(" ")) seen.add(word);
      expect(seen.size).toBe(6);
      expect(await client.run(IS_FORKED)).toBe("True");
      const pid = Number(await client.run("print(os.getpid())"));
      process.kill(pid, "SIGKILL");
      const id = client.kernel.id;
      await until("another process", async () =>
        pidsWith(`kernel-${id}`).some((found) => found !== pid && readProcess(found)),
      );
      await until(
        "its answer",
        () => client.kernel.status === "idle" && client.kernel.connectionStatus === "connected",
      );
      const before = { descriptors: descriptors(), processes: api.tree().length };
      for (let round = 0; round < ROUNDS; round += 1) {
        const kernel = await ask(server, "POST", "kernels", {});
        await ask(server, "DELETE", `kernels/${kernel.id}`);
      }
      await until(
        "nothing more",
        () => descriptors() <= before.descriptors + 2 && api.tree().length <= before.processes,
      );
      expect(countZombies(server.pid)).toBe(0);
    },
    LIMIT_MS,
  );

  test.each([
    ["own-variable", "True", "import os; print(os.environ['MY_VARIABLE'])", "mine"],
    ["own-interpreter-variable", "False", "import sys; print(sys.flags.hash_randomization)", "1"],
    ["own-start-variable", "False", "import sys; print(sys.at_start)", "is read"],
    ["own-provisioner", "False", "print(1)", "1"],
  ])(
    "has what its kernelspec says (%s), forked: %s",
    async (name, forked, code, expected) => {
      using client = await startKernel(server, { name });
      expect(await client.run(code)).toBe(expected);
      expect(await client.run(IS_FORKED)).toBe(forked);
      await client.kernel.shutdown();
    },
    LIMIT_MS,
  );

  test(
    "has a package that was installed after its template was made, in a folder that is new, however often",
    async () => {
      for (const name of ["first", "second", "third"]) {
        const template = await until("a template", () => findTemplate(server));
        write(userPackages, { [`${name}_package.py`]: "" });
        using client = await startKernel(server);
        expect(await client.run(IS_FORKED)).toBe("False");
        expect(await client.run(`import ${name}_package; print(1)`)).toBe("1");
        await until("another one", () => (findTemplate(server) ?? template) !== template);
      }
      (await startForkedKernel(server))[Symbol.dispose]();
    },
    LIMIT_MS,
  );

  test(
    "has what a `.pth` file says that was edited in place after its template was made",
    async () => {
      const template = await until("a template", () => findTemplate(server));
      write(packages, { "start.pth": "import sys; sys.at_start = 'was edited'" });
      using client = await startKernel(server);
      expect(await client.run("import sys; print(sys.at_start)")).toBe("was edited");
      await until("another one", () => (findTemplate(server) ?? template) !== template);
    },
    LIMIT_MS,
  );

  test(
    "outlives its template, and the next one comes from another template",
    async () => {
      using client = await startForkedKernel(server);
      for (const signal of ["SIGKILL", "SIGSTOP"] as const) {
        const template = await until("a template", () => findTemplate(server));
        process.kill(template, signal);
        // Of one that is stopped JupyterLab learns by the next kernel only.
        if (signal === "SIGKILL") await until("another one", () => (findTemplate(server) ?? template) !== template);
        using next = await startKernel(server);
        expect(await next.run("1+1")).toBe("2");
        await next.kernel.shutdown();
        await until("its end", () => !readProcess(template));
        const again = await startForkedKernel(server);
        await again.kernel.shutdown();
        again[Symbol.dispose]();
      }
      expect(await client.run("2+2")).toBe("4");
      expect(countZombies(server.pid)).toBe(0);
    },
    LIMIT_MS,
  );

  test(
    "takes what it has started with it at a stop, also in a session of its own and without its environment",
    async () => {
      using client = await startForkedKernel(server);
      const time = String(100_000 + process.pid);
      await client.run(`import subprocess; subprocess.Popen(["sleep", "${time}"], start_new_session=True, env={})`);
      const started = () => pidsWith(`sleep\0${time}`);
      expect(started()).toHaveLength(1);
      expect((await api.stop()).status).toBe(200);
      expect(started()).toEqual([]);
    },
    LIMIT_MS,
  );
});

test(
  "a start after a package was installed in such a folder is cold",
  async () => {
    write(userPackages, { "another_package.py": "" });
    expect((await startServer()).start_kind).toBe("cold");
  },
  LIMIT_MS,
);

test(
  "a signal from outside ends JupyterLab also while a kernel is restarted, and takes the kernel with it",
  async () => {
    const server = await startServer();
    using client = await startKernel(server);
    const [started, interrupted] = [join(home, "started"), join(home, "interrupted")];
    const touch = (path: string) => `open(${JSON.stringify(path)}, "w").close()`;
    // Such a kernel is killed 5 s after its restart was asked for.
    const stubborn = `${touch(interrupted)}\n    while True: time.sleep(1)`;
    const code = `import time\ntry: ${touch(started)}; time.sleep(1000)\nexcept KeyboardInterrupt:\n    ${stubborn}`;
    void client.run(code).catch(() => {});
    await until("the cell at work", () => existsSync(started));
    void ask(server, "POST", `kernels/${client.kernel.id}/restart`).catch(() => {});
    await until("the interrupted cell", () => existsSync(interrupted));
    process.kill(server.pid, "SIGTERM");
    const { last_exit } = await until("stopped", async () => {
      const { body } = await api.show();
      return body.state === "stopped" ? body : undefined;
    });
    expect(last_exit).toMatchObject({ exit_code: 0, code: null });
    expect(pidsWith(`kernel-${client.kernel.id}`)).toEqual([]);
  },
  LIMIT_MS,
);
