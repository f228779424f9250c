/** The control page's form: the options of a start, as the body of `POST /api/servers/`. */
import { $ } from "./dom.js";

const TEXTS = ["base-url", "notebook-dir", "gateway-url", "gateway-auth-token", "token"];
const AREAS = ["settings", "env", "embed"];
const FIELDS = [...TEXTS, ...AREAS];

/** A field with a wrong value. */
class FieldError extends Error {
  constructor(id, message) {
    super(message);
    this.id = id;
  }
}

/** The options in the form, without empty fields; undefined if one is wrong, which is then shown. */
export function readForm() {
  showFormError("");
  try {
    const typed = TEXTS.map((id) => [id, $(id).value]).filter(([, value]) => value.trim() !== "");
    const secrets = new Set(["token", "gateway-auth-token"]);
    const options = Object.fromEntries(typed.map(([id, value]) => [id, secrets.has(id) ? value : value.trim()]));
    const env = readLines("env").map((line) => splitLine("env", line, /^([^=\s]+)=(.*)$/, "NAME=value"));
    if (env.length > 0) options.env = Object.fromEntries(env);
    const origins = readLines("embed").flatMap((line) => line.split(/[\s,]+/).filter(Boolean));
    if (origins.length > 0) options.embed = origins;
    if ($("safe-mode").checked) options["safe-mode"] = true;
    for (const line of readLines("settings")) {
      const [name, value] = splitLine("settings", line, /^(?:c\.)?([\w.]+)\s*=\s*(.*)$/, "Class.trait = value");
      options[name] = readValue(value);
    }
    return options;
  } catch (error) {
    if (!(error instanceof FieldError)) throw error;
    showFormError(error.message, error.id);
    return undefined;
  }
}

/** Shows an error and moves to the field that it names. An empty message clears it. */
export function showFormError(message, id = FIELDS.find((field) => message.includes(`"${field}"`))) {
  $("form-error").textContent = message;
  for (const field of FIELDS) $(field).removeAttribute("aria-invalid");
  if (id === undefined) return;
  if (AREAS.includes(id)) $("advanced").open = true;
  $(id).setAttribute("aria-invalid", "true");
  $(id).focus();
}

/** Selects safe mode, visibly. */
export function chooseSafeMode() {
  $("advanced").open = true;
  $("safe-mode").checked = true;
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
function readValue(text) {
  if (/^(True|False)$/.test(text)) return text === "True";
  const quoted = /^'([^'\\]*)'$/.exec(text);
  if (quoted) return quoted[1];
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
