// The Share tab: a button in a list that the server has drawn goes back to a version.
window.comigs = window.comigs || {};

window.comigs.goingBack = ({ element, trigger }) => {
  element.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-back]");
    if (button) trigger("submit", { number: Number(button.dataset.back) });
  });
};
