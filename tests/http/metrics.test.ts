/** The metrics, and what uses them: a dashboard and alerts. */
import { describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseConfig } from "../../config.ts";
import { observe } from "../../http/observe.ts";
import { Supervisor } from "../../jupyter.ts";
import type { LiveLab } from "../../lab/context.ts";
import { History } from "../../lab/history.ts";
import { LogFile } from "../../lab/log-file.ts";
import { PAUSES } from "../../lab/pauses.ts";
import { Standby } from "../../lab/standby.ts";
import { Transfers } from "../../lab/transfers.ts";
import { Secrets } from "../../lib/redact.ts";
import { type Json, PROJECT, until } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";

const promtool = Bun.which("promtool");
if (!promtool) console.warn("promtool is not installed (Debian: prometheus): what is checked with it is skipped");

const scrape = async (server: TestServer): Promise<string> => (await server.ask("GET", "/metrics")).text;
/** The value of one metric; undefined where there is none. */
const read = (text: string, name: string): number | undefined => {
  const line = text.split("\n").find((line) => line.startsWith(`jupyter_server_${name} `));
  return line === undefined ? undefined : Number(line.split(" ")[1]);
};

test("tell of a program that has done nothing", async () => {
  await using server = await TestServer.start();
  const { headers, text } = await server.ask("GET", "/metrics");
  expect(headers.get("content-type")).toContain("text/plain; version=0.0.4");
  expect(read(text, 'state{state="stopped"}')).toBe(1);
  expect(read(text, 'state{state="running"}')).toBe(0);
  expect(read(text, "kernels")).toBe(0);
  expect(read(text, "gateway_up")).toBeUndefined();
  expect(read(text, 'resident_memory_bytes{process="control_api"}')).toBeGreaterThan(10_000_000);
  expect(read(text, 'resident_memory_bytes{process="jupyterlab"}')).toBe(0);
});

test("count starts, phases, stops and restarts, also those before the first question", async () => {
  await using server = await TestServer.start();
  await server.start({ env: { FAKE_MODE: "crash" } });
  const { body } = await server.start({ env: { FAKE_MODE: "idle" } });
  process.kill(body.pid, "SIGKILL");
  expect((await server.awaitRestart(body)).restarts).toBe(1);
  let text = await scrape(server);
  expect(read(text, 'starts_total{kind="cold",result="crashed"}')).toBe(1);
  expect(read(text, 'starts_total{kind="cold",result="success"}')).toBe(2);
  expect(read(text, "restarts_total")).toBe(1);
  expect(read(text, 'start_duration_seconds_count{kind="cold",result="success"}')).toBe(2);
  expect(read(text, 'start_phase_duration_seconds_count{kind="cold",phase="bind"}')).toBe(2);
  expect(read(text, 'state{state="running"}')).toBe(1);
  expect(read(text, 'resident_memory_bytes{process="jupyterlab"}')).toBeGreaterThan(1_000_000);
  await server.stop();
  await server.start();
  await server.stop();
  text = await scrape(server);
  expect(read(text, 'starts_total{kind="cold",result="success"}')).toBe(3);
  expect(read(text, 'stop_duration_seconds_count{result="success"}')).toBe(2);
  expect(read(text, 'stop_duration_seconds_bucket{le="+Inf",result="success"}')).toBe(2);
});

test("lose no count where nobody asks for thousands of starts", async () => {
  const folder = mkdtempSync(join(tmpdir(), "metrics-"));
  const secrets = new Secrets();
  const config = parseConfig({}, folder);
  const history = new History(secrets);
  const logFile = new LogFile(config.logFile, secrets, () => {});
  const context = { config, secrets, logFile, log: () => {}, labs: new Set<LiveLab>(), pauses: PAUSES };
  const services = { ...context, standby: new Standby(context), history, transfers: new Transfers(0) };
  const app = observe(services, new Supervisor(services), 1);
  const add = (count: number) => {
    for (let number = 0; number < count; number += 1) history.samples.add({ what: "restart" });
  };
  add(600);
  expect(history.samples.listeners).toBe(0);
  await until("the metrics", () => history.samples.listeners === 1);
  add(4400);
  const text = await (await app.handle(new Request("http://localhost/metrics"))).text();
  expect(read(text, "restarts_total")).toBe(5000);
  rmSync(folder, { recursive: true });
});

test("do not count the pause before an automatic restart as a part of the start", async () => {
  const pauseMs = 1000;
  await using server = await TestServer.start({}, undefined, { restartsMs: [pauseMs] });
  const first = (await server.start({ env: { FAKE_MODE: "idle" } })).body;
  process.kill(first.pid, "SIGKILL");
  const second = await server.awaitRestart(first);
  const sum = read(await scrape(server), 'start_duration_seconds_sum{kind="cold",result="success"}') ?? 0;
  expect(sum * 1000 - first.start_ms.total - second.start_ms.total).toBeLessThan(pauseMs);
});

test("say that a gateway is down, and count what can't be asked as busy", async () => {
  await using server = await TestServer.start({ STOP_TIMEOUT_S: "1" });
  const gone = { "gateway-url": "http://gateway.invalid:8888", env: { FAKE_MODE: "idle" } };
  const { body } = await server.start(gone);
  expect(read(await scrape(server), "gateway_up")).toBe(0);
  process.kill(body.pid, "SIGSTOP");
  const text = await scrape(server);
  expect(read(text, "busy")).toBe(1);
  expect(read(text, "kernels")).toBeNaN();
  await server.stop();
  expect(read(await scrape(server), "gateway_up")).toBeUndefined();
});

test("are those of the table in docs/api.md", async () => {
  await using server = await TestServer.start();
  const names = [...(await scrape(server)).matchAll(/^# TYPE jupyter_server_(\w+)/gm)].map(([, name]) => name);
  const table = /^\| metric .*?(?=\n\n)/ms.exec(readFileSync(join(PROJECT, "docs", "api.md"), "utf8"))?.[0] ?? "";
  // A cell names metrics, and after `by` their labels.
  const cells = [...table.matchAll(/^\| (`.*?) +\|/gm)].map(([, cell = ""]) => cell.split(" by ")[0] ?? "");
  const written = cells.flatMap((cell) => [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name));
  expect(written.toSorted()).toEqual(names.toSorted());
});

describe("what is made of them", () => {
  const monitoring = join(PROJECT, "deploy", "components", "monitoring");
  const dashboard: Json = JSON.parse(readFileSync(join(monitoring, "grafana.json"), "utf8"));
  // What is under `spec` is a rule file.
  const { spec } = Bun.YAML.parse(readFileSync(join(monitoring, "alerts.yaml"), "utf8")) as Json;
  const rules = JSON.stringify(spec);
  const expressions: string[] = dashboard.panels.flatMap((panel: Json) => panel.targets.map(({ expr }: Json) => expr));

  test("uses existing metrics only", async () => {
    await using server = await TestServer.start();
    const text = await scrape(server);
    const named = [...`${expressions.join(" ")} ${rules}`.matchAll(/jupyter_server_\w+/g)].map(([name]) => name);
    expect(named.length).toBeGreaterThan(15);
    const known = new Set([...text.matchAll(/^# TYPE (\w+)/gm)].map(([, name]) => name));
    for (const name of named) expect(known).toContain(name.replace(/_(bucket|sum|count)$/, ""));
  });

  test.skipIf(!promtool)("is valid for promtool: metrics, alerts, and the dashboard's expressions", async () => {
    await using server = await TestServer.start();
    await server.start();
    const check = (arguments_: string[], input = "") => {
      const { exitCode, stdout, stderr } = Bun.spawnSync([promtool ?? "", ...arguments_], {
        stdin: Buffer.from(input),
      });
      expect([exitCode, `${stderr}${exitCode === 0 ? "" : stdout}`]).toEqual([0, ""]);
    };
    check(["check", "metrics"], await scrape(server));
    const alerts = join(server.folder, "alerts.yaml");
    await Bun.write(alerts, rules);
    check(["check", "rules", alerts]);
    // As rules of their own: promtool reads expressions nowhere else.
    const records = expressions.map((expr, index) => ({
      record: `panel:${index}`,
      expr: expr.replaceAll("$instance", ".*"),
    }));
    const file = join(server.folder, "panels.yaml");
    await Bun.write(file, JSON.stringify({ groups: [{ name: "panels", rules: records }] }));
    check(["check", "rules", file]);
  });

  test.skipIf(!promtool)(
    "tells of a new container's three failures, and counts kernels where one can't be asked",
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "promtool-"));
      const file = join(folder, "test.yaml");
      const failures = 'jupyter_server_starts_total{instance="a",kind="cold",result="crashed"}';
      const kernels = expressions.find((expr) => expr.includes("jupyter_server_kernels")) ?? "";
      const example = {
        interval: "1m",
        input_series: [
          { series: failures, values: "_ 1 2 3x30" },
          { series: 'jupyter_server_kernels{instance="a"}', values: "2x10" },
          { series: 'jupyter_server_kernels{instance="b"}', values: "NaN NaN NaN NaN NaN NaN" },
        ],
        alert_rule_test: [{ eval_time: "25m", alertname: "JupyterLabStartsFail", exp_alerts: [] }],
        promql_expr_test: [
          { expr: kernels.replaceAll("$instance", ".*"), eval_time: "5m", exp_samples: [{ labels: "{}", value: 2 }] },
          {
            expr: 'ALERTS{alertname="JupyterLabStartsFail"}',
            eval_time: "5m",
            exp_samples: [
              {
                labels: 'ALERTS{alertname="JupyterLabStartsFail",alertstate="firing",instance="a",severity="warning"}',
                value: 1,
              },
            ],
          },
        ],
      };
      await Bun.write(join(folder, "alerts.yaml"), rules);
      await Bun.write(file, JSON.stringify({ rule_files: ["alerts.yaml"], tests: [example] }));
      const { exitCode, stdout } = Bun.spawnSync([promtool ?? "", "test", "rules", file]);
      expect([exitCode, `${stdout}`]).toEqual([0, expect.stringContaining("SUCCESS")]);
      rmSync(folder, { recursive: true });
    },
  );
});
