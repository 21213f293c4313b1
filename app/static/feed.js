// Conversations and comparisons: asks the server for what is new, and for that alone.
"use strict";
{
  const { add, Tints, TokenList, detail } = window.comigs;
  const EACH = 110; // milliseconds between two questions while something is being said
  const IDLE = 2000; // and while nothing is
  const LONG = 2000; // characters of a message that gets a scroll bar of its own

  function button(parent, text, label, act) {
    const node = add(parent, "button", "cm-act", text);
    node.type = "button";
    node.setAttribute("aria-label", label);
    node.addEventListener("click", act);
    return node;
  }

  function random() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  // A secret that is made once: in sessionStorage the name of this tab's conversation,
  // which a reload finds again; in localStorage that of this browser, which lists them.
  function secret(storage, name) {
    const key = `comigs-${name}`;
    if (!storage.getItem(key)) storage.setItem(key, random());
    return storage.getItem(key);
  }

  class Feed {
    constructor({ element, server, props, watch, trigger, name, editable, empty }) {
      Object.assign(this, { server, props, trigger, name, editable, empty });
      this.root = element.querySelector(".cm-feed");
      if (editable) this.kept();
      const bar = add(this.root, "div", "cm-bar");
      this.tints = new Tints(bar);
      this.tints.onchange = () => this.explain();
      const body = add(this.root, "div", "cm-body");
      this.log = add(body, "div", "cm-log");
      this.log.tabIndex = 0;
      this.log.setAttribute("role", "region");
      this.log.setAttribute("aria-label", editable ? "Conversation" : "Answers");
      this.panel = add(body, "section", "cm-detail");
      this.panel.tabIndex = 0;
      this.panel.setAttribute("aria-label", "The chosen token");
      this.status = add(this.root, "p", "cm-status");
      this.status.setAttribute("role", "status");
      this.reset(0);
      const owner = secret(localStorage, "browser");
      props.value = { id: secret(sessionStorage, name), owner, turn: 0 };
      watch("value", () => this.wake());
      this.wake();
      this.list_kept();
      // Another tab may show the same conversation, as a duplicated one does.
      setInterval(() => { if (!document.hidden && this.root.isConnected) this.wake(); }, IDLE);
      document.addEventListener("visibilitychange", () => {
        if (!document.hidden) this.wake();
      });
    }

    // The conversations of this browser: one to go on with, a new one, or one less.
    kept() {
      const bar = add(this.root, "div", "cm-bar cm-kept");
      const label = add(bar, "label", "cm-layer");
      add(label, "span", "", "Conversation");
      this.choice = add(label, "select");
      this.choice.addEventListener("change", () => this.open(this.choice.value));
      this.choice.addEventListener("focus", () => this.list_kept());
      button(bar, "New", "Begin a new conversation", () => this.open(random()));
      this.undo = button(bar, "Undo", "Undo the last edit, retry or clear",
        () => this.command({ undo: true }));
      this.undo.hidden = true;
      button(bar, "Delete", "Delete this conversation for good", () => this.forget());
      this.notice = add(bar, "span", "cm-problem");
    }

    async list_kept() {
      if (!this.choice) return;
      let found;
      try {
        found = await this.server.kept({ owner: this.props.value.owner });
      } catch {
        return; // the line below the title tells
      }
      if (!Array.isArray(found)) return;
      const { id } = this.props.value;
      if (!found.some((one) => one.name === id)) {
        found.unshift({ name: id, title: "New conversation", when: "" });
      }
      const told = JSON.stringify([id, found]);
      if (told === this.listed) return;
      this.listed = told;
      this.choice.textContent = "";
      for (const { name, title, when } of found) {
        const option = add(this.choice, "option", "", when ? `${title} · ${when}` : title);
        option.value = name;
        option.selected = name === id;
      }
    }

    open(id) {
      sessionStorage.setItem(`comigs-${this.name}`, id);
      this.reset(0);
      this.status.textContent = "";
      this.props.value = { ...this.props.value, id, turn: random() };
      this.wake();
      this.list_kept();
    }

    async forget() {
      if (!window.confirm("Delete this conversation for good?")) return;
      const answer = await this.server.forget({ id: this.props.value.id });
      if (answer.problem) this.status.textContent = answer.problem;
      else this.open(random());
    }

    reset(epoch) {
      Object.assign(this, { epoch, since: 0, users: 0, replies: 0, list: null, reply: null });
      this.log.textContent = "";
      this.picked = null;
      this.tints.reset();
      this.note = add(this.log, "p", "cm-empty", this.empty);
      this.explain();
    }

    explain() {
      detail(this.panel, this.picked, this.tints.layer);
    }

    async wake() {
      this.wanted = true;
      if (this.asking || !this.props.value) return;
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
      const question = { id: this.props.value.id, epoch: this.epoch, since: this.since };
      let answer;
      try {
        answer = await this.server.changes(question);
      } catch {
        this.status.textContent = "The app does not answer: is it still running?";
        await new Promise((done) => setTimeout(done, 2000));
        return true;
      }
      if (answer.problem) {
        this.status.textContent = answer.problem;
        return false;
      }
      if (question.id !== this.props.value.id) return true; // another one is open now
      if (answer.epoch !== this.epoch) this.reset(answer.epoch);
      const nearEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 80;
      this.take(answer.events);
      if (nearEnd && answer.events.length) this.log.scrollTop = this.log.scrollHeight;
      if (this.status.textContent !== answer.status) this.status.textContent = answer.status;
      if (this.root.classList.toggle("cm-active", answer.active) !== this.active) {
        this.active = answer.active;
        if (!answer.active) this.list_kept();
      }
      if (this.undo) {
        this.undo.hidden = !answer.undo || answer.active;
        this.notice.textContent = answer.notice;
      }
      return answer.active;
    }

    take(events) {
      this.since += events.length;
      let tokens = [];
      for (const event of events) {
        if (event.kind === "token") {
          tokens.push(event);
          continue;
        }
        this.flush(tokens);
        tokens = [];
        this[event.kind](event);
      }
      this.flush(tokens);
      if (events.length && this.note) {
        this.note.remove();
        this.note = null;
      }
    }

    flush(tokens) {
      if (tokens.length) this.list.extend(tokens);
    }

    user(event) {
      const index = this.users;
      this.users += 1;
      const turn = add(this.log, "article", "cm-user");
      turn.setAttribute("aria-label", "You");
      const head = add(turn, "header");
      add(head, "h3", "", "You");
      const text = add(turn, "div", "cm-text", event.text);
      text.dir = "auto";
      if (event.text.length > LONG) {
        text.tabIndex = 0; // it scrolls by itself
        text.classList.add("cm-long");
        text.setAttribute("role", "region");
        text.setAttribute("aria-label", "Your message");
      }
      if (!this.editable) return;
      button(head, "Edit", "Edit this message", () => this.edit(turn, text, index, event.text));
    }

    edit(turn, text, index, before) {
      if (turn.querySelector("textarea")) return;
      text.hidden = true;
      const form = add(turn, "form", "cm-edit");
      const box = add(form, "textarea");
      box.value = before;
      box.dir = "auto";
      box.setAttribute("aria-label", "Your message");
      const close = () => { form.remove(); text.hidden = false; };
      const send = () => {
        if (this.root.classList.contains("cm-active")) {
          this.status.textContent = "An answer is under way: wait for it, or stop it.";
          return;
        }
        if (box.value.trim()) this.command({ edit: index, text: box.value });
        close();
      };
      // As in the message box below: Enter sends, Shift+Enter makes a new line.
      box.addEventListener("keydown", (event) => {
        if (event.isComposing) return;
        if (event.key === "Escape") close();
        else if (event.key === "Enter" && !event.shiftKey) send();
        else return;
        event.preventDefault();
        event.stopPropagation();
      });
      button(form, "Answer anew", "Answer the edited message", send);
      button(form, "Cancel", "Leave the message as it was", close);
      form.addEventListener("submit", (event) => event.preventDefault());
      box.focus();
    }

    // The page's settings travel with it: Gradio adds them to the event.
    command(order) {
      this.trigger("select", order);
    }

    reply_begins(event) {
      this.replies += 1;
      this.reply = add(this.log, "article", "cm-reply");
      this.reply.setAttribute("aria-label", event.title);
      const head = add(this.reply, "header");
      add(head, "h3", "", event.title);
      if (event.layers.length) this.tints.show(event.experts, event.layers);
      this.list = new TokenList(this.reply, this.tints, event.experts, event.layers,
        event.title, (list) => this.pick(list));
    }

    pick(list) {
      if (this.picked && this.picked !== list) this.picked.release();
      this.picked = list;
      this.explain();
    }

    reply_ends(event) {
      this.list.end();
      if (event.problem) {
        add(this.reply, "p", "cm-problem", event.problem).setAttribute("role", "alert");
      }
      if (event.note) add(this.reply, "p", "cm-note", event.note);
      if (!this.editable) return;
      for (const old of this.log.querySelectorAll(".cm-retry")) old.remove();
      button(this.reply.querySelector("header"), "Retry", "Answer once more",
        () => this.command({ retry: true })).classList.add("cm-retry");
    }
  }

  function saveAs(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // The line under the title: asks each second, and not while nobody looks.
  async function standing({ element, server }) {
    const line = element.querySelector(".cm-standing");
    while (line.isConnected) {
      if (!document.hidden) {
        try {
          const { state, text } = await server.standing({});
          if (line.textContent !== text) line.textContent = text;
          line.dataset.state = state;
        } catch {
          line.textContent = "The app does not answer: is it still running?";
          line.dataset.state = "problem";
        }
      }
      await new Promise((done) => setTimeout(done, 1000));
    }
  }

  const feeds = {};

  function feed(options) {
    feeds[options.name] = new Feed(options);
  }

  async function save(name, kind) {
    const open = feeds[name];
    const file = await open.server.save({ id: open.props.value.id, kind });
    if (file.problem) open.status.textContent = file.problem;
    else saveAs(file.name, file.type, file.text);
  }

  const MOST_KEPT = 20000; // characters of a text that is put back

  const AS_IT_IS = { __type__: "update" }; // Gradio's update that changes nothing

  // Values of the widgets when the page is opened: those that the browser has kept.
  // A widget without one is left alone: somebody may already have changed it, and a
  // widget inside a closed accordion gets its update only when that is opened.
  function restore(rules, saved, now) {
    window.comigs.restored = true;
    const known = saved || {};
    return rules.map(({ name, kind, low = null, high = null, choices }, i) => {
      const value = known[name];
      const possible = typeof value === kind && (!choices || choices.includes(value))
        && (kind !== "number" || ((low === null || value >= low)
          && (high === null || value <= high)))
        && (kind !== "string" || value.length <= MOST_KEPT);
      return possible && value !== now[i] ? value : AS_IT_IS;
    });
  }

  Object.assign(window.comigs, { restore, feed, save, standing });
}
