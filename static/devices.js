// Parts of a page that fetch themselves again wait while somebody has something open in them. Everything works without this.
(() => {
  "use strict";

  document.addEventListener("htmx:beforeRequest", (event) => {
    const part = event.target;
    if (!(part instanceof HTMLElement) || !("quiet" in part.dataset)) return;
    if (part.querySelector("details[open]:not(.device-revoked), input:focus")) event.preventDefault();
  });
})();
