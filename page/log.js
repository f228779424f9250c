/** JupyterLab's log on the control page: live, bounded, searched, and held still when asked. */
import { follow, leaveColours } from "./wire.js";

const PATH = "api/servers/logs?tail=200&follow=true";
/** So many lines are kept; a browser shows them without effort. */
const MAX_LINES = 2000;
/** How near to the end counts as being there, in pixels. */
const END_PX = 40;

const $ = (id) => document.getElementById(id);
/** Lines that are shown, and those that wait: for the next frame, or for the end of a pause. */
const shown = [];
let waiting = [];
let isPaused = false;
let isDrawing = false;
/** Number of the last line. Another control API has its own numbers, and may have read the same lines again. */
let last = 0;
/** Whether the end is in sight: then it stays there. */
let isAtEnd = true;
let lastTop = 0;
let sought = "";

/** Shows the log for as long as the page is there. Resolves where the control API has none. */
export function watchLog() {
  $("pause").onclick = () => {
    isPaused = !isPaused;
    draw();
  };
  $("search").oninput = () => {
    sought = $("search").value.toLowerCase();
    for (const line of shown) mark(line);
    isAtEnd = true;
    goToEnd();
    showCount();
  };
  $("lines").onscroll = ({ target }) => {
    const { scrollTop, scrollHeight, clientHeight } = target;
    // Only who scrolls up leaves the end: lines that wrap anew move it away by themselves.
    isAtEnd = scrollHeight - scrollTop - clientHeight < END_PX || (isAtEnd && scrollTop >= lastTop);
    lastTop = scrollTop;
  };
  new ResizeObserver(goToEnd).observe($("lines"));
  return follow(PATH, receive, () => {});
}

function receive({ id, event, data }) {
  if (Number(id) !== last + 1 && event !== "gap") clear();
  last = Number(id);
  waiting.push(
    event === "gap" ? { text: `${data} lines are not kept any more`, isGap: true } : { text: leaveColours(data) },
  );
  if (waiting.length > MAX_LINES) waiting = waiting.slice(-MAX_LINES);
  if (isDrawing) return;
  isDrawing = true;
  // Once a frame, however fast they come.
  requestAnimationFrame(() => {
    isDrawing = false;
    draw();
  });
}

function draw() {
  const box = $("lines");
  if (!isPaused) {
    const added = waiting.map(makeLine);
    waiting = [];
    box.append(...added);
    shown.push(...added);
    for (const line of shown.splice(0, Math.max(0, shown.length - MAX_LINES))) line.remove();
    goToEnd();
  }
  $("pause").textContent = isPaused ? "Go on" : "Pause";
  showCount();
}

function clear() {
  shown.length = 0;
  waiting = [];
  $("lines").replaceChildren();
}

function goToEnd() {
  if (isAtEnd) $("lines").scrollTop = $("lines").scrollHeight;
}

function makeLine({ text, isGap }) {
  const line = document.createElement("div");
  line.textContent = text;
  if (isGap) line.className = "gap";
  else if (/^\[[EC] (?!.*received signal)|^\w*(Error|Exception)\b|^Traceback /.test(text)) line.className = "bad";
  mark(line);
  return line;
}

/** Hides a line without what is sought, and marks that in others. */
function mark(line) {
  const text = line.textContent;
  const at = sought === "" ? -1 : text.toLowerCase().indexOf(sought);
  line.hidden = sought !== "" && at < 0;
  if (at < 0) {
    if (line.childElementCount > 0) line.textContent = text;
    return;
  }
  const found = document.createElement("mark");
  found.textContent = text.slice(at, at + sought.length);
  line.replaceChildren(text.slice(0, at), found, text.slice(at + sought.length));
}

function showCount() {
  const found = shown.filter((line) => !line.hidden).length;
  const parts = [];
  if (sought !== "") parts.push(`${found} of ${shown.length} lines`);
  if (isPaused) parts.push(`paused, ${waiting.length} new`);
  const text = parts.join(" · ");
  if ($("count").textContent !== text) $("count").textContent = text;
}
