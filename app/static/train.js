// The Train tab: folders that are dropped, and a notice at the end of a training.
"use strict";
{
  const MOST_FILES = 5000;

  // Gradio takes dropped files alone: a folder would arrive as an empty file. Its files
  // are looked for here, and handed on through Gradio's own input.
  async function filesOf(entry, found) {
    if (found.length >= MOST_FILES || entry.name.startsWith(".")) return;
    if (entry.isFile) {
      found.push(await new Promise((done, failed) => entry.file(done, failed)));
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) return;
      for (const inner of some) await filesOf(inner, found);
    }
  }

  async function hand(entries, input) {
    const found = [];
    for (const entry of entries) await filesOf(entry, found);
    const carried = new DataTransfer();
    for (const file of found) carried.items.add(file);
    input.files = carried.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  window.addEventListener("drop", (event) => {
    const area = event.target.closest && event.target.closest("#files");
    const input = area && area.querySelector("input[type=file]");
    if (!input || !event.dataTransfer) return;
    const entries = [...event.dataTransfer.items]
      .map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry())
      .filter(Boolean);
    if (!entries.some((entry) => entry.isDirectory)) return;
    event.preventDefault();
    event.stopPropagation();
    hand(entries, input).catch(() => {});
  }, true);

  // The browser is asked as somebody starts a training, never before.
  let last = "";
  window.comigs.notices = {
    ask() {
      if ("Notification" in window && Notification.permission === "default") {
        Notification.requestPermission().catch(() => {});
      }
    },
    // Looks at what the page was told last; the same is told once, and only to
    // somebody who looks at something else.
    look() {
      const place = document.querySelector("#notice [role=status]");
      const text = place ? place.textContent : "";
      if (!text || text === last) return;
      last = text;
      if (!document.hidden || !("Notification" in window)) return;
      if (Notification.permission === "granted") new Notification(document.title, { body: text });
    },
  };
}
