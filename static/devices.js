// Parts of a page that fetch themselves again wait while somebody has something open in them; the list of revoked devices, which
// is long, stays as it is meanwhile. Everything works without this.
(() => {
  "use strict";

  document.addEventListener("htmx:beforeRequest", (event) => {
    const part = event.target;
    if (!(part instanceof HTMLElement) || !("quiet" in part.dataset)) return;
    if (part.querySelector("details[open]:not(.device-revoked), input:focus")) event.preventDefault();
  });

  const revoked = () => document.querySelector("details.device-revoked");
  let wasOpen;
  document.addEventListener("htmx:beforeSwap", () => {
    wasOpen = revoked()?.open;
  });
  document.addEventListener("htmx:afterSwap", () => {
    if (wasOpen !== undefined && revoked()) revoked().open = wasOpen;
  });
})();
