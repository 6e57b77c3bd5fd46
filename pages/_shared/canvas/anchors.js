// The Anchors page: which anchors would train on which object, redrawn while a bound or a box is
// dragged.

const BOXES_DRAWN = 700; // anchors drawn as boxes; the cells tell of all
const TINTS = { [IGNORED]: 0.42, [FOREGROUND]: 0.62, [FORCED]: 0.62 };

const STATE_PIXELS = [0, IGNORED, FOREGROUND, FORCED].map((state) =>
  state ? pixelFromHex(state === IGNORED ? KIT.assignment.ignored : KIT.assignment.foreground, TINTS[state]) : 0);

function buildAnchors(bench) {
  const { knobRoom, below } = bench;
  buildPresets(bench, knobRoom);
  buildTraining(bench, knobRoom, ["bg_iou_thresh", "fg_iou_thresh"]);
  knobRoom.append(lowQualityRow(bench), shapeForm(bench));
  bench.showSwitch = labelledSwitch("show", KIT.shown, (show) => commit(bench, { show }));
  bench.scaleSwitch = labelledSwitch("colour range", KIT.scales, (range) => commit(bench, { range }));
  bench.dialectSwitch = labelledSwitch("against torchvision", KIT.dialects, (dialect) => commit(bench, { dialect }));
  const views = element("div", { className: "rn-choices" }, bench.showSwitch.row, bench.scaleSwitch.row, bench.dialectSwitch.row);
  below.append(views);
  buildLevelTable(bench, below, ["anchors", "foreground", "forced", "ignored", "background", "background per foreground"]);
  bench.truthStyle = objectStyle;
}

function lowQualityRow(bench) {
  bench.lowQuality = element("input", { type: "checkbox" });
  bench.lowQuality.addEventListener("change", () => commit(bench, {
    training: { ...bench.state.training, allow_low_quality_matches: bench.lowQuality.checked },
  }));
  return element("label", { className: "rn-check", title: KIT.low_quality_help }, bench.lowQuality,
    "allow_low_quality_matches", element("span", { className: "rn-badge loss", textContent: "loss only" }));
}

function shapeForm(bench) {
  const names = [["base_size", "of P3, pixels; doubles with each level"], ["scales", "sizes at a place, times the base"], ["aspect_ratios", "height / width"]];
  bench.shapeFields = names.map(([name, help]) => {
    const field = element("input", { type: "text", className: "rn-name", dataset: { key: name } });
    field.setAttribute("aria-label", `${name}: ${help}`);
    field.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") field.blur();
    });
    field.addEventListener("change", () => {
      const values = field.value.split(/[,;\s]+/).filter(Boolean).map(Number);
      if (!values.length || !values.every(Number.isFinite)) showShape(bench, true);
      else commit(bench, { [name]: name === "base_size" ? values[0] : values });
    });
    return [name, field, element("label", { title: help }, element("span", { textContent: name }), field)];
  });
  const usual = action("The paper's anchors", () => commit(bench, KIT.shape), "usual");
  bench.shapeNote = element("p", { className: "rn-small" });
  return element("details", { className: "rn-shape" },
    element("summary", {}, "Anchor sizes and ratios ", element("span", { className: "rn-badge rebuilds", textContent: "rebuilds the model" })),
    ...bench.shapeFields.map(([, , label]) => label), bench.shapeNote, element("div", { className: "rn-actions" }, usual));
}

function showShape(bench, always) {
  for (const [name, field] of bench.shapeFields) {
    const value = bench.state[name];
    const text = Array.isArray(value) ? value.map((v) => +v.toFixed(3)).join(", ") : String(value);
    if (always || field.getRootNode().activeElement !== field) field.value = text;
  }
  setText(bench.shapeNote, bench.answer.shape_words);
}

// ---------------------------------------------------------------- the browser's copy

function receiveAnchors(bench) {
  const { layout } = bench.answer;
  if (bench.layout?.key === layout.key) return;
  bench.layout = readyLayout(layout);
  bench.overlaps = null;
}

function matchNow(bench) {
  const objects = truthOf(bench);
  const wanted = objects.map(([, ...box]) => box.join());
  const before = bench.overlaps;
  if (!before || before.layout !== bench.layout || before.keys.join(";") !== wanted.join(";")) {
    const overlaps = objects.map(([, ...box], i) => {
      const known = before?.layout === bench.layout ? before.keys.indexOf(wanted[i]) : -1;
      return known >= 0 ? before.all[known] : overlapsOf(bench.layout, resizedBox(bench.layout, box));
    });
    bench.overlaps = { layout: bench.layout, keys: wanted, all: overlaps };
    bench.best = bestOf(bench.layout, overlaps);
  }
  const states = statesOf(bench.layout, bench.overlaps.all, bench.best, bench.state.training);
  bench.matched = {
    states,
    counts: countStates(bench.layout, states),
    objects: countObjects(bench.overlaps.all, bench.best, states),
  };
}

function previewAnchors(bench) {
  matchNow(bench);
}

// After a release what is drawn is the core's; the browser's copy is compared with it.
function agreesAnchors(bench) {
  matchNow(bench);
  const core = bench.answer.columns.states;
  const same = core.length === bench.matched.states.length && core.every((state, i) => state === bench.matched.states[i]);
  bench.matched = { states: core, counts: bench.answer.counts, objects: bench.answer.objects };
  return String(same);
}

// ---------------------------------------------------------------- drawing

const shownLevels = (bench) =>
  KIT.levels.map((_, i) => i).filter((i) => bench.state.level === "all" || KIT.levels[i] === bench.state.level);

function paintAnchors(context, bench) {
  const levels = shownLevels(bench).reverse(); // the coarsest first, so that the finest lies on top
  if (bench.state.show === "iou") paintIou(context, bench, levels);
  else if (bench.state.show === "dialect") paintDialect(context, bench, levels);
  else {
    for (const level of levels) paintStates(context, bench, level, levels.length);
    paintForeground(context, bench, levels);
  }
  paintCell(context, bench);
}

function paintStates(context, bench, level, count) {
  const { layout, matched } = bench;
  const { rows, columns } = layout.levels[level];
  const held = gridImage(bench, KIT.levels[level], rows, columns);
  bench.cells ??= [];
  const cells = (bench.cells[level] = bench.cells[level]?.length === rows * columns ? bench.cells[level] : new Uint8Array(rows * columns));
  largestOfCells(layout, level, matched.states, cells);
  for (let i = 0; i < cells.length; i++) held.pixels[i] = STATE_PIXELS[cells[i]];
  drawGrid(context, bench, held, anchorExtent(layout, level), count > 1 ? 0.55 : 0.85);
}

function iouRange(bench) {
  const { range: scale } = bench.state;
  if (scale === "unit") return () => [0, 1];
  const largest = bench.layout.levels.map(({ begin, count }) => {
    let top = 0;
    for (let i = begin; i < begin + count; i++) if (bench.best.iou[i] > top) top = bench.best.iou[i];
    return top;
  });
  return scale === "all" ? () => [0, Math.max(...largest)] : (level) => [0, largest[level]];
}

function paintIou(context, bench, levels) {
  const { layout, best } = bench;
  const range = iouRange(bench);
  for (const level of levels) {
    const { rows, columns } = layout.levels[level];
    const held = gridImage(bench, `iou ${KIT.levels[level]}`, rows, columns);
    const values = largestOfCells(layout, level, best.iou, new Float32Array(rows * columns));
    fillRamp(held.pixels, values, ...range(level), FADED);
    drawGrid(context, bench, held, anchorExtent(layout, level), 0.85, "lighten");
  }
}

// The foreground anchors as boxes; with an object selected, its own alone.
function paintForeground(context, bench, levels) {
  const { layout, matched, best } = bench;
  const object = selectedObject(bench);
  const found = [];
  for (const level of levels) {
    const { begin, count } = layout.levels[level];
    for (let at = begin; at < begin + count; at++) {
      if (matched.states[at] >= FOREGROUND && (object < 0 || best.object[at] === object)) found.push(at);
    }
  }
  bench.foregroundFound = found.length;
  const step = Math.max(1, found.length / BOXES_DRAWN);
  const drawn = Math.min(found.length, BOXES_DRAWN);
  context.globalAlpha = Math.min(0.9, 3 * faintness(drawn));
  for (let i = 0; i < drawn; i++) {
    const at = found[Math.floor(i * step)];
    const forced = matched.states[at] === FORCED;
    strokeThin(context, bench, anchorBox(layout, at), KIT.assignment.foreground, 1, forced ? [5, 3] : []);
  }
  context.globalAlpha = 1;
}

// The anchors that another implementation trains on something else, by the rule that does it.
function paintDialect(context, bench, levels) {
  const { dialect, columns } = bench.answer;
  if (!dialect || bench.live) return;
  const shown = new Set(levels);
  context.globalAlpha = Math.min(0.95, 3 * faintness(Math.min(columns.different.length, BOXES_DRAWN)));
  for (let i = 0; i < Math.min(columns.different.length, BOXES_DRAWN); i++) {
    const at = columns.different[i];
    if (!shown.has(bench.layout.levels.findLastIndex(({ begin }) => begin <= at))) continue;
    const { color, dash } = dialect.reasons[columns.reasons[i]];
    strokeThin(context, bench, anchorBox(bench.layout, at), color, 1.5, dash);
  }
  context.globalAlpha = 1;
}

// The anchors of the clicked cell.
function paintCell(context, bench) {
  const { cell } = bench.answer;
  if (!cell || bench.live) return;
  cell.anchors.forEach(({ box, state }) => {
    const color = [KIT.assignment.background, KIT.assignment.ignored, KIT.assignment.foreground, KIT.assignment.foreground][state];
    strokeCorners(context, bench, box, color, 1.5, state === FORCED ? [5, 3] : state === IGNORED ? [2, 3] : []);
  });
}

// ---------------------------------------------------------------- words

function objectStyle(bench, index) {
  const told = bench.matched?.objects[index];
  if (!told) return { color: KIT.ground_truth, dash: [], words: "", mark: "" };
  const natural = told.foreground - told.forced;
  const anchors = (count) => (count === 1 ? "1 anchor" : `${number(count)} anchors`);
  if (natural > 0) return { color: KIT.ground_truth, dash: [], words: anchors(told.foreground), mark: "+" };
  if (told.foreground > 0) return { color: KIT.left_out, dash: [7, 4], words: `${anchors(told.foreground)}, forced only`, mark: "!" };
  return { color: KIT.left_out, dash: [2, 4], words: "no anchor", mark: "−" };
}

function perForeground(background, foreground) {
  if (!foreground) return "none to learn from";
  const ratio = background / foreground;
  return `1 : ${ratio < 10 ? +ratio.toFixed(1) : number(Math.round(ratio))}`;
}

function showAnchors(bench) {
  if (!bench.matched) return;
  const { counts } = bench.matched;
  const total = counts.reduce((sum, row) => sum.map((value, i) => value + row[i]), [0, 0, 0, 0]);
  showLevels(bench, [total, ...counts].map(([background, ignored, foreground, forced]) => [
    ...[background + ignored + foreground, foreground, forced, ignored, background].map(number),
    perForeground(background, foreground),
  ]));
  const [background, ignored, foreground] = total;
  setText(bench.headline, "");
  bench.headline.append(
    element("strong", { textContent: perForeground(background, foreground) }),
    element("span", { textContent: `${number(foreground)} foreground : ${number(ignored)} ignored : ${number(background)} background, of ${number(background + ignored + foreground)} anchors. ${KIT.paper_words}` }),
  );
  bench.lowQuality.checked = bench.state.training.allow_low_quality_matches;
  bench.showSwitch.show(bench.state.show);
  bench.scaleSwitch.show(bench.state.range);
  bench.scaleSwitch.row.hidden = bench.state.show !== "iou";
  bench.dialectSwitch.show(bench.state.dialect);
  bench.dialectSwitch.row.hidden = bench.state.show !== "dialect";
  showPreset(bench);
  showShape(bench);
}

function legendAnchors(bench) {
  if (bench.state.show === "iou") {
    const range = iouRange(bench);
    const levels = shownLevels(bench);
    if (bench.state.range !== "level" || levels.length === 1) {
      const [low, high] = range(levels[0]);
      return [rampKey(low.toFixed(2), high.toFixed(2), "Best IoU of a cell's anchors with any object:")];
    }
    return [element("span", { textContent: "Best IoU of a cell's anchors with any object." }),
      ...levels.map((level) => rampKey("0.00", range(level)[1].toFixed(2), KIT.levels[level]))];
  }
  if (bench.state.show === "dialect") {
    const { dialect, columns } = bench.answer;
    if (!dialect) return [];
    const keys = dialect.reasons.filter(({ count }) => count).map(({ words, count, color, dash }) => legendKey(`${words} (${number(count)})`, color, dash.length > 0));
    const lead = columns.different.length ? `Anchors that ${dialect.title} trains on something else than torchvision:` : `${dialect.title} trains every anchor as torchvision does here.`;
    if (columns.different.length > BOXES_DRAWN) keys.push(`${BOXES_DRAWN} of ${number(columns.different.length)} are drawn.`);
    return [element("span", { textContent: lead }), ...keys];
  }
  const keys = [
    legendKey("foreground: trains on its object", KIT.assignment.foreground),
    legendKey("forced: the best an object has, below the bound", KIT.assignment.foreground, true),
    legendKey("ignored: between the bounds, no loss", KIT.assignment.ignored),
    legendKey("object with anchors of its own", KIT.ground_truth),
    legendKey("object without", KIT.left_out, true),
    "No tint: background.",
  ];
  if (bench.foregroundFound > BOXES_DRAWN) keys.push(`${BOXES_DRAWN} of ${number(bench.foregroundFound)} foreground anchors are drawn as boxes.`);
  return keys;
}

function describeAnchors(bench, photo) {
  if (!bench.matched) return "";
  const words = ["background", "ignored", "foreground", "forced"];
  return shownLevels(bench).map((level) => {
    const { begin, cells } = bench.layout.levels[level];
    const first = begin + cellOfPoint(bench.layout, level, photo) * cells.length;
    let top = first;
    for (let at = first; at < first + cells.length; at++) if (bench.best.iou[at] > bench.best.iou[top]) top = at;
    return `${KIT.levels[level]}: best IoU ${bench.best.iou[top].toFixed(3)}, ${words[bench.matched.states[top]]}`;
  }).join("\n");
}

const PART = {
  build: buildAnchors, receive: receiveAnchors, preview: previewAnchors, agrees: agreesAnchors,
  paint: paintAnchors, show: showAnchors, legend: legendAnchors, describe: describeAnchors,
};
