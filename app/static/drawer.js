// The drawer: one token explained, at the side, or from below on a phone.
// It takes no focus, so that arrow keys go on from token to token; Enter enters it.
"use strict";
{
  const { add } = window.comigs;
  const MINE = ["var(--cm-mine)", "var(--cm-d)", "var(--cm-c)", "var(--cm-e)"];
  const open = { node: null, from: null };

  // "specialist-1" -> "you 1": whose expert it is, in the user's nouns.
  const whose = (name) => name.replace(/^specialist/, "you").replace(/^generalist/, "everyone")
    .replace("-", " ");
  // "model.layers.3.mlp" -> "Layer 3".
  const layerName = (path, l) => `Layer ${(String(path).match(/\d+/) || [l])[0]}`;
  const isMine = (name) => name.startsWith("specialist");
  const whole = (x) => `${Math.round(100 * x)} %`;

  // 15700 -> "15,700", 58.21 -> "58", 3.14159 -> "3.14".
  const figure = (x) => (x >= 1e9 ? "over 1,000,000,000" : x.toLocaleString("en",
    x < 10 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: x < 100 ? 1 : 0 }));

  // Names of experts -> a colour each: one for everyone, others for what is mine.
  function colours(experts) {
    const mine = experts.filter(isMine);
    return experts.map((name) => (isMine(name)
      ? MINE[mine.indexOf(name) % MINE.length] : "var(--cm-theirs)"));
  }

  const shareOf = (experts, weights) =>
    weights.reduce((sum, w, e) => sum + (isMine(experts[e]) ? w : 0), 0);

  // Blanks and line ends are signs here: a token may hold nothing else.
  function spell(parent, text) {
    for (const part of text.match(/[ \t\n]|[^ \t\n]+/g) || []) {
      if (/[^ \t\n]/.test(part)) parent.append(part);
      else add(parent, "span", "cm-blank", { " ": "·", "\t": "⇥", "\n": "↵" }[part]);
    }
  }

  function bar(parent, experts, weights) {
    const hue = colours(experts), total = Math.max(weights.reduce((a, b) => a + b, 0), 1);
    const box = add(parent, "div", "cm-shares");
    box.setAttribute("aria-hidden", "true");
    weights.forEach((w, e) => {
      const part = add(box, "i");
      part.style.width = `${100 * Math.max(w, 0) / total}%`;
      part.style.background = hue[e];
    });
  }

  const mean = (rows, count) => Array.from({ length: count }, (_, e) =>
    rows.reduce((sum, row) => sum + row[e], 0) / Math.max(rows.length, 1));

  function spoken(parent, { experts, layers }) {
    const weights = mean(layers.map(([, row]) => row), experts.length);
    if (!weights.some((w) => w > 0)) {
      add(parent, "p", "cm-soft", "Nobody was chosen here: the untrained model spoke alone.");
      return;
    }
    const share = Math.min(shareOf(experts, weights), 1);
    add(parent, "p", "cm-split", `${whole(share)} yours, ${whole(1 - share)} everyone's`);
    bar(parent, experts, weights);
  }

  function alternatives(parent, { text, parts = [], alternatives: found = [] }) {
    if (!found.length) return;
    add(parent, "h3", "", "What else could have come");
    const list = add(parent, "ol", "cm-others");
    for (const [other, probability] of found) {
      const item = add(list, "li", [text, ...parts].includes(other) ? "cm-said" : "");
      add(item, "i").style.width = `${100 * probability}%`;
      spell(add(item, "code"), other);
      add(item, "span", "", `${(100 * probability).toFixed(1)} %`);
    }
  }

  function surprise(parent, { surprise: told = [] }) {
    if (!told.length) return;
    add(parent, "h3", "", "How surprised each is here");
    const list = add(parent, "dl", "cm-told");
    for (const [name, value] of told) {
      add(list, "dt", "", name);
      add(list, "dd", "", figure(value));
    }
  }

  function byLayer(parent, { experts, layers }, chosen) {
    if (!layers.some(([, row]) => row.some((w) => w > 0))) return;
    add(parent, "h3", "", "Layer by layer");
    const list = add(parent, "ul", "cm-layers");
    layers.forEach(([name, row], l) => {
      const item = add(list, "li", l === chosen ? "cm-chosen" : "");
      item.title = experts.map((one, e) => `${whose(one)} ${whole(row[e])}`).join(", ");
      add(item, "span", "", layerName(name, l));
      bar(item, experts, row);
      add(item, "span", "", `${whole(shareOf(experts, row))}`);
    });
  }

  function head(parent, { title, step }) {
    const box = add(parent, "header");
    add(box, "h2", "", title);
    const knob = (text, label, act) => {
      const node = add(box, "button", "cm-knob", text);
      node.type = "button";
      node.setAttribute("aria-label", label);
      node.addEventListener("click", act);
    };
    if (step) {
      knob("‹", "The token before", () => step(-1));
      knob("›", "The next token", () => step(1));
    }
    knob("✕", "Close", close);
  }

  function body(parent, { token, layer = -1 }) {
    const { text, position = [], parts = [] } = token;
    const [at, total] = position;
    const said = add(parent, "div"); // read out as the choice moves; the rest is not
    said.setAttribute("role", "status");
    spell(add(add(said, "p", "cm-word"), "code"), text);
    const where = add(said, "p", "cm-soft", at ? `Token ${at} of ${total}` : "");
    if (parts.length > 1) {
      where.append(`, made of ${parts.length} tokens of the model: `);
      for (const part of parts) spell(add(where, "code"), part);
    }
    spoken(said, token);
    alternatives(parent, token);
    surprise(parent, token);
    byLayer(parent, token, layer);
  }

  function place() {
    if (open.node && open.node.isConnected) return open.node;
    const page = document.querySelector(".gradio-container") || document.body;
    open.node = add(page, "aside", "cm-drawer");
    open.node.tabIndex = -1;
    open.node.setAttribute("aria-label", "The chosen token");
    return open.node;
  }

  // options: title; token, as the server explains it; layer, the one to point out;
  // step(-1 or 1), which opens the token before or after.
  function show(options) {
    const node = place(), before = document.activeElement, top = node.scrollTop;
    const inside = node.contains(before), knob = before.getAttribute("aria-label");
    if (!inside && before !== document.body) open.from = before;
    node.textContent = "";
    head(node, options);
    body(node, options);
    document.documentElement.classList.add("cm-drawn");
    node.scrollTop = top;
    if (inside) (node.querySelector(`[aria-label="${knob}"]`) || node).focus();
    else if (open.from) open.from.scrollIntoView({ block: "nearest" });
  }

  function close() {
    if (!drawer.shown()) return;
    const inside = open.node.contains(document.activeElement);
    document.documentElement.classList.remove("cm-drawn");
    if (inside && open.from && open.from.isConnected) open.from.focus();
    else if (inside) document.activeElement.blur();
    open.node.textContent = "";
  }

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented || !drawer.shown()) return;
    if (event.key === "Escape") close();
    else if (event.key === "Enter" && event.target === open.from
      && !event.target.matches("textarea, input, button, a")) open.node.focus();
    else return;
    event.preventDefault();
  });

  const drawer = {
    open: show,
    close,
    shown: () => document.documentElement.classList.contains("cm-drawn"),
  };
  Object.assign(window.comigs, { drawer, figure, whose, colours, layerName });
}
