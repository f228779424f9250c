/** What the control page shows: every part of it made from one object, which nothing here changes. */
import { leaveColours } from "./wire.js";

/** What a failed start says where safe mode may be the way out. */
const SAFE_MODE_ADVICE = '"safe-mode": true';
const TITLES = {
  running: "Running",
  starting: "Starting…",
  stopping: "Stopping…",
  stopped: "Stopped",
  failed: "Failed",
};

const $ = (id) => document.getElementById(id);
/** What the parts that are made anew were last made from. */
const made = new WeakMap();

/**
 * Shows `view`: `state`, `since` (milliseconds since 1970), `server` (the answer of `GET /api/servers/`), `activity`,
 * `phases` of a start under way, `pending` (the names of what is not answered yet), `problem` (one that failed).
 */
export function render(view) {
  const { state, server, activity, pending } = view;
  const isRunning = state === "running" && server.state === "running";
  const focused = document.activeElement;
  document.body.dataset.state = state;
  document.title = `${TITLES[state] ?? "…"} · jupyter-server`;
  setText("state", TITLES[state] ?? "");
  setText("summary", summarize(view));
  setText("problem", view.problem);
  setText("announcement", announce(view));
  show("open", isRunning);
  show("copy", isRunning && navigator.clipboard !== undefined);
  show("restart", isRunning);
  show("stop", isRunning || state === "starting");
  setText("stop", state === "starting" ? "Cancel" : "Stop");
  setText("submit", pending.has("start") ? "Starting…" : "Start");
  for (const id of ["submit", "safe", "restart"]) $(id).setAttribute("aria-disabled", String(pending.size > 0));
  $("stop").setAttribute("aria-disabled", String(pending.has("stop")));
  if (isRunning) $("open").href = server.lab_url;
  show("start", state === "stopped" || state === "failed");
  show("details", isRunning);
  if (isRunning) renderFacts(server);
  renderPhases(view);
  renderFailure(view);
  show("kernels", isRunning && activity !== undefined);
  if (isRunning && activity) renderActivity(activity);
  // Who has just used what is gone now goes on from the heading, which says what it led to.
  if (focused?.closest("[hidden]")) $("state").focus();
}

/** An element; what comes from outside enters as text. */
function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Makes an element's children anew where what they are made from has changed: else a selection in them stays, and a motion. */
function fill(element, source, build) {
  const key = JSON.stringify(source);
  if (made.get(element) === key) return;
  made.set(element, key);
  element.replaceChildren(...build());
}

function setText(id, text) {
  const plain = leaveColours(String(text));
  if ($(id).textContent !== plain) $(id).textContent = plain;
}

function show(id, visible) {
  $(id).hidden = !visible;
}

function announce({ state, server }) {
  if (state === "running" && server.start_ms) return `Running, started in ${formatMs(server.start_ms.total)}`;
  if (state === "failed" && server.last_exit) return `Failed: ${server.last_exit.message}`;
  return TITLES[state] ?? "";
}

function summarize({ state, server, activity, since }) {
  if (state === "starting") {
    const what = server.restarts ? "It crashed, and is started again" : "JupyterLab is starting";
    return Date.now() - since < 1000 ? `${what}.` : `${what}, for ${ago(since)} now.`;
  }
  if (state === "stopping") return "Its kernels first, then JupyterLab, then all that they had started.";
  if (state === "failed") return "JupyterLab is not running. What happened is below.";
  // Nobody asked for an end that has a reason.
  if (state === "stopped")
    return `${(server.state === state && server.last_exit?.message) || "JupyterLab is not running"}.`;
  if (state !== "running" || server.state !== "running") return "";
  return [server.options["safe-mode"] ? "In safe mode." : "", activity ? describeActivity(activity) : ""]
    .join(" ")
    .trim();
}

function describeActivity(activity) {
  if (activity.unknown) return "What it does could not be asked.";
  return activity.busy ? describeWork(activity) : `Idle for ${describeSeconds(activity.idle_seconds)}.`;
}

/** `1 kernel and 2 terminals at work.` */
export function describeWork({ kernels = [], terminals = [] }) {
  const working = kernels.filter(({ state }) => state === "busy").length;
  const running = terminals.filter(({ busy }) => busy).length;
  const parts = [working > 0 && count(working, "kernel"), running > 0 && count(running, "terminal")].filter(Boolean);
  return `${parts.join(" and ") || "Something may be"} at work.`;
}

function renderPhases({ state, server, phases, since }) {
  const { total, ...times } = (state === "running" && server.start_ms) || {};
  const parts = state === "starting" ? phases.map(({ phase, ms }) => [phase, ms]) : Object.entries(times);
  show("phases", state === "starting" || parts.length > 0);
  fill($("bar"), [state, parts], () => {
    const segments = parts.map(([, ms]) => {
      const segment = make("span", {});
      segment.style.flexGrow = String(Math.max(ms, 0));
      return segment;
    });
    return state === "starting" ? [...segments, make("span", { class: "pending" })] : segments;
  });
  const pending = $("bar").querySelector(".pending");
  const ended = parts.reduce((sum, [, ms]) => sum + ms, 0);
  if (pending) pending.style.flexGrow = String(Math.max(Date.now() - since - ended, 1));
  fill($("legend"), [parts, total, server.start_kind], () => {
    const all = total ? [[`${server.start_kind} start`, total]] : [];
    return [...parts, ...all].map(([phase, ms], index) =>
      make(
        "li",
        { class: index < parts.length ? "" : "total" },
        make("span", {}, phase),
        " ",
        make("b", {}, formatMs(ms)),
      ),
    );
  });
}

function renderFailure({ state, server }) {
  const exit = server.state === state ? server.last_exit : undefined;
  show("failure", Boolean(exit?.code) && state !== "stopping");
  if (!exit) return;
  setText("failure-title", state === "failed" ? "What happened" : `Crashed, and started again (${server.restarts})`);
  setText("failure-message", exit.message);
  const end = exit.signal ? `signal ${exit.signal}` : exit.exit_code === null ? "" : `exit code ${exit.exit_code}`;
  const at = new Date(exit.at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  setText("failure-facts", [exit.code, end, at].filter(Boolean).join(" · "));
  for (const [id, text] of [
    ["traceback", exit.traceback ?? ""],
    ["tail", exit.log_tail.join("\n")],
  ]) {
    show(id, text !== "");
    fill($(id).querySelector("pre"), text, () => [text]);
  }
  show("safe", state === "failed" && exit.message.includes(SAFE_MODE_ADVICE));
}

function renderFacts(server) {
  const { gateway } = server;
  const facts = [
    ["Address", server.url],
    ["Folder", server.notebook_dir],
    ["Kernels run", gateway ? (gateway.error ?? gateway.url) : "in the container", gateway?.error ? "bad" : ""],
    ["Started", `${ago(Date.parse(server.started_at))} ago`],
    ["Jupyter Server", server.version],
    ["Process", String(server.pid)],
  ];
  fill($("facts"), facts.length, () => facts.map(([term]) => make("div", {}, make("dt", {}, term), make("dd", {}))));
  for (const [index, cell] of $("facts").querySelectorAll("dd").entries()) {
    const [, text, mark = ""] = facts[index];
    cell.className = mark;
    fill(cell, text, () => [text]);
  }
}

function renderActivity({ kernels, terminals, unknown }) {
  setText("unknown", unknown ?? "");
  show("no-kernels", kernels.length === 0 && !unknown);
  renderTable("kernel-table", kernels, ({ id, name, state, last_activity, connections }) => [
    [name, {}, id.slice(0, 8)],
    [state, { "data-state": state }],
    [`${ago(Date.parse(last_activity))} ago`, {}],
    [String(connections), {}],
  ]);
  renderTable("terminal-table", terminals, ({ name, busy, last_activity }) => [
    [name, {}],
    [busy ? "busy" : "idle", { "data-state": busy ? "busy" : "idle" }],
    [`${ago(Date.parse(last_activity))} ago`, {}],
  ]);
}

function renderTable(id, items, describe) {
  const rows = items.map(describe);
  const body = $(id).querySelector("tbody");
  show(id, rows.length > 0);
  fill(body, rows.length, () => rows.map((cells) => make("tr", {}, ...cells.map(([, marks]) => make("td", marks)))));
  for (const [index, cell] of body.querySelectorAll("td").entries()) {
    const [text, marks, code] = rows.flat()[index];
    for (const [key, value] of Object.entries(marks)) cell.setAttribute(key, value);
    fill(cell, [text, code], () => [text, ...(code ? [" ", make("code", {}, code)] : [])]);
  }
}

/** `1 kernel`, `2 kernels`. */
function count(number, thing) {
  return `${number} ${thing}${number === 1 ? "" : "s"}`;
}

function ago(time) {
  return describeSeconds((Date.now() - time) / 1000);
}

function describeSeconds(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 172_800) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return count(Math.floor(whole / 86_400), "day");
}

function formatMs(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
