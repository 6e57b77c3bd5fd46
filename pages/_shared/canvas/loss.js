// The Focal loss page: who holds the loss, redrawn while alpha and gamma are dragged.

const DECADES = 6; // of loss that the colours span, below the largest of their range

function buildLoss(bench) {
  const { knobRoom, below } = bench;
  buildPresets(bench, knobRoom);
  buildTraining(bench, knobRoom, ["alpha", "gamma"]);
  bench.plot = element("canvas", { className: "rn-plot", role: "img" });
  knobRoom.append(bench.plot, element("p", { className: "rn-small", textContent: KIT.plot_words }));
  bench.kindSwitch = labelledSwitch("show the loss of", KIT.kinds, (kind) => commit(bench, { kind }));
  bench.scaleSwitch = labelledSwitch("colour range", KIT.loss_scales, (range) => commit(bench, { range }));
  below.append(element("div", { className: "rn-choices" }, bench.kindSwitch.row, bench.scaleSwitch.row));
  buildLevelTable(bench, below, ["loss", "share", "of it foreground", "of it background"]);
  bench.truthStyle = lossTruthStyle;
  new ResizeObserver(() => drawCurves(bench)).observe(bench.plot);
}

function lossTruthStyle(bench, index) {
  const told = bench.answer.objects?.[index];
  const isKnown = told?.known ?? true;
  return {
    color: isKnown ? KIT.ground_truth : KIT.left_out, dash: isKnown ? [] : [2, 4],
    words: told ? told.words : "", mark: isKnown ? "" : "−",
  };
}

// ---------------------------------------------------------------- the browser's copy

function receiveLoss(bench) {
  const { layout, table } = bench.answer;
  if (bench.layout?.key !== layout.key) {
    bench.layout = readyLayout(layout);
    bench.losses = null;
  }
  bench.table = tables().kept.get(table) ?? null;
}

function previewLoss(bench) {
  if (!bench.table) return;
  const { alpha, gamma } = bench.state.training;
  const { losses, sides } = lossesOf(bench, alpha, gamma);
  bench.shown = { cells: cellSums(bench, losses, bench.state.kind), sides };
}

// After a release what is drawn is the core's; the browser's total is compared with it.
function agreesLoss(bench) {
  const { answer } = bench;
  let agrees = "";
  if (bench.table) {
    const { sides } = lossesOf(bench, bench.state.training.alpha, bench.state.training.gamma);
    const total = sides.flat().reduce((sum, part) => sum + part, 0);
    agrees = String(Math.abs(total - answer.classification) <= 0.01 * answer.classification + 1e-9);
    bench.stage.dataset.total = String(total);
  }
  let begin = 0;
  const cells = bench.layout.levels.map(({ rows, columns }) => {
    begin += rows * columns;
    return answer.columns.cells.subarray(begin - rows * columns, begin);
  });
  bench.shown = { cells, sides: answer.sides };
  return agrees;
}

// ---------------------------------------------------------------- drawing

function lossRange(bench) {
  const { range: scale } = bench.state;
  if (scale === "unit") return () => [-8, 0];
  const tops = bench.shown.cells.map((cells) => {
    let top = 0;
    for (let i = 0; i < cells.length; i++) if (cells[i] > top) top = cells[i];
    return top;
  });
  const around = (top) => (top > 0 ? [Math.log10(top) - DECADES, Math.log10(top)] : [-DECADES, 0]);
  return scale === "all" ? () => around(Math.max(...tops)) : (level) => around(tops[level]);
}

const lossLevels = (bench) =>
  KIT.levels.map((_, i) => i).filter((i) => bench.state.level === "all" || KIT.levels[i] === bench.state.level);

function paintLoss(context, bench) {
  if (!bench.shown) return;
  const levels = lossLevels(bench);
  const range = lossRange(bench);
  for (const level of levels) {
    const { rows, columns } = bench.layout.levels[level];
    const held = gridImage(bench, KIT.levels[level], rows, columns);
    const [low, high] = range(level);
    const cells = bench.shown.cells[level];
    const logs = ((bench.logs ??= [])[level] = bench.logs[level]?.length === cells.length ? bench.logs[level] : new Float32Array(cells.length));
    for (let i = 0; i < logs.length; i++) logs[i] = Math.log10(cells[i]); // -Infinity takes the lowest colour
    fillRamp(held.pixels, logs, low, high, FADED);
    drawGrid(context, bench, held, anchorExtent(bench.layout, level), 0.85, "lighten");
  }
  paintAnchor(context, bench);
}

function paintAnchor(context, bench) {
  const { anchor } = bench.answer;
  if (!anchor || bench.live) return;
  strokeCorners(context, bench, anchor.box, "#FFFFFF", 1.5, [3, 4]);
  strokeCorners(context, bench, anchor.predicted, KIT.predicted, 2, []);
}

// ---------------------------------------------------------------- the curves (paper, Figure 1)

function drawCurves(bench) {
  const { plot } = bench;
  const [width, height] = [plot.clientWidth, plot.clientHeight];
  if (!width || !bench.state || !bench.answer.ready) return;
  const ratio = window.devicePixelRatio || 1;
  if (plot.width !== Math.round(width * ratio)) Object.assign(plot, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  const context = plot.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const ink = getComputedStyle(plot).color;
  const box = { left: 28, top: 8, width: width - 36, height: height - 52 };
  const x = (p) => box.left + p * box.width;
  const y = (loss) => box.top + box.height * (1 - Math.min(loss, 5) / 5);
  context.drawImage(backgroundOf(bench, box, x, y, ink, ratio), 0, 0, width, height);
  const { alpha, gamma } = bench.state.training;
  const curves = [
    [(p) => -alpha * Math.log(p), KIT.curve_colors.balanced, [6, 4], 1.5],
    [(p) => -alpha * (1 - p) ** gamma * Math.log(p), KIT.curve_colors.focal, [], 2.5],
  ];
  for (const curve of curves) drawCurve(context, x, y, ...curve);
  plot.setAttribute("aria-label", `Loss over p_t for alpha ${alpha} and gamma ${gamma}`);
}

function drawCurve(context, x, y, loss, color, dash, lineWidth) {
  context.setLineDash(dash);
  context.strokeStyle = color;
  context.lineWidth = lineWidth;
  context.beginPath();
  for (let i = 1; i <= 160; i++) context.lineTo(x(i / 160), y(loss(i / 160)));
  context.stroke();
}

// What alpha and gamma do not move: axes, cross entropy, the picture's own pairs; drawn once.
function backgroundOf(bench, box, x, y, ink, ratio) {
  const wanted = [bench.answer.stamp, bench.plot.width, bench.plot.height, ink].join();
  if (bench.backgroundShown === wanted) return bench.plotBackground;
  bench.backgroundShown = wanted;
  bench.plotBackground = element("canvas", { width: bench.plot.width, height: bench.plot.height });
  const context = bench.plotBackground.getContext("2d");
  context.scale(ratio, ratio);
  drawAxes(context, bench, box, x, y, ink);
  drawCurve(context, x, y, (p) => -Math.log(p), ink, [2, 3], 1.5);
  drawRugs(context, bench, box, x);
  return bench.plotBackground;
}

function drawAxes(context, bench, box, x, y, ink) {
  context.setLineDash([]);
  context.lineWidth = 1;
  context.strokeStyle = context.fillStyle = ink;
  context.globalAlpha = 0.55;
  context.font = `11px ${getComputedStyle(bench.stage).fontFamily}`;
  context.textBaseline = "middle";
  context.strokeRect(box.left, box.top, box.width, box.height);
  context.textAlign = "right";
  for (const loss of [0, 1, 2, 3, 4, 5]) context.fillText(String(loss), box.left - 5, y(loss));
  context.textAlign = "center";
  for (const p of [0, 0.5, 1]) context.fillText(p === 0.5 ? "p_t" : String(p), x(p), box.top + box.height + 36);
  context.globalAlpha = 1;
}

// Where the picture's own pairs stand: foreground as strokes, negatives as bars of log counts.
function drawRugs(context, bench, box, x) {
  const { rug } = bench.answer;
  const base = box.top + box.height + 26;
  const top = Math.log10(1 + Math.max(1, ...rug.negatives));
  context.setLineDash([]);
  context.fillStyle = KIT.assignment.background;
  rug.negatives.forEach((count, i) => {
    const tall = (14 * Math.log10(1 + count)) / top;
    context.fillRect(x(i / rug.negatives.length), base - tall, box.width / rug.negatives.length - 0.5, tall);
  });
  context.strokeStyle = KIT.assignment.foreground;
  context.lineWidth = 1.5;
  context.beginPath();
  for (const p of rug.positives) {
    context.moveTo(x(p), box.top + box.height);
    context.lineTo(x(p), box.top + box.height + 10);
  }
  context.stroke();
}

// ---------------------------------------------------------------- words

const lossText = (value) => (value === 0 ? "0" : value >= 0.001 ? value.toFixed(4) : value.toExponential(1));
const shareText = (part, whole) => (whole > 0 ? `${((100 * part) / whole).toFixed(1)}%` : "none");

function showLoss(bench) {
  if (!bench.shown) return;
  const { sides } = bench.shown;
  const total = sides.reduce(([f, b], [df, db]) => [f + df, b + db], [0, 0]);
  const whole = total[0] + total[1];
  showLevels(bench, [total, ...sides].map(([foreground, background]) => {
    const sum = foreground + background;
    return [lossText(sum), shareText(sum, whole), shareText(foreground, sum), shareText(background, sum)];
  }));
  const isPreview = bench.live ? "about " : "";
  bench.headline.replaceChildren(
    element("strong", { textContent: lossText(whole) }),
    element("span", { textContent: `focal loss of this picture, ${isPreview}${shareText(total[0], whole)} of it from the ${number(bench.answer.columns.foreground.length)} foreground anchors, all their classes counted. ${bench.answer.loss_words}` }),
  );
  bench.kindSwitch.show(bench.state.kind);
  bench.scaleSwitch.show(bench.state.range);
  showPreset(bench);
  drawCurves(bench);
}

function legendLoss(bench) {
  if (!bench.shown) return [];
  const range = lossRange(bench);
  const levels = lossLevels(bench);
  const ends = (level) => range(level).map((log) => (10 ** log).toExponential(0));
  const what = "Loss of a cell's anchors, log scale:";
  const shared = bench.state.range !== "level" || levels.length === 1;
  const keys = shared ? [rampKey(...ends(levels[0]), what)]
    : [element("span", { textContent: what }), ...levels.map((level) => rampKey(...ends(level), KIT.levels[level]))];
  if (bench.answer.anchor) keys.push(legendKey("the anchor asked about", "#FFFFFF", true), legendKey("the box it predicts", KIT.predicted));
  if (levels.length > 1) keys.push("Where levels overlap the brighter one shows.");
  return keys;
}

function describeLoss(bench, photo) {
  if (!bench.shown) return "";
  return lossLevels(bench).map((level) => {
    const cell = cellOfPoint(bench.layout, level, photo);
    return `${KIT.levels[level]}: loss ${lossText(bench.shown.cells[level][cell])}`;
  }).join("\n");
}

function onLossTable(bench) {
  if (bench.table || !bench.answer.ready) return;
  bench.table = tables().kept.get(bench.answer.table) ?? null;
  if (bench.table && !bench.live && !isOvertaken(bench)) adopt(bench);
}

const PART = {
  build: buildLoss, receive: receiveLoss, preview: previewLoss, agrees: agreesLoss, onTable: onLossTable,
  paint: paintLoss, show: showLoss, legend: legendLoss, describe: describeLoss,
};
