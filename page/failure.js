/** What went wrong, on the control page: the last failed start or crash. */
import { $, rebuild, setText, show } from "./dom.js";
import { endSentence } from "./format.js";

/** The API's advice at the end of a message. The page has a button for it. */
const SAFE_MODE_ADVICE = /; [^;]*"safe-mode": true[^;]*$/;
/** This many frames of a traceback are shown; those before them are folded. */
const OPEN_FRAMES = 2;

/** The failure that belongs to the present state; undefined without one. */
export function findFailure({ state, server }) {
  return (server.state === state && server.last_exit) || undefined;
}

/** Whether safe mode may avoid a failure: not where the form asks for it already. */
export function mayNeedSafeMode({ message }) {
  return !$("safe-mode").checked && SAFE_MODE_ADVICE.test(message);
}

/** A failure's message, for people who see the page's buttons. */
export function describeFailure(failure) {
  const message = endSentence(failure.message.replace(SAFE_MODE_ADVICE, ""));
  return mayNeedSafeMode(failure) ? `${message} Safe mode skips configuration files and extensions.` : message;
}

/** `config_error · exit code 1 · 25 Nov 2026, 12:00:00` */
export function describeFailureFacts({ code, signal, exit_code, at }) {
  const end = signal ? `signal ${signal}` : exit_code === null ? "" : `exit code ${exit_code}`;
  const time = new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  return [code, end, time].filter(Boolean).join(" · ");
}

/** A crash and its traceback, or the traceback of a failed start, whose message is at the top of the page. */
export function renderFailure(view) {
  const failure = findFailure(view);
  const isCrash = failure?.code && (view.state === "running" || view.state === "starting");
  const [outer, inner] = splitTraceback(failure?.traceback ?? "");
  show("failure", failure !== undefined && view.state !== "stopping" && Boolean(isCrash || inner));
  if (!failure) return;
  setText("failure-title", isCrash ? describeRestarts(view) : "Traceback");
  setText("crash-message", isCrash ? describeFailure(failure) : "");
  setText("crash-facts", isCrash ? describeFailureFacts(failure) : "");
  show("outer-frames", outer !== "");
  show("inner-frames", inner !== "");
  rebuild($("outer-frames").querySelector("pre"), outer, () => [outer]);
  setText("inner-frames", inner);
}

/** A Python traceback in two parts: the last frames with the exception, and everything before them. */
function splitTraceback(traceback) {
  const lines = traceback.split("\n");
  const frames = [...lines.keys()].filter((index) => /^\s+File "/.test(lines[index]));
  const cut = frames.length > OPEN_FRAMES ? frames.at(-OPEN_FRAMES) : 0;
  return [lines.slice(0, cut).join("\n"), lines.slice(cut).join("\n")];
}

function describeRestarts({ state, server: { restarts } }) {
  const verb = state === "starting" ? "Restarting" : "Restarted";
  return restarts > 1 ? `${verb} after ${restarts} crashes` : `${verb} after a crash`;
}
