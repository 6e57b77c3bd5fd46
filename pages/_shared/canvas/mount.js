// The workbench's place on the page. Its code (canvas.js and the others) comes once, by a component
// of its own: Streamlit sends a component's script again with each of its runs.

const WORKBENCH = Symbol.for("retinanet.workbench");

export default function (component) {
  const shared = (globalThis[WORKBENCH] ??= { waiting: new Map() });
  const { parentElement } = component;
  if (shared.open) shared.open(component);
  else shared.waiting.set(parentElement, component);
  return () => {
    shared.waiting.delete(parentElement);
    shared.close?.(parentElement);
  };
}
