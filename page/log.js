/** JupyterLab's log on the control page: live, bounded, filtered, and paused on request. */
import { follow } from "./api.js";
import { $ } from "./dom.js";
import { stripColours } from "./format.js";

const PATH = "api/servers/logs?tail=200&follow=true";
/** The most lines that are kept: a browser shows them without effort. */
const MAX_LINES = 2000;
/** How near to the end counts as being there. */
const END_PX = 40;
/** Lines of Jupyter's log and of Python that report an error; the end of a server by a signal is none. */
const ERROR = /^\[[EC] (?!.*received signal)|^\w*(Error|Exception)\b|^Traceback /;
const WARNING = /^\[W |\b\w*Warning: /;

/** Lines that are shown, and lines that wait for the next frame or the end of a pause. */
const shown = [];
let waiting = [];
/** How many lines have come since the last were shown: more than those that wait, which are bounded. */
let arrived = 0;
let isPaused = false;
let isDrawing = false;
/** Number of the last line. Another control API counts anew, and may send the same lines again. */
let last = 0;
/** Whether the view is at the end: then it follows new lines. */
let isAtEnd = true;
let lastTop = 0;
/** Size of the box that the lines are in, when it was last scrolled to suit its size. */
let size = "";
/** Finds what the filter asks for; undefined: it is empty. */
let query;

/** Shows the log until the page is closed. */
export function showLog() {
  $("pause").onclick = () => {
    isPaused = !isPaused;
    draw();
  };
  $("filter").oninput = () => {
    const text = $("filter").value.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
    // Not by the text in lower case: a few letters are longer there, and what follows them is elsewhere.
    query = text === "" ? undefined : new RegExp(text, "iu");
    for (const line of shown) highlight(line);
    isAtEnd = true;
    goToEnd();
    showCount();
  };
  $("lines").onscroll = ({ target }) => {
    const { scrollTop, scrollHeight, clientHeight } = target;
    // A new size moves lines too, and the observer has not been told of it yet.
    if (measure(target) !== size) return;
    // Only scrolling up leaves the end: it also moves away when lines are added.
    isAtEnd = scrollHeight - scrollTop - clientHeight < END_PX || (isAtEnd && scrollTop >= lastTop);
    lastTop = scrollTop;
  };
  new ResizeObserver(([{ target }]) => {
    size = measure(target);
    goToEnd();
  }).observe($("lines"));
  follow(PATH, receive, () => {});
}

function receive({ id, event, data }) {
  if (Number(id) !== last + 1 && event !== "gap") clear();
  last = Number(id);
  waiting.push(
    event === "gap" ? { text: `${data} earlier lines were dropped`, isGap: true } : { text: stripColours(data) },
  );
  arrived += event === "gap" ? Number(data) : 1;
  if (waiting.length > MAX_LINES) waiting = waiting.slice(-MAX_LINES);
  if (isDrawing) return;
  isDrawing = true;
  // Once per frame, however fast the lines arrive.
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
    arrived = 0;
    box.append(...added);
    shown.push(...added);
    for (const line of shown.splice(0, Math.max(0, shown.length - MAX_LINES))) line.remove();
    goToEnd();
  }
  $("pause").textContent = isPaused ? "Resume" : "Pause";
  showCount();
}

function clear() {
  shown.length = 0;
  waiting = [];
  arrived = 0;
  $("lines").replaceChildren();
}

function measure({ clientWidth, clientHeight }) {
  return `${clientWidth}x${clientHeight}`;
}

function goToEnd() {
  if (isAtEnd) $("lines").scrollTop = $("lines").scrollHeight;
}

function makeLine({ text, isGap }) {
  const line = document.createElement("div");
  line.textContent = text;
  if (isGap) line.className = "gap";
  else if (ERROR.test(text)) line.className = "bad";
  else if (WARNING.test(text)) line.className = "warning";
  highlight(line);
  return line;
}

/** Hides a line that does not match the filter, and highlights the match in others. */
function highlight(line) {
  const text = line.textContent;
  const match = query?.exec(text);
  line.hidden = query !== undefined && !match;
  if (!match) {
    if (line.childElementCount > 0) line.textContent = text;
    return;
  }
  const found = document.createElement("mark");
  found.textContent = match[0];
  line.replaceChildren(text.slice(0, match.index), found, text.slice(match.index + match[0].length));
}

function showCount() {
  const found = shown.filter((line) => !line.hidden).length;
  const parts = [];
  if (query !== undefined) parts.push(`${found} of ${shown.length} lines`);
  if (isPaused) parts.push(`paused, ${arrived} new`);
  const text = parts.join(" · ");
  if ($("count").textContent !== text) $("count").textContent = text;
}
