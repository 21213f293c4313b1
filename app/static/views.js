// The views of the chat: the talk itself, Compare and Look at a text, one at a time.
"use strict";
{
  const { add } = window.comigs;
  const EACH = 110; // milliseconds between two questions while something is under way
  const SLOW = 2000; // and after one that nobody answered
  const page = document.documentElement;
  let from = null; // what had the focus when the talk was left

  // Shows "chat", "compare" or "look" and tells by the event comigs:view.
  function view(name) {
    if (page.dataset.view === name) return;
    window.comigs.drawer.close();
    if (page.dataset.view === "chat") from = document.activeElement;
    page.dataset.view = name;
    window.dispatchEvent(new CustomEvent("comigs:view", { detail: { name } }));
    if (name !== "chat") return;
    const back = from && from.isConnected && from !== document.body ? from
      : document.querySelector("#message textarea");
    if (back) back.focus();
  }

  function button(parent, text, className, act) {
    const node = add(parent, "button", className, text);
    node.type = "button";
    node.addEventListener("click", act);
    return node;
  }

  // The upper edge of a view: the way back, its name, and what it is for.
  function head(root, title, sentence) {
    const box = add(root, "header", "cm-view-head");
    button(box, "← Back to the chat", "cm-back", () => view("chat"));
    add(box, "h2", "", title);
    add(box, "p", "cm-soft", sentence);
  }

  // What a view has on the server goes by a secret name that this browser tab makes once.
  function session(name) {
    const key = `comigs-${name}`;
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    const fresh = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (!sessionStorage.getItem(key)) sessionStorage.setItem(key, fresh);
    return sessionStorage.getItem(key);
  }

  // A message's box with its button, which is Stop while something is under way.
  // Enter sends and Shift+Enter makes a new line where `enter` says so.
  class Composer {
    constructor(root, { label, placeholder, go, rows = 1, enter = true }, send, stop) {
      Object.assign(this, { go, send, stop });
      this.form = add(root, "form", "cm-composer");
      this.box = add(this.form, "textarea");
      Object.assign(this.box, { rows, placeholder, dir: "auto" });
      this.box.setAttribute("aria-label", label);
      this.inner = add(this.form, "div", "cm-composer-more");
      this.button = add(this.form, "button", "cm-go", go);
      this.form.addEventListener("submit", (event) => {
        event.preventDefault();
        this.press();
      });
      this.box.addEventListener("keydown", (event) => {
        if (!enter || event.isComposing || event.key !== "Enter" || event.shiftKey) return;
        event.preventDefault();
        if (!this.active) this.press();
      });
    }

    press() {
      if (this.active) this.stop();
      else if (this.box.value.trim()) this.send(this.box.value);
      else this.box.focus();
    }

    tell(active) {
      this.active = active;
      this.button.textContent = active ? "Stop" : this.go;
    }
  }

  // The line that says how far things are, with a bar where that is known.
  class Standing {
    constructor(root) {
      this.line = add(root, "p", "cm-how");
      this.line.setAttribute("role", "status");
    }

    tell({ text, done = 0, total = 0, bad = false, remedy = null }, active) {
      const part = total > 1 ? Math.floor(100 * done / total) : 0;
      const line = active && total > 1 ? `${text} ${part} %` : text;
      if (this.told !== line) {
        this.told = this.line.textContent = line;
        window.comigs.remedy(this.line, remedy);
      }
      this.line.classList.toggle("cm-working", active);
      this.line.classList.toggle("cm-problem", bad);
      this.line.style.setProperty("--cm-done", active ? `${part}%` : "0");
    }
  }

  const gone = ({ problem, remedy }) => ({ text: problem, remedy, bad: true });

  // Asks the server for what is new, and for that alone, while there is anything to come.
  class Asking {
    constructor({ props, server, watch, trigger }, name, take, told) {
      Object.assign(this, { props, server, trigger, take, told, epoch: 0, since: 0 });
      props.value = { id: session(name), turn: 0 };
      watch("value", () => this.wake());
      this.wake();
    }

    // The run and the settings travel with an order: Gradio adds them to the event.
    order(values) {
      if (!values.stop) this.told({ text: "Asking" }, true);
      this.trigger("select", values);
    }

    async wake() {
      this.wanted = true;
      if (this.busy) return;
      this.busy = true;
      try {
        while (this.wanted) {
          this.wanted = false;
          const wait = await this.ask();
          if (wait) await new Promise((done) => setTimeout(done, wait));
          this.wanted = this.wanted || wait > 0;
        }
      } finally {
        this.busy = false;
      }
    }

    // One question; in how many milliseconds to ask again, 0 for not before `wake`.
    async ask() {
      const { id } = this.props.value, { epoch, since } = this;
      let answer;
      try {
        answer = await this.server.changes({ id, epoch, since });
      } catch {
        this.told(gone(window.comigs.GONE), false);
        return SLOW;
      }
      if (answer.problem) {
        this.told(gone(answer), false);
        return 0;
      }
      const fresh = answer.epoch !== this.epoch;
      Object.assign(this, { epoch: answer.epoch, since: answer.version });
      this.take(answer, fresh);
      return answer.active ? EACH : 0;
    }

    // One token, explained by the server, into the drawer.
    async explain(question, options) {
      const wanted = this.asked = {};
      const { id } = this.props.value;
      let token;
      try {
        token = await this.server.token({ id, epoch: this.epoch, ...question });
      } catch {
        return; // the line below tells
      }
      if (this.asked === wanted && !token.problem) {
        window.comigs.drawer.open({ ...options, token });
      }
    }
  }

  page.dataset.view = "chat";
  Object.assign(window.comigs, { view, button, viewHead: head, Composer, Standing, Asking });
}
