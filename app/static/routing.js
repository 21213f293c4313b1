// A scored text: heat map of layers and tokens, perplexities, usage by layer.
"use strict";
{
  const { add, draw, percent, layerNumber, palette, weightsOf, leanOf, LEAST } = window.comigs;
  const ROW = 12; // pixels of a layer
  const SIDE = 26, TOP = 64; // pixels for the numbers of layers, and for the tokens' texts
  const NARROW = 10; // pixels of a token below which its text is not written

  // 15700 -> "15,700", 3.14159 -> "3.14".
  const figure = (x) => (x >= 1e9 ? "over 1,000,000,000" : x.toLocaleString("en",
    x < 100 ? { maximumSignificantDigits: 3 } : { maximumFractionDigits: 0 }));

  function shortened(text) {
    const line = text.replace(/\n/g, "↵").replace(/\s/g, "·");
    return line.length > 10 ? `${line.slice(0, 9)}…` : line;
  }

  class Panel {
    constructor(parent, panel) {
      this.panel = panel;
      this.colours = palette(panel.experts);
      this.box = add(parent, "section", "cm-panel");
      this.box.setAttribute("aria-label", panel.title);
      add(this.box, "h3", "", panel.title);
      const all = Object.entries(panel.perplexity).map(([n, v]) => `${n} ${figure(v)}`);
      add(this.box, "p", "cm-soft", `Perplexity: ${all.join(" · ")}`);
      this.map();
      this.table();
      this.usage();
    }

    map() {
      const label = add(this.box, "label", "cm-layer");
      add(label, "span", "", "Zoom");
      const zoom = add(label, "input");
      Object.assign(zoom, { type: "range", min: 4, max: 32, value: 12, step: 2 });
      zoom.setAttribute("aria-label", "Width of a token in the heat map");
      this.frame = add(this.box, "div", "cm-map");
      this.frame.tabIndex = 0;
      this.frame.setAttribute("role", "application");
      this.frame.setAttribute("aria-label",
        "Heat map: layers from top to bottom, tokens from left to right; arrow keys move");
      this.canvas = add(this.frame, "canvas");
      this.readout = add(this.box, "p", "cm-readout",
        "Point at the map, or move with the arrow keys, to read a cell.");
      this.readout.setAttribute("role", "status");
      this.at = [0, 0];
      this.width = +zoom.value;
      zoom.addEventListener("input", () => { this.width = +zoom.value; this.paint(); });
      this.canvas.addEventListener("pointermove", (event) => this.point(event));
      this.frame.addEventListener("keydown", (event) => this.move(event));
      this.paint();
    }

    // The strongest lean in view has full colour, but noise is not stretched to it.
    strongest() {
      const { tokens, layers } = this.panel;
      return Math.max(LEAST, ...tokens.flatMap((token) =>
        layers.map((_, l) => Math.abs(leanOf(token, this.colours, l).lean))));
    }

    paint() {
      const { tokens, layers } = this.panel;
      const ratio = window.devicePixelRatio || 1;
      const width = SIDE + tokens.length * this.width;
      const height = TOP + layers.length * ROW;
      Object.assign(this.canvas, { width: width * ratio, height: height * ratio });
      Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
      const brush = this.canvas.getContext("2d");
      brush.scale(ratio, ratio);
      this.axes(brush);
      this.full = this.full || this.strongest();
      tokens.forEach((token, i) => layers.forEach((_, l) => {
        const { lean, rgb } = leanOf(token, this.colours, l);
        brush.fillStyle = `rgb(${rgb} / ${(Math.abs(lean) / this.full).toFixed(3)})`;
        brush.fillRect(SIDE + i * this.width, TOP + l * ROW, this.width, ROW);
      }));
      brush.lineWidth = 2;
      brush.strokeStyle = getComputedStyle(this.frame).color;
      const [i, l] = this.at;
      brush.strokeRect(SIDE + i * this.width + 1, TOP + l * ROW + 1, this.width - 2, ROW - 2);
    }

    // The layers' numbers at the side, the tokens' texts along the top.
    axes(brush) {
      const { tokens, layers } = this.panel;
      brush.fillStyle = getComputedStyle(this.frame).color;
      brush.font = "10px system-ui, sans-serif";
      brush.textBaseline = "middle";
      brush.textAlign = "right";
      layers.forEach((path, l) => {
        brush.fillText(layerNumber(path, l), SIDE - 4, TOP + (l + 0.5) * ROW);
      });
      if (this.width < NARROW) return;
      brush.textAlign = "left";
      tokens.forEach((token, i) => {
        brush.save();
        brush.translate(SIDE + (i + 0.5) * this.width, TOP - 4);
        brush.rotate(-Math.PI / 2);
        brush.fillText(shortened(token.text), 0, 0);
        brush.restore();
      });
    }

    point(event) {
      const box = this.canvas.getBoundingClientRect();
      this.go(Math.floor((event.clientX - box.left - SIDE) / this.width),
        Math.floor((event.clientY - box.top - TOP) / ROW));
    }

    move(event) {
      const steps = {
        ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1],
      };
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      this.go(this.at[0] + step[0], this.at[1] + step[1]);
      this.frame.scrollLeft = Math.max(
        0, SIDE + this.at[0] * this.width - this.frame.clientWidth / 2);
    }

    go(token, layer) {
      const { tokens, layers, experts } = this.panel;
      if (!(token in tokens && layer in layers)) return;
      if (token === this.at[0] && layer === this.at[1] && this.told) return;
      this.at = [token, layer];
      this.told = true;
      const row = weightsOf(tokens[token], experts.length, layer);
      const parts = experts.map((name, e) => `${name} ${percent(row[e])}`);
      this.readout.textContent = `${JSON.stringify(tokens[token].text)}, layer ${
        layerNumber(layers[layer], layer)}: ${parts.join(", ")}`;
      this.paint();
    }

    table() {
      const { tokens, perplexity } = this.panel;
      const names = Object.keys(perplexity);
      const box = add(this.box, "div", "cm-scroll cm-short");
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", "Tokens by specialist share");
      const table = add(box, "table", "cm-table");
      add(table, "caption", "", "Tokens by share of the specialists; perplexity of each token");
      const head = add(add(table, "thead"), "tr");
      for (const name of ["token", "share of specialists", ...names]) {
        add(head, "th", "", name).scope = "col";
      }
      const body = add(table, "tbody");
      const rows = tokens.map((token) => ({ token, ...leanOf(token, this.colours, -1) }));
      rows.sort((a, b) => b.share - a.share);
      for (const { token, share } of rows) {
        const row = add(body, "tr");
        add(add(row, "td"), "code", "", JSON.stringify(token.text));
        add(row, "td", "", `${(100 * share).toFixed(1)} %`);
        for (const name of names) {
          const value = token.perplexity[name];
          add(row, "td", "", value === null ? "–" : figure(value));
        }
      }
    }

    usage() {
      const { tokens, layers, experts } = this.panel;
      add(this.box, "h4", "", "Use of experts by layer");
      const svg = draw(this.box, "svg", {
        viewBox: `0 0 300 ${13 * layers.length}`, class: "cm-chart", role: "img",
      });
      const spoken = layers.map((path, l) => {
        const sums = experts.map(() => 0);
        for (const token of tokens) {
          weightsOf(token, experts.length, l).forEach((w, e) => { sums[e] += w; });
        }
        const total = sums.reduce((a, b) => a + b, 0) || 1;
        let x = 30;
        const y = 13 * l;
        const name = layerNumber(path, l);
        draw(svg, "text", { x: 24, y: y + 10, "text-anchor": "end" }, name);
        sums.forEach((sum, e) => {
          const width = 226 * sum / total;
          draw(svg, "rect",
            { x, y: y + 2, width, height: 9, fill: `rgb(${this.colours.hue[e]})` });
          x += width;
        });
        const share = percent(this.colours.own.reduce((s, e) => s + sums[e], 0) / total);
        draw(svg, "text", { x: 300, y: y + 10, "text-anchor": "end" }, share);
        return `layer ${name} ${share}`;
      });
      svg.setAttribute("aria-label", `Specialist share: ${spoken.join(", ")}`);
    }
  }

  function legend(parent, experts) {
    const { own, hue } = palette(experts);
    const box = add(parent, "div", "cm-legend");
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "Legend");
    experts.forEach((name, e) => {
      const item = add(box, "span");
      add(item, "i", "cm-swatch").style.background = `rgb(${hue[e]})`;
      item.append(`${name} (${own.includes(e) ? "me" : "everyone"})`);
    });
  }

  function routing({ element, props, watch }) {
    const root = element.querySelector(".cm-routing");
    const show = () => {
      root.textContent = "";
      if (!props.value) {
        add(root, "p", "cm-soft", "Paste a text: see which experts read it, token by token.");
        return;
      }
      legend(root, props.value.panels[0].experts);
      const body = add(root, "div", "cm-panels");
      for (const panel of props.value.panels) new Panel(body, panel);
    };
    watch("value", show);
    show();
  }

  window.comigs.routing = routing;
}
