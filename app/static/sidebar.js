// The sidebar: who is talked to, the conversations by day, and what is learning now.
"use strict";
{
  const { GONE, add, saveAs } = window.comigs;
  const EACH = 1500; // milliseconds between two questions
  const NARROW = 768; // pixels of a window in which the sidebar covers the page
  const TABS = "#tabs > .tab-wrapper [role=tablist]"; // the steps of Train are tabs, too
  const UNDO = 15000; // milliseconds in which a deletion can be taken back

  function button(parent, className, text, act, label = "") {
    const node = add(parent, "button", className, text);
    node.type = "button";
    if (label) node.setAttribute("aria-label", label);
    node.addEventListener("click", act);
    return node;
  }

  const panel = () => document.getElementById("side");

  // On a phone the sidebar covers the page: it goes when something was chosen.
  function fold() {
    const side = panel();
    if (side && side.classList.contains("open") && window.innerWidth < NARROW) {
      side.querySelector(".toggle-button").click();
    }
  }

  class Sidebar {
    constructor({ element, server, trigger, run }) {
      Object.assign(this, { server, trigger, run, mark: "", query: "", open: "",
        wanted: null, asked: null, since: 0 });
      this.root = element.querySelector(".cm-side");
      const head = add(this.root, "div", "cm-brand");
      add(head, "h1", "", "comigs_mlx");
      this.standing = add(head, "p", "cm-standing");
      this.standing.setAttribute("role", "status");
      this.who = this.section("Who you talk to", "cm-who");
      this.who.setAttribute("role", "radiogroup");
      this.who.addEventListener("keydown", (event) => this.move(event));
      this.talks();
      this.foot();
      window.addEventListener("comigs:talk", (event) => {
        this.open = event.detail.id;
        this.mark = "";
        this.ask();
      });
      this.follow();
    }

    section(name, className) {
      const part = add(this.root, "section", "cm-part");
      const id = `cm-part-${className}`;
      add(part, "h2", "", name).id = id;
      const inner = add(part, "div", className);
      inner.setAttribute("aria-labelledby", id);
      return inner;
    }

    talks() {
      const part = add(this.root, "section", "cm-part cm-chats");
      part.setAttribute("aria-label", "Conversations");
      button(part, "cm-new", "New chat", () => this.begin());
      this.search = add(part, "input", "cm-search");
      Object.assign(this.search, { type: "search", placeholder: "Search chats" });
      this.search.setAttribute("aria-label", "Search chats");
      this.search.addEventListener("input", () => {
        this.query = this.search.value;
        this.ask();
      });
      this.undo = add(part, "p", "cm-undo");
      this.undo.setAttribute("role", "status");
      this.undo.hidden = true;
      this.list = add(part, "div", "cm-days");
    }

    foot() {
      const foot = add(this.root, "div", "cm-side-foot");
      this.notice = add(foot, "p", "cm-problem");
      const label = add(foot, "label", "cm-keep");
      this.keep = add(label, "input");
      this.keep.type = "checkbox";
      add(label, "span", "", "Keep nothing");
      label.title = "Chats are not written to the disk while this is on; those that are "
        + "kept stay.";
      this.keep.addEventListener("change", () => this.call("keep", { keeping: !this.keep.checked }));
      this.training = add(foot, "div", "cm-learning");
    }

    async call(name, question) {
      this.calls = (this.calls || 0) + 1; // what was asked for before is out of date
      let answer;
      try {
        answer = await this.server[name](question);
      } catch {
        answer = GONE;
      }
      if (answer.problem) this.tell(answer.problem, answer.remedy);
      this.mark = "";
      this.ask();
      return answer;
    }

    // A sentence above the list, with a button that mends it or does something of ours.
    tell(text, remedy = null, act = null) {
      clearTimeout(this.telling);
      this.undo.textContent = text;
      this.undo.hidden = !text;
      window.comigs.remedy(this.undo, remedy, act && (() => { this.tell(""); act(); }));
      if (text) this.telling = setTimeout(() => this.tell(""), UNDO);
    }

    begin() {
      window.comigs.tab("chat");
      window.comigs.talks.fresh();
      fold();
    }

    async follow() {
      while (this.root.isConnected) {
        if (!document.hidden) await this.ask();
        await new Promise((done) => setTimeout(done, EACH));
      }
    }

    async ask() {
      const { query, calls } = this;
      let now;
      try {
        now = await this.server.state({ query, known: this.mark });
      } catch {
        now = { standing: { state: "problem", text: GONE.problem } };
      }
      if (query !== this.query || calls !== this.calls) return;
      const { state = "problem", text = now.problem } = now.standing || {};
      if (this.standing.textContent !== text) this.standing.textContent = text;
      this.standing.dataset.state = state;
      if (!now.who) return;
      this.mark = now.mark;
      this.cards(now.who);
      this.days(now.days);
      this.learn(now.training);
      this.keep.checked = !now.keeping;
      this.notice.textContent = now.notice;
    }

    cards(who) {
      const told = JSON.stringify(who);
      if (told === this.told) return; // a card must not go while it is clicked
      this.told = told;
      const focused = document.activeElement;
      const at = focused && this.who.contains(focused) ? focused.dataset.name : null;
      this.who.textContent = "";
      for (const { name, title, lines, state } of who) {
        const card = button(this.who, `cm-card cm-is-${state}`, "", () => this.choose(name));
        card.setAttribute("role", "radio");
        card.dataset.name = name;
        card.dir = "auto";
        add(card, "b", "", title);
        for (const line of lines) add(card, "span", "", line);
        if (name === at) card.focus();
      }
      this.mine();
    }

    // Which card is chosen: the run of the page, whoever has set it.
    chosen(run) {
      this.run = run;
      this.asked = null;
      if (this.wanted === run) this.wanted = null;
      if (this.wanted !== null) this.order();
      this.mine();
    }

    // One question at a time: two answers at once make Gradio's box go to and fro.
    order() {
      if (this.asked !== null && Date.now() - this.since < 3000) return;
      this.asked = this.wanted;
      this.since = Date.now();
      this.trigger("select", { run: this.wanted });
    }

    mine() {
      const cards = [...this.who.children];
      const shown = this.wanted === null ? this.run : this.wanted;
      const on = cards.some((card) => card.dataset.name === shown);
      cards.forEach((card, i) => {
        const own = card.dataset.name === shown;
        card.setAttribute("aria-checked", String(own));
        card.tabIndex = own || (!on && i === 0) ? 0 : -1;
      });
    }

    move(event) {
      const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const cards = [...this.who.children];
      const at = cards.indexOf(document.activeElement) + steps[event.key];
      const next = cards[(at + cards.length) % cards.length];
      next.focus();
      this.choose(next.dataset.name, false);
    }

    choose(name, leave = true) {
      this.wanted = name === this.run && this.asked === null ? null : name;
      if (this.wanted !== null) this.order();
      this.mine();
      if (leave) fold();
    }

    days(days) {
      if (this.list.querySelector("details[open], form")) return; // somebody is at it
      this.list.textContent = "";
      for (const { day, chats } of days) {
        add(this.list, "h3", "", day);
        const list = add(this.list, "ul");
        for (const chat of chats) this.chat(add(list, "li"), chat);
      }
      if (!days.length) {
        add(this.list, "p", "cm-soft", this.query ? "Nothing found" : "No chats yet");
      }
    }

    chat(row, { id, title, kept, excerpt }) {
      const open = button(row, "cm-chat", title, () => {
        window.comigs.tab("chat");
        window.comigs.talks.open(id);
        fold();
      });
      open.dir = "auto";
      open.title = title;
      if (id === this.open) open.setAttribute("aria-current", "true");
      if (excerpt) this.hit(open, excerpt);
      if (!kept) add(row, "span", "cm-unkept", "not kept");
      const more = add(row, "details", "cm-more");
      const sign = add(more, "summary", "", "⋯");
      sign.setAttribute("aria-label", `More for ${title}`);
      const menu = add(more, "div", "cm-more-menu");
      const act = (name, does) => button(menu, "", name, () => { more.open = false; does(); });
      act("Rename", () => this.rename(row, id, title));
      act("Save as Markdown", () => this.save(id, "markdown"));
      act("Save as web page", () => this.save(id, "html"));
      act("Save as JSON", () => this.save(id, "json"));
      act("Delete", () => this.remove(id, title));
      more.addEventListener("keydown", (event) => {
        if (event.key !== "Escape") return;
        more.open = false;
        sign.focus();
      });
      more.addEventListener("focusout", (event) => {
        if (!more.contains(event.relatedTarget)) more.open = false;
      });
    }

    // Where a search has met, and what it has met there.
    hit(parent, excerpt) {
      const line = add(parent, "span", "cm-hit");
      const words = this.query.toLowerCase().split(/\s+/).filter(Boolean)
        .map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
      const parts = words.length ? excerpt.split(new RegExp(`(${words.join("|")})`, "i")) : [excerpt];
      parts.forEach((part, i) => (i % 2 ? add(line, "mark", "", part) : line.append(part)));
    }

    rename(row, id, title) {
      row.textContent = "";
      const form = add(row, "form", "cm-rename");
      const box = add(form, "input");
      box.value = title;
      box.dir = "auto";
      box.setAttribute("aria-label", "Name of the chat");
      let over = false; // to take the box away blurs it
      const end = (named) => {
        if (over) return;
        over = true;
        form.remove();
        if (named && box.value.trim()) this.call("rename", { id, title: box.value });
        else { this.mark = ""; this.ask(); }
      };
      form.addEventListener("submit", (event) => { event.preventDefault(); end(true); });
      box.addEventListener("keydown", (event) => { if (event.key === "Escape") end(false); });
      box.addEventListener("blur", () => end(true));
      box.focus();
      box.select();
    }

    async save(id, kind) {
      const file = await this.call("save", { id, kind });
      if (!file.problem) saveAs(file.name, file.type, file.text);
    }

    async remove(id, title) {
      const answer = await this.call("forget", { id });
      if (answer.problem) return;
      this.tell(`Deleted "${title}". `, { name: "undo", label: "Undo" },
        () => this.call("restore", { id }));
      if (id === this.open) window.comigs.talks.fresh();
    }

    learn(trainings) {
      this.training.textContent = "";
      for (const { text, done } of trainings) {
        const line = button(this.training, "cm-side-train", "", () => {
          window.comigs.tab("train");
          fold();
        });
        add(line, "span", "", text);
        const bar = add(line, "progress");
        Object.assign(bar, { max: 1, value: done });
        bar.setAttribute("aria-label", text);
      }
    }
  }

  // To the cards of who is talked to, also on a phone.
  function who() {
    if (!panel().classList.contains("open")) panel().querySelector(".toggle-button").click();
    const card = panel().querySelector("[role=radio][tabindex='0']");
    if (card) card.focus();
  }

  // The tabs have addresses: #chat, #train, #share. Back and a reload find them again.
  const tabButton = (name) =>
    document.querySelector(`${TABS} [data-tab-id="${CSS.escape(name)}"]`);

  function tab(name) {
    const node = tabButton(name);
    if (node && node.getAttribute("aria-selected") !== "true") node.click();
  }

  function named() {
    return window.location.hash.slice(1) || "chat";
  }

  function addresses() {
    const show = () => {
      const chosen = document.querySelector(`${TABS} [aria-selected=true]`);
      const name = chosen ? chosen.dataset.tabId : "chat";
      if (name !== named()) window.history.pushState(null, "", `#${name}`);
    };
    const bar = document.querySelector(TABS);
    if (!bar) { // the page is still being put up
      requestAnimationFrame(addresses);
      return;
    }
    new MutationObserver(show).observe(bar,
      { subtree: true, attributes: true, attributeFilter: ["aria-selected"] });
    window.addEventListener("popstate", () => tab(named()));
    tab(named());
  }

  let side = null;

  function sidebar(options) {
    side = new Sidebar(options);
    fold();
    panel().classList.add("cm-there");
    addresses();
  }

  Object.assign(window.comigs, {
    sidebar, tab, who, chosen: (run) => side && side.chosen(run),
    // A card was chosen that the box of the run has not heard of yet: it counts.
    talked: (run) => (side && side.wanted !== null ? side.wanted : run),
  });
}
