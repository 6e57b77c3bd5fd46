// Mounts a bench: a stage with controls and explanations beside it, in one component, so that a dragged
// knob redraws all of them without asking Python. ROOM says what it shows: build(bench, parent),
// receive(bench, data), catchUp(bench) after a release, onTable(bench), close(bench).

const TABLES = Symbol.for("retinanet.tables");
const benches = new WeakMap(); // parentElement -> one bench

function tables() {
  globalThis[TABLES] ??= { kept: new Map(), listeners: new Set() };
  return globalThis[TABLES];
}

function attach(parent) {
  parent.querySelector(".rn-root").innerHTML = PAGE; // a constant of this script
  const find = (name) => parent.querySelector(name);
  const bench = {
    zoom: 1, x: 0, y: 0, scale: 1, hover: null, pointers: new Map(), travel: 0,
    sent: 0, wanted: 0, answered: 0, live: false,
    stage: find(".rn-stage"), canvas: find(".rn-canvas"), photoCanvas: find(".rn-photo"),
    tip: find(".rn-tip"), hint: find(".rn-hint"), status: find(".rn-status"),
    legend: find(".rn-legend"), list: find(".rn-list"),
  };
  ROOM.build(bench, parent);
  attachHands(bench, parent);
  parent.addEventListener("pointerdown", (event) => (bench.pressed = event.target.type === "range"));
  bench.onRelease = () => {
    bench.pressed = false;
    setTimeout(() => ROOM.catchUp(bench), 0); // after the slider's own "change", if there is one
  };
  for (const name of ["pointerup", "pointercancel"]) addEventListener(name, bench.onRelease, true);
  bench.observer = new ResizeObserver(() => resize(bench));
  bench.observer.observe(bench.stage);
  bench.onPhoto = () => requestDraw(bench);
  photos().listeners.add(bench.onPhoto);
  bench.onTable = () => bench.answer && ROOM.onTable(bench);
  tables().listeners.add(bench.onTable);
  return bench;
}

function detach(bench) {
  bench.observer.disconnect();
  photos().listeners.delete(bench.onPhoto);
  tables().listeners.delete(bench.onTable);
  for (const name of ["pointerup", "pointercancel"]) removeEventListener(name, bench.onRelease, true);
  cancelAnimationFrame(bench.frame);
  clearTimeout(bench.retry);
  ROOM.close(bench);
}

function openBench(component) {
  const { data, parentElement, setStateValue, setTriggerValue } = component;
  if (!benches.has(parentElement)) benches.set(parentElement, attach(parentElement));
  const bench = benches.get(parentElement);
  Object.assign(bench, { setStateValue, setTriggerValue });
  ROOM.receive(bench, data);
}

function closeBench(parentElement) {
  if (!benches.has(parentElement)) return;
  detach(benches.get(parentElement));
  benches.delete(parentElement);
}

// This script is mounted once, outside the part of the page that reruns with each knob; mount.js is
// what Streamlit mounts there. BENCH, the symbol by which the two find each other, stands above.
export default function () {
  const shared = (globalThis[BENCH] ??= { waiting: new Map() });
  Object.assign(shared, { open: openBench, close: closeBench });
  for (const component of shared.waiting.values()) openBench(component);
  shared.waiting.clear();
}
