/** `bun run bench`: measures A and B turn by turn in one run, prints a table and writes `docs/benchmark.md`. */
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { join } from "node:path";
import { add, median, samples, say } from "./bench-measure.ts";
import { measurePage, NETWORKS } from "./bench-page.ts";
import { measureProxy } from "./bench-proxy.ts";
import { measureStarts, post, ROUNDS } from "./bench-starts.ts";
import {
  cleanUp,
  PROJECT,
  prepareFlask,
  prepareLoad,
  readVitals,
  requestsPerSecond,
  startControlApi,
  startFlask,
  TOKEN,
} from "./bench-subjects.ts";

const BUNDLE = ".bench-bundle";
/** The whole run has to end within this. */
const LIMIT_MS = 18 * 60 * 1000;
const SERVER_CPU = 0;
const CLIENT_CPU = 1;

const notes: string[] = [];

/** As the Dockerfile makes it; beside the sources, where it finds the launcher and the pages. */
async function bundle(): Promise<string> {
  const { outputs } = await Bun.build({
    entrypoints: [join(PROJECT, "index.ts")],
    target: "bun",
    minify: { whitespace: true, syntax: true, identifiers: true, keepNames: true },
    bytecode: true,
    outdir: PROJECT,
    naming: `${BUNDLE}.[ext]`,
  });
  const [output] = outputs;
  if (!output) throw new Error("the bundle could not be built");
  return output.path;
}

async function measureControlApi(): Promise<void> {
  const flaskFault = prepareFlask();
  if (flaskFault) notes.push(`Flask could not be installed, its rows are empty: ${flaskFault}`);
  const canLoad = prepareLoad();
  if (!canLoad) notes.push("wrk or taskset is missing: requests per second were not measured.");
  const bundled = await bundle();
  for (let round = 0; round < ROUNDS; round += 1) {
    say(`control API, round ${round + 1} of ${ROUNDS}`);
    const subjects = {
      source: await startControlApi("off", undefined, SERVER_CPU),
      bundle: await startControlApi("off", bundled, SERVER_CPU),
    };
    const answer = await post(subjects.source, { token: TOKEN });
    await post(subjects.bundle, { token: TOKEN });
    for (const [name, api] of Object.entries(subjects)) {
      add(`${name} launch`, api.launchMs);
      add(`${name} MB`, readVitals(api.child.pid).rssMb);
      if (canLoad) add(`${name} requests`, requestsPerSecond(`${api.url}/api/servers/`, CLIENT_CPU));
    }
    if (!flaskFault) {
      const flask = await startFlask(answer, SERVER_CPU);
      add("flask launch", flask.launchMs);
      if (canLoad) add("flask requests", requestsPerSecond(`${flask.url}/api/servers/`, CLIENT_CPU));
      await flask.stop();
    }
    await Promise.all(Object.values(subjects).map((api) => api.stop()));
  }
}

interface Row {
  figure: string;
  ours: string;
  peer: string;
  /** How many times better; NaN where a part was not measured. */
  ratio: number;
  least: number;
  aim: number;
}

const value = (name: string) => (samples[name] ? median(samples[name]) : Number.NaN);
const milliseconds = (name: string) => (samples[name] ? `${value(name).toFixed(1)} ms` : "-");
const megabytes = (name: string) => (samples[name] ? `${(value(name) / 1e6).toFixed(2)} MB` : "-");
const perSecond = (name: string) => (samples[name] ? `${value(name).toFixed(0)}/s` : "-");

function buildRows(): Row[] {
  const faster = (figure: string, ours: string, peer: string, least: number, aim: number): Row => ({
    figure,
    ours: milliseconds(ours),
    peer: milliseconds(peer),
    ratio: value(peer) / value(ours),
    least,
    aim,
  });
  return [
    faster(
      "POST to usable, any options (`STANDBY=on`), against bare `jupyter lab`",
      "on usable",
      "bare usable",
      20,
      35,
    ),
    faster("the same, 50 ms after a DELETE, ten times in a row", "on again usable", "bare usable", 15, 30),
    faster("`POST restart` to usable, against bare's stop and start", "on restart", "bare restart", 10, 25),
    faster(
      "usable again after SIGKILL of JupyterLab (`on`), against bare's start",
      "on recovery",
      "bare usable",
      10,
      25,
    ),
    faster("POST to usable, options of the last start (`armed`), against bare", "armed usable", "bare usable", 60, 120),
    faster("POST to usable, cold (`off`), against bare", "off usable", "bare usable", 3, 4),
    faster("usable again after SIGKILL (`armed`), against bare's start", "armed recovery", "bare usable", 15, 60),
    faster("DELETE to gone, no kernel, against SIGTERM on bare", "on stop", "bare stop", 5, 16),
    faster("new kernel to `1+1` answered, against bare", "on first cell", "bare first cell", 4.5, 6),
    faster("kernel restart to `1+1` answered", "on restarted cell", "bare restarted cell", 3.5, 5),
    faster("20 kernels at once, all answered", "on together", "bare together", 3.5, 5),
    faster("DELETE of a kernel", "on kernel end", "bare kernel end", 2, 2.5),
    faster("processor time of a kernel until its first answer", "on kernel CPU", "bare kernel CPU", 5, 6),
    faster("round trip of a cell from the second on, against bare", "ours cell", "bare cell", 4, 8),
    ...buildPageRows(faster),
    {
      figure: "`GET /api/servers/` on one core, against Flask on gunicorn, one worker",
      ours: perSecond("source requests"),
      peer: perSecond("flask requests"),
      ratio: value("source requests") / value("flask requests"),
      least: 8,
      aim: 20,
    },
    faster(
      "launch of the control API, bundled as in the image, to its first 200, against Flask on gunicorn",
      "bundle launch",
      "flask launch",
      2,
      4,
    ),
  ];
}

/** What a person waits for in a browser, and what it loads. */
function buildPageRows(faster: (figure: string, ours: string, peer: string, least: number, aim: number) => Row): Row[] {
  const click = (network: keyof typeof NETWORKS, least: number, aim: number) =>
    faster(
      `click to launcher in Chromium, empty cache, ${NETWORKS[network].title}`,
      `ours ${network} launcher`,
      `bare ${network} launcher`,
      least,
      aim,
    );
  const smaller = (figure: string, name: string, least: number, aim: number): Row => ({
    figure,
    ours: megabytes(`ours ${name}`),
    peer: megabytes(`bare ${name}`),
    ratio: value(`bare ${name}`) / value(`ours ${name}`),
    least,
    aim,
  });
  return [
    click("slow", 2, 2.5),
    click("fast", 1.5, 1.8),
    click("loopback", 1, 1.15),
    faster("first paint of anything, 5 Mbit/s, 100 ms", "ours slow paint", "bare slow paint", 10, 20),
    faster("click on a notebook's card to `1+1` answered on the screen", "ours notebook", "bare notebook", 1.3, 2),
    smaller("bytes until the launcher (at most 1.5 MB, aim 1.1)", "bytes", 3.4, 4.6),
    smaller("bytes of a second visit (at most 0.08 MB, aim 0.05)", "again bytes", 2, 3.3),
  ];
}

function judge({ ratio, least, aim }: Row): string {
  if (Number.isNaN(ratio)) return "not measured";
  return ratio >= aim ? "aim" : ratio >= least ? "met" : "**missed**";
}

async function version(command: string[]): Promise<string> {
  return (await new Response(Bun.spawn(command, { stderr: "ignore" }).stdout).text()).trim().split("\n")[0] ?? "";
}

async function report(): Promise<string> {
  const table = buildRows().map(
    (row) =>
      `| ${row.figure} | ${row.ours} | ${row.peer} | ${row.ratio.toFixed(1)}x | ${row.least}x | ${row.aim}x | ${judge(row)} |`,
  );
  const jupyter = await version([join(PROJECT, ".venv", "bin", "jupyter-lab"), "--version"]);
  const ways = ["source", "bundle"].map(
    (way) =>
      `| ${way} | ${milliseconds(`${way} launch`)} | ${perSecond(`${way} requests`)} | ${value(`${way} MB`).toFixed(0)} MB |`,
  );
  return [
    "# Results of `bun run bench`",
    "",
    `${new Date().toISOString().slice(0, 10)}, ${cpus().length} cores (${cpus()[0]?.model ?? "unknown"}), ${Math.round(totalmem() / 2 ** 30)} GiB, Linux ${release()}; Bun ${Bun.version}, JupyterLab ${jupyter}.`,
    `Medians of ${ROUNDS} rounds, A and B turn by turn in one run, nothing else asked of the machine; "usable" is JupyterLab's own authenticated answer to \`/api/status\`, asked by the benchmark. Starts are not pinned to a processor; the control API and Flask are, both to the same one, and \`wrk\` to another.`,
    "",
    "| figure | ours | peer | ratio | at least | aim | |",
    "|---|---|---|---|---|---|---|",
    ...table,
    "",
    `POST to its answer: ${milliseconds("on answered")} (on), ${milliseconds("armed answered")} (armed), ${milliseconds("off answered")} (off).`,
    `Idle memory: control API ${value("fresh MB").toFixed(0)} MB from source (at most 60, aim 45), ${value("control API MB").toFixed(0)} MB after ${ROUNDS} starts; some 40 MB of it are Bun's own program, which all on a host share. Warm processes, JupyterLab and the template of kernels together ${value("warm tree MB").toFixed(0)} MB (PSS; at most 130, aim 110). A forked idle kernel adds ${value("on kernel MB").toFixed(1)} MB, a spawned one ${value("bare kernel MB").toFixed(1)} MB (PSS, 20 running): ${(value("on kernel MB") / value("bare kernel MB")).toFixed(2)} of it (at most 0.8, aim 0.5).`,
    `One port (\`PROXY=true\`): a cell takes ${(value("proxied cell") - value("direct cell")).toFixed(2)} ms more than at JupyterLab's own port (${milliseconds("direct cell")}; medians of ${samples["direct cell"]?.length ?? 0} each, in turns; at most 0.3); a visit to a stopped JupyterLab gets the first byte of its page after ${milliseconds("visit")} (at most 150, aim 80); \`GET /api/servers/\` has ${(value("proxy on") / value("proxy off")).toFixed(2)} of the rate without it (at least 0.95).`,
    "",
    "The control API from source and as the bundle of the image (minified, with bytecode), each with a JupyterLab running:",
    "",
    "| way | launch to first 200 | `GET /api/servers/` | RSS |",
    "|---|---|---|---|",
    ...ways,
    ...(notes.length > 0 ? ["", ...notes.map((note) => `- ${note}`)] : []),
    "",
  ].join("\n");
}

async function main(): Promise<void> {
  // The steps are bounded by themselves; this is for a machine on which they are not.
  const guard = setTimeout(() => {
    say("time is up");
    void cleanUp().finally(() => process.exit(1));
  }, LIMIT_MS);
  process.on("SIGINT", () => void cleanUp().finally(() => process.exit(130)));
  try {
    await measureStarts();
    await measureControlApi();
    await measureProxy();
    const fault = await measurePage();
    if (fault) notes.push(fault);
    const text = await report();
    const path = join(PROJECT, "docs", "benchmark.md");
    // What `bun run soak` has found stays.
    const [, soaked] = existsSync(path) ? readFileSync(path, "utf8").split("\n## Soak\n") : [];
    writeFileSync(path, soaked ? `${text}\n## Soak\n${soaked}` : text);
    process.stdout.write(text);
  } finally {
    clearTimeout(guard);
    await cleanUp();
    for (const end of ["js", "js.jsc"]) rmSync(join(PROJECT, `${BUNDLE}.${end}`), { force: true });
  }
}

await main();
