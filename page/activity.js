/** Kernels and terminals on the control page, and what the activity means in words. */
import { $, make, rebuild, setText, show } from "./dom.js";
import { count, formatAge, formatSeconds } from "./format.js";

/** `Idle for 5 s.`, or what is busy. */
export function describeActivity(activity) {
  if (activity.unknown) return "Activity unknown.";
  return activity.busy ? describeBusy(activity) : `Idle for ${formatSeconds(activity.idle_seconds)}.`;
}

/** `1 kernel and 2 terminals are busy.` */
export function describeBusy({ kernels = [], terminals = [] }) {
  const busyKernels = kernels.filter(({ state }) => state === "busy").length;
  const busyTerminals = terminals.filter(({ busy }) => busy).length;
  const parts = [
    busyKernels > 0 && count(busyKernels, "kernel"),
    busyTerminals > 0 && count(busyTerminals, "terminal"),
  ];
  const text = parts.filter(Boolean).join(" and ");
  if (text === "") return "JupyterLab may be busy.";
  return `${text} ${busyKernels + busyTerminals === 1 ? "is" : "are"} busy.`;
}

export function renderActivity({ kernels, terminals, unknown }) {
  setText("activity-error", unknown ?? "");
  show("no-kernels", kernels.length === 0 && !unknown);
  renderTable("kernel-table", kernels, ({ id, name, state, last_activity, connections }) => [
    [name, {}, id.slice(0, 8)],
    [state, { "data-state": state }],
    [`${formatAge(Date.parse(last_activity))} ago`, {}],
    [String(connections), {}],
  ]);
  renderTable("terminal-table", terminals, ({ name, busy, last_activity }) => [
    [name, {}],
    [busy ? "busy" : "idle", { "data-state": busy ? "busy" : "idle" }],
    [`${formatAge(Date.parse(last_activity))} ago`, {}],
  ]);
}

/** A row for each item; `describe` gives its cells as text, attributes and a code beside the text. */
function renderTable(id, items, describe) {
  const rows = items.map(describe);
  const body = $(id).querySelector("tbody");
  show(id, rows.length > 0);
  rebuild(body, rows.length, () =>
    rows.map((cells) => make("tr", {}, ...cells.map(([, attributes]) => make("td", attributes)))),
  );
  for (const [index, cell] of body.querySelectorAll("td").entries()) {
    const [text, attributes, code] = rows.flat()[index];
    for (const [key, value] of Object.entries(attributes)) cell.setAttribute(key, value);
    rebuild(cell, [text, code], () => [text, ...(code ? [" ", make("code", {}, code)] : [])]);
  }
}
