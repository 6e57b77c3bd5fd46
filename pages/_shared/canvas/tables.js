// Keeps the candidate tables that Python has sent, by key, for the workbench to answer from. It sits
// outside the part of the page that reruns with each knob, so a table travels once.

const TABLES = Symbol.for("retinanet.tables");
const KEEP = 6; // tables held at most; the oldest goes first

export default function ({ data }) {
  globalThis[TABLES] ??= { kept: new Map(), listeners: new Set() };
  const store = globalThis[TABLES];
  const sent = unpackColumns(data);
  if (store.kept.has(sent.stamp)) return;
  store.kept.set(sent.stamp, readyTable(sent));
  for (const old of [...store.kept.keys()].slice(0, -KEEP)) store.kept.delete(old);
  for (const listener of store.listeners) listener();
}
