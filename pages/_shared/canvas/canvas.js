// The workbench: the stage with the controls and the explanations beside it, in one component, so
// that a dragged knob redraws all of them without asking Python. Python's answer to the last release
// is what stays.

// ---------------------------------------------------------------- what a hand changes

// While it moves: from the table, without Python.
function live(bench, changes) {
  Object.assign(bench.state, changes);
  if ("knobs" in changes) bench.live = bench.previewWanted = true;
  requestDraw(bench);
}

// When it rests: Python is told, and its answer replaces the preview.
function commit(bench, changes) {
  Object.assign(bench.state, changes);
  const touchesBoxes = "knobs" in changes || "stage" in changes;
  bench.live ||= touchesBoxes;
  bench.previewWanted ||= touchesBoxes;
  if (!touchesBoxes && !bench.live) showAll(bench);
  draw(bench); // now, not at the next frame: this and Python then work at once
  send(bench);
}

function preview(bench) {
  bench.previewWanted = false;
  if (bench.table) {
    bench.result = settle(bench.table, bench.state.knobs);
    bench.scene = sceneFromTable(bench.table, bench.result, bench.state.stage);
    addBelow(bench);
  }
  bench.hover = null;
  bench.tip.hidden = true;
  showKnobs(bench);
  showFunnel(bench);
  showStory(bench);
  showSurvival(bench);
}

function addBelow(bench) {
  const { table, state } = bench;
  if (state.stage !== "all" || !table || !drawsFates(bench) || state.mode === "nms") return;
  const { fates } = bench.result ?? settle(table, state.knobs);
  bench.scene = withBelow(table, bench.scene, fates);
}

// ---------------------------------------------------------------- what Python answers

function receive(bench, data) {
  const answer = unpackColumns(data);
  if (answer.stamp === bench.answer?.stamp) return;
  const changed = bench.answer?.image_id !== answer.image_id;
  if (answer.more && !changed) keepWords(bench.answer, answer);
  bench.answer = answer;
  bench.answered = answer.view.serial;
  bench.table = tables().kept.get(answer.table) ?? null;
  bench.names = bench.table?.names ?? answer.names;
  if (changed) {
    Object.assign(bench, { zoom: 1, round: 0, extraClasses: new Set() });
    const { box, why } = answer.view; // what was asked about the last picture is let go
    bench.state = { ...(bench.state ?? answer.view), box, why };
  }
  bench.stage.classList.toggle("zoomed", bench.zoom > 1);
  bench.status.textContent = answer.status;
  if (bench.unsent) send(bench);
  if (!isOvertaken(bench)) adopt(bench);
}

// After a release: what is still to be sent, or an answer that came while a slider was held.
function catchUp(bench) {
  if (!bench.answer || isOvertaken(bench)) return;
  if (bench.live) send(bench); // a drag that ended where it began has no "change"
  else if (bench.adopted !== bench.answer) adopt(bench);
}

// The boxes have come first: until the rest follows, the explanation that stood there stays, dimmed.
function keepWords(before, answer) {
  const names = ["life", "lesson", "inquest", "compare", "compare_words", "why_words"];
  for (const name of [...names, "training_words"]) answer[name] = before[name];
  for (const [name, column] of Object.entries(before.columns)) {
    if (name.startsWith("pin_")) answer.columns[name] = column;
  }
}

function adopt(bench) {
  const { answer } = bench;
  const { serial, ...state } = answer.view;
  bench.adopted = answer;
  bench.state = state;
  bench.live = false;
  bench.previewWanted = false;
  bench.hover = null;
  bench.scene = sceneFromAnswer(answer);
  bench.pinned = pinnedScene(answer);
  bench.rounds = roundsFromAnswer(answer);
  if (bench.playing && !bench.rounds?.length) pause(bench);
  const onScreen = checkPreview(bench) && !drawsFates(bench) && bench.drawn === "live";
  addBelow(bench);
  bench.tip.hidden = true;
  if (onScreen) report(bench); // the preview has painted these very boxes already
  showAll(bench);
  resize(bench);
  if (answer.more) setTimeout(() => bench.answer === answer && !bench.live && send(bench), 30);
}

// Whether the browser's copy and the core keep the same boxes; the core's are shown either way.
function checkPreview(bench) {
  const { stage, table, result, scene } = bench;
  const kept = scene.pairs.subarray(0, scene.kept);
  const same =
    result?.kept.length === kept.length && result.kept.every((row, i) => table?.pairs[row] === kept[i]);
  stage.dataset.agrees = result ? String(same) : "";
  bench.result = null;
  return same;
}

function showAll(bench) {
  showKnobs(bench);
  showClassKnobs(bench);
  showFunnel(bench);
  showStory(bench);
  showSurvival(bench);
  setText(bench.trainingNote, bench.answer.training_words);
  if (bench.worded === bench.answer) writeLegend(bench);
}

// ---------------------------------------------------------------- the room

function build(bench, parent) {
  Object.assign(bench, {
    round: 0, playing: 0, extraClasses: new Set(), names: {}, isSplit: isComparing, draw, grip: PICKING,
  });
  buildKnobs(bench, parent);
  buildFunnel(bench, parent);
  buildStory(bench, parent);
}

function onTable(bench) {
  if (bench.table) return;
  bench.table = tables().kept.get(bench.answer.table) ?? null;
  bench.names = bench.table?.names ?? bench.names;
  if (bench.table && !bench.live && !isOvertaken(bench)) adopt(bench);
}

const ROOM = { build, receive, catchUp, onTable, close: pause };
