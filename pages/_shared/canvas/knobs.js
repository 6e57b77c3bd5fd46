// The controls: post-processing, thresholds per class, and those that would change training only.
// While one is dragged the browser answers from its table; on release the core does.

const decade = 100; // slider positions for a factor of ten

// How each control's value lies on its slider: to and from a position, and the hand's step.
const LINEAR = {
  typed: 0.01, // what an arrow in the field of the number adds
  min: 0,
  max: 1,
  toPosition: (value) => value,
  fromPosition: (position) => Math.round(position * 100) / 100,
  step: (value, by, large) => Math.round((value + by * (large ? 0.1 : 0.01)) * 100) / 100,
  text: (value) => (Math.abs(value * 100 - Math.round(value * 100)) < 1e-9 ? value.toFixed(2) : String(value)),
};
const LOGARITHMIC = {
  typed: 1,
  min: 0,
  toPosition: (value) => Math.log10(value) * decade,
  fromPosition: (position) => twoDigits(10 ** (position / decade)),
  text: String,
};
const TOPK = {
  ...LOGARITHMIC,
  max: Math.log10(KIT.max_topk) * decade,
  step: (value, by) =>
    by > 0
      ? (KIT.topk_choices.find((choice) => choice > value) ?? value)
      : (KIT.topk_choices.findLast((choice) => choice < value) ?? value),
};
const COUNT = {
  ...LOGARITHMIC,
  max: Math.log10(KIT.max_detections) * decade,
  step: (value, by, large) => value + by * (large ? 50 : 1),
};
const GAMMA = { ...LINEAR, typed: 0.1, max: 5, fromPosition: (p) => Math.round(p * 10) / 10,
  step: (value, by, large) => Math.round((value + by * (large ? 1 : 0.1)) * 10) / 10 };
const SCALES = {
  score_thresh: LINEAR, nms_thresh: LINEAR, topk_candidates: TOPK, detections_per_img: COUNT,
  fg_iou_thresh: LINEAR, bg_iou_thresh: LINEAR, alpha: LINEAR, gamma: GAMMA,
};
const LIMITS = { topk_candidates: [1, KIT.max_topk], detections_per_img: [1, KIT.max_detections], gamma: [0, 5] };

function twoDigits(value) {
  const unit = 10 ** Math.max(0, Math.floor(Math.log10(value)) - 1);
  return Math.round(value / unit) * unit;
}

function element(tag, properties = {}, ...children) {
  const { dataset, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, dataset ?? {});
  made.append(...children);
  return made;
}

// One control: its name, its badge, its value to type, its slider, the strip of survival under it.
function makeKnob({ name, title, help, badge, scale, limits, onLive, onRelease, onReset }) {
  const [low, high] = limits ?? [0, 1];
  const id = `rn-${name.replace(/\W/g, "-")}`;
  const slider = element("input", { type: "range", id, min: scale.min, max: scale.max, step: "any" });
  const value = element("input", { type: "number", className: "rn-value", min: low, max: high, step: scale.typed });
  const strip = element("div", { className: "rn-strip", role: "img" });
  const label = element("label", { htmlFor: id, title: help, textContent: title });
  const head = element("div", { className: "rn-knob-head" }, label);
  if (badge) {
    const kind = badge.split(" ")[0];
    head.append(element("span", { className: `rn-badge ${kind}`, textContent: badge }));
  }
  if (onReset) {
    const reset = element("button", { type: "button", className: "rn-reset", textContent: "remove" });
    reset.setAttribute("aria-label", `Remove the threshold of ${title}`);
    reset.addEventListener("click", onReset);
    head.append(reset);
  }
  head.append(value);
  const row = element("div", { className: "rn-knob", dataset: { knob: name } }, head, slider, strip);
  slider.setAttribute("aria-label", help ? `${title}: ${help}` : title);
  value.setAttribute("aria-label", `${title}, value`);
  const inside = (number) => Math.min(high, Math.max(low, number));
  const knob = { row, slider, value, strip, scale, now: low };
  knob.show = (number) => {
    if (knob.now === number && slider.dataset.shown) return;
    knob.now = number;
    slider.dataset.shown = "yes";
    slider.value = scale.toPosition(number);
    slider.setAttribute("aria-valuetext", scale.text(number));
    const along = (slider.value - scale.min) / (scale.max - scale.min);
    slider.style.setProperty("--along", along);
    if (row.getRootNode().activeElement !== value) value.value = scale.text(number);
  };
  const set = (number, released) => {
    knob.show(inside(number));
    (released ? onRelease : onLive)(knob.now);
  };
  slider.addEventListener("input", () => set(scale.fromPosition(+slider.value), false));
  slider.addEventListener("change", () => set(scale.fromPosition(+slider.value), true));
  slider.addEventListener("keydown", (event) => {
    const moves = {
      ArrowRight: () => scale.step(knob.now, 1), ArrowUp: () => scale.step(knob.now, 1),
      ArrowLeft: () => scale.step(knob.now, -1), ArrowDown: () => scale.step(knob.now, -1),
      PageUp: () => scale.step(knob.now, 1, true), PageDown: () => scale.step(knob.now, -1, true),
      Home: () => low, End: () => high,
    };
    event.stopPropagation();
    if (!(event.key in moves)) return;
    event.preventDefault();
    const next = inside(moves[event.key]());
    if (next !== knob.now) set(next, true);
  });
  value.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") value.blur();
  });
  value.addEventListener("change", () => {
    const typed = Number(value.value);
    const whole = scale === TOPK || scale === COUNT;
    if (value.value !== "" && Number.isFinite(typed)) set(whole ? Math.round(typed) : typed, true);
    value.value = scale.text(knob.now);
  });
  return knob;
}

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
}

// The lower bound never lies above the upper one: the one that moves takes the other along.
function boundedTraining(training, name, value) {
  const next = { ...training, [name]: value };
  if (name === "fg_iou_thresh") next.bg_iou_thresh = Math.min(next.bg_iou_thresh, value);
  if (name === "bg_iou_thresh") next.fg_iou_thresh = Math.max(next.fg_iou_thresh, value);
  return next;
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

function buildSwitch(root, choices, onChoice) {
  const buttons = choices.map(([name, words]) => {
    const button = element("button", { type: "button", textContent: words, dataset: { choice: name } });
    button.addEventListener("click", () => onChoice(name));
    return button;
  });
  root.append(...buttons);
  return (name) => {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.choice === name));
    }
  };
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
