// The conversation that is open: asks the server for what is new, and draws that alone.
// What was said becomes markup by the server's Markdown alone, which lets no HTML through.
"use strict";
{
  const { GONE, add, draw, rendered, saveAs, lay, strip, Pieces } = window.comigs;
  const EACH = 110; // milliseconds between two questions while something is being said
  const IDLE = 2000; // and while nothing is
  const LONG = 1500; // characters of a message beyond which it is folded,
  const LINES = 20; // or lines
  const NEAR = 80; // pixels from the end within which the view follows what comes
  const SEEN = "900px"; // around the window: answers within it are drawn and tinted
  const TINT = "comigs-tint"; // what was chosen for "Show who spoke"

  const EXAMPLES = [
    ["Plan a quiet Sunday", "Help me plan a quiet Sunday at home, hour by hour."],
    ["Explain something", "Explain how a sourdough starter works, in five sentences."],
    ["Write in my voice", "Write a short note to a friend about what I did this week."],
  ];

  const ICONS = {
    copy: "M9 9h10v11H9zM5 15V4h10",
    done: "M5 12.5l4.5 4.5L19 7.5",
    retry: "M19.5 12a7.5 7.5 0 1 1-2.3-5.4M19.5 3.5v4h-4",
    edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
    more: "M4 6h16M4 12h16M4 18h9",
    compare: "M4 5h6v14H4zM14 5h6v14h-6z",
    up: "M8 11l4-7c1.5 0 2.5 1 2.2 2.6L13.6 10H19c1 0 1.7 1 1.4 2l-1.8 6.5c-.2.9-1 1.5-1.9 1.5H8zM8 11H4v9h4",
    down: "M16 13l-4 7c-1.5 0-2.5-1-2.2-2.6l.6-3.4H5c-1 0-1.7-1-1.4-2l1.8-6.5C5.600 4.600 6.400 4 7.300 4H16zM16 13h4V4h-4",
    end: "M12 5v14M6 13l6 6 6-6",
    go: "M5 12h14M13 6l6 6-6 6",
    look: "M4 5h16M4 10h16M4 15h10M4 20h6",
    gear: "M4 7h9M19 7h1M4 17h1M11 17h9M13 7a3 3 0 1 0 6 0 3 3 0 1 0-6 0M5 17a3 3 0 1 0 6 0 3 3 0 1 0-6 0",
    save: "M12 4v11M7 10.500l5 5 5-5M5 20h14",
  };

  function icon(parent, name) {
    const svg = draw(parent, "svg", { viewBox: "0 0 24 24", "aria-hidden": "true",
      class: "cm-icon" });
    draw(svg, "path", { d: ICONS[name] });
    return svg;
  }

  // A button with a picture, or with words.
  function button(parent, { name, text = "", label, act, className = "cm-do" }) {
    const node = add(parent, "button", className);
    node.type = "button";
    if (name) icon(node, name);
    if (text) add(node, "span", "", text);
    if (label) {
      node.setAttribute("aria-label", label);
      node.title = label;
    }
    node.addEventListener("click", act);
    return node;
  }

  function random() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  // Into the clipboard; where the browser has none for pages like this, as by hand.
  async function copied(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const box = add(document.body, "textarea");
    box.value = text;
    box.select();
    document.execCommand("copy");
    box.remove();
    return undefined;
  }

  // Copies, and shows for a moment that it has.
  function copier(parent, label, text, className = "cm-do") {
    const node = button(parent, { name: "copy", label, className, act: async () => {
      await copied(await text());
      node.firstChild.firstChild.setAttribute("d", ICONS.done);
      node.setAttribute("aria-label", "Copied");
      setTimeout(() => {
        node.firstChild.firstChild.setAttribute("d", ICONS.copy);
        node.setAttribute("aria-label", label);
      }, 1500);
    } });
    return node;
  }

  // ‹ 1/2 ›: the variants of a message or an answer.
  function pager(parent, talk, { role, variants: [at, count, ids] }) {
    if (count < 2) return;
    const box = add(parent, "span", "cm-pager");
    const what = role === "user" ? "message" : "answer";
    const knob = (text, label, to) => {
      const node = add(box, "button", "cm-do", text);
      node.type = "button";
      node.setAttribute("aria-label", label);
      node.disabled = !ids[to];
      node.addEventListener("click", () => talk.ask_for("show", { turn: ids[to] }));
    };
    knob("‹", `The ${what} before`, at - 2);
    add(box, "span", "", `${at}/${count}`).setAttribute("aria-label",
      `${what} ${at} of ${count}`);
    knob("›", `The next ${what}`, at);
  }

  class Message {
    constructor(talk, told) {
      this.talk = talk;
      this.node = document.createElement("article");
      this.node.className = "cm-user";
      this.node.setAttribute("aria-label", "You");
      this.update(told);
    }

    update(told) {
      if (told.text === this.text && this.told) {
        this.told = told;
        this.foot();
        return;
      }
      Object.assign(this, { told, text: told.text });
      this.node.textContent = "";
      this.bubble = add(this.node, "div", "cm-bubble");
      this.words = add(this.bubble, "div", "cm-text", told.text);
      this.words.dir = "auto";
      if (told.text.length > LONG || told.text.split("\n").length > LINES) this.fold();
      this.bar = add(this.node, "div", "cm-acts");
      this.foot();
    }

    fold() {
      this.words.classList.add("cm-folded");
      const all = `Show all ${this.text.length.toLocaleString("en")} characters`;
      const more = button(this.bubble, { text: all, className: "cm-unfold", act: () => {
        const folded = this.words.classList.toggle("cm-folded");
        more.firstChild.textContent = folded ? all : "Show less";
        more.setAttribute("aria-expanded", String(!folded));
      } });
      more.setAttribute("aria-expanded", "false");
    }

    foot() {
      this.bar.textContent = "";
      pager(this.bar, this.talk, this.told);
      copier(this.bar, "Copy your message", () => this.text);
      button(this.bar, { name: "edit", label: "Edit this message", act: () => this.edit() });
    }

    edit() {
      if (this.node.querySelector("textarea")) return;
      this.bubble.hidden = this.bar.hidden = true;
      const form = add(this.node, "form", "cm-edit");
      const box = add(form, "textarea");
      box.value = this.text;
      box.dir = "auto";
      box.rows = Math.min(this.text.split("\n").length + 1, 12);
      box.setAttribute("aria-label", "Your message");
      const close = () => {
        form.remove();
        this.bubble.hidden = this.bar.hidden = false;
      };
      const send = () => {
        if (this.talk.active) return this.talk.tell("An answer is under way: wait for it, or stop it.");
        if (!box.value.trim()) return box.focus();
        this.talk.command({ do: "edit", turn: this.told.id, text: box.value });
        return close();
      };
      const cancel = () => {
        close();
        this.talk.composer().focus();
      };
      // As in the message box below: Enter sends, Shift+Enter makes a new line.
      box.addEventListener("keydown", (event) => {
        if (event.isComposing) return;
        if (event.key === "Escape") cancel();
        else if (event.key === "Enter" && !event.shiftKey) send();
        else return;
        event.preventDefault();
        event.stopPropagation();
      });
      form.addEventListener("submit", (event) => event.preventDefault());
      const acts = add(form, "div", "cm-edit-acts");
      button(acts, { text: "Cancel", label: "Leave the message as it was", act: cancel,
        className: "cm-plain-button" });
      button(acts, { text: "Send", label: "Answer the edited message", act: send,
        className: "cm-go-button" });
      box.focus();
      box.setSelectionRange(box.value.length, box.value.length);
    }
  }

  class Reply {
    constructor(talk, told) {
      this.talk = talk;
      this.near = false;
      this.node = document.createElement("article");
      this.node.className = "cm-reply";
      const head = add(this.node, "header");
      this.name = add(head, "h3");
      this.prose = add(this.node, "div", "cm-prose");
      this.prose.dir = "auto";
      this.pieces = new Pieces(this.prose, (piece) => this.explain(piece));
      this.problem = add(this.node, "p", "cm-problem");
      this.problem.setAttribute("role", "alert");
      this.foot = add(this.node, "footer");
      this.update(told);
      talk.sight.observe(this.node);
    }

    update(told) {
      this.told = told;
      const who = told.run ? `${told.title} · ${told.run}` : told.title;
      this.name.textContent = who || "…";
      this.node.setAttribute("aria-label", who || "Answer");
      this.node.classList.toggle("cm-live", told.live);
      this.node.hidden = told.waits && !told.tokens;
      this.later = Boolean(told.later);
      if (this.later) this.prose.style.minHeight = `${Math.ceil(told.later / 75) * 1.7}rem`;
      else this.blocks(told);
      this.wrong();
      this.below();
      if (this.near) this.paint();
    }

    // Why it failed, and what mends that; the answer itself does the nearest things.
    wrong() {
      const { told, talk } = this;
      this.problem.textContent = told.problem || "";
      if (!told.problem || !told.remedy) return;
      const own = {
        retry: () => talk.command({ do: "retry", turn: told.id }),
        edit: () => talk.asked(told.id).edit(),
      };
      window.comigs.remedy(this.problem, told.remedy, own[told.remedy.name]);
    }

    blocks({ blocks, count }) {
      this.prose.style.minHeight = "";
      while (this.prose.children.length < count) add(this.prose, "div", "cm-block");
      while (this.prose.children.length > count) this.prose.lastChild.remove();
      const tinted = this.near && this.tinted() && this.talk.layer < 0;
      let laid = this.painted === -1 || blocks.length === count;
      for (const [i, html, marks] of blocks) {
        const block = this.prose.children[i];
        rendered(block, html);
        this.code(block);
        if (marks && tinted) lay(block, marks);
        else laid = false;
      }
      if (!blocks.length) return;
      this.painted = laid ? -1 : undefined;
      this.pieces.refresh();
    }

    // Above each block of code: its language, and a button that copies it.
    code(block) {
      for (const box of block.querySelectorAll(".cm-code")) {
        const head = document.createElement("div");
        head.className = "cm-code-head";
        add(head, "span", "", box.dataset.language || "code");
        copier(head, "Copy this code", () => box.querySelector("pre").textContent);
        box.prepend(head);
      }
    }

    tinted() {
      const { can_tint: can, routed } = this.told;
      return can && (this.talk.tint === null ? routed : this.talk.tint);
    }

    below() {
      const { told, talk } = this;
      this.foot.textContent = "";
      if (told.live) return;
      if (told.remark) add(this.foot, "p", "cm-remark", told.remark);
      const bar = add(this.foot, "div", "cm-acts");
      this.figures(bar);
      pager(bar, talk, told);
      if (told.tokens) {
        copier(bar, "Copy the answer", async () => (await talk.get("source", told.id)).text);
      }
      button(bar, { name: "retry", label: "Answer once more",
        act: () => talk.command({ do: "retry", turn: told.id }) });
      if (told.can_continue) {
        button(bar, { name: "go", text: "Continue", label: "Go on with this answer",
          act: () => talk.command({ do: "continue", turn: told.id }) });
      }
      if (told.run && window.comigs.compare && window.comigs.compare.open) {
        button(bar, { name: "compare", label: "Compare who would say what",
          act: () => window.comigs.compare.open(talk.question(told.id)) });
      }
      this.thumb(bar, "up", 1, "A good answer");
      this.thumb(bar, "down", -1, "A bad answer");
    }

    figures(bar) {
      const { share, routed, tokens, rate, can_tint: can } = this.told;
      const box = add(bar, "div", "cm-figures");
      if (share !== null && can && routed) {
        const told = add(box, "span", "cm-yours");
        const line = add(told, "i");
        line.setAttribute("aria-hidden", "true");
        line.style.setProperty("--share", `${share}%`);
        add(told, "span", "", `${share} % yours`);
      } else if (can && !routed) {
        add(box, "span", "", "the router has not learnt yet");
      }
      if (tokens) {
        const speed = rate ? ` · ${rate} tokens/s` : "";
        add(box, "span", "cm-count",
          `${tokens.toLocaleString("en")} ${tokens === 1 ? "token" : "tokens"}${speed}`);
      }
    }

    thumb(bar, name, rating, label) {
      const { told, talk } = this, on = told.rating === rating;
      const node = button(bar, { name, label, act: () =>
        talk.ask_for("rate", { turn: told.id, rating: on ? 0 : rating }) });
      node.setAttribute("aria-pressed", String(on));
    }

    // What is in sight is drawn whole and tinted; what has left it gives its spans back.
    async paint() {
      if (this.later && !this.fetching) {
        this.fetching = true;
        const told = await this.talk.get("whole", this.told.id);
        this.fetching = false;
        if (!told.problem && this.node.isConnected) this.update(told);
        return;
      }
      const wanted = this.near && this.tinted() ? this.talk.layer : null;
      if (this.painted === wanted || this.later) return;
      if (wanted === null) {
        strip(this.prose);
        this.painted = null;
        return;
      }
      if (this.told.live && wanted < 0) return; // comes with the blocks
      this.painted = wanted;
      const { marks } = await this.talk.get("marks", this.told.id, { layer: wanted });
      if (!marks || this.painted !== wanted) return;
      marks.forEach((one, i) => {
        if (this.prose.children[i]) lay(this.prose.children[i], one);
      });
      this.pieces.refresh();
    }

    sighted(near) {
      this.near = near;
      this.paint();
    }

    async explain(piece) {
      const { talk } = this;
      if (talk.picked && talk.picked !== this) talk.picked.pieces.release();
      talk.picked = this;
      const token = await talk.get("token", this.told.id, { piece });
      if (token.problem || this.pieces.current !== piece || !window.comigs.drawer) return;
      window.comigs.drawer.open({ title: "Who spoke", token, layer: talk.layer,
        step: (by) => this.pieces.step(by) });
    }
  }

  class Talk {
    constructor({ element, server, props, watch, trigger }) {
      Object.assign(this, { server, props, trigger, layer: -1, run: null });
      const kept = localStorage.getItem(TINT);
      this.tint = kept === null ? null : kept === "1";
      this.root = element.querySelector(".cm-talk");
      const frame = add(this.root, "div", "cm-window");
      this.log = add(frame, "div", "cm-feed");
      this.log.tabIndex = 0;
      this.log.setAttribute("role", "region");
      this.log.setAttribute("aria-label", "Conversation");
      this.thread = add(this.log, "div", "cm-thread");
      this.turns = add(this.thread, "div", "cm-turns");
      this.status = add(this.thread, "p", "cm-status");
      this.status.setAttribute("role", "status");
      this.notice = add(this.thread, "p", "cm-problem");
      this.latest = button(frame, { name: "end", label: "To the end of the conversation",
        className: "cm-latest", act: () => this.toEnd() });
      this.asks = add(this.root, "div", "cm-asks");
      this.asks.hidden = true;
      this.sight = new IntersectionObserver((seen) => {
        for (const { target, isIntersecting } of seen) {
          const one = this.nodes.get(+target.dataset.turn);
          if (one && one.sighted) one.sighted(isIntersecting);
        }
      }, { root: this.log, rootMargin: SEEN });
      this.log.addEventListener("scroll", () => this.scrolled(), { passive: true });
      this.nodes = new Map();
      this.reset(0);
      if (!sessionStorage.getItem("comigs-chat")) {
        sessionStorage.setItem("comigs-chat", random());
      }
      props.value = { id: sessionStorage.getItem("comigs-chat"), asked: "" };
      watch("value", () => this.wake());
      this.wake();
      // Another tab may show the same conversation, as a duplicated one does.
      setInterval(() => {
        if (!document.hidden && this.root.isConnected) this.wake();
      }, IDLE);
      document.addEventListener("visibilitychange", () => {
        if (!document.hidden) this.wake();
      });
      this.keys();
    }

    get id() {
      return this.props.value.id;
    }

    composer() {
      return document.querySelector("#message textarea");
    }

    keys() {
      document.addEventListener("keydown", (event) => {
        const box = event.target;
        if (event.key !== "ArrowUp" || event.isComposing || box.value
          || !box.matches("#message textarea")) return;
        const own = Array.from(this.nodes.values()).filter((one) => one instanceof Message);
        if (!own.length || this.active) return;
        event.preventDefault();
        own[own.length - 1].edit();
      });
    }

    // Another conversation, or a new one.
    open(id) {
      sessionStorage.setItem("comigs-chat", id);
      this.props.value = { id, asked: random() };
      this.reset(0);
      this.tell("");
      if (window.comigs.view) window.comigs.view("chat");
      if (window.comigs.drawer) window.comigs.drawer.close();
      this.announce("");
      this.wake();
      const box = this.composer();
      if (box && !window.matchMedia("(pointer: coarse)").matches) box.focus();
    }

    fresh() {
      this.open(random());
    }

    announce(title) {
      this.title = title;
      window.dispatchEvent(new CustomEvent("comigs:talk", { detail: { id: this.id, title } }));
    }

    reset(epoch) {
      Object.assign(this, { epoch, since: 0, path: [], picked: null, known: false });
      this.consent(null);
      this.sight.disconnect();
      this.nodes.clear();
      this.turns.textContent = "";
    }

    async wake() {
      this.wanted = true;
      if (this.asking) return;
      this.asking = true;
      try {
        while (this.wanted) {
          this.wanted = await this.ask();
          if (this.wanted) await new Promise((done) => setTimeout(done, EACH));
        }
      } finally {
        this.asking = false;
      }
    }

    // One question; whether there will be more to ask for.
    async ask() {
      const { id, epoch, since } = this;
      this.wanted = false;
      let answer;
      try {
        // What is there already is tinted when it is seen.
        const tint = since > 0 && this.tint !== false && this.layer < 0;
        answer = await this.server.changes({ id, epoch, since, tint });
      } catch {
        this.tell(GONE.problem, GONE.remedy);
        await new Promise((done) => setTimeout(done, IDLE));
        return true;
      }
      if (id !== this.id) return true; // another one is open now
      if (answer.problem) {
        this.tell(answer.problem, answer.remedy);
        return false;
      }
      this.take(answer);
      return answer.active || this.wanted;
    }

    take(answer) {
      const follow = this.atEnd();
      if (answer.epoch !== this.epoch) this.reset(answer.epoch);
      const first = !this.known;
      Object.assign(this, { since: answer.version, known: true });
      for (const turn of answer.turns) this.turn(turn);
      if (String(this.path) !== String(answer.path)) this.arrange(answer.path);
      this.progress(answer);
      this.consent(answer.waiting);
      if (this.notice.textContent !== answer.notice) this.notice.textContent = answer.notice;
      if (first || (follow && answer.turns.length)) this.toEnd(true);
      const ended = this.active && !answer.active;
      this.busy(answer.active);
      if (first || ended || answer.title !== this.title) this.announce(answer.title);
      this.welcome(!answer.path.length);
      this.scrolled();
      tools.refresh(this);
    }

    turn(told) {
      const one = this.nodes.get(told.id);
      if (one) one.update(told);
      else this.nodes.set(told.id, told.role === "user" ? new Message(this, told)
        : new Reply(this, told));
      this.nodes.get(told.id).node.dataset.turn = told.id;
    }

    // The turns that are shown now, in order; others leave, and come again when asked.
    arrange(path) {
      this.path = path;
      for (const [id, one] of this.nodes) {
        if (path.includes(id)) continue;
        one.node.remove();
        this.nodes.delete(id);
      }
      path.forEach((id, i) => {
        const { node } = this.nodes.get(id);
        if (this.turns.children[i] !== node) {
          this.turns.insertBefore(node, this.turns.children[i] || null);
        }
      });
      // The Map goes in the order of the path, which keys and buttons rely on.
      this.nodes = new Map(path.map((id) => [id, this.nodes.get(id)]));
      this.log.classList.toggle("cm-nothing", !path.length);
    }

    // The conversation has outgrown what the model reads: what is to be left out?
    consent(waiting) {
      const told = JSON.stringify(waiting);
      if (told === this.consented) return; // a button must not go while it is pressed
      this.consented = told;
      const had = this.asks.contains(document.activeElement);
      this.asks.textContent = "";
      this.asks.hidden = !waiting;
      if (had && !waiting) this.composer().focus();
      if (!waiting) return;
      const { turn, count, last } = waiting;
      const turns = count === 1 ? "the oldest turn" : `the oldest ${count} turns`;
      const text = add(this.asks, "p");
      text.setAttribute("role", "status");
      text.append("This conversation is longer than the model can read at once. To answer, "
        + "it has to leave out ");
      add(text, "b", "", turns);
      text.append(`, up to “${last}”. They stay here for you to read, and you are not asked `
        + "again in this conversation.");
      const acts = add(this.asks, "div", "cm-asks-acts");
      button(acts, { text: `Leave out ${turns}`, className: "cm-go-button",
        act: () => this.command({ do: "leave_out", turn }) });
      button(acts, { text: "Ask in a new chat", className: "cm-plain-button", act: () => {
        const words = this.question(turn);
        this.fresh();
        this.command({ do: "send", text: words });
      } });
    }

    asked(id) {
      return this.nodes.get(this.path[this.path.indexOf(id) - 1]);
    }

    question(id) {
      const message = this.asked(id);
      return message ? message.text : "";
    }

    progress({ status: { text, done, total }, active }) {
      this.tell(active ? text : "");
      this.status.classList.toggle("cm-working", active && Boolean(text));
      const part = total > 1 ? done / total : 0;
      this.status.style.setProperty("--cm-done", `${Math.round(100 * part)}%`);
    }

    tell(text, remedy = null) {
      if (this.told === text) return;
      this.told = text;
      this.status.textContent = text;
      window.comigs.remedy(this.status, remedy);
    }

    busy(active) {
      this.active = active;
      const box = document.getElementById("composer");
      if (box) box.classList.toggle("cm-busy", active);
      this.root.classList.toggle("cm-active", active);
    }

    atEnd() {
      return this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < NEAR;
    }

    toEnd(now = false) {
      const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
      this.log.scrollTo({ top: this.log.scrollHeight, behavior: now || calm ? "instant" : "smooth" });
    }

    scrolled() {
      this.latest.hidden = !this.path.length || this.atEnd();
    }

    // Nothing said yet: what one could say, and what the colours mean.
    welcome(shown) {
      if (!shown || this.greeting) {
        if (!shown && this.greeting) this.greeting = this.greeting.remove();
        return;
      }
      this.greeting = add(this.thread, "section", "cm-welcome");
      this.thread.prepend(this.greeting);
      this.greet();
    }

    greet() {
      if (!this.greeting) return;
      this.greeting.textContent = "";
      const { run } = this;
      add(this.greeting, "h2", "", run ? `Talk to ${run}` : "Say something");
      const told = add(this.greeting, "p", "cm-welcome-lead");
      if (run) {
        told.append("What ");
        add(told, "mark", "cm-theirs", "everyone shares");
        told.append(" speaks together with what ");
        add(told, "mark", "cm-mine", "only you have");
        told.append(": words of an answer are tinted by whose they are.");
      } else {
        told.append("This is the model as it came. Once it has learnt from your text, words "
          + "are tinted: ");
        add(told, "mark", "cm-theirs", "what everyone shares");
        told.append(" and ");
        add(told, "mark", "cm-mine", "what only you have");
        told.append(".");
      }
      const list = add(this.greeting, "div", "cm-examples");
      for (const [title, text] of EXAMPLES) {
        const one = button(list, { className: "cm-example",
          act: () => this.command({ do: "send", text }) });
        add(one, "strong", "", title);
        add(one, "span", "", text);
      }
    }

    // The page's settings travel with it: Gradio adds them to the event.
    command(order) {
      this.trigger("select", order);
    }

    // Something of a turn that is not kept here.
    async get(what, turn, more = {}) {
      try {
        return await this.server[what]({ id: this.id, turn, tint: this.tint !== false
          && this.layer < 0, ...more });
      } catch {
        return GONE;
      }
    }

    async ask_for(what, values) {
      const answer = await this.get(what, values.turn, values);
      if (answer && answer.problem) this.tell(answer.problem, answer.remedy);
      this.wake();
    }

    stop() {
      return this.ask_for("stop", {});
    }

    async save(kind, id = this.id) {
      const file = await this.get("save", undefined, { id, kind });
      if (file.problem) this.tell(file.problem, file.remedy);
      else saveAs(file.name, file.type, file.text);
    }

    repaint() {
      for (const one of this.nodes.values()) if (one.paint) one.paint();
    }

    // Who is talked to, and who of them speaks: what cannot be chosen is not shown.
    speaker(run, experts) {
      this.run = run || "";
      const box = document.getElementById("composer");
      if (box) {
        box.classList.toggle("cm-alone", !run);
        box.classList.toggle("cm-leaning", Boolean(run) && experts === "auto");
      }
      const message = this.composer();
      if (message) message.placeholder = run ? `Message ${run}` : "Message the untrained model";
      this.greet();
      tools.refresh(this);
    }
  }

  // The row below the message: "Show who spoke" with its legend, and further choices.
  const tools = {
    node: null,

    build({ element }) {
      this.node = element.querySelector(".cm-tools");
      const label = add(this.node, "label", "cm-switch");
      this.box = add(label, "input");
      Object.assign(this.box, { type: "checkbox", id: "show-who" });
      this.box.setAttribute("role", "switch");
      add(label, "i").setAttribute("aria-hidden", "true");
      add(label, "span", "", "Show who spoke");
      this.legend = add(this.node, "span", "cm-legend");
      add(this.legend, "mark", "cm-theirs", "everyone");
      add(this.legend, "mark", "cm-mine", "me");
      this.box.addEventListener("change", () => {
        talk.tint = this.box.checked;
        localStorage.setItem(TINT, talk.tint ? "1" : "0");
        talk.repaint();
        this.refresh(talk);
      });
      const end = add(this.node, "span", "cm-tools-end");
      this.menu(end);
      const gear = button(end, { name: "gear", label: "Settings", act: () => this.settings(gear) });
      gear.setAttribute("aria-expanded", "false");
      this.gear = gear;
      if (talk) this.refresh(talk);
    },

    settings(gear) {
      const box = document.getElementById("settings");
      const open = box.classList.toggle("cm-open");
      if (open && window.comigs.drawer) window.comigs.drawer.close();
      gear.setAttribute("aria-expanded", String(open));
      box.tabIndex = -1;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", "Settings");
      if (open) box.focus();
    },

    // What can be done with the whole conversation, and the other views.
    menu(parent) {
      const box = add(parent, "span", "cm-menu");
      const list = add(box, "div", "cm-menu-list");
      const knob = button(box, { name: "save", label: "Save this conversation, and more",
        act: () => show(list.hidden) });
      const show = (open) => {
        list.hidden = !open;
        knob.setAttribute("aria-expanded", String(open));
      };
      const entry = (text, act) => button(list, { text, className: "cm-entry",
        act: () => { show(false); act(); } });
      for (const [kind, name] of [["markdown", "Markdown"], ["html", "a page (HTML)"],
        ["json", "data (JSON)"]]) {
        entry(`Save as ${name}`, () => talk.save(kind)).id = `save-${kind}`;
      }
      if (window.comigs.view) {
        entry("Compare the four voices", () => window.comigs.view("compare"));
        entry("Look at a text", () => window.comigs.view("look"));
      }
      const label = add(list, "label", "cm-tint-by");
      add(label, "span", "", "Tint by");
      this.layers = add(label, "select");
      this.layers.addEventListener("change", () => {
        talk.layer = +this.layers.value;
        talk.repaint();
      });
      show(false);
      document.addEventListener("click", (event) => {
        if (!box.contains(event.target)) show(false);
      });
      box.addEventListener("keydown", (event) => {
        if (event.key !== "Escape" || list.hidden) return;
        show(false);
        knob.focus();
        event.stopPropagation();
      });
    },

    refresh(talk) {
      if (!this.node) return;
      const replies = Array.from(talk.nodes.values()).filter((one) => one.told.role !== "user");
      const last = replies.reverse().find((one) => one.told.can_tint);
      const learnt = last ? last.told.routed : Boolean(talk.run);
      this.box.checked = talk.tint === null ? learnt : talk.tint;
      this.legend.classList.toggle("cm-on", this.box.checked && Boolean(last));
      const layers = last ? last.told.layers : 0;
      if (this.layers.options.length !== layers + 1) {
        this.layers.textContent = "";
        for (let i = -1; i < layers; i += 1) {
          add(this.layers, "option", "", i < 0 ? "all layers" : `layer ${i + 1}`).value = i;
        }
        this.layers.value = talk.layer < layers ? talk.layer : -1;
      }
    },
  };

  document.addEventListener("keydown", (event) => {
    const box = document.getElementById("settings");
    if (event.key !== "Escape" || !box || !box.classList.contains("cm-open")) return;
    tools.settings(tools.gear);
    tools.gear.focus();
  });

  // Gradio's two buttons have no names of their own.
  function named() {
    for (const [kind, name] of [["submit", "Send"], ["stop", "Stop"]]) {
      const node = document.querySelector(`#message .${kind}-button`);
      if (!node || node.getAttribute("aria-label")) continue;
      node.setAttribute("aria-label", name);
      node.title = name;
    }
  }

  // The chat fills the window below whatever stands above it.
  function fill() {
    const box = document.getElementById("chat-view");
    if (!box) return;
    named();
    const top = box.getBoundingClientRect().top + window.scrollY;
    if (top <= 0) return; // another tab is open
    const root = document.documentElement;
    const over = Math.max(root.scrollHeight - window.innerHeight, 0);
    const before = parseFloat(getComputedStyle(root).getPropertyValue("--cm-under")) || 0;
    if (over && before < 60) root.style.setProperty("--cm-under", `${before + over}px`);
    root.style.setProperty("--cm-top", `${Math.round(top)}px`);
  }

  let talk = null;
  let speaks = ["", "auto"];

  window.comigs.talk = (options) => {
    talk = new Talk(options);
    window.comigs.talks = talk;
    talk.speaker(...speaks);
    fill();
    new ResizeObserver(fill).observe(document.body);
  };
  window.comigs.tools = (options) => tools.build(options);
  window.comigs.speaks = (run, experts) => {
    speaks = [run, experts];
    if (talk) talk.speaker(run, experts);
  };
}
