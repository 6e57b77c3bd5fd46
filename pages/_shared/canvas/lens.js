// What the three pages that look inside share: what a hand changes, what Python answers, what is
// drawn. PART says what is a page's own: build, receive, preview, paint, show, legend, click, describe.

function change(bench, changes) {
  Object.assign(bench.state, "truth" in changes ? { undo: 0 } : {}, changes);
}

function live(bench, changes) {
  change(bench, changes);
  bench.live = true;
  requestDraw(bench);
}

function commit(bench, changes) {
  change(bench, changes);
  bench.live = true;
  draw(bench); // now, not at the next frame: this and Python then work at once
  settle(bench);
}

// Sends what the hand has come to. What it did to the ground truth gets a number: a message that is
// sent again, for want of an answer, must not do it again.
function settle(bench) {
  const { truth, undo } = bench.state;
  const isNew = truth ? truth !== bench.act?.truth : undo && undo !== bench.act?.undo;
  if (isNew) {
    bench.act = { truth, undo };
    bench.acts = Math.max(bench.acts ?? 0, bench.answer.view.acts) + 1;
  }
  bench.state.acts = Math.max(bench.acts ?? 0, bench.answer.view.acts);
  send(bench);
}

// A change that has not been sent is let go here; others are Python's to take back, one question at a time.
function undo(bench) {
  const { truth } = bench.state;
  if (truth && (truth !== bench.act?.truth || bench.unsent)) commit(bench, { truth: null, object: -1 });
  else if (bench.live) bench.undos = (bench.undos ?? 0) + 1;
  else commit(bench, { undo: 1 });
}

function receive(bench, data) {
  const answer = unpackColumns(data);
  if (answer.stamp === bench.answer?.stamp) return;
  const changed = bench.answer?.image_id !== answer.image_id;
  bench.answer = answer;
  bench.answered = answer.view.serial;
  if (changed) {
    Object.assign(bench, { zoom: 1, adding: false });
    const { object, point } = answer.view; // what was asked about the last picture is let go
    bench.state = { ...(bench.state ?? answer.view), object, point, truth: null, undo: 0 };
  }
  bench.stage.classList.toggle("zoomed", bench.zoom > 1);
  bench.status.textContent = answer.status;
  if (answer.ready) PART.receive(bench);
  if (bench.unsent) send(bench);
  if (!isOvertaken(bench)) adopt(bench);
}

function catchUp(bench) {
  if (!bench.answer || isOvertaken(bench)) return;
  if (bench.live) settle(bench); // a drag that ended where it began has no "change"
  else if (bench.adopted !== bench.answer) adopt(bench);
}

function adopt(bench) {
  const { answer } = bench;
  const { serial, ...state } = answer.view;
  bench.adopted = answer;
  bench.act = null;
  bench.state = { ...state, truth: null, undo: 0 };
  bench.live = false;
  bench.stage.dataset.agrees = answer.ready ? PART.agrees(bench) : "";
  showAll(bench);
  resize(bench);
  if (bench.undos) commit(bench, { undo: bench.undos });
  bench.undos = 0;
  if (answer.more) setTimeout(() => bench.answer === answer && !bench.live && send(bench), 30);
}

function showAll(bench) {
  showTraining(bench);
  showTruth(bench);
  if (bench.answer.ready) PART.show(bench);
  bench.stage.classList.toggle("drawing", Boolean(bench.adding) || selectedObject(bench) >= 0);
  bench.room.classList.toggle("stale", bench.live);
  if (!bench.live) showStory(bench);
}

// ---------------------------------------------------------------- the explanation

function showStory(bench) {
  const { story } = bench.answer;
  const held = bench.room.getRootNode().activeElement;
  const key = bench.room.contains(held) ? held.dataset.key : undefined;
  const parts = story.sentences.map((text) => paragraph(text));
  const actions = (story.actions ?? []).map(({ words, changes, command }, i) =>
    action(words, () => (command ? bench.setTriggerValue("command", command) : commit(bench, mergedChanges(bench, changes))), `action_${i}`));
  if (actions.length) parts.push(element("div", { className: "rn-actions" }, ...actions));
  if (story.numbers?.length) parts.push(...depths(bench, story, KIT.sources[story.source]));
  bench.room.replaceChildren(...parts);
  if (key) bench.room.querySelector(`[data-key="${key}"]`)?.focus({ preventScroll: true });
}

function mergedChanges(bench, changes) {
  const { training, ...rest } = changes;
  return training ? { ...rest, training: { ...bench.state.training, ...training } } : rest;
}

// ---------------------------------------------------------------- drawing

function draw(bench) {
  if (!bench.width || !bench.answer) return;
  const { ready } = bench.answer;
  if (bench.live) {
    if (ready) PART.preview(bench);
    showAll(bench);
  }
  clampPan(bench);
  drawPhoto(bench);
  bench.font ??= `600 12px ${getComputedStyle(bench.stage).fontFamily}`;
  inEachPane(bench, bench.canvas, (context, pane, index) => {
    context.font = bench.font;
    context.textBaseline = "middle";
    if (ready) PART.paint(context, bench, index, pane);
    drawTruth(context, bench);
    drawPoint(context, bench);
  });
  report(bench);
}

function drawPoint(context, bench) {
  const { point } = bench.state;
  if (!point) return;
  const [x, y] = [bench.x + point[0] * bench.scale, bench.y + point[1] * bench.scale];
  for (const [color, width] of [["rgba(0, 0, 0, 0.7)", 4], ["#fff", 2]]) {
    context.setLineDash([]);
    context.strokeStyle = color;
    context.lineWidth = width;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 3 * dx, y + 3 * dy);
      context.lineTo(x + 9 * dx, y + 9 * dy);
    }
    context.stroke();
  }
}

// What a test or a measuring script reads: the view, and which data the pixels show.
function report(bench) {
  const { answer, stage } = bench;
  const photo = photos().images.has(answer.image_id) ? "photo" : "no photo";
  stage.dataset.view = [bench.x, bench.y, bench.scale].join(",");
  stage.dataset.painted = `${answer.image_id}:${answer.stamp}:${photo}`;
  stage.dataset.live = bench.live ? "live" : "";
  stage.dataset.more = answer.more ? "more" : "";
  if (!bench.live) writeLegend(bench);
  announce(bench);
}

function writeLegend(bench) {
  if (bench.worded === bench.adopted) return;
  bench.worded = bench.adopted;
  bench.legend.replaceChildren(...(bench.answer.ready ? PART.legend(bench) : []));
  const items = truthOf(bench).map(([name, ...box], i) => {
    const { words } = bench.truthStyle(bench, i);
    const corners = box.map((edge) => edge.toFixed(1)).join(" ");
    return element("li", { textContent: `${name}, ${words || "ground truth"}, corners ${corners}` });
  });
  bench.list.replaceChildren(...items);
  bench.stage.setAttribute("aria-label",
    `${bench.answer.title}, ${bench.answer.width} by ${bench.answer.height} pixels. ${KIT.stage_words}`);
}

function legendKey(words, color, dashed = false) {
  const swatch = element("span", { className: dashed ? "swatch dashed" : "swatch" });
  swatch.style.borderColor = color;
  return element("span", { className: "key" }, swatch, words);
}

// ---------------------------------------------------------------- hands

function hoverLens(bench, px, py) {
  const { photo } = locate(bench, px, py);
  const hit = bench.adding ? null : objectAt(bench, photo);
  bench.stage.classList.toggle("over", Boolean(hit));
  const isInside = photo[0] >= 0 && photo[1] >= 0 && photo[0] <= bench.answer.width && photo[1] <= bench.answer.height;
  showTip(bench, isInside && !bench.adding && bench.answer.ready ? PART.describe(bench, photo) : "", px, py);
}

function clickLens(bench, px, py) {
  const { photo } = locate(bench, px, py);
  const { width, height } = bench.answer;
  if (bench.adding || photo[0] < 0 || photo[1] < 0 || photo[0] > width || photo[1] > height) return;
  const hit = objectAt(bench, photo);
  const isBorder = hit && (hit.across || hit.down);
  if (isBorder && hit.index !== selectedObject(bench)) {
    commit(bench, { object: hit.index });
    return;
  }
  askAt(bench, photo);
}

function askAt(bench, photo) {
  const near = bench.state.point && Math.hypot(photo[0] - bench.state.point[0], photo[1] - bench.state.point[1]);
  const again = near !== null && near * bench.scale < 8; // the same click opens and closes
  commit(bench, { point: again ? null : photo.map((value) => Math.round(value * 10) / 10) });
}

const LENS_HANDS = {
  hover: hoverLens,
  unhover: (bench) => (bench.tip.hidden = true),
  click: clickLens,
  grab: grabObject,
  keys: TRUTH_KEYS,
};

// ---------------------------------------------------------------- controls that pages share

function buildTraining(bench, room, names) {
  bench.training = {};
  for (const name of names) {
    const { help } = KIT.training.find((knob) => knob.name === name);
    const withValue = (value) => ({ training: boundedTraining(bench.state.training, name, value) });
    const knob = makeKnob({
      name, title: name, help, badge: "loss only", scale: name === "gamma" ? GAMMA : LINEAR,
      limits: name === "gamma" ? [0, 5] : undefined,
      onLive: (value) => live(bench, withValue(value)),
      onRelease: (value) => commit(bench, withValue(value)),
    });
    bench.training[name] = knob;
    room.append(knob.row);
  }
}

function showTraining(bench) {
  for (const [name, knob] of Object.entries(bench.training ?? {})) knob.show(bench.state.training[name]);
}

// Buttons of which one is pressed, with a title before them.
function labelledSwitch(title, choices, onChoice) {
  const root = element("span", { className: "rn-switch", role: "group" });
  root.setAttribute("aria-label", title);
  const show = buildSwitch(root, choices, onChoice);
  return { row: element("div", { className: "rn-choice" }, element("span", { textContent: title }), root), show };
}

// Named settings, chosen from a list, with a line that says what the chosen ones are for.
function buildPresets(bench, room) {
  bench.presetChooser = element("select");
  bench.presetChooser.append(element("option", { value: "", textContent: "your own", disabled: true }),
    ...KIT.presets.map(({ name, title }) => element("option", { value: name, textContent: title })));
  bench.presetChooser.addEventListener("change", () => {
    const preset = KIT.presets.find(({ name }) => name === bench.presetChooser.value);
    commit(bench, { training: { ...bench.state.training, ...preset.training } });
  });
  bench.presetWords = element("p", { className: "rn-purpose" });
  room.append(element("div", { className: "rn-bar" }, element("label", {}, "preset ", bench.presetChooser)), bench.presetWords);
}

function showPreset(bench) {
  const fits = ({ training }) => Object.entries(training).every(([name, value]) => bench.state.training[name] === value);
  const preset = KIT.presets.find(fits);
  bench.presetChooser.value = preset?.name ?? "";
  setText(bench.presetWords, preset?.purpose ?? "");
}

// A row for all levels and one for each, whose names choose the level that is shown.
function buildLevelTable(bench, room, titles) {
  bench.levelRows = ["all", ...KIT.levels].map((name) => {
    const button = element("button", { type: "button", textContent: name === "all" ? "all levels" : name, dataset: { level: name } });
    button.addEventListener("click", () => commit(bench, { level: bench.state.level === name ? "all" : name }));
    const cells = titles.map(() => element("td"));
    return { name, button, cells, row: element("tr", {}, element("th", { scope: "row" }, button), ...cells) };
  });
  const head = ["level", ...titles].map((title) => element("th", { scope: "col", textContent: title }));
  room.append(element("div", { className: "rn-funnel" }, element("table", {},
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...bench.levelRows.map(({ row }) => row)))));
}

// texts: for all levels and for each, what its cells say.
function showLevels(bench, texts) {
  bench.levelRows.forEach(({ name, button, cells }, i) => {
    cells.forEach((cell, k) => setText(cell, texts[i][k]));
    button.setAttribute("aria-pressed", String(bench.state.level === name));
  });
}

function buildRoom(bench, parent) {
  Object.assign(bench, {
    isSplit: () => false, draw, grip: LENS_HANDS, opened: new Set(), state: null,
    room: parent.querySelector(".rn-answer"), headline: parent.querySelector(".rn-headline"),
    below: parent.querySelector(".rn-below"), knobRoom: parent.querySelector(".rn-knobs"),
    truthStyle: () => ({ color: KIT.ground_truth, dash: [], words: "", mark: "" }),
  });
  buildTruth(bench, parent.querySelector(".rn-truth"));
  PART.build(bench);
}

const ROOM = {
  build: buildRoom, receive, catchUp,
  onTable: (bench) => PART.onTable?.(bench),
  close: () => {},
};
