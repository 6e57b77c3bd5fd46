// The controls: post-processing, thresholds per class, and those that would change training only.
// While one is dragged the browser answers from its table; on release the core does.

const TOPK = {
  ...LOGARITHMIC,
  whole: true,
  max: Math.log10(KIT.max_topk) * decade,
  step: (value, by) =>
    by > 0
      ? (KIT.topk_choices.find((choice) => choice > value) ?? value)
      : (KIT.topk_choices.findLast((choice) => choice < value) ?? value),
};
const COUNT = {
  ...LOGARITHMIC,
  whole: true,
  max: Math.log10(KIT.max_detections) * decade,
  step: (value, by, large) => value + by * (large ? 50 : 1),
};
const SCALES = {
  score_thresh: LINEAR, nms_thresh: LINEAR, topk_candidates: TOPK, detections_per_img: COUNT,
  fg_iou_thresh: LINEAR, bg_iou_thresh: LINEAR, alpha: LINEAR, gamma: GAMMA,
};
const LIMITS = { topk_candidates: [1, KIT.max_topk], detections_per_img: [1, KIT.max_detections], gamma: [0, 5] };

function buildKnobs(bench, parent) {
  const find = (name) => parent.querySelector(name);
  bench.knobs = {};
  for (const { name, help } of KIT.knobs) {
    const knob = makeKnob({
      name, title: name, help, badge: "now", scale: SCALES[name], limits: LIMITS[name],
      onLive: (value) => live(bench, { knobs: { ...bench.state.knobs, [name]: value } }),
      onRelease: (value) => commit(bench, { knobs: { ...bench.state.knobs, [name]: value } }),
    });
    bench.knobs[name] = knob;
    find(".rn-main-knobs").append(knob.row);
  }
  bench.training = {};
  for (const { name, help } of KIT.training) {
    const withValue = (value) => ({ training: boundedTraining(bench.state.training, name, value) });
    const knob = makeKnob({
      name, title: name, help, badge: "loss only", scale: SCALES[name], limits: LIMITS[name],
      onLive: (value) => live(bench, withValue(value)),
      onRelease: (value) => commit(bench, withValue(value)),
    });
    bench.training[name] = knob;
    find(".rn-training-knobs").append(knob.row);
  }
  buildPresets(bench, find(".rn-preset"), find(".rn-purpose"));
  bench.colorSwitch = buildSwitch(find(".rn-colors"), [["class", "class"], ["level", "level"]],
    (color) => commit(bench, { color }));
  bench.classRoom = find(".rn-class-knobs");
  bench.classKnobs = new Map();
  bench.addClass = find(".rn-add-class");
  bench.addClass.addEventListener("change", () => {
    bench.extraClasses.add(+bench.addClass.value);
    showClassKnobs(bench);
  });
  bench.trainingNote = find(".rn-training .rn-note");
  find(".rn-doors").append(...KIT.doors.map(([command, words]) =>
    action(words, () => bench.setTriggerValue("command", command), command)));
}

function buildPresets(bench, chooser, purpose) {
  chooser.append(element("option", { value: "", textContent: "your own", disabled: true }));
  for (const preset of KIT.presets) {
    chooser.append(element("option", { value: preset.name, textContent: preset.title }));
  }
  chooser.addEventListener("change", () => {
    const preset = KIT.presets.find(({ name }) => name === chooser.value);
    bench.preset = preset; // two may have the same numbers: the chosen one is named
    if (preset) commit(bench, { knobs: { ...preset.knobs, class_score_thresh: {} } });
  });
  chooser.addEventListener("keydown", (event) => event.stopPropagation());
  Object.assign(bench, { chooser, purpose });
}

function presetOf(bench) {
  const { knobs } = bench.state;
  if (Object.keys(knobs.class_score_thresh).length) return undefined;
  const fits = (preset) => KIT.knobs.every(({ name }) => preset.knobs[name] === knobs[name]);
  return [bench.preset, ...KIT.presets].find((preset) => preset && fits(preset));
}

function showKnobs(bench) {
  const { knobs, training } = bench.state;
  for (const [name, knob] of Object.entries(bench.knobs)) knob.show(knobs[name]);
  for (const [name, knob] of Object.entries(bench.training)) knob.show(training[name]);
  for (const [label, knob] of bench.classKnobs) {
    const floor = knobs.class_score_thresh[label] ?? 0;
    knob.show(floor);
    knob.row.classList.toggle("set", floor > 0);
  }
  const preset = presetOf(bench);
  bench.chooser.value = preset?.name ?? "";
  bench.purpose.textContent = preset?.purpose ?? "";
  bench.colorSwitch(bench.state.color);
}

// The classes of which something scores, and those that have a threshold of their own.
function showClassKnobs(bench) {
  const best = new Map();
  const { table } = bench;
  for (const row of table?.order ?? []) {
    if (table.scores[row] < 0.05 || best.size >= 8) break;
    if (!best.has(table.labels[row])) best.set(table.labels[row], table.scores[row]);
  }
  const own = Object.keys(bench.state.knobs.class_score_thresh).map(Number);
  for (const label of own) bench.extraClasses.add(label); // a row keeps its place
  const labels = [...new Set([...best.keys(), ...bench.extraClasses])];
  const wanted = `${labels.join()}:${table?.key}`;
  if (bench.classesShown !== wanted) {
    bench.classesShown = wanted;
    bench.classKnobs = new Map(labels.map((label) => [label, makeClassKnob(bench, label)]));
    bench.classRoom.replaceChildren(...[...bench.classKnobs.values()].map((knob) => knob.row));
    const others = (table?.names ?? []).map((name, label) => [name, label]).filter(([, label]) => !labels.includes(label));
    bench.addClass.replaceChildren(
      element("option", { textContent: "choose", disabled: true, selected: true }),
      ...others.map(([name, label]) => element("option", { value: label, textContent: name })),
    );
  }
  showKnobs(bench);
}

function makeClassKnob(bench, label) {
  const withFloor = (floor) => {
    const floors = { ...bench.state.knobs.class_score_thresh, [label]: floor };
    if (!(floor > 0)) delete floors[label];
    return { knobs: { ...bench.state.knobs, class_score_thresh: floors } };
  };
  return makeKnob({
    name: `class ${label}`, title: nameOf(bench, label), help: "the least score for this class",
    scale: LINEAR,
    onLive: (value) => live(bench, withFloor(value)),
    onRelease: (value) => commit(bench, withFloor(value)),
    onReset: () => {
      bench.extraClasses.delete(label);
      commit(bench, withFloor(0));
      showClassKnobs(bench);
    },
  });
}

// Where on its slider the selected box lives: a union of intervals, not always one.
function showSurvival(bench) {
  const survives = isBehind(bench) ? null : bench.answer.life?.survives;
  for (const [name, knob] of Object.entries(bench.knobs)) {
    const parts = survives?.[name] ?? [];
    const { scale } = knob;
    const along = (value) =>
      Math.min(1, Math.max(0, (scale.toPosition(value) - scale.min) / (scale.max - scale.min)));
    knob.strip.replaceChildren(
      ...parts.map(({ from, to, kept, words }) => {
        const [left, right] = [along(from), to === null ? 1 : along(to)];
        const part = element("span", { title: words, className: kept ? "kept" : "survives" });
        part.style.left = `${left * 100}%`;
        part.style.width = `max(2px, ${(right - left) * 100}%)`;
        return part;
      }),
    );
    knob.strip.classList.toggle("told", Boolean(survives));
    knob.strip.setAttribute(
      "aria-label",
      survives ? `The selected box is kept ${parts.filter((p) => p.kept).map((p) => p.words).join(" and ") || "at no value"}` : "",
    );
  }
}
