// Whoever has chosen neither light nor dark has what the system has, and follows it. Runs before anything is drawn.
(() => {
  "use strict";

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const follow = () => {
    document.documentElement.dataset.bsTheme = dark.matches ? "dark" : "light";
    document.documentElement.dataset.theme = document.documentElement.dataset.bsTheme; // Django's own word for it
  };
  follow();
  dark.addEventListener("change", follow);
})();
