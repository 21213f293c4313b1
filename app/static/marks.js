// Who spoke, laid over rendered text: a span for each piece, and arrow keys between them.
// Only texts that are there already are wrapped: nothing a model says becomes markup.
"use strict";
{
  const AROUND = ".cm-code-head"; // what the page has put into a block itself

  // The text nodes of a block as the server counts them.
  function texts(block) {
    const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT, (node) =>
      (node.parentElement.closest(AROUND) ? NodeFilter.FILTER_REJECT
        : NodeFilter.FILTER_ACCEPT));
    const found = [];
    while (walker.nextNode()) found.push(walker.currentNode);
    return found;
  }

  function wrapped(text, piece, tint) {
    const span = document.createElement("span");
    span.className = tint ? `cm-token ${tint > 0 ? "cm-mine" : "cm-theirs"}` : "cm-token";
    if (tint) span.style.setProperty("--tint", Math.abs(tint));
    span.dataset.piece = piece;
    span.textContent = text;
    return span;
  }

  // marks: [start, end, piece, tint from -100 (everyone) to 100 (me)], in order.
  function lay(block, marks) {
    strip(block);
    let at = 0, next = 0;
    for (const node of texts(block)) {
      const { data } = node, end = at + data.length;
      const part = document.createDocumentFragment();
      let done = at;
      while (next < marks.length && marks[next][0] < end) {
        const [from, to, piece, tint] = marks[next];
        const start = Math.max(from, done), stop = Math.min(to, end);
        if (start > done) part.append(data.slice(done - at, start - at));
        if (stop > start) part.append(wrapped(data.slice(start - at, stop - at), piece, tint));
        done = Math.max(done, stop);
        if (to > end) break; // the rest of it is in the next text node
        next += 1;
      }
      if (done < end) part.append(data.slice(done - at));
      if (part.childElementCount) node.replaceWith(part);
      at = end;
    }
  }

  function strip(block) {
    const spans = block.querySelectorAll(".cm-token");
    for (const span of spans) span.replaceWith(span.textContent);
    if (spans.length) block.normalize();
  }

  // The pieces of one answer as one stop of the Tab key, with arrow keys inside.
  class Pieces {
    constructor(box, onpick) {
      Object.assign(this, { box, onpick, current: null });
      box.addEventListener("click", (event) => this.click(event));
      box.addEventListener("focusin", (event) => {
        const span = event.target.closest(".cm-token");
        if (span && +span.dataset.piece !== this.current) this.pick(+span.dataset.piece);
      });
      box.addEventListener("keydown", (event) => this.key(event));
    }

    // After a change of the spans: the chosen one stays chosen, else the first is the stop.
    refresh() {
      const first = this.span(this.current) || this.box.querySelector(".cm-token");
      if (first) first.tabIndex = 0;
      if (this.current !== null) this.mark(true);
    }

    span(piece) {
      return piece === null ? null
        : this.box.querySelector(`.cm-token[data-piece="${piece}"]`);
    }

    mark(on) {
      const spans = this.box.querySelectorAll(`.cm-token[data-piece="${this.current}"]`);
      for (const span of spans) span.classList.toggle("cm-picked", on);
      if (!spans.length) return;
      spans[0].tabIndex = on ? 0 : -1;
      if (on) {
        spans[0].setAttribute("role", "button");
        spans[0].setAttribute("aria-pressed", "true");
      } else {
        spans[0].removeAttribute("role");
        spans[0].removeAttribute("aria-pressed");
      }
    }

    pick(piece) {
      this.release();
      const first = this.box.querySelector(".cm-token[tabindex='0']");
      if (first) first.tabIndex = -1;
      this.current = piece;
      this.mark(true);
      this.onpick(piece);
    }

    release() {
      if (this.current === null) return;
      this.mark(false);
      this.current = null;
      this.refresh();
    }

    click(event) {
      const span = event.target.closest(".cm-token");
      if (!span || event.target.closest("a")) return;
      if (String(window.getSelection()).length) return; // somebody selects text
      const first = this.span(+span.dataset.piece);
      first.tabIndex = 0;
      first.focus({ preventScroll: true });
      if (this.current !== +span.dataset.piece) this.pick(+span.dataset.piece);
    }

    // -1 or 1: to the piece before or after.
    step(by) {
      const all = [...new Set(Array.from(this.box.querySelectorAll(".cm-token"),
        (span) => +span.dataset.piece))];
      const goal = all[all.indexOf(this.current) + by];
      if (goal === undefined) return;
      const span = this.span(goal);
      span.tabIndex = 0;
      span.focus();
    }

    key(event) {
      if (!event.target.classList.contains("cm-token")) return;
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      const all = this.box.querySelectorAll(".cm-token");
      const ends = { Home: all[0], End: all[all.length - 1] };
      if (event.key in ends) {
        const span = this.span(+ends[event.key].dataset.piece);
        span.tabIndex = 0;
        span.focus();
      } else if (event.key in steps) this.step(steps[event.key]);
      else return;
      event.preventDefault();
    }
  }

  Object.assign(window.comigs, { lay, strip, Pieces });
}
