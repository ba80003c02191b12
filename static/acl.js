// Taking the map away from the page counts as a download of the version that stands there: say so to the panel.
(() => {
  "use strict";

  // The tag comes with the map's part of a page, which htmx may fetch again: one listener is enough.
  if (document.documentElement.dataset.copyReports) return;
  document.documentElement.dataset.copyReports = "on";

  // Comes from the button (panel.js) and from selecting and copying by hand, and only when there is something to copy.
  document.addEventListener("copy", (event) => {
    const from = event.target.closest ? event.target : event.target.parentElement;
    const map = from?.closest("[data-copy-report]");
    if (!map) return;
    // A few words of it, such as an address, are not the map.
    const words = window.getSelection().toString();
    if (event.isTrusted && words.trim().length < map.textContent.trim().length / 2) return;
    fetch(map.dataset.copyReport, {
      method: "POST",
      headers: { "X-CSRFToken": map.dataset.token },
      body: new URLSearchParams({ shown: map.dataset.shown }),
      credentials: "same-origin",
      keepalive: true,
    })
      .then(() => document.body.dispatchEvent(new Event("map-taken")))
      .catch(() => {}); // the copy has worked all the same
  });
})();
