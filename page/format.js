/** Numbers, times and log lines as people read them. */

// biome-ignore lint/suspicious/noControlCharactersInRegex: terminal colours begin with one
const COLOUR = /\u001b\[[\d;]*m/g;

/** A line without the colours that programs write for a terminal. */
export function stripColours(text) {
  return text.replaceAll(COLOUR, "");
}

/** `1 kernel`, `2 kernels`. */
export function count(number, thing) {
  return `${number} ${thing}${number === 1 ? "" : "s"}`;
}

/** How long ago a time (milliseconds since 1970) was: `5 s`. */
export function formatAge(time) {
  return formatSeconds((Date.now() - time) / 1000);
}

export function formatSeconds(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 172_800) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return count(Math.floor(whole / 86_400), "day");
}

export function formatMs(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

/** A message of the API as a sentence. */
export function endSentence(text) {
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}
