// The panel that answers a question: about one box, about an object that was missed, about NMS step
// by step, about two settings. A sentence first, the numbers and the formula a click away.

const ROUND_ROWS = 60; // comparisons listed for a round
const IOUS_WRITTEN = 16; // on the picture, of the best boxes compared in a round

function buildStory(bench, parent) {
  bench.modeSwitch = buildSwitch(parent.querySelector(".rn-modes"), KIT.modes, (mode) =>
    commit(bench, { mode }),
  );
  bench.room = parent.querySelector(".rn-answer");
  bench.opened = new Set(); // the depths that a person has opened stay open
}

// Whether the explanation is of settings that have been left.
const ASKED = ["mode", "box", "why_class", "lesson"];
const isBehind = (bench) =>
  bench.live ||
  bench.answer.more ||
  bench.adopted !== bench.answer ||
  ASKED.some((name) => bench.state[name] !== bench.answer.view[name]) ||
  String(bench.state.why) !== String(bench.answer.view.why);

function showStory(bench) {
  const { mode } = bench.state;
  bench.modeSwitch(mode);
  bench.stage.classList.toggle("drawing", mode === "whynot");
  bench.room.classList.toggle("stale", isBehind(bench));
  if (isBehind(bench)) return;
  const told = { box: tellBox, whynot: tellWhyNot, nms: tellRounds, compare: tellCompare }[mode];
  const held = bench.room.getRootNode().activeElement;
  const key = bench.room.contains(held) ? held.dataset.key : undefined;
  bench.room.replaceChildren(...told(bench));
  if (key) bench.room.querySelector(`[data-key="${key}"]`)?.focus({ preventScroll: true });
}

// ---------------------------------------------------------------- one box

function tellBox(bench) {
  const { life, box_words: words, lesson } = bench.answer;
  const parts = [paragraph(life?.sentence ?? words)];
  if (life) {
    parts.push(action("Let go of the box", () => select(bench, -1), "let_go"));
    parts.push(...depths(bench, life, KIT.sources.life));
  }
  parts.push(tellLesson(bench, lesson));
  return parts;
}

// Looked for when it is opened: it takes the core a moment.
function tellLesson(bench, lesson) {
  const words = lesson?.sentence ?? bench.answer.lesson_words;
  const looked = bench.answer.lesson_looked;
  const content = element("div", {}, paragraph(looked ? words : "Looking for one."));
  if (lesson) {
    const set = (value) => () =>
      commit(bench, { box: lesson.box, knobs: { ...bench.state.knobs, [lesson.knob]: value } });
    content.append(element("div", { className: "rn-actions" }, ...lesson.values.map((value, i) =>
      action(`Set ${lesson.knob} to ${value}`, set(value), `lesson_${i}`))));
  }
  const details = element("details", { open: bench.state.lesson, dataset: { depth: "lesson" } },
    element("summary", { dataset: { key: "lesson" }, textContent: "A lesson: a higher knob that removes a box" }), content);
  details.addEventListener("toggle", () => {
    if (details.open !== bench.state.lesson) commit(bench, { lesson: details.open });
  });
  return details;
}

// ---------------------------------------------------------------- why not

function tellWhyNot(bench) {
  const { inquest } = bench.answer;
  const parts = [askForm(bench)];
  if (!bench.state.why) {
    parts.unshift(paragraph("Draw the object that was missed on the picture, and be told why."));
    return parts;
  }
  if (!inquest) {
    parts.unshift(paragraph(bench.answer.why_words));
    return parts;
  }
  parts.unshift(paragraph(inquest.sentence));
  const fixes = inquest.fixes.map(({ words, knobs }, i) =>
    action(words, () => commit(bench, { knobs }), `fix_${i}`),
  );
  if (fixes.length) parts.splice(1, 0, element("div", { className: "rn-actions" }, ...fixes));
  parts.push(...depths(bench, inquest, KIT.sources.inquest));
  return parts;
}

function askForm(bench) {
  const { why, why_class: label } = bench.state;
  const chooser = element("select", { dataset: { key: "why_class" } }, element("option", { value: -1, textContent: "anything" }));
  (bench.table?.names ?? []).forEach((name, i) =>
    chooser.append(element("option", { value: i, textContent: name })),
  );
  chooser.value = label;
  chooser.addEventListener("change", () => commit(bench, { why_class: +chooser.value }));
  const corners = ["x1", "y1", "x2", "y2"].map((name, i) => {
    const field = element("input", { type: "number", step: 1, className: "rn-value", dataset: { key: name } });
    field.setAttribute("aria-label", `${name} of the object, pixels`);
    field.value = why ? why[i].toFixed(0) : "";
    return field;
  });
  const ask = () => {
    const values = corners.map((field) => (field.value === "" ? NaN : Number(field.value)));
    if (values.every(Number.isFinite)) commit(bench, { why: values });
  };
  for (const field of corners) {
    field.addEventListener("change", ask);
    field.addEventListener("keydown", (event) => event.stopPropagation());
  }
  chooser.addEventListener("keydown", (event) => event.stopPropagation());
  const form = element("div", { className: "rn-ask" },
    element("label", {}, "it is ", chooser),
    element("span", { className: "rn-corners" }, "corners ", ...corners, " px"));
  if (why) form.append(action("Forget it", () => commit(bench, { why: null }), "forget"));
  return form;
}

// The drawn object, and the anchors and the box that come nearest to it.
function drawWanted(context, bench) {
  const { why, mode } = bench.state;
  if (!why || mode !== "whynot") return;
  const { inquest } = bench.answer;
  if (inquest && !isBehind(bench)) {
    for (const corners of inquest.nearest) strokeCorners(context, bench, corners, "#FFFFFF", 1.25, [3, 4]);
    if (inquest.box) strokeCorners(context, bench, inquest.box, KIT.fates[inquest.fate].color, 2, [7, 4]);
  }
  strokeCorners(context, bench, why, KIT.ground_truth, 3, [10, 4]);
}

// ---------------------------------------------------------------- NMS, round by round

function roundsFromAnswer(answer) {
  const { columns } = answer;
  if (!columns.round_keeper) return null;
  return Array.from(columns.round_keeper, (keeper, r) => {
    const [from, to] = [columns.round_start[r], columns.round_start[r + 1]];
    return {
      keeper,
      apart: columns.round_apart[r],
      others: columns.round_other.subarray(from, to),
      ious: columns.round_iou.subarray(from, to),
      removed: columns.round_removed.subarray(from, to),
    };
  });
}

function tellRounds(bench) {
  const { rounds } = bench;
  if (!rounds) return [paragraph(bench.answer.why_words || "The rounds come with the model.")];
  if (!rounds.length) return [paragraph("Nothing entered NMS at these settings.")];
  const slider = element("input", {
    type: "range", min: 0, max: rounds.length - 1, step: 1, className: "rn-scrub", dataset: { key: "scrub" },
  });
  slider.setAttribute("aria-label", "Round of NMS");
  slider.addEventListener("input", () => toRound(bench, +slider.value));
  slider.addEventListener("keydown", (event) => event.stopPropagation());
  const play = action(bench.playing ? "Pause" : "Play", () => (bench.playing ? pause(bench) : playRounds(bench)), "play");
  const nodes = { slider, play, sentence: paragraph(""), list: element("table", { className: "rn-numbers" }) };
  bench.roundNodes = nodes;
  toRound(bench, Math.min(bench.round, rounds.length - 1));
  return [
    element("div", { className: "rn-actions" },
      action("Previous", () => toRound(bench, bench.round - 1), "previous"), play,
      action("Next", () => toRound(bench, bench.round + 1), "next"), slider),
    nodes.sentence, element("div", { className: "rn-scroll" }, nodes.list),
    depth(bench, "source", "The function itself", element("pre", { textContent: KIT.sources.nms })),
  ];
}

function toRound(bench, round) {
  const { rounds, roundNodes } = bench;
  if (!rounds?.length) return;
  bench.round = Math.max(0, Math.min(rounds.length - 1, round));
  roundNodes.slider.value = bench.round;
  roundNodes.slider.style.setProperty("--along", bench.round / Math.max(1, rounds.length - 1));
  const { keeper, others, ious, removed, apart } = rounds[bench.round];
  const gone = removed.reduce((sum, flag) => sum + flag, 0);
  const limit = bench.answer.view.knobs.nms_thresh;
  const name = (pair) => {
    const i = indexOfPair(bench.scene, pair);
    return i < 0 ? "a box" : `${nameOf(bench, bench.scene.labels[i])} ${bench.scene.scores[i].toFixed(3)}`;
  };
  roundNodes.sentence.textContent =
    `Round ${number(bench.round + 1)} of ${number(rounds.length)}: take the best that is left, ${name(keeper)}. ` +
    `Compare it with ${number(others.length + apart)} of its class: ${number(gone)} overlap it by more than ` +
    `nms_thresh ${limit} and go, ${number(others.length - gone)} overlap less, ${number(apart)} not at all.`;
  const rows = [...others.keys()].slice(0, ROUND_ROWS).map((k) =>
    element("tr", {}, element("td", { textContent: name(others[k]) }),
      element("td", { textContent: `IoU ${ious[k].toFixed(3)}` }),
      element("td", { textContent: removed[k] ? "goes" : "stays" })),
  );
  if (others.length > ROUND_ROWS) {
    const words = `and ${number(others.length - ROUND_ROWS)} more, drawn on the picture`;
    rows.push(element("tr", {}, element("td", { textContent: words, colSpan: 3 })));
  }
  roundNodes.list.replaceChildren(...rows);
  bench.stage.dataset.round = bench.round;
  requestDraw(bench);
}

function playRounds(bench) {
  if (bench.round >= bench.rounds.length - 1) toRound(bench, 0);
  bench.roundNodes.play.textContent = "Pause";
  bench.playing = setInterval(() => {
    if (!bench.stage.isConnected || bench.state.mode !== "nms" || isBehind(bench)) return pause(bench);
    toRound(bench, bench.round + 1);
    if (bench.round >= bench.rounds.length - 1) pause(bench);
  }, 650);
}

function pause(bench) {
  clearInterval(bench.playing);
  bench.playing = 0;
  if (bench.roundNodes) bench.roundNodes.play.textContent = "Play";
}

// Kept so far, the best that is left, what it is compared with, and what still waits.
function drawRound(context, bench) {
  const { scene, rounds } = bench;
  const round = Math.min(bench.round, rounds.length - 1);
  if (round < 0) return;
  const place = new Map([...scene.pairs].map((pair, i) => [pair, i]));
  const done = new Set();
  const stroke = (pair, color, width, dash) => {
    const i = place.get(pair);
    if (i === undefined) return;
    (dash.length ? strokeThin : strokeCorners)(context, bench, cornersOf(scene, i), color, width, dash);
  };
  const { keeper, others, ious, removed } = rounds[round];
  rounds.slice(0, round).forEach((past) => {
    done.add(past.keeper);
    past.others.forEach((pair, k) => past.removed[k] && done.add(pair));
  });
  const now = new Set([keeper, ...others]);
  context.globalAlpha = faintness(scene.count / 2);
  scene.pairs.forEach((pair, i) => {
    if (scene.fates[i] !== CUT && scene.fates[i] !== BELOW && !done.has(pair) && !now.has(pair)) {
      stroke(pair, KIT.waiting, 1, [1, 3]);
    }
  });
  context.globalAlpha = 1;
  rounds.slice(0, round).forEach((past) => stroke(past.keeper, KIT.fates[KEPT].color, 1.5, []));
  context.globalAlpha = 0.7 * faintness(others.length);
  others.forEach((pair, k) =>
    removed[k] ? stroke(pair, KIT.fates[SUPPRESSED].color, 1.5, [6, 4]) : stroke(pair, KIT.compared, 1.5, [2, 2]),
  );
  context.globalAlpha = 1;
  stroke(keeper, KIT.fates[KEPT].color, 4, []);
  const placed = [];
  const write = (pair, text, color, always) => {
    const i = place.get(pair);
    if (i !== undefined) drawLabel(context, bench, cornersOf(scene, i), text(i), color, placed, always);
  };
  write(keeper, (i) => `${nameOf(bench, scene.labels[i])} ${scene.scores[i].toFixed(2)} stays`, KIT.fates[KEPT].color, true);
  others.forEach((pair, k) =>
    k < IOUS_WRITTEN && write(pair, () => `IoU ${ious[k].toFixed(2)}`, removed[k] ? KIT.fates[SUPPRESSED].color : KIT.compared),
  );
}

// ---------------------------------------------------------------- two settings

function tellCompare(bench) {
  const { compare } = bench.answer;
  const pin = action(compare ? "Pin the present settings instead" : "Pin these settings", () =>
    bench.setTriggerValue("command", "pin"), "pin");
  if (!compare) {
    return [
      paragraph(bench.answer.compare_words ||
        "Pin the present model and settings, then change some: what is gained, lost, moved or relabelled is shown side by side, with the knob that did it."),
      element("div", { className: "rn-actions" }, pin),
    ];
  }
  const unpin = action("Unpin", () => bench.setTriggerValue("command", "unpin"), "unpin");
  const rows = compare.changes.map((change) => {
    const { color, mark } = KIT.changes[change.kind];
    const swatch = element("span", { className: "rn-mark", textContent: mark });
    swatch.style.setProperty("--fate", color);
    const pair = change.after_pair ?? change.before_pair;
    const line = element("button", { type: "button", className: "rn-change", dataset: { kind: change.kind } },
      swatch, change.sentence);
    line.dataset.key = `change_${pair}`;
    line.addEventListener("click", () => {
      if (pair !== null) commit(bench, { box: bench.state.box === pair ? -1 : pair });
    });
    return element("li", {}, line);
  });
  return [
    paragraph(compare.sentence),
    element("div", { className: "rn-actions" }, pin, unpin),
    element("ul", { className: "rn-changes" }, ...rows),
  ];
}

function drawCompared(context, bench, pane) {
  const { compare } = bench.answer;
  const scene = sceneOfPane(bench, pane);
  const kinds = new Map();
  const side = pane === 0 ? "before" : "after";
  for (const change of isBehind(bench) ? [] : compare.changes) {
    if (change[side] !== null) kinds.set(change[side], change.kind);
  }
  for (let i = scene.kept - 1; i >= 0; i--) {
    const { color, dash } = KIT.changes[kinds.get(i) ?? "unchanged"];
    strokeCorners(context, bench, cornersOf(scene, i), color, kinds.has(i) ? 2.5 : 1.25, dash);
  }
  const placed = [];
  const selected = indexOfPair(scene, bench.state.box);
  if (selected >= 0 && selected < scene.kept) {
    const { color, dash } = KIT.changes[kinds.get(selected) ?? "unchanged"];
    strokeCorners(context, bench, cornersOf(scene, selected), color, 4.5, dash);
  }
  const order = [...Array(scene.kept).keys()].sort((a, b) => kinds.has(b) - kinds.has(a));
  for (const i of order.slice(0, LABELS_DRAWN)) {
    const { color, mark } = KIT.changes[kinds.get(i) ?? "unchanged"];
    drawLabel(context, bench, cornersOf(scene, i), `${mark} ${labelOf(bench, scene, i)}`.trim(), color, placed, i === selected);
  }
}

function pinnedScene(answer) {
  const { columns } = answer;
  if (!columns.pin_scores) return null;
  const scene = emptyScene(columns.pin_scores.length);
  for (const name of ["boxes", "scores", "labels", "levels", "pairs"]) {
    scene[name].set(columns[`pin_${name}`], 0);
  }
  scene.kept = scene.count;
  scene.names = answer.compare?.names;
  scene.foreign = answer.compare?.same_model === false;
  return scene;
}
