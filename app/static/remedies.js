// What mends an error: the buttons beside the words for it, wherever the page shows them.
"use strict";
{
  const PATIENCE = 3000; // milliseconds in which a step of the page comes into sight

  const seen = (node) => node && node.getClientRects().length > 0;

  // The first of these that is seen, in the order in which they are named.
  function find(selectors) {
    const every = selectors.split(", ").map((one) => [...document.querySelectorAll(one)]);
    return every.flat().find(seen);
  }

  // Does it as soon as the first of these is seen; the page may still be opening a step.
  function once(selector, act) {
    const end = performance.now() + PATIENCE;
    const look = () => {
      const node = find(selector);
      if (node) act(node);
      else if (performance.now() < end) requestAnimationFrame(look);
    };
    look();
  }

  const focus = (selector) => once(selector, (node) => node.focus());

  // Gradio draws no box for what is hidden: those buttons lead from step to step.
  const press = (id) => {
    const node = document.getElementById(id);
    if (node) node.click();
  };

  function open(tab) {
    window.comigs.tab(tab);
    if (!document.activeElement || document.activeElement === document.body) {
      focus(`#tabs > .tab-wrapper [data-tab-id="${tab}"]`);
    }
  }

  // The steps to a new run, whatever the Train tab shows; then one of them.
  function step(name) {
    open("train");
    if (find("#training-card")) press("teach-another");
    once("#steps", () => press(name));
  }

  const REMEDIES = {
    retry: () => {}, // an answer does these two itself
    edit: () => {},
    reload: () => window.location.reload(),
    fresh: () => {
      open("chat");
      window.comigs.talks.fresh();
    },
    who: () => window.comigs.who(),
    training: () => {
      open("train");
      once("#show-trainings, #training-card", () => {
        if (!find("#training-card")) press("show-trainings");
        focus("#training input");
      });
    },
    text: () => {
      step("go-text");
      focus("#data-path textarea, #data-path input, #folder");
    },
    name: () => focus("#run-name textarea, #run-name input"),
    model: () => {
      step("go-model");
      focus("#base input:checked, #base input");
    },
    smaller: () => {
      step("go-smaller");
      focus("#base input:checked, #base input");
    },
    fetch: () => {
      step("go-model");
      once("#fetch", (node) => node.click());
      focus("#cancel-fetch");
    },
    again: () => once("#fetch", (node) => node.click()),
    next: () => once("#next", (node) => node.click()),
    where: () => focus("#uri textarea, #uri input"),
    fit: () => {
      step("go-text");
      focus("#data-path textarea, #data-path input, #folder");
    },
    chat: () => open("chat"),
    train: () => open("train"),
    share: () => open("share"),
  };

  function mend(name) {
    const act = REMEDIES[name];
    if (act) act();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("button.cm-remedy");
    if (!button || button.dataset.own) return;
    mend(button.value);
    const toast = button.closest(".toast-body");
    const close = toast && toast.querySelector(".toast-close");
    if (close) close.click();
  });

  // A button beside a problem; `own` does it in place of what the page would.
  window.comigs.remedy = (parent, remedy, own = null) => {
    if (!remedy) return;
    const node = window.comigs.add(parent, "button", "cm-remedy", remedy.label);
    node.type = "button";
    node.value = remedy.name;
    if (!own) return;
    node.dataset.own = "1";
    node.addEventListener("click", own);
  };
  window.comigs.remedies = Object.keys(REMEDIES);
}
