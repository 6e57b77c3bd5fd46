// What a hand picks on the workbench's stage: a box, or the object that was missed.

function hover(bench, px, py) {
  const { pane } = locate(bench, px, py);
  const index = boxesAt(bench, px, py)[0] ?? -1;
  const before = bench.hover;
  bench.hover = index < 0 ? null : { pane, index };
  showTip(bench, index < 0 ? "" : describe(bench, sceneOfPane(bench, pane), index, "\n"), px, py);
  bench.stage.classList.toggle("over", index >= 0);
  if (before?.index !== bench.hover?.index || before?.pane !== bench.hover?.pane) requestDraw(bench);
}

function unhover(bench) {
  if (!bench.hover) return;
  bench.hover = null;
  bench.tip.hidden = true;
  requestDraw(bench);
}

function select(bench, pair) {
  if (pair === bench.state.box) return;
  const mode = pair >= 0 && bench.state.mode === "whynot" ? "box" : bench.state.mode;
  commit(bench, { box: pair, mode });
}

function stepBox(bench, by) {
  const { scene } = bench;
  if (!scene.count) return;
  const now = indexOfPair(scene, bench.state.box);
  const next = now < 0 ? (by > 0 ? 0 : scene.count - 1) : (now + by + scene.count) % scene.count;
  select(bench, scene.pairs[next]);
}

function clickAt(bench, px, py) {
  const { pane } = locate(bench, px, py);
  const scene = sceneOfPane(bench, pane);
  if (scene.foreign) return; // a pinned model's pairs are not this one's
  const hits = boxesAt(bench, px, py);
  const now = hits.findIndex((i) => scene.pairs[i] === bench.state.box);
  if (!hits.length) select(bench, -1);
  else if (hits.length === 1 && now === 0) select(bench, -1); // the same click opens and closes
  else select(bench, scene.pairs[hits[(now + 1) % hits.length]]); // again: the box behind
}

// Drawing the object that was missed: from where the hand went down to where it is.
function drawWantedTo(bench, [x0, y0], [x, y]) {
  const inside = (value, limit) => Math.min(limit, Math.max(0, value));
  const xs = [x0, x].map((v) => inside(v, bench.answer.width)).sort((a, b) => a - b);
  const ys = [y0, y].map((v) => inside(v, bench.answer.height)).sort((a, b) => a - b);
  bench.state.why = [xs[0], ys[0], xs[1], ys[1]];
  requestDraw(bench);
}

function grabWanted(bench, from) {
  if (bench.state.mode !== "whynot") return null;
  const before = bench.state.why;
  return {
    move: (to) => drawWantedTo(bench, from, to),
    drop() {
      const [x1, y1, x2, y2] = bench.state.why;
      const large = x2 - x1 >= 2 && y2 - y1 >= 2;
      commit(bench, { why: large ? bench.state.why : before });
    },
    cancel() {
      bench.state.why = before;
      requestDraw(bench);
    },
  };
}

function letGo(bench) {
  if (bench.state.mode === "whynot" && bench.state.why) commit(bench, { why: null });
  else select(bench, -1);
}

const PICKING = {
  hover,
  unhover,
  click: clickAt,
  grab: grabWanted,
  keys: (bench) => ({
    n: () => stepBox(bench, 1),
    p: () => stepBox(bench, -1),
    w: () => commit(bench, { mode: bench.state.mode === "whynot" ? "box" : "whynot" }),
    Escape: () => letGo(bench),
  }),
};
