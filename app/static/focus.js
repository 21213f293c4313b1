// The keyboard: arrow keys among choices, and the focus stays where the page goes on: a button that was pressed may
// vanish with its step, and the browser would then begin again at the top of the page.
"use strict";
{
  const PARTS = "[role=tabpanel], #teach, #training-card, #share-start, #share-round";
  const CONTROLS = "button, input, textarea, select, summary";
  const HEADINGS = "h2, h3, .cm-headline";

  const seen = (node) => node.isConnected && node.getClientRects().length > 0;
  const usable = (node) => seen(node) && !node.disabled && node.tabIndex >= 0;

  let last = null; // what had the focus last,
  let around = []; // and what was around it then, the innermost first

  document.addEventListener("focusin", ({ target }) => {
    last = target.closest("#tabs") ? target : null;
    around = [];
    for (let node = last && last.parentElement; node; node = node.parentElement) around.push(node);
  });

  // Where another part of the page has come: its heading. Else the next control.
  function next() {
    const place = around.find(seen);
    if (!place) return null;
    const all = (what, fits) => [...place.querySelectorAll(what)].filter(fits);
    const heading = all(HEADINGS, seen)[0];
    const controls = all(CONTROLS, usable);
    const after = controls.find((node) => last.isConnected
      && last.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING);
    const control = after || controls[0];
    const moved = around.some((node) => node.matches(PARTS) && !seen(node));
    return (moved ? heading || control : control || heading) || place;
  }

  function keep() {
    if (document.activeElement !== document.body || !last || usable(last)) return;
    const node = next();
    if (!node) return;
    if (!node.matches(CONTROLS)) node.tabIndex = -1;
    node.focus({ preventScroll: true });
  }

  // Gradio's choices are radio buttons of a group each: arrow keys would do nothing.
  const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };
  document.addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (!(key in STEPS) || !target.matches("#tabs .block input[type=radio]")) return;
    const group = [...target.closest(".block").querySelectorAll("input[type=radio]")];
    if (group.some((one) => one !== target && one.name === target.name)) return;
    event.preventDefault();
    const next = group[(group.indexOf(target) + STEPS[key] + group.length) % group.length];
    next.focus();
    next.click();
  });

  let waiting = false;
  new MutationObserver(() => {
    if (waiting || document.activeElement !== document.body || !last) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      keep();
    });
  }).observe(document, { subtree: true, childList: true, attributes: true,
    attributeFilter: ["class", "style", "disabled", "hidden"] });
}
