/** What went wrong, on the control page: the last failed start or crash. */
import { $, rebuild, setText, show } from "./dom.js";

/** Part of the message of a failure that safe mode may avoid. */
const SAFE_MODE_ADVICE = '"safe-mode": true';

export function renderFailure({ state, server }) {
  const exit = server.state === state ? server.last_exit : undefined;
  show("failure", Boolean(exit?.code) && state !== "stopping");
  if (!exit) return;
  setText("failure-title", state === "failed" ? "What happened" : describeRestarts(state, server.restarts));
  setText("failure-message", exit.message);
  const end = exit.signal ? `signal ${exit.signal}` : exit.exit_code === null ? "" : `exit code ${exit.exit_code}`;
  const at = new Date(exit.at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  setText("failure-facts", [exit.code, end, at].filter(Boolean).join(" · "));
  for (const [id, text] of [
    ["traceback", exit.traceback ?? ""],
    ["tail", exit.log_tail.join("\n")],
  ]) {
    show(id, text !== "");
    rebuild($(id).querySelector("pre"), text, () => [text]);
  }
  show("safe", state === "failed" && exit.message.includes(SAFE_MODE_ADVICE));
}

function describeRestarts(state, restarts) {
  const verb = state === "starting" ? "Restarting" : "Restarted";
  return restarts > 1 ? `${verb} after ${restarts} crashes` : `${verb} after a crash`;
}
