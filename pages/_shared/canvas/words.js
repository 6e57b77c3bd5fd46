// Text in a panel: numbers, paragraphs, buttons, and the three depths of an explanation.

const FORMAT = new Intl.NumberFormat("en");
const number = (value) => FORMAT.format(value);

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function paragraph(text, className = "") {
  return element("p", { textContent: text, className });
}

function action(words, onClick, key) {
  const button = element("button", { type: "button", className: "rn-action", textContent: words, dataset: { key } });
  button.addEventListener("click", onClick);
  return button;
}

// Three depths: the sentence stands above; the numbers, the formula and the source open here.
function depth(bench, name, title, content) {
  const details = element("details", { open: bench.opened.has(name), dataset: { depth: name } },
    element("summary", { textContent: title, dataset: { key: name } }), content);
  details.addEventListener("toggle", () =>
    details.open ? bench.opened.add(name) : bench.opened.delete(name),
  );
  return details;
}

function depths(bench, { numbers, formula }, source) {
  const table = element("table", { className: "rn-numbers" });
  for (const [name, text] of numbers) {
    table.append(element("tr", {}, element("td", { textContent: name }), element("td", { textContent: text })));
  }
  return [
    depth(bench, "numbers", "The numbers", table),
    depth(bench, "formula", "The formula with these numbers", element("pre", { textContent: formula })),
    depth(bench, "source", "The function itself", element("pre", { textContent: source })),
  ];
}
