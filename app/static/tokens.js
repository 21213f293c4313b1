// Tokens tinted by who spoke, their legend and the weights of the chosen one.
// Every text goes through textContent: nothing a model says becomes markup.
"use strict";
window.comigs = {};
{
  // Okabe and Ito's colours, which colour-blind readers can tell apart.
  const BLUE = "0 114 178";
  const OTHERS = ["230 120 0", "204 90 160", "0 150 110", "150 110 220"];
  // Full tint is never less than this lean (62 % of one side): a router that has learnt
  // nothing leans by a hundredth, and must look neutral.
  const LEAST = 0.25;
  const SVG = "http://www.w3.org/2000/svg";

  function add(parent, tag, className = "", text = "") {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text) node.textContent = text;
    return parent.appendChild(node);
  }

  function draw(parent, tag, attributes = {}, text = "") {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text) node.textContent = text;
    return parent.appendChild(node);
  }

  const percent = (x) => `${Math.round(100 * x)} %`;
  const layerNumber = (path, i) => (path.match(/\d+/) || [i])[0];

  // Names of experts -> their hues, and which are private.
  function palette(experts) {
    const own = experts.flatMap((name, e) => (name.startsWith("specialist") ? [e] : []));
    const hue = experts.map((_, e) =>
      own.includes(e) ? OTHERS[own.indexOf(e) % OTHERS.length] : BLUE);
    return { experts, own, hue };
  }

  // Mean weight of each expert over all layers (layer -1) or in one.
  function weightsOf(token, count, layer) {
    const sums = new Array(count).fill(0);
    if (!count) return sums;
    const rows = token.w.length / count;
    if (layer >= 0 && layer < rows) {
      return sums.map((_, e) => token.w[layer * count + e] / 1000);
    }
    token.w.forEach((w, i) => { sums[i % count] += w; });
    return sums.map((sum) => (rows ? sum / rows / 1000 : 0));
  }

  // share: of the specialists; lean: -1 generalists alone, 1 specialists alone,
  // 0 half and half, or the bare base model.
  function leanOf(token, colours, layer) {
    const weights = weightsOf(token, colours.experts.length, layer);
    const total = weights.reduce((sum, w) => sum + w, 0);
    const share = colours.own.reduce((sum, e) => sum + weights[e], 0);
    const lean = total === 0 ? 0 : 2 * Math.min(Math.max(share, 0), 1) - 1;
    const leader = colours.own.reduce(
      (best, e) => (weights[e] > weights[best] ? e : best), colours.own[0]);
    return { share, lean, rgb: lean > 0 ? colours.hue[leader] : BLUE };
  }

  function write(span, text) {
    text.split("\n").forEach((line, i) => {
      if (i) {
        add(span, "span", "cm-sign", "↵");
        span.append("\n");
      }
      span.append(line);
    });
  }

  // Tokens as they are shown: one that adds no text, such as a part of a character or
  // the end, belongs to the next one with text, at the end to the one before.
  function joined(tokens) {
    if (tokens.length === 1) return tokens[0];
    const shown = tokens.find((one) => one.text) || tokens[0];
    const parts = tokens.flatMap((one) => one.parts || [one.own || one.text]);
    const sums = new Array(Math.max(...tokens.map((one) => one.w.length))).fill(0);
    for (const one of tokens) {
      const count = one.parts ? one.parts.length : 1;
      one.w.forEach((w, i) => { sums[i] += count * w; });
    }
    return { ...shown, w: sums.map((w) => w / parts.length), parts };
  }

  // A legend and a layer slider over any number of token lists, each with its scale.
  class Tints {
    constructor(bar) {
      this.bar = bar;
      this.layer = -1;
      this.lists = [];
      this.legend = add(bar, "div", "cm-legend");
      this.legend.setAttribute("role", "group");
      this.legend.setAttribute("aria-label", "Legend");
      const label = add(bar, "label", "cm-layer");
      add(label, "span", "", "Tint by");
      this.slider = add(label, "input");
      Object.assign(this.slider, { type: "range", min: -1, max: -1, value: -1, step: 1 });
      this.name = add(label, "output", "", "all layers");
      this.slider.addEventListener("input", () => this.choose(+this.slider.value));
      this.show(["generalist", "specialist"], []);
    }

    show(experts, layers) {
      this.layers = layers;
      this.slider.max = layers.length - 1;
      this.slider.disabled = !layers.length;
      if (this.layer >= layers.length) this.layer = this.slider.value = -1;
      const colours = palette(experts);
      this.legend.textContent = "";
      const shared = experts.filter((_, e) => !colours.own.includes(e));
      if (shared.length) this.entry(`${shared.join(", ")} (everyone)`, BLUE);
      this.entry("half and half, or base", "");
      colours.own.forEach((e) => this.entry(`${experts[e]} (me)`, colours.hue[e]));
      this.scale = add(this.legend, "span");
      this.label();
    }

    entry(text, rgb) {
      const item = add(this.legend, "span");
      const swatch = add(item, "i", "cm-swatch");
      if (rgb) swatch.style.background = `rgb(${rgb} / .5)`;
      item.append(text);
    }

    label() {
      const at = this.layer < 0 ? "all layers"
        : `layer ${layerNumber(this.layers[this.layer], this.layer)}`;
      this.name.textContent = at;
      this.slider.setAttribute("aria-label", "Layer that tints the tokens");
      this.slider.setAttribute("aria-valuetext", at);
      const gains = this.lists.filter((list) => list.tinted).map((list) => list.gain);
      const texts = [...new Set(gains.map((gain) => percent((1 + gain) / 2)))];
      this.scale.textContent = texts.length
        ? `full tint${gains.length > 1 ? " of each answer" : ""}: ${texts.join(", ")} of one side`
        : "";
    }

    choose(layer) {
      this.layer = layer;
      for (const list of this.lists) {
        list.gain = LEAST;
        list.tint(0);
      }
      this.label();
      if (this.onchange) this.onchange();
    }

    reset() {
      this.lists = [];
      this.label();
    }
  }

  // One reply's tokens: a list box, one tab stop, arrow keys inside.
  class TokenList {
    constructor(parent, tints, experts, layers, name, onpick) {
      Object.assign(this, { tints, layers, onpick, tokens: [], spans: [], current: -1,
        held: [], gain: LEAST, tinted: false });
      this.colours = palette(experts);
      this.box = add(parent, "div", "cm-tokens");
      this.box.setAttribute("role", "listbox");
      this.box.dir = "auto";
      this.box.setAttribute("aria-label", `${name}: tokens; arrow keys move`);
      this.box.addEventListener("click", (event) => this.pick(event));
      this.box.addEventListener("focusin", (event) => this.pick(event));
      this.box.addEventListener("keydown", (event) => this.move(event));
      tints.lists.push(this);
    }

    extend(tokens) {
      const first = this.spans.length;
      const part = document.createDocumentFragment();
      for (const token of tokens) {
        this.held.push(token);
        if (!token.text) continue; // its text comes with the next
        const span = add(part, "span", "cm-token");
        span.setAttribute("role", "option");
        span.tabIndex = this.spans.length ? -1 : 0;
        span.dataset.index = this.spans.length;
        write(span, token.text);
        this.spans.push(span);
        this.tokens.push(joined(this.held));
        this.held = [];
      }
      this.tint(first);
      this.box.append(part);
    }

    // Nothing follows: what is held back belongs to the last token that has text.
    end() {
      const last = this.spans.length - 1;
      if (!this.held.length || last < 0) return;
      this.tokens[last] = joined([this.tokens[last], ...this.held]);
      this.held = [];
      this.tint(last);
      if (this.current === last) this.onpick(this);
    }

    tint(first) {
      let strongest = 0;
      for (let i = first; i < this.spans.length; i += 1) {
        const { share, lean, rgb } = leanOf(this.tokens[i], this.colours, this.tints.layer);
        const style = this.spans[i].style;
        style.setProperty("--rgb", rgb);
        style.setProperty("--lean", Math.abs(lean).toFixed(3));
        const { text } = this.tokens[i];
        this.spans[i].setAttribute("aria-label", `${text}, ${percent(share)} specialist`);
        strongest = Math.max(strongest, Math.abs(lean));
      }
      this.widen(strongest);
    }

    // Tints are relative to the strongest lean of the answer, which the legend states:
    // beside an answer of one side alone, a mixture's leans would not be seen. They are
    // never stretched beyond LEAST: noise is no signal.
    widen(lean) {
      const told = this.tinted && lean <= this.gain;
      this.tinted = this.tinted || lean > 0;
      this.gain = Math.max(this.gain, lean);
      this.box.style.setProperty("--gain", (0.5 / this.gain).toFixed(3));
      if (!told) this.tints.label();
    }

    pick(event) {
      const span = event.target.closest(".cm-token");
      if (!span) return;
      this.release();
      this.current = +span.dataset.index;
      span.setAttribute("aria-selected", "true");
      span.tabIndex = 0;
      this.onpick(this);
    }

    release() {
      if (this.current < 0) return;
      this.spans[this.current].removeAttribute("aria-selected");
      this.spans[this.current].tabIndex = -1;
      this.spans[0].tabIndex = 0;
      this.current = -1;
    }

    move(event) {
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      const ends = { Home: 0, End: this.spans.length - 1 };
      const goal = event.key in ends ? ends[event.key]
        : this.current + (steps[event.key] || NaN);
      if (!(goal in this.spans)) return;
      event.preventDefault();
      this.spans[goal].focus();
    }
  }

  Object.assign(window.comigs, {
    add, draw, percent, layerNumber, palette, weightsOf, leanOf, Tints, TokenList, LEAST,
  });
}
