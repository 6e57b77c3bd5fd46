// The ground truth under a hand: objects are drawn, moved, resized, named and removed on the stage or
// in the panel. Each is [category, x1, y1, x2, y2] in pixels of the picture.

const HANDLE = 7; // pixels of the screen around an edge that take hold of it
const SMALLEST = 2; // pixels of the picture that an object is wide and high at least

const truthOf = (bench) => bench.state.truth ?? bench.answer.truth.objects;

function selectedObject(bench) {
  const objects = truthOf(bench);
  return bench.state.object >= 0 && bench.state.object < objects.length ? bench.state.object : -1;
}

// ---------------------------------------------------------------- on the stage

// Which edges of a box a point holds: -1 the first, 1 the second, 0 none, for each axis.
function edgesAt(bench, [, x1, y1, x2, y2], [x, y]) {
  const slack = HANDLE / bench.scale;
  // Of a small object only its outer thirds are edges: by its middle it can be moved.
  const near = (value, edge, length) => Math.abs(value - edge) <= (Math.sign(edge - value) === Math.sign(length) ? slack : Math.min(slack, Math.abs(length) / 3));
  if (x < x1 - slack || x > x2 + slack || y < y1 - slack || y > y2 + slack) return null;
  const across = near(x, x1, x2 - x1) ? -1 : near(x, x2, x1 - x2) ? 1 : 0;
  const down = near(y, y1, y2 - y1) ? -1 : near(y, y2, y1 - y2) ? 1 : 0;
  return { across, down };
}

// The object under a point: the selected one anywhere within it, another one at its border.
function objectAt(bench, photo) {
  const objects = truthOf(bench);
  const selected = selectedObject(bench);
  if (selected >= 0) {
    const edges = edgesAt(bench, objects[selected], photo);
    if (edges) return { index: selected, ...edges };
  }
  let best = null;
  objects.forEach((object, index) => {
    const edges = edgesAt(bench, object, photo);
    if (!edges || !(edges.across || edges.down)) return;
    const area = (object[3] - object[1]) * (object[4] - object[2]);
    if (!best || area < best.area) best = { index, area, ...edges };
  });
  return best;
}

function withObject(bench, index, object) {
  const objects = truthOf(bench).slice();
  if (object) objects[index] = object;
  else objects.splice(index, 1);
  return objects;
}

function within(value, limit) {
  return Math.min(limit, Math.max(0, value));
}

function resized([name, ...box], { across, down }, [dx, dy], { width, height }) {
  const next = box.slice();
  if (!across && !down) {
    const [left, top] = [within(box[0] + dx, width - (box[2] - box[0])), within(box[1] + dy, height - (box[3] - box[1]))];
    return [name, left, top, left + box[2] - box[0], top + box[3] - box[1]];
  }
  const move = (at, by, limit, low, high) => {
    const value = within(box[at] + by, limit);
    return at < 2 ? Math.min(value, high - SMALLEST) : Math.max(value, low + SMALLEST);
  };
  if (across) next[across < 0 ? 0 : 2] = move(across < 0 ? 0 : 2, dx, width, box[0], box[2]);
  if (down) next[down < 0 ? 1 : 3] = move(down < 0 ? 1 : 3, dy, height, box[1], box[3]);
  return [name, ...next];
}

function grabObject(bench, from) {
  const before = bench.state.truth;
  const selectedBefore = bench.state.object;
  const cancel = () => live(bench, { truth: before, object: selectedBefore });
  if (bench.adding) return grabNew(bench, from, cancel);
  const hit = objectAt(bench, from);
  if (!hit) return null;
  const object = truthOf(bench)[hit.index];
  return {
    move(to) {
      const by = [to[0] - from[0], to[1] - from[1]];
      const next = resized(object, hit, by, bench.answer);
      live(bench, { truth: withObject(bench, hit.index, next), object: hit.index });
    },
    drop: () => commit(bench, {}),
    cancel,
  };
}

function grabNew(bench, from, cancel) {
  const index = truthOf(bench).length;
  const name = newName(bench);
  const { width, height } = bench.answer;
  let large = false;
  return {
    move(to) {
      const xs = [within(from[0], width), within(to[0], width)].sort((a, b) => a - b);
      const ys = [within(from[1], height), within(to[1], height)].sort((a, b) => a - b);
      large = xs[1] - xs[0] >= SMALLEST && ys[1] - ys[0] >= SMALLEST;
      const box = [xs[0], ys[0], Math.max(xs[1], xs[0] + SMALLEST), Math.max(ys[1], ys[0] + SMALLEST)];
      live(bench, { truth: withObject(bench, index, [name, ...box]), object: index });
    },
    drop() {
      setAdding(bench, false);
      if (large) commit(bench, {});
      else cancel();
    },
    cancel,
  };
}

// Without a pointer: an object in the middle of what is in sight, its corners to be typed in the panel.
function addAtMiddle(bench) {
  const { width, height } = bench.answer;
  const [x, y] = middleOf(bench);
  const [across, down] = [bench.width / bench.scale / 6, bench.height / bench.scale / 6];
  const box = [within(x - across, width), within(y - down, height), within(x + across, width), within(y + down, height)];
  const index = truthOf(bench).length;
  setAdding(bench, false);
  commit(bench, { truth: withObject(bench, index, [newName(bench), ...box]), object: index });
}

const newName = (bench) => bench.lastCategory ?? bench.answer.truth.categories[0] ?? "object";

// The middle of the stage, in pixels of the picture.
function middleOf(bench) {
  const { width, height } = bench.answer;
  const [x, y] = locate(bench, bench.width / 2, bench.height / 2).photo;
  return [within(x, width), within(y, height)];
}

function setAdding(bench, adding) {
  bench.adding = adding;
  showTruth(bench);
  bench.stage.classList.toggle("drawing", adding || selectedObject(bench) >= 0);
  bench.stage.classList.toggle("adding", adding);
}

function drawTruth(context, bench) {
  const placed = [];
  const selected = selectedObject(bench);
  truthOf(bench).forEach((object, index) => {
    const [name, ...box] = object;
    const { color, dash, words } = bench.truthStyle(bench, index);
    strokeCorners(context, bench, box, color, index === selected ? 3.5 : 2.5, dash);
    drawLabel(context, bench, box, words ? `${name}: ${words}` : name, color, placed, index === selected);
  });
  if (selected >= 0) drawHandles(context, bench, truthOf(bench)[selected]);
}

function drawHandles(context, bench, [, x1, y1, x2, y2]) {
  const [left, top, width, height] = rectangleOf(bench, [x1, y1, x2, y2]);
  context.setLineDash([]);
  context.lineWidth = 1.5;
  const isSmall = Math.min(width, height) < 40; // corners only, outside it: the object stays in sight
  const size = isSmall ? 6 : 8;
  for (const u of [0, 0.5, 1]) {
    for (const v of [0, 0.5, 1]) {
      if ((u === 0.5 && v === 0.5) || (isSmall && (u === 0.5 || v === 0.5))) continue;
      const [dx, dy] = isSmall ? [(u - 0.5) * size, (v - 0.5) * size] : [0, 0];
      context.fillStyle = "#fff";
      context.strokeStyle = "#101418";
      const corner = [left + u * width - size / 2 + dx, top + v * height - size / 2 + dy, size, size];
      context.fillRect(...corner);
      context.strokeRect(...corner);
    }
  }
}

// ---------------------------------------------------------------- in the panel

function buildTruth(bench, room) {
  bench.truthWords = element("p", { className: "rn-small" });
  bench.addButton = action("Add an object (A)", () => setAdding(bench, !bench.adding), "add");
  bench.undoButton = action("Undo", () => undo(bench), "undo");
  bench.adoptButton = action("Take the detections", () => bench.setTriggerValue("command", "adopt"), "adopt");
  bench.truthList = element("ul", { className: "rn-changes rn-objects" });
  bench.objectForm = element("div", { className: "rn-ask" });
  room.append(
    element("h3", { textContent: "Ground truth" }), bench.truthWords,
    element("div", { className: "rn-actions" }, bench.addButton, bench.adoptButton, bench.undoButton),
    bench.truthList, bench.objectForm,
  );
}

function showTruth(bench) {
  const { truth } = bench.answer;
  const selected = selectedObject(bench);
  setText(bench.truthWords, bench.adding ? "Drag on the picture from corner to corner, or press Enter on it for one in the middle." : truth.words);
  bench.addButton.setAttribute("aria-pressed", String(Boolean(bench.adding)));
  bench.undoButton.disabled = !truth.can_undo;
  bench.adoptButton.hidden = !truth.can_adopt;
  const told = truthOf(bench).map(([name], index) => [name, bench.truthStyle(bench, index)]);
  const wanted = JSON.stringify([told, selected]);
  if (bench.truthList.dataset.shown !== wanted) listObjects(bench, selected, wanted);
  showObjectForm(bench, selected);
}

function listObjects(bench, selected, wanted) {
  bench.truthList.dataset.shown = wanted;
  const rows = truthOf(bench).map((object, index) => objectRow(bench, object, index, index === selected));
  const held = bench.truthList.getRootNode().activeElement?.dataset?.key;
  bench.truthList.replaceChildren(...rows);
  if (held) bench.truthList.querySelector(`[data-key="${held}"]`)?.focus({ preventScroll: true });
}

function objectRow(bench, [name], index, isSelected) {
  const { color, mark, words } = bench.truthStyle(bench, index);
  const sign = element("span", { className: "rn-mark", textContent: mark ?? "" });
  sign.style.setProperty("--fate", color);
  const text = element("span", { textContent: words ? `${name}: ${words}` : name });
  const button = element("button", { type: "button", className: "rn-change", dataset: { key: `object_${index}` } }, sign, text);
  button.setAttribute("aria-pressed", String(isSelected));
  button.addEventListener("click", () => commit(bench, { object: isSelected ? -1 : index }));
  return element("li", {}, button);
}

function showObjectForm(bench, selected) {
  const form = bench.objectForm;
  const wanted = selected < 0 ? "" : `${selected}:${truthOf(bench)[selected].join()}`;
  if (form.dataset.shown === wanted || form.contains(form.getRootNode().activeElement)) return;
  form.dataset.shown = wanted;
  if (selected < 0) {
    form.replaceChildren();
    return;
  }
  const [name, ...box] = truthOf(bench)[selected];
  const leave = () => (form.dataset.shown = "left"); // what is typed has been sent: show it anew
  const field = element("input", { type: "text", className: "rn-name", value: name, maxLength: 80 });
  field.setAttribute("list", "rn-categories");
  field.setAttribute("aria-label", "category of the object");
  field.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") field.blur();
  });
  field.addEventListener("change", () => {
    leave();
    if (!field.value.trim()) return;
    bench.lastCategory = field.value.trim();
    commit(bench, { truth: withObject(bench, selected, [bench.lastCategory, ...box]) });
  });
  const names = element("datalist", { id: "rn-categories" },
    ...bench.answer.truth.categories.map((value) => element("option", { value })));
  const edges = ["x1", "y1", "x2", "y2"].map((edge, at) => edgeField(bench, selected, edge, at, leave));
  const remove = action("Remove (Delete)", () => removeObject(bench), "remove");
  form.replaceChildren(field, names, element("span", { className: "rn-corners" }, ...edges), remove);
}

function edgeField(bench, index, edge, at, leave) {
  const field = element("input", { type: "number", step: 1, className: "rn-value", dataset: { key: edge } });
  field.setAttribute("aria-label", `${edge} of the object, pixels`);
  field.value = truthOf(bench)[index][at + 1].toFixed(0);
  field.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter") field.blur();
  });
  field.addEventListener("change", () => {
    leave();
    const object = truthOf(bench)[index].slice();
    object[at + 1] = within(Number(field.value), at % 2 ? bench.answer.height : bench.answer.width);
    const [, x1, y1, x2, y2] = object;
    if (field.value !== "" && x2 - x1 >= SMALLEST && y2 - y1 >= SMALLEST) {
      commit(bench, { truth: withObject(bench, index, object) });
    } else field.value = truthOf(bench)[index][at + 1].toFixed(0);
  });
  return field;
}

function removeObject(bench) {
  const selected = selectedObject(bench);
  if (selected >= 0) commit(bench, { truth: withObject(bench, selected, null), object: -1 });
}

function stepObject(bench, by) {
  const count = truthOf(bench).length;
  if (!count) return;
  const now = selectedObject(bench);
  commit(bench, { object: now < 0 ? (by > 0 ? 0 : count - 1) : (now + by + count) % count });
}

const TRUTH_KEYS = (bench) => ({
  n: () => stepObject(bench, 1),
  p: () => stepObject(bench, -1),
  a: () => setAdding(bench, !bench.adding),
  u: () => undo(bench),
  Enter: () => (bench.adding ? addAtMiddle(bench) : askAt(bench, middleOf(bench))),
  Delete: () => removeObject(bench),
  Backspace: () => removeObject(bench),
  Escape: () => (bench.adding ? setAdding(bench, false) : commit(bench, { object: -1, point: null })),
});
