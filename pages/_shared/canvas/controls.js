// A control: its name, its badge, its value to type, its slider; and how a value lies on the slider.

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
const GAMMA = { ...LINEAR, typed: 0.1, max: 5, fromPosition: (p) => Math.round(p * 10) / 10,
  step: (value, by, large) => Math.round((value + by * (large ? 1 : 0.1)) * 10) / 10 };

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
    if (value.value !== "" && Number.isFinite(typed)) set(scale.whole ? Math.round(typed) : typed, true);
    value.value = scale.text(knob.now);
  });
  return knob;
}

// The lower bound never lies above the upper one: the one that moves takes the other along.
function boundedTraining(training, name, value) {
  const next = { ...training, [name]: value };
  if (name === "fg_iou_thresh") next.bg_iou_thresh = Math.min(next.bg_iou_thresh, value);
  if (name === "bg_iou_thresh") next.fg_iou_thresh = Math.max(next.fg_iou_thresh, value);
  return next;
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
