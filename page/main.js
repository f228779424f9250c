/** The control page: follows the one server, and starts, restarts and stops it. */
import { chooseSafeMode, readForm, refuseForm } from "./form.js";
import { watchLog } from "./log.js";
import { describeWork, render } from "./view.js";
import { becomeVisible, follow, forgetToken, pause, request } from "./wire.js";

const SERVER = "api/servers/";
const ACTIVITY_PAUSE_MS = 1500;
const CLOCK_PAUSE_MS = 1000;

const $ = (id) => document.getElementById(id);
const view = { state: "", since: 0, server: {}, activity: undefined, phases: [], pending: new Set(), problem: "" };

let refreshing;
let isStale = false;

/** Asks for the server and shows it. What calls during a call share one more after it. */
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
    enter(server.state);
    view.server = server;
    show("lost", false);
    show("gate", false);
    show("room", true);
  } catch {
    show("lost", true);
  }
  render(view);
}

function enter(state) {
  if (state === view.state) return;
  // What was asked about is not there any more.
  $("question").close("no");
  view.activity = undefined;
  // What was refused during a start is still to be read when it has succeeded.
  if (state !== "running") view.problem = "";
  view.since = Date.now();
  view.state = state;
}

function receive({ event, data }) {
  const told = JSON.parse(data);
  if (event === "phase") view.phases.push(told);
  if (event === "state") {
    enter(told.state);
    // A start can follow a start: the next attempt of an automatic restart.
    if (told.state === "starting") view.phases = [];
    view.since = Date.parse(told.at);
    refresh();
  }
  render(view);
}

async function loadActivity() {
  const response = await request("GET", `${SERVER}activity`);
  return response.ok ? await response.json() : undefined;
}

async function watchActivity() {
  for (;;) {
    await becomeVisible();
    if (view.state === "running") {
      // A gateway comes and goes without an event.
      if (view.server.gateway) await refresh();
      const activity = await loadActivity().catch(() => undefined);
      if (view.state === "running") view.activity = activity;
      render(view);
    }
    await pause(ACTIVITY_PAUSE_MS);
  }
}

/** Does what was asked for, one thing at a time, and shows how it went. Only a stop may come in between. */
async function act(name, work) {
  if (view.pending.has(name) || (view.pending.size > 0 && name !== "stop")) return;
  view.pending.add(name);
  view.problem = "";
  render(view);
  try {
    await work();
  } catch (error) {
    view.problem = `The control API could not be asked: ${error.message}`;
  }
  view.pending.delete(name);
  await refresh();
}

async function start() {
  const options = readForm();
  if (!options) return;
  await act("start", async () => {
    const response = await request("POST", SERVER, { body: options });
    if (response.ok) return;
    const problem = await response.json();
    await refresh();
    // A start that failed is told by the server's state; one that was not begun is told here.
    const isTold = view.server.last_exit?.message === problem.message;
    if (isTold || problem.code === "start_cancelled") return;
    // The form is gone where somebody else's start came first.
    if ($("start").hidden) view.problem = problem.message;
    else refuseForm(problem.message);
  });
}

async function stop() {
  await act("stop", async () => {
    let response = await request("DELETE", `${SERVER}?if-idle=true`);
    if (response.status === 409 && (await confirm("Stop", await loadActivity()))) {
      response = await request("DELETE", SERVER);
    }
    // Nothing to stop is what was wanted; busy was the answer to a question.
    if (!response.ok && response.status !== 404 && response.status !== 409) await complain(response);
  });
}

async function restart() {
  await act("restart", async () => {
    const activity = await loadActivity();
    if (activity && !activity.busy) return await ask();
    if (await confirm("Restart", activity)) await ask();
  });
  async function ask() {
    const response = await request("POST", `${SERVER}restart`);
    if (!response.ok) await complain(response);
  }
}

async function complain(response) {
  const { message, code } = await response.json();
  if (code !== "start_cancelled") view.problem = message;
}

/** Asks before work is lost. Resolves with whether to go on. */
function confirm(action, activity) {
  const dialog = $("question");
  const work = activity?.unknown ? `${activity.unknown}.` : describeWork(activity ?? {});
  $("question-title").textContent = `${action} JupyterLab?`;
  $("question-text").textContent = `${work} What is not saved will be lost.`;
  $("question-yes").textContent = `${action} anyway`;
  dialog.returnValue = "no";
  dialog.showModal();
  $("question-no").focus();
  return new Promise((settle) => {
    dialog.addEventListener("close", () => settle(dialog.returnValue === "yes"), { once: true });
  });
}

async function copyLink() {
  await navigator.clipboard.writeText(view.server.lab_url).catch(() => {});
  $("copy").textContent = "Copied";
  await pause(CLOCK_PAUSE_MS);
  $("copy").textContent = "Copy link";
}

function show(id, visible) {
  $(id).hidden = !visible;
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
$("forget").onclick = () => {
  forgetToken();
  refresh();
};

refresh();
// Without the route, asking again and again does the same, only later.
follow(`${SERVER}events`, receive, refresh).then(() => setInterval(refresh, ACTIVITY_PAUSE_MS));
watchLog().then(() => show("log", false));
watchActivity();
setInterval(() => document.hidden || $("room").hidden || render(view), CLOCK_PAUSE_MS);
