// Look at a text: the text itself tinted, how surprised each side is, and the map of
// layers and tokens. Every text goes through textContent.
"use strict";
{
  const { add, button, lay, Pieces, viewHead, Composer, Standing, Asking, figure, layerName } = window.comigs;
  const ROW = 14; // pixels of a layer in the map
  const SIDE = 30, TOP = 76; // pixels for the layers' numbers and the tokens' texts
  const WIDTH = 22; // pixels of a token, until somebody zooms
  const NARROW = 11; // pixels of a token below which its text is not written
  const PLACES = 9; // characters of a token over its column

  const percent = (x) => `${x} % you, ${100 - x} % everyone`;

  function shortened(text) {
    const line = text.replace(/\n/g, "↵").replace(/\s/g, "·");
    return line.length > PLACES ? `${line.slice(0, PLACES - 1)}…` : line;
  }

  // The map: layers from top to bottom, tokens from left to right, drawn as far as it is
  // seen: a canvas of thousands of tokens would be wider than browsers draw.
  class Heatmap {
    constructor(parent, reading, pick) {
      Object.assign(this, { reading, pick, at: [0, 0], width: WIDTH });
      this.bar = add(parent, "div", "cm-map-bar");
      this.slider("Width", { min: 6, max: 40, step: 2, value: WIDTH }, (value) => {
        this.width = value;
        this.resize();
      });
      this.frame = add(parent, "div", "cm-map");
      this.frame.tabIndex = 0;
      this.frame.setAttribute("role", "application");
      this.frame.setAttribute("aria-label",
        "Map: layers from top to bottom, tokens from left to right; arrow keys move, "
        + "Enter explains");
      this.canvas = add(this.frame, "canvas");
      this.room = add(this.frame, "div", "cm-map-room");
      this.readout = add(parent, "p", "cm-soft cm-readout",
        "Point at the map, or move with the arrow keys, to read a place; click it for more.");
      this.readout.setAttribute("role", "status");
      this.frame.addEventListener("scroll", () => this.later());
      this.canvas.addEventListener("pointermove", (event) => this.go(...this.place(event)));
      this.canvas.addEventListener("click", (event) => {
        this.go(...this.place(event));
        this.pick(...this.at);
      });
      this.frame.addEventListener("keydown", (event) => this.move(event));
      new ResizeObserver(() => this.resize()).observe(this.frame);
      // The colours are the page's: drawn anew when that turns dark or light.
      new MutationObserver(() => this.later())
        .observe(document.body, { attributes: true, attributeFilter: ["class"] });
    }

    slider(name, values, act) {
      const label = add(this.bar, "label", "cm-slider");
      add(label, "span", "", name);
      const input = add(label, "input");
      Object.assign(input, { type: "range", ...values });
      input.setAttribute("aria-label", `${name} of a token in the map`);
      input.addEventListener("input", () => act(+input.value));
    }

    resize() {
      const { pieces, layers } = this.reading;
      this.height = TOP + layers.length * ROW;
      this.wide = SIDE + pieces.length * this.width;
      this.room.style.width = `${this.wide}px`;
      this.frame.style.height = `${this.height + 14}px`; // a scroll bar's more
      this.later();
    }

    later() {
      if (this.waits) return;
      this.waits = true;
      requestAnimationFrame(() => {
        this.waits = false;
        this.paint();
      });
    }

    paint() {
      const width = Math.min(this.frame.clientWidth, this.wide);
      if (!width) return; // not to be seen
      const ratio = window.devicePixelRatio || 1;
      Object.assign(this.canvas, { width: width * ratio, height: this.height * ratio });
      Object.assign(this.canvas.style, { width: `${width}px`, height: `${this.height}px` });
      const brush = this.canvas.getContext("2d");
      brush.scale(ratio, ratio);
      const style = getComputedStyle(this.frame);
      this.ink = style.color;
      this.hues = ["--cm-theirs", "--cm-mine"].map((name) => style.getPropertyValue(name));
      this.cells(brush, width);
      this.heads(brush, width);
      this.numbers(brush);
    }

    // Index and left edge of every token that is at least partly in sight.
    *seen(width) {
      const { pieces } = this.reading, from = this.frame.scrollLeft;
      const first = Math.floor(from / this.width);
      for (let i = first; i < pieces.length; i += 1) {
        const x = SIDE + i * this.width - from;
        if (x > width) return;
        yield [i, x];
      }
    }

    cells(brush, width) {
      const { pieces, layers } = this.reading;
      const [token, layer] = this.at;
      for (const [i, x] of this.seen(width)) {
        layers.forEach((_, l) => {
          const tint = pieces[i].tint[l + 1];
          if (tint) {
            brush.globalAlpha = Math.abs(tint) / 100;
            brush.fillStyle = this.hues[tint > 0 ? 1 : 0];
            brush.fillRect(x, TOP + l * ROW, this.width, ROW);
          }
          brush.globalAlpha = 0.13;
          brush.strokeStyle = this.ink;
          brush.strokeRect(x + 0.5, TOP + l * ROW + 0.5, this.width, ROW);
        });
        brush.globalAlpha = 1;
        if (i !== token || !this.told) continue;
        brush.lineWidth = 2;
        brush.strokeRect(x + 1, TOP + layer * ROW + 1, this.width - 2, ROW - 2);
        brush.lineWidth = 1;
      }
    }

    heads(brush, width) {
      if (this.width < NARROW) return;
      brush.fillStyle = this.ink;
      brush.textBaseline = "middle";
      for (const [i, x] of this.seen(width)) {
        brush.font = `${this.told && i === this.at[0] ? "700 " : ""}11px system-ui, sans-serif`;
        brush.save();
        brush.translate(x + this.width / 2, TOP - 5);
        brush.rotate(-Math.PI / 3);
        brush.fillText(shortened(this.reading.pieces[i].text), 0, 0);
        brush.restore();
      }
    }

    // The layers' numbers stay at the side while the tokens move under them.
    numbers(brush) {
      brush.fillStyle = getComputedStyle(this.frame).backgroundColor;
      brush.fillRect(0, 0, SIDE, this.height);
      brush.fillStyle = this.ink;
      brush.textAlign = "right";
      brush.textBaseline = "middle";
      this.reading.layers.forEach((path, l) => {
        brush.font = `${this.told && l === this.at[1] ? "700 " : ""}10px system-ui, sans-serif`;
        brush.fillText(layerName(path, l).slice(6), SIDE - 6, TOP + (l + 0.5) * ROW);
      });
    }

    place(event) {
      const box = this.canvas.getBoundingClientRect();
      const x = event.clientX - box.left - SIDE + this.frame.scrollLeft;
      const y = event.clientY - box.top - TOP;
      return [Math.floor(x / this.width), Math.max(Math.floor(y / ROW), 0)];
    }

    move(event) {
      const steps = {
        ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1],
      };
      if (event.key === "Enter") this.pick(...this.at);
      else if (!(event.key in steps)) return;
      else this.go(...this.at.map((n, i) => n + steps[event.key][i]));
      event.preventDefault();
      event.stopPropagation(); // Enter here is no way into the drawer
      this.show();
    }

    show() {
      const x = this.at[0] * this.width, room = this.frame.clientWidth - SIDE;
      if (x < this.frame.scrollLeft) this.frame.scrollLeft = x;
      const last = x + this.width - room;
      if (last > this.frame.scrollLeft) this.frame.scrollLeft = last;
    }

    go(token, layer) {
      const { pieces, layers } = this.reading;
      if (!(token in pieces && layer in layers)) return;
      if (token === this.at[0] && layer === this.at[1] && this.told) return;
      this.at = [token, layer];
      this.told = true;
      this.readout.textContent = `${JSON.stringify(pieces[token].text)}, layer ${
        layerName(layers[layer], layer).slice(6)}: ${percent(pieces[token].share[layer + 1])}`;
      this.later();
    }
  }

  class Reading {
    constructor(parent, reading, index, explain) {
      Object.assign(this, { reading, index, explain });
      this.box = add(parent, "section", "cm-reading");
      this.box.setAttribute("aria-label", reading.title);
      const head = add(this.box, "header");
      add(head, "h3", "", reading.title);
      const legend = add(head, "span", "cm-meaning");
      add(legend, "mark", "cm-theirs", "everyone");
      add(legend, "mark", "cm-mine", "me");
      this.figures();
      if (!reading.routed) {
        add(this.box, "p", "cm-soft", "The router has not learnt yet: it gives you and "
          + "everyone the same say at every token, so there is nothing to tint.");
      }
      this.text();
      add(this.box, "h4", "", "Layer by layer");
      this.map = new Heatmap(this.box, reading, (piece, layer) => this.pick(piece, layer));
      this.layers(this.map.bar);
      if (reading.oracle) {
        const why = add(this.box, "details", "cm-oracle");
        add(why, "summary", "", "How good could it be?");
        add(why, "p", "", reading.oracle);
      }
      this.numbers();
    }

    figures() {
      const { figures } = this.reading, line = add(this.box, "p", "cm-line");
      const best = Math.min(...figures.map(([, value]) => value));
      figures.forEach(([name, value], i) => {
        line.append(i ? ", " : "", i ? name : name[0].toUpperCase() + name.slice(1), " ");
        add(line, value === best ? "strong" : "span", "", figure(value));
      });
      line.append(": lower is better");
      line.title = "How surprised each is by this text (perplexity)";
    }

    text() {
      const box = add(this.box, "div", "cm-looked cm-prose");
      box.dir = "auto";
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", "The text; arrow keys move from token to token");
      this.words = box;
      this.pieces = new Pieces(box, (piece) => this.pick(piece, -1));
      box.textContent = this.reading.pieces.map(({ text }) => text).join("");
      this.tint(-1);
    }

    layers(parent) {
      const label = add(parent, "label", "cm-slider");
      add(label, "span", "", "Tint the text by");
      const choice = add(label, "select");
      const names = ["all layers", ...this.reading.layers.map(layerName)];
      names.forEach((name, i) => { add(choice, "option", "", name).value = i - 1; });
      choice.addEventListener("change", () => this.tint(+choice.value));
    }

    // The tint of one layer, or of the mean over all.
    tint(layer) {
      let at = 0;
      lay(this.words, this.reading.pieces.map(({ text, tint }, i) => {
        at += text.length;
        return [at - text.length, at, i, tint[layer + 1]];
      }));
      this.pieces.refresh();
    }

    pick(piece, layer) {
      if (this.pieces.current !== piece) this.pieces.release();
      this.map.go(piece, Math.max(layer, this.map.at[1]));
      if (layer < 0) this.map.show();
      this.explain(this.index, piece, layer, (by) => {
        if (this.reading.pieces[piece + by]) this.pick(piece + by, layer);
      });
    }

    numbers() {
      const fold = add(this.box, "details", "cm-numbers-fold");
      add(fold, "summary", "", "Numbers");
      fold.addEventListener("toggle", () => {
        if (fold.children.length > 1) return;
        this.usage(fold);
        this.table(fold);
      });
    }

    // Who had how much to say, layer by layer, over the whole text.
    usage(parent) {
      const { pieces, layers } = this.reading;
      add(parent, "h4", "", "Your say in each layer, over the whole text");
      const list = add(parent, "ul", "cm-layers");
      layers.forEach((path, l) => {
        const mean = pieces.reduce((sum, { share }) => sum + share[l + 1], 0)
          / Math.max(pieces.length, 1);
        const item = add(list, "li");
        add(item, "span", "", layerName(path, l));
        const bar = add(item, "div", "cm-shares");
        for (const [part, hue] of [[100 - mean, "theirs"], [mean, "mine"]]) {
          const piece = add(bar, "i");
          piece.style.width = `${part}%`;
          piece.style.background = `var(--cm-${hue})`;
        }
        add(item, "span", "", `${mean.toFixed(1)} %`);
      });
    }

    table(parent) {
      const { pieces, figures } = this.reading;
      const box = add(parent, "div", "cm-scroll cm-short");
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", "Tokens, those that are most yours first");
      const table = add(box, "table", "cm-table");
      add(table, "caption", "", "Tokens, those that are most yours first, and how surprised "
        + "each side is by them");
      const head = add(add(table, "thead"), "tr");
      for (const name of ["token", "yours", ...figures.map(([name]) => name)]) {
        add(head, "th", "", name).scope = "col";
      }
      const body = add(table, "tbody");
      const rows = [...pieces].sort((a, b) => b.share[0] - a.share[0]);
      for (const { text, share, surprise } of rows) {
        const row = add(body, "tr");
        add(add(row, "td"), "code", "", JSON.stringify(text));
        add(row, "td", "", `${share[0]} %`);
        for (const value of surprise) add(row, "td", "", value === null ? "–" : figure(value));
      }
    }
  }

  class Look {
    constructor(options) {
      this.server = options.server;
      this.root = options.element.querySelector(".cm-look");
      viewHead(this.root, "Look at a text", "Any text, of yours or of somebody else: which "
        + "words sound like you, which like everyone, and who knows it best.");
      this.composer = new Composer(this.root, {
        label: "Text", placeholder: "Paste a text", go: "Look", rows: 4, enter: false,
      }, (text) => this.look(text), () => this.asking.order({ stop: true }));
      this.offer();
      this.beside();
      this.how = new Standing(this.root);
      this.why = add(this.root, "p", "cm-problem");
      this.why.setAttribute("role", "alert");
      this.body = add(this.root, "div", "cm-readings");
      this.asking = new Asking(options, "look", (answer, fresh) => this.take(answer, fresh),
        (...told) => this.how.tell(...told));
      window.addEventListener("comigs:view", ({ detail }) => {
        if (detail.name !== "look") return;
        this.composer.box.focus();
        this.fill();
        const { talks } = window.comigs;
        this.taking.hidden = !(talks && talks.path && talks.path.length);
      });
    }

    // The newest answer of the talk, where there is one.
    offer() {
      this.taking = button(this.composer.inner, "Take the last answer", "cm-quiet cm-take",
        async () => {
          const { talks } = window.comigs;
          const answer = await talks.get("source", talks.path.at(-1));
          if (answer.text) this.composer.box.value = answer.text;
          this.composer.box.focus();
        });
      this.taking.hidden = true;
    }

    beside() {
      const fold = add(this.composer.inner, "details");
      add(fold, "summary", "", "Beside another text, or somebody else you talk to");
      this.other = add(fold, "textarea");
      Object.assign(this.other, { rows: 3, placeholder: "The same text", dir: "auto" });
      this.other.setAttribute("aria-label", "Second text");
      const label = add(fold, "label", "cm-slider");
      add(label, "span", "", "Read by");
      this.run = add(label, "select");
      add(this.run, "option", "", "the same").value = "";
    }

    async fill() {
      let found;
      try {
        found = await this.server.runs({});
      } catch {
        return; // the line below tells
      }
      if (!Array.isArray(found)) return;
      const chosen = this.run.value;
      while (this.run.options.length > 1) this.run.remove(1);
      for (const [value, text] of found) add(this.run, "option", "", text).value = value;
      this.run.value = found.some(([value]) => value === chosen) ? chosen : "";
    }

    look(text) {
      this.asking.order({ text, other: this.other.value, other_run: this.run.value });
    }

    take(answer, fresh) {
      if (fresh && !this.composer.box.value) this.composer.box.value = answer.text;
      this.composer.tell(answer.active);
      this.how.tell(answer.status, answer.active);
      if (this.why.dataset.text !== answer.why) {
        this.why.dataset.text = this.why.textContent = answer.why;
        window.comigs.remedy(this.why, answer.why && answer.remedy);
      }
      if (!answer.readings) return;
      this.body.textContent = "";
      answer.readings.forEach((reading, index) => new Reading(this.body, reading, index,
        (...asked) => this.explain(...asked)));
    }

    explain(reading, piece, layer, step) {
      this.asking.explain({ reading, piece }, { title: "One token", layer, step });
    }

    // Shows the view; a text that is handed over is looked at once.
    open(text = "") {
      window.comigs.view("look");
      if (!text) return;
      this.composer.box.value = text;
      if (this.composer.active) this.how.tell({ text: "Still reading: stop it first." }, true);
      else this.asking.order({ text });
    }
  }

  let shown = null;
  window.comigs.look = {
    mount: (options) => { shown = new Look(options); },
    open: (text) => shown.open(text),
  };
}
