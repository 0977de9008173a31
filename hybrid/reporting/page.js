// What a pointed-at mark or token has to tell.  The page is whole without this; it only adds the box beside the pointer.
"use strict";
const report = JSON.parse(document.getElementById("report").textContent);
const told = document.getElementById("told");
const NAMES = { blend: "blend", neural: "network", ngram: "n-grams", match: "match", product: "product" };

function element(name, text, parent, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  parent.append(made);
  return made;
}

function visible(piece) {
  return piece.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣");
}

function show(target) {
  told.hidden = false;
  const at = target.getBoundingClientRect(), box = told.getBoundingClientRect();
  const left = Math.max(12, Math.min(at.left, innerWidth - box.width - 12));
  const below = at.bottom + 8 + box.height < innerHeight;
  told.style.left = `${left}px`;
  told.style.top = `${below ? at.bottom + 8 : Math.max(8, at.top - box.height - 8)}px`;
}

function tokenOf(span) {
  const text = span.parentElement, passages = report.runs[text.dataset.run].stretch.passages;
  const tokens = passages[text.dataset.kind][text.dataset.passage].tokens;
  return { token: tokens[[...text.children].indexOf(span)], pieces: passages.pieces };
}

function tell(span) {
  const { token, pieces } = tokenOf(span);
  told.replaceChildren();
  const title = element("p", "", told);
  element("code", visible(pieces[token.piece]), title);
  const table = element("table", "", told);
  for (const name of Object.keys(NAMES).filter((name) => name in token.bits)) {
    const row = element("tr", "", table);
    element("th", NAMES[name], row).scope = "row";
    element("td", `${token.bits[name].toFixed(2)} bits`, row, "number");
    const head = element("td", "", row);
    for (const [piece, probability] of token.heads[name]) {
      element("code", visible(pieces[piece]), head, piece === token.piece ? "came" : "");
      head.append(` ${(100 * probability).toPrecision(2)}%  `);
    }
  }
  show(span);
}

function move(span, by) {
  const tokens = [...span.parentElement.children];
  const next = tokens[tokens.indexOf(span) + by];
  if (next) {
    span.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}

const hide = () => { told.hidden = true; };
for (const text of document.querySelectorAll(".text")) {
  text.addEventListener("pointerover", (event) => event.target.classList.contains("token") && tell(event.target));
  text.addEventListener("focusin", (event) => tell(event.target));
  text.addEventListener("pointerleave", hide);
  text.addEventListener("focusout", hide);
  text.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (by) {
      event.preventDefault();
      move(event.target, by);
    }
  });
}
for (const drawing of document.querySelectorAll(".drawing")) {
  drawing.addEventListener("pointerover", (event) => {
    const label = event.target.getAttribute("aria-label");
    if (event.target.closest("svg") && label) {
      told.replaceChildren(label);
      show(event.target);
    } else hide();
  });
  drawing.addEventListener("pointerleave", hide);
}

// A link to a token, as report.html#run1-worst-0-5, opens what it has to tell.
const linked = document.getElementById(decodeURIComponent(location.hash.slice(1)));
if (linked?.classList.contains("token")) linked.focus();
