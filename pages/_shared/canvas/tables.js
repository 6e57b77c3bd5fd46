// Keeps the tables that Python has sent, by their stamp, for a bench to answer from. It sits outside the
// part of the page that reruns with each knob, so a table travels once. READY, before this script, is
// what makes a bench's table of what was sent.

const TABLES = Symbol.for("retinanet.tables");
const KEEP = 6; // tables held at most; the oldest goes first

export default function ({ data }) {
  globalThis[TABLES] ??= { kept: new Map(), listeners: new Set() };
  const store = globalThis[TABLES];
  const sent = unpackColumns(data);
  if (store.kept.has(sent.stamp)) return;
  store.kept.set(sent.stamp, READY(sent));
  for (const old of [...store.kept.keys()].slice(0, -KEEP)) store.kept.delete(old);
  for (const listener of store.listeners) listener();
}
