// The chosen token: its weights in every layer, and what else could have come.
"use strict";
{
  const { add, draw, percent, layerNumber, weightsOf } = window.comigs;
  const WIDTH = 300, LEFT = 30, RIGHT = 44, ROW = 13;

  function chart(parent, token, list, chosen) {
    const { experts, own, hue } = list.colours;
    const inner = WIDTH - LEFT - RIGHT;
    const svg = draw(parent, "svg", {
      viewBox: `0 0 ${WIDTH} ${ROW * list.layers.length}`, class: "cm-chart", role: "img",
      "aria-label": `Weights per layer, specialist share from layer ${
        layerNumber(list.layers[0], 0)} down: ${list.layers.map((_, l) => {
        const row = weightsOf(token, experts.length, l);
        return percent(own.reduce((sum, e) => sum + row[e], 0));
      }).join(", ")}`,
    });
    list.layers.forEach((path, l) => {
      const row = weightsOf(token, experts.length, l);
      const total = Math.max(row.reduce((sum, w) => sum + w, 0), 1);
      const line = draw(svg, "g", { class: l === chosen ? "cm-chosen" : "" });
      draw(line, "title", {}, path);
      const y = ROW * l;
      draw(line, "text", { x: LEFT - 6, y: y + 10, "text-anchor": "end" },
        layerNumber(path, l));
      let x = LEFT;
      row.forEach((w, e) => {
        const width = inner * Math.max(w, 0) / total;
        draw(line, "rect", { x, y: y + 2, width, height: ROW - 4, fill: `rgb(${hue[e]})` });
        x += width;
      });
      const share = own.reduce((sum, e) => sum + row[e], 0);
      draw(line, "text", { x: WIDTH, y: y + 10, "text-anchor": "end" }, percent(share));
    });
  }

  function alternatives(parent, token) {
    if (!token.alt.length) return;
    add(parent, "h3", "", "Likeliest here");
    const list = add(parent, "ol", "cm-alternatives");
    for (const [text, probability] of token.alt) {
      const item = add(list, "li");
      const bar = add(item, "i");
      bar.style.width = `${100 * probability}%`;
      add(item, "code", "", JSON.stringify(text));
      add(item, "span", "", `${(100 * probability).toFixed(1)} %`);
    }
  }

  // Explains nothing chosen, or the token `list.current`.
  function detail(panel, list, layer) {
    const top = panel.scrollTop;
    panel.textContent = "";
    if (!list) {
      add(panel, "p", "cm-soft", "Choose a token, by click or with the arrow keys, to see "
        + "who spoke it in every layer, and what else could have come.");
      return;
    }
    const token = list.tokens[list.current];
    const { experts, own } = list.colours;
    const weights = weightsOf(token, experts.length, layer);
    const where = layer < 0 ? "all layers"
      : `layer ${layerNumber(list.layers[layer] || "", layer)}`;
    add(add(panel, "p"), "code", "cm-picked", JSON.stringify(token.text));
    if (token.parts) {
      add(panel, "p", "cm-soft", `${token.parts.length} tokens of the model: ${
        token.parts.map((part) => JSON.stringify(part)).join(" ")}`);
    }
    const spoken = weights.some((w) => w > 0);
    add(panel, "p", "", spoken
      ? `${percent(own.reduce((sum, e) => sum + weights[e], 0))} specialist, ${where}`
      : "spoken by the base model alone");
    alternatives(panel, token);
    if (spoken && list.layers.length) {
      const head = add(panel, "h3", "", "Weights per layer");
      head.title = experts.join(", ");
      chart(panel, token, list, layer);
    }
    panel.scrollTop = top;
  }

  window.comigs.detail = detail;
}
