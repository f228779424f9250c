/** Everything that the control page shows, rendered from one object that is not changed here. */
import { describeActivity, renderActivity } from "./activity.js";
import { $, make, rebuild, setText, show } from "./dom.js";
import { describeFailure, describeFailureFacts, findFailure, mayNeedSafeMode, renderFailure } from "./failure.js";
import { endSentence, formatAge, formatMs } from "./format.js";

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
  const { state, server, activity } = view;
  const isRunning = state === "running" && server.state === "running";
  const focused = document.activeElement;
  document.body.dataset.state = state;
  document.title = `${TITLES[state] ?? "…"} · jupyter-server`;
  setText("state", TITLES[state] ?? "");
  setText("summary", summarize(view));
  setText("problem", view.problem);
  setText("announcement", announce(view));
  const failure = state === "failed" ? findFailure(view) : undefined;
  setText("failure-facts", failure ? describeFailureFacts(failure) : "");
  renderButtons(view, isRunning, failure);
  show("start", isStartable(state));
  show("details", isRunning);
  if (isRunning) renderFacts(server);
  renderPhases(view);
  renderFailure(view);
  renderWarnings((isRunning && server.warnings) || []);
  show("kernels", isRunning && activity !== undefined);
  if (isRunning && activity) renderActivity(activity);
  // When a focused control disappears, focus moves to the heading, which says what came of it.
  if (focused?.closest("[hidden]")) $("state").focus();
}

function renderButtons({ state, server, pending }, isRunning, failure) {
  const isSafeModeOffered = failure !== undefined && mayNeedSafeMode(failure);
  show("safe", isSafeModeOffered);
  show("submit", isStartable(state));
  show("open", isRunning);
  show("copy", isRunning && navigator.clipboard !== undefined);
  show("restart", isRunning);
  show("stop", isRunning || state === "starting");
  setText("stop", state === "starting" ? "Cancel" : "Stop");
  setText("submit", pending.has("start") ? "Starting…" : "Start");
  $("submit").classList.toggle("primary", !isSafeModeOffered);
  for (const id of ["submit", "safe", "restart"]) $(id).setAttribute("aria-disabled", String(pending.size > 0));
  $("stop").setAttribute("aria-disabled", String(pending.has("stop")));
  if (isRunning) $("open").href = server.lab_url;
}

function isStartable(state) {
  return state === "stopped" || state === "failed";
}

function announce(view) {
  const { state, server } = view;
  if (state === "running" && server.start_ms) return `Running. ${describeStart(server)}`;
  const failure = findFailure(view);
  return state === "failed" && failure ? `Failed. ${describeFailure(failure)}` : (TITLES[state] ?? "");
}

function summarize(view) {
  const { state, server, activity, since } = view;
  const failure = findFailure(view);
  switch (state) {
    case "starting": {
      const text = server.restarts ? "JupyterLab crashed and is restarting" : "JupyterLab is starting";
      return Date.now() - since < 1000 ? `${text}.` : `${text} (${formatAge(since)}).`;
    }
    case "stopping":
      return "Shutting down the kernels, then JupyterLab.";
    case "failed":
      return failure ? describeFailure(failure) : "JupyterLab is not running.";
    case "stopped":
      return endSentence(failure?.message ?? "JupyterLab is not running");
    case "running":
      return [server.options?.["safe-mode"] && "Safe mode.", activity && describeActivity(activity)]
        .filter(Boolean)
        .join(" ");
    default:
      return "";
  }
}

/** `Started in 60 ms (warm)` */
function describeStart({ start_ms, start_kind }) {
  return `Started in ${formatMs(start_ms.total)} (${start_kind === "cold" ? "cold" : "warm"})`;
}

function renderPhases({ state, server, phases, since }) {
  const isStarting = state === "starting";
  const { total, ...times } = (state === "running" && server.start_ms) || {};
  const parts = isStarting ? phases.map(({ phase, ms }) => [phase, ms]) : Object.entries(times);
  show("phases", isStarting || total !== undefined);
  setText("phases-title", total === undefined ? "Phases" : describeStart(server));
  rebuild($("bar"), [state, parts], () => {
    const segments = parts.map(([, ms]) => {
      const segment = make("span", {});
      segment.style.flexGrow = String(Math.max(ms, 0));
      return segment;
    });
    return isStarting ? [...segments, make("span", { class: "pending" })] : segments;
  });
  const pending = $("bar").querySelector(".pending");
  const ended = parts.reduce((sum, [, ms]) => sum + ms, 0);
  if (pending) pending.style.flexGrow = String(Math.max(Date.now() - since - ended, 1));
  rebuild($("legend"), parts, () =>
    parts.map(([phase, ms]) => make("li", {}, make("span", {}, phase), " ", make("b", {}, formatMs(ms)))),
  );
}

function renderWarnings(warnings) {
  show("warnings", warnings.length > 0);
  rebuild($("warning-list"), warnings, () => warnings.map((warning) => make("li", {}, warning)));
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
