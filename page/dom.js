/** Small helpers for the document. Whatever comes from outside enters it as text. */
import { stripColours } from "./format.js";

/** What the children of an element were last built from. */
const sources = new WeakMap();

export const $ = (id) => document.getElementById(id);

/** A new element with attributes and children. */
export function make(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Rebuilds an element's children only when `source` has changed, so that selections and animations in it survive. */
export function rebuild(element, source, build) {
  const key = JSON.stringify(source);
  if (sources.get(element) === key) return;
  sources.set(element, key);
  element.replaceChildren(...build());
}

export function setText(id, text) {
  const plain = stripColours(String(text));
  if ($(id).textContent !== plain) $(id).textContent = plain;
}

export function show(id, visible) {
  $(id).hidden = !visible;
}
