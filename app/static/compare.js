// Compare: one question, four answers side by side, each token of them to be looked at.
// What a model says comes as Markdown that the library has made harmless, or as text.
"use strict";
{
  const { add, button, lay, Pieces, viewHead, Composer, Standing, Asking } = window.comigs;
  const TINT = "comigs-compare-tint"; // "1" or "0" where somebody has chosen
  // What each card will hold, before anybody has asked anything.
  const MEANING = {
    base: ["Untrained", "The model as it came, before anybody taught it anything."],
    generalist: ["Only everyone", "What is shared alone: what everyone's text has taught."],
    specialist: ["Only me", "What is yours alone: what your text has taught."],
    auto: ["Together", "Both, word by word, as the router has learnt to choose."],
  };
  const STATES = { waiting: "Waits for its turn", writing: "Writing" };

  class Card {
    constructor(parent, key, explain) {
      Object.assign(this, { key, blocks: [], marks: [], tinted: false });
      this.box = add(parent, "article", "cm-answer-card");
      this.box.dataset.key = key;
      const head = add(this.box, "header");
      this.title = add(head, "h3");
      this.state = add(head, "span", "cm-soft");
      this.text = add(this.box, "div", "cm-voice cm-prose");
      this.text.dir = "auto";
      this.foot = add(this.box, "footer");
      this.pieces = new Pieces(this.text, (piece) => explain(this, piece));
    }

    take(card) {
      this.name = card.title;
      this.title.textContent = card.title;
      this.box.setAttribute("aria-label", card.title);
      this.state.textContent = STATES[card.state] || "";
      this.box.dataset.state = card.state;
      for (const [index, html, marks] of card.blocks) this.block(index, html, marks);
      while (this.blocks.length > card.count) this.blocks.pop().remove();
      this.pieces.refresh();
      this.end(card);
    }

    block(index, html, marks) {
      const node = this.blocks[index] || add(this.text, "div", "cm-block");
      const { piece } = node.contains(document.activeElement)
        ? document.activeElement.dataset : {};
      this.blocks[index] = node;
      this.marks[index] = marks;
      window.comigs.rendered(node, html);
      this.lay(index);
      if (piece !== undefined) this.hold(piece);
    }

    lay(index) {
      lay(this.blocks[index], this.tinted ? this.marks[index]
        : this.marks[index].map(([start, end, piece]) => [start, end, piece, 0]));
    }

    tint(on) {
      if (on === this.tinted) return;
      this.tinted = on;
      this.blocks.forEach((_, index) => this.lay(index));
      this.pieces.refresh();
    }

    // The chosen token was drawn anew: it keeps the focus, and is not asked for again.
    hold(piece) {
      const span = this.pieces.span(+piece);
      if (!span) return;
      span.tabIndex = 0;
      span.focus({ preventScroll: true });
    }

    end(card) {
      this.foot.textContent = "";
      if (card.problem) {
        const why = add(this.foot, "p", "cm-problem", card.problem);
        why.setAttribute("role", "alert");
        window.comigs.remedy(why, card.remedy);
      }
      if (card.share !== null && card.key === "auto") this.share(card.share, card.routed);
      if (card.remark) add(this.foot, "p", "cm-soft", card.remark);
      if (!card.tokens) return;
      const line = add(this.foot, "p", "cm-soft cm-numbers");
      const rate = card.rate ? `, ${card.rate} a second` : "";
      add(line, "span", "", `${card.tokens} tokens${rate}`);
      if (card.state === "done" && navigator.clipboard) {
        button(line, "Copy", "cm-quiet", (event) => {
          navigator.clipboard.writeText(card.text);
          event.target.textContent = "Copied";
        }).setAttribute("aria-label", `Copy the answer of ${card.title}`);
      }
    }

    share(percent, routed) {
      if (!routed) {
        add(this.foot, "p", "cm-soft", "The router has not learnt yet: half and half.");
        return;
      }
      add(this.foot, "p", "cm-split", `${percent} % yours`);
      const bar = add(this.foot, "div", "cm-shares");
      bar.setAttribute("aria-hidden", "true");
      for (const [part, colour] of [[100 - percent, "theirs"], [percent, "mine"]]) {
        const piece = add(bar, "i");
        piece.style.width = `${part}%`;
        piece.style.background = `var(--cm-${colour})`;
      }
    }
  }

  class Compare {
    constructor(options) {
      this.root = options.element.querySelector(".cm-compare");
      viewHead(this.root, "Compare", "One question, answered by the untrained model, by what "
        + "everyone taught it, by what you taught it, and by both together.");
      this.composer = new Composer(this.root, {
        label: "Question", placeholder: "Ask all four the same", go: "Compare",
      }, (text) => this.asking.order({ ask: text }), () => this.asking.order({ stop: true }));
      this.switch();
      this.how = new Standing(this.bar);
      this.grid = add(this.root, "div", "cm-four");
      this.cards = new Map();
      this.promise();
      this.asking = new Asking(options, "compare",
        (answer, fresh) => this.take(answer, fresh),
        (...told) => this.how.tell(...told));
      window.addEventListener("comigs:view", ({ detail }) => {
        if (detail.name === "compare") this.composer.box.focus();
      });
    }

    switch() {
      this.bar = add(this.root, "div", "cm-tint-bar");
      this.label = add(this.bar, "label", "cm-switch");
      this.box = add(this.label, "input");
      this.box.type = "checkbox";
      this.box.setAttribute("role", "switch");
      add(this.label, "i").setAttribute("aria-hidden", "true");
      add(this.label, "span", "", "Show who spoke");
      this.legend = add(this.bar, "span", "cm-meaning");
      add(this.legend, "mark", "cm-theirs", "everyone");
      add(this.legend, "mark", "cm-mine", "me");
      this.box.addEventListener("change", () => {
        localStorage.setItem(TINT, this.box.checked ? "1" : "0");
        this.tint();
      });
      this.label.hidden = this.legend.hidden = true;
    }

    promise() {
      for (const [key, [title, text]] of Object.entries(MEANING)) {
        const box = add(this.grid, "article", "cm-answer-card");
        Object.assign(box.dataset, { key, state: "waiting" });
        add(add(box, "header"), "h3", "", title);
        add(box, "p", "cm-soft", text);
      }
    }

    // Only where both sides speak: a card of one side would be all of one colour, which
    // the dot by its name says better.
    tint() {
      const both = this.cards.get("auto");
      if (both) both.tint(this.box.checked);
      this.legend.hidden = !this.box.checked;
    }

    take(answer, fresh) {
      if (fresh && answer.cards.length) {
        this.grid.textContent = "";
        this.cards.clear();
      }
      for (const card of answer.cards) this.card(card);
      this.composer.tell(answer.active);
      if (fresh && !this.composer.box.value) this.composer.box.value = answer.prompt;
      this.how.tell(answer.status, answer.active);
      this.label.hidden = !this.cards.size;
    }

    card(card) {
      if (!this.cards.has(card.key)) {
        this.cards.set(card.key, new Card(this.grid, card.key,
          (one, piece) => this.explain(one, piece)));
      }
      this.cards.get(card.key).take(card);
      if (card.key !== "auto") return;
      const chosen = localStorage.getItem(TINT);
      this.box.checked = chosen ? chosen === "1" : card.routed && card.tokens > 0;
      this.tint();
    }

    explain(card, piece) {
      for (const other of this.cards.values()) if (other !== card) other.pieces.release();
      this.asking.explain({ card: card.key, piece }, {
        title: card.name,
        step: (by) => this.step(card, by),
      });
    }

    // From the drawer, which keeps the focus.
    step(card, by) {
      const spans = card.text.querySelectorAll(".cm-token");
      const all = [...new Set(Array.from(spans, (span) => +span.dataset.piece))];
      const goal = all[all.indexOf(card.pieces.current) + by];
      if (goal !== undefined) card.pieces.pick(goal);
    }

    // Shows the view; a question that is handed over is asked at once.
    open(text = "") {
      window.comigs.view("compare");
      if (!text) return;
      this.composer.box.value = text;
      if (this.composer.active) this.how.tell({ text: "Still answering: stop it first." }, true);
      else this.asking.order({ ask: text });
    }
  }

  let shown = null;
  window.comigs.compare = {
    mount: (options) => { shown = new Compare(options); },
    open: (text) => shown.open(text),
  };
}
