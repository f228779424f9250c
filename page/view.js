/** Everything that the control page shows, rendered from one object that is not changed here. */
import { describeActivity, renderActivity } from "./activity.js";
import { $, make, rebuild, setText, show } from "./dom.js";
import { renderFailure } from "./failure.js";
import { formatAge, formatMs } from "./format.js";

const TITLES = {
  running: "Running",
  starting: "Starting…",
  stopping: "Stopping…",
  stopped: "Stopped",
  failed: "Failed",
};

/**
 * Shows `view`: `state`, `since` (milliseconds since 1970), `server` (the answer of `GET /api/servers/`), `activity`,
 * `phases` of a start in progress, `pending` (names of unanswered actions), `problem` (why an action failed).
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
  // When a focused control disappears, focus moves to the heading, which says what came of it.
  if (focused?.closest("[hidden]")) $("state").focus();
}

function announce({ state, server }) {
  if (state === "running" && server.start_ms) return `Running, started in ${formatMs(server.start_ms.total)}`;
  if (state === "failed" && server.last_exit) return `Failed: ${server.last_exit.message}`;
  return TITLES[state] ?? "";
}

function summarize({ state, server, activity, since }) {
  if (state === "starting") {
    const what = server.restarts ? "JupyterLab crashed and is restarting" : "JupyterLab is starting";
    return Date.now() - since < 1000 ? `${what}.` : `${what} (${formatAge(since)}).`;
  }
  if (state === "stopping") return "Shutting down the kernels, then JupyterLab.";
  if (state === "failed") return "JupyterLab is not running. The reason is below.";
  // The reason of an end that nobody asked for here.
  if (state === "stopped")
    return `${(server.state === state && server.last_exit?.message) || "JupyterLab is not running"}.`;
  if (state !== "running" || server.state !== "running") return "";
  const parts = [server.options["safe-mode"] && "Safe mode.", activity && describeActivity(activity)];
  return parts.filter(Boolean).join(" ");
}

function renderPhases({ state, server, phases, since }) {
  const { total, ...times } = (state === "running" && server.start_ms) || {};
  const parts = state === "starting" ? phases.map(({ phase, ms }) => [phase, ms]) : Object.entries(times);
  show("phases", state === "starting" || parts.length > 0);
  rebuild($("bar"), [state, parts], () => {
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
  rebuild($("legend"), [parts, total, server.start_kind], () => {
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

function renderFacts(server) {
  const { gateway } = server;
  const facts = [
    ["Address", server.url],
    ["Folder", server.notebook_dir],
    ["Kernels", gateway ? (gateway.error ?? gateway.url) : "Local", gateway?.error ? "bad" : ""],
    ["Started", `${formatAge(Date.parse(server.started_at))} ago`],
    ["Jupyter Server", server.version],
    ["Process ID", String(server.pid)],
  ];
  rebuild($("facts"), facts.length, () => facts.map(([term]) => make("div", {}, make("dt", {}, term), make("dd", {}))));
  for (const [index, cell] of $("facts").querySelectorAll("dd").entries()) {
    const [, text, className = ""] = facts[index];
    cell.className = className;
    rebuild(cell, text, () => [text]);
  }
}
