// The funnel, the legend and the list for screen readers.

// A column for each step, a row for all levels and one for each.
function buildFunnel(bench, parent) {
  const head = element("tr", {}, element("td"));
  const rows = ["all levels", ...KIT.levels].map((name) =>
    element("tr", {}, element("th", { scope: "row", textContent: name })),
  );
  bench.funnelSteps = KIT.stages.map(({ name, words }, step) => {
    const button = element("button", { type: "button", textContent: words, dataset: { stage: name } });
    button.addEventListener("click", () => {
      commit(bench, { stage: bench.state.stage === name ? "kept" : name });
    });
    const lost = element("span", { className: "rn-lost" });
    if (step) lost.style.setProperty("--fate", KIT.fates[step - 1].color);
    head.append(element("th", { scope: "col" }, button, ...(step ? [lost] : [])));
    const cells = rows.map((row) => row.appendChild(element("td")));
    return { name, button, lost, cells };
  });
  parent.querySelector(".rn-funnel thead").append(head);
  parent.querySelector(".rn-funnel tbody").append(...rows);
  bench.funnelNote = parent.querySelector(".rn-funnel-note");
}

// counts[level][fate] -> [stage][level] left.
function funnelOf(counts) {
  return KIT.stages.map((_, stage) =>
    counts.map((fates) => fates.slice(stage).reduce((sum, count) => sum + count, 0)),
  );
}

function showFunnel(bench) {
  const counts = bench.live ? bench.result?.counts : bench.answer.counts;
  const total = (values) => values.reduce((sum, count) => sum + count, 0);
  const left = counts && funnelOf(counts);
  bench.funnelSteps.forEach(({ name, button, lost, cells }, step) => {
    const values = left ? [total(left[step]), ...left[step]] : [];
    cells.forEach((cell, row) => setText(cell, left ? number(values[row]) : ""));
    if (step) {
      const gone = counts ? total(counts.map((fates) => fates[step - 1])) : 0;
      setText(lost, counts ? `−${number(gone)} ${KIT.fates[step - 1].words}` : "");
    }
    button.setAttribute("aria-pressed", String(bench.state.stage === name));
  });
  showFunnelNote(bench);
}

function showFunnelNote(bench) {
  const notes = [];
  const ghosts = bench.answer.ghosts;
  if (bench.live && bench.result && !(bench.result.counted && bench.result.covered)) {
    notes.push("Preview from the best candidates of each level; the core counts all on release.");
  }
  if (!bench.live && ghosts && ghosts.shown < ghosts.total) {
    notes.push(`The canvas draws the best ${number(ghosts.shown)} of ${number(ghosts.total)} that are not kept.`);
  }
  if (bench.state.stage === "all") {
    notes.push(`Of those below score_thresh the canvas draws the best ${BELOW_DRAWN}.`);
  }
  setText(bench.funnelNote, notes.join(" "));
}

// ---------------------------------------------------------------- the line under the picture

function legendEntries(bench) {
  const { scene, state } = bench;
  if (isComparing(bench)) {
    return Object.values(KIT.changes).map(({ words, color, dash }) => [words, color, dash.length > 0]);
  }
  const counts = new Map();
  const byFate = drawsFates(bench);
  const keyOf = byFate ? scene.fates : state.color === "level" ? scene.levels : scene.labels;
  for (let i = 0; i < scene.count; i++) counts.set(keyOf[i], (counts.get(keyOf[i]) ?? 0) + 1);
  const keys = [...counts.keys()];
  if (byFate) {
    return keys.sort((a, b) => b - a).map((fate) => {
      const { words, color, dash } = KIT.fates[fate];
      return [`${words} (${number(counts.get(fate))})`, color, dash.length > 0];
    });
  }
  if (state.color === "level") {
    return keys.sort((a, b) => a - b).map((level) => [
      `${KIT.levels[level]} (${counts.get(level)})`, KIT.level_colors[level], false,
    ]);
  }
  return keys.sort((a, b) => counts.get(b) - counts.get(a)).map((label) => [
    `${nameOf(bench, label)} (${counts.get(label)})`, KIT.colors[label % KIT.colors.length], false,
  ]);
}

function legendLead(bench) {
  if (isComparing(bench)) {
    const [first, second] = bench.width < STACKED ? ["Above", "Below"] : ["Left", "Right"];
    return `${first}: ${bench.answer.compare.before_title}. ${second}: now.`;
  }
  if (bench.state.mode === "nms" && bench.rounds) return KIT.round_legend;
  if (bench.answer.counts === null) return "The boxes come with the model's answer.";
  if (!bench.scene.count) return "No box passes at these settings.";
  if (drawsFates(bench)) return "Colour and dash: what became of the pair; a line ties a removed box to the one that removed it.";
  if (bench.state.color === "level") {
    return "Colour: the pyramid level that found the box, finest (P3) to coarsest (P7).";
  }
  return "Colour: the category. A dark tag names the box; the selected box is drawn thick.";
}

// What is drawn besides the boxes.
function legendExtra(bench) {
  const { answer, state } = bench;
  if (isBehind(bench)) return "";
  if (state.mode === "box" && answer.life) return " White dashes: the anchor of the selected box.";
  if (state.mode !== "whynot" || !state.why) return "";
  return " Yellow dashes: the object you drew. White dashes: the anchors nearest to it. " +
    "Short thick dashes: the box that comes nearest to being kept.";
}

function writeLegend(bench) {
  const lead = element("span", { textContent: legendLead(bench) + legendExtra(bench) });
  const all = bench.state.mode === "nms" && bench.rounds ? [] : legendEntries(bench);
  const entries = all.slice(0, 10).map(([words, color, dashed]) => {
    const swatch = element("span", { className: dashed ? "swatch dashed" : "swatch" });
    swatch.style.borderColor = color;
    return element("span", { className: "key" }, swatch, words);
  });
  if (all.length > 10) entries.push(`and ${all.length - 10} more`);
  bench.legend.replaceChildren(lead, ...entries);
}

function writeList(bench) {
  const { scene } = bench;
  const items = Array.from({ length: scene.kept }, (_, i) => {
    const corners = [...cornersOf(scene, i)].map((v) => v.toFixed(1));
    const text = `${describe(bench, scene, i, ", ")}, corners ${corners.join(" ")}`;
    return element("li", { textContent: text });
  });
  bench.list.replaceChildren(...items);
}

// The legend and the list wait until the boxes are on screen.
function writeWords(bench) {
  const { answer, scene } = bench;
  if (bench.worded !== answer || bench.live) return;
  bench.stage.setAttribute(
    "aria-label",
    `${answer.title}, ${answer.width} by ${answer.height} pixels, ${scene.kept} detections. ` +
      "Plus and minus zoom, 0 shows the whole picture, arrows move it, N and P step through the " +
      "boxes, W asks why an object was missed, Escape lets go.",
  );
  writeLegend(bench);
  writeList(bench);
}
