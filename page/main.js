/** The control page: follows the one server, and starts, restarts and stops it. */
import { describeBusy } from "./activity.js";
import { follow, pause, request, untilVisible } from "./api.js";
import { $, show } from "./dom.js";
import { chooseSafeMode, readForm, showFieldErrors } from "./form.js";
import { showLog } from "./log.js";
import { openSession } from "./session.js";
import { render } from "./view.js";

const SERVER = "api/servers/";
const POLL_PAUSE_MS = 1500;
const CLOCK_PAUSE_MS = 1000;

const view = { state: "", since: 0, server: {}, activity: undefined, phases: [], pending: new Set(), problem: "" };

let refreshing;
let isStale = false;

/** Loads the server and shows it. Calls during a load share one more load after it. */
function refresh() {
  isStale = true;
  refreshing ??= (async () => {
    while (isStale) {
      isStale = false;
      await load();
    }
    refreshing = undefined;
  })();
  return refreshing;
}

async function load() {
  try {
    const response = await request("GET", SERVER);
    const server = await response.json();
    if (!server.state) throw new Error(server.message);
    const sessionProblem = await openSession();
    setState(server.state);
    if (sessionProblem) view.problem = sessionProblem;
    view.server = server;
    show("disconnected", false);
    show("content", true);
  } catch {
    show("disconnected", true);
    // The notice is the reason for an action that did not arrive, too, and goes by itself.
    view.problem = "";
  }
  render(view);
}

function setState(state) {
  if (state === view.state) return;
  // The question was about the state before.
  $("confirmation").close("no");
  view.activity = undefined;
  // An error of a start stays readable when somebody else's start has succeeded.
  if (state !== "running") view.problem = "";
  view.since = Date.now();
  view.state = state;
}

function receive({ event, data }) {
  const detail = JSON.parse(data);
  if (event === "phase") view.phases.push(detail);
  if (event === "state") {
    setState(detail.state);
    // One start can follow another: the next attempt of an automatic restart.
    if (detail.state === "starting") view.phases = [];
    view.since = Date.parse(detail.at);
    refresh();
  }
  render(view);
}

async function loadActivity() {
  const response = await request("GET", `${SERVER}activity`);
  return response.ok ? await response.json() : undefined;
}

async function pollActivity() {
  for (;;) {
    await untilVisible();
    if (view.state === "running") {
      // No event tells that a gateway has come or gone.
      if (view.server.gateway) await refresh();
      const activity = await loadActivity().catch(() => undefined);
      if (view.state === "running") view.activity = activity;
      render(view);
    }
    await pause(POLL_PAUSE_MS);
  }
}

/** Runs one action at a time and shows why it failed. Only a stop may interrupt another one. */
async function run(name, action) {
  if (view.pending.has(name) || (view.pending.size > 0 && name !== "stop")) return;
  view.pending.add(name);
  view.problem = "";
  render(view);
  try {
    await action();
  } catch {
    view.problem = "The control API could not be reached. Try again.";
  }
  view.pending.delete(name);
  await refresh();
}

async function start() {
  const options = readForm();
  if (!options) return;
  await run("start", async () => {
    const response = await request("POST", SERVER, options);
    const problem = await findProblem(response);
    // The form is hidden if somebody else's start came first.
    if (problem?.code === "invalid_options" && !$("start").hidden) showFieldErrors(problem.message);
    else view.problem = problem?.message ?? "";
  });
}

async function stop() {
  await run("stop", async () => {
    const isStarting = view.server.state === "starting";
    let response = await request("DELETE", isStarting ? SERVER : `${SERVER}?if-idle=true`);
    if (response.status === 409 && (await confirm("Stop", await loadActivity()))) {
      response = await request("DELETE", SERVER);
    }
    // 404: it has stopped already. 409: the answer to the question was no.
    if (response.status === 404 || response.status === 409) return;
    view.problem = (await findProblem(response))?.message ?? "";
  });
}

async function restart() {
  await run("restart", async () => {
    const activity = await loadActivity();
    const isIdle = activity && !activity.busy;
    if (!isIdle && !(await confirm("Restart", activity))) return;
    const response = await request("POST", `${SERVER}restart`);
    view.problem = (await findProblem(response))?.message ?? "";
  });
}

/** Why a request was refused; undefined if it was not, or if it ended in a failure that is part of the server's state. */
async function findProblem(response) {
  if (response.ok) return undefined;
  const problem = await response.json();
  await refresh();
  const isShown = view.server.last_exit?.message === problem.message;
  return isShown || problem.code === "start_cancelled" ? undefined : problem;
}

/** Asks before unsaved work is lost. Resolves with the answer. */
function confirm(action, activity) {
  const dialog = $("confirmation");
  const reason = activity?.unknown ? `${activity.unknown}.` : describeBusy(activity ?? {});
  $("confirmation-title").textContent = `${action} JupyterLab?`;
  $("confirmation-text").textContent = `${reason} Unsaved work will be lost.`;
  $("confirmation-yes").textContent = `${action} anyway`;
  dialog.returnValue = "no";
  dialog.showModal();
  $("confirmation-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function copyLink() {
  const isCopied = await navigator.clipboard.writeText(view.server.lab_url).then(
    () => true,
    () => false,
  );
  $("copy").textContent = isCopied ? "Copied" : "Not copied";
  view.problem = isCopied ? "" : "The browser did not allow copying. Copy the address of “Open JupyterLab” instead.";
  render(view);
  await pause(CLOCK_PAUSE_MS);
  $("copy").textContent = "Copy link";
}

$("form").onsubmit = (event) => {
  event.preventDefault();
  start();
};
$("safe").onclick = () => {
  chooseSafeMode();
  start();
};
$("stop").onclick = stop;
$("restart").onclick = restart;
$("copy").onclick = copyLink;

refresh();
follow(`${SERVER}events`, receive, refresh);
showLog();
pollActivity();
setInterval(() => document.hidden || $("content").hidden || render(view), CLOCK_PAUSE_MS);
