// The browser's copy of the focal loss (retinanet/focal.py): each anchor's columns as sums at a few
// gammas, interpolated between them. A test compares it with the core.

const EXP = new Float64Array(65536);
for (let i = 1; i < EXP.length; i++) EXP[i] = Math.exp((i / 65535) * (KIT.log_high - KIT.log_low) + KIT.log_low);

// How much each node adds to the log of a sum at a gamma: the piecewise cubic of interpolated_log.
function hermiteWeights(gamma) {
  const x = KIT.gamma_nodes;
  let i = x.findLastIndex((node) => node <= gamma);
  i = Math.min(i, x.length - 2);
  const h = x[i + 1] - x[i];
  const t = (gamma - x[i]) / h;
  const weights = new Float64Array(x.length);
  weights[i] += (1 + 2 * t) * (1 - t) ** 2;
  weights[i + 1] += t ** 2 * (3 - 2 * t);
  addSlope(weights, i, t * (1 - t) ** 2 * h);
  addSlope(weights, i + 1, -(t ** 2) * (1 - t) * h);
  return weights;
}

// Adds a node's slope, times a factor, as weights of the values that it is made from.
function addSlope(weights, node, factor) {
  const x = KIT.gamma_nodes;
  const i = Math.min(Math.max(node, 1), x.length - 2);
  const [h0, h1] = [x[i] - x[i - 1], x[i + 1] - x[i]];
  let [d0, d1] = [h1 / (h0 + h1), h0 / (h0 + h1)];
  if (node < i) [d0, d1] = [1 + h0 / (h0 + h1), -h0 / (h0 + h1)];
  if (node > i) [d0, d1] = [-h1 / (h0 + h1), 1 + h1 / (h0 + h1)];
  weights[i - 1] -= (factor * d0) / h0;
  weights[i] += factor * (d0 / h0 - d1 / h1);
  weights[i + 1] += (factor * d1) / h1;
}

// The sum of a row of packed nodes at the gamma of these weights.
function sumOfRow(nodes, row, used) {
  let log = 0;
  for (let k = 0; k < used.length; k++) {
    const { node, weight } = used[k];
    const value = nodes[row * KIT.gamma_nodes.length + node];
    if (value === 0) return 0;
    log += weight * value;
  }
  return EXP[log < 0 ? 0 : log > 65535 ? 65535 : (log + 0.5) | 0];
}

// Each anchor's loss, [R], and the two sides' sums per level: {losses, sides: [[foreground, background]]}.
function lossesOf(bench, alpha, gamma) {
  const { answer: { columns }, table, layout } = bench;
  const weights = hermiteWeights(gamma);
  const used = [...weights].map((weight, node) => ({ node, weight })).filter(({ weight }) => weight !== 0);
  const normalizer = Math.max(1, columns.foreground.length);
  const losses = (bench.losses ??= new Float32Array(layout.count));
  const factor = (1 - alpha) / normalizer;
  for (let i = 0; i < losses.length; i++) losses[i] = factor * sumOfRow(table.columns.nodes, i, used);
  for (const anchor of columns.ignored) losses[anchor] = 0;
  columns.foreground.forEach((anchor, f) => {
    const p = columns.foreground_p[f];
    const own = alpha * (1 - p) ** gamma * -Math.log(Math.max(p, 1e-45));
    losses[anchor] = own / normalizer + factor * sumOfRow(columns.foreground_others, f, used);
  });
  const isForeground = foregroundMask(bench);
  const sides = layout.levels.map(({ begin, count }) => {
    const found = [0, 0];
    for (let i = begin; i < begin + count; i++) found[isForeground[i] ? 0 : 1] += losses[i];
    return found;
  });
  return { losses, sides };
}

function foregroundMask(bench) {
  const { answer: { columns }, layout } = bench;
  if (bench.maskOf !== columns.foreground) {
    bench.maskOf = columns.foreground;
    bench.mask = new Uint8Array(layout.count);
    for (const anchor of columns.foreground) bench.mask[anchor] = 1;
  }
  return bench.mask;
}

// The sum of each cell's anchors, of all or of one side: one array for each level.
function cellSums(bench, losses, kind) {
  const mask = foregroundMask(bench);
  return bench.layout.levels.map(({ rows, columns, begin, cells }) => {
    const sums = new Float32Array(rows * columns);
    for (let cell = 0, at = begin; cell < sums.length; cell++) {
      let sum = 0;
      for (let a = 0; a < cells.length; a++, at++) {
        if (kind === "all" || (kind === "foreground") === Boolean(mask[at])) sum += losses[at];
      }
      sums[cell] = sum;
    }
    return sums;
  });
}
