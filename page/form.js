/** The control page's form: the options of a start, as the body of `POST /api/servers/`, and their errors. */
import { $, make, setText } from "./dom.js";
import { endSentence } from "./format.js";

const TEXTS = ["notebook-dir", "base-url", "token", "gateway-url", "gateway-auth-token"];
const SECRETS = new Set(["token", "gateway-auth-token"]);
const AREAS = ["settings", "env", "embed"];
const FIELDS = [...TEXTS, ...AREAS, "safe-mode"];

/** A field with a wrong value. */
class FieldError extends Error {
  constructor(id, message) {
    super(message);
    this.id = id;
  }
}

for (const id of FIELDS) {
  const described = $(id).getAttribute("aria-describedby");
  $(id).setAttribute("aria-describedby", [described, `${id}-error`].filter(Boolean).join(" "));
  $(id)
    .closest(".field")
    .append(make("p", { class: "error", id: `${id}-error` }));
}
$("form").oninput = ({ target }) => {
  setFieldError(target.id, "");
  countOptions();
};
// A browser may fill the form again after a reload.
countOptions();

/** The options in the form, without empty fields; undefined if one is wrong, which is then shown. */
export function readForm() {
  for (const id of FIELDS) setFieldError(id, "");
  try {
    const entries = TEXTS.map((id) => [id, $(id).value]).filter(([, value]) => value.trim() !== "");
    const options = Object.fromEntries(entries.map(([id, value]) => [id, SECRETS.has(id) ? value : value.trim()]));
    const env = readLines("env").map((line) => splitLine("env", line, /^([^=\s]+)=(.*)$/, "NAME=value"));
    if (env.length > 0) options.env = Object.fromEntries(env);
    const origins = readLines("embed").flatMap((line) => line.split(/[\s,]+/).filter(Boolean));
    if (origins.length > 0) options.embed = origins;
    if ($("safe-mode").checked) options["safe-mode"] = true;
    for (const line of readLines("settings")) {
      const [name, value] = splitLine("settings", line, /^(?:c\.)?([A-Z]\w*\.\w+)\s*=\s*(.*)$/, "Class.trait = value");
      options[name] = parseValue(value);
    }
    return options;
  } catch (error) {
    if (!(error instanceof FieldError)) throw error;
    setFieldError(error.id, error.message);
    focusError();
    return undefined;
  }
}

/**
 * Shows the errors of an `invalid_options` answer under their fields, and moves to the first of them. A key that is no
 * field's comes from the settings.
 */
export function showFieldErrors(message) {
  const texts = {};
  for (const problem of message.split(/; (?="[\w.-]+" )/)) {
    const [, key = "", rest = problem] = /^"([\w.-]+)" (.*)$/s.exec(problem) ?? [];
    const id = FIELDS.includes(key) ? key : "settings";
    const subject = FIELDS.includes(key) ? labelOf(key) : key;
    const sentence = endSentence(`${subject} ${nameFields(rest)}`.trim());
    texts[id] = [texts[id], sentence].filter(Boolean).join(" ");
  }
  for (const [id, text] of Object.entries(texts)) setFieldError(id, text);
  focusError();
}

/** Selects safe mode. */
export function chooseSafeMode() {
  $("safe-mode").checked = true;
  countOptions();
}

function setFieldError(id, message) {
  if (!FIELDS.includes(id)) return;
  setText(`${id}-error`, message);
  $(id).setAttribute("aria-invalid", String(message !== ""));
}

function focusError() {
  $("options").open = true;
  $(FIELDS.find((id) => $(id).getAttribute("aria-invalid") === "true")).focus();
}

function labelOf(id) {
  return document.querySelector(`label[for="${id}"]`).textContent;
}

/** A rule in the words of the page: the labels of the fields that it names by their keys. */
function nameFields(text) {
  return text.replace(/"([\w-]+)"/g, (quoted, key) => (FIELDS.includes(key) ? `“${labelOf(key)}”` : quoted));
}

/** Says how many options are set, because they are folded away. */
function countOptions() {
  const number = FIELDS.filter((id) => (id === "safe-mode" ? $(id).checked : $(id).value.trim() !== "")).length;
  setText("options-title", number > 0 ? `Options (${number} set)` : "Options");
}

function readLines(id) {
  return $(id)
    .value.split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
}

function splitLine(id, line, pattern, form) {
  const [, name, value] = pattern.exec(line) ?? [];
  if (name === undefined) throw new FieldError(id, `Each line must be ${form}. This one is not: ${line}`);
  return [name, value];
}

/** A value written as in JSON or in Python; anything else is a string. */
function parseValue(text) {
  if (/^(True|False)$/.test(text)) return text === "True";
  const quoted = /^'([^'\\]*)'$/.exec(text);
  if (quoted) return quoted[1];
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
