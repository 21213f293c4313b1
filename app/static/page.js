// What all parts of the page build on: nodes, and what the browser
// keeps. Every text goes through textContent.
"use strict";
window.comigs = {};
{
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

  // The functions of a server, as its page calls them. Gradio answers with nothing when
  // the server has gone: that is an error like any other that the network makes.
  function served(server) {
    return new Proxy(server, {
      get: (functions, name) => async (question) => {
        const answer = await functions[name](question);
        if (answer === undefined || answer === null) throw new Error("no answer");
        return answer;
      },
    });
  }

  // The one place where text becomes markup: blocks of the server's Markdown, which
  // escapes all that a model says (comigs_mlx.conversations.markdown).
  function rendered(node, html) {
    node.innerHTML = html;
  }

  // What is told where a question has no answer.
  const GONE = {
    problem: "The app does not answer: is it still running?",
    remedy: { name: "reload", label: "Reload the page" },
  };

  // A file for the reader, made on the page: no folder here keeps it.
  function saveAs(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
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

  Object.assign(window.comigs, { GONE, add, draw, served, rendered, saveAs, restore });
}
