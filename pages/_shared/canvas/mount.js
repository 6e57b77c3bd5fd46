// The place of a bench on the page. Its code comes once, by a component of its own; BENCH, the symbol
// by which the two find each other, stands before this script.

export default function (component) {
  const shared = (globalThis[BENCH] ??= { waiting: new Map() });
  const { parentElement } = component;
  if (shared.open) shared.open(component);
  else shared.waiting.set(parentElement, component);
  return () => {
    shared.waiting.delete(parentElement);
    shared.close?.(parentElement);
  };
}
