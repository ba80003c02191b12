// Copying itself is panel.js's work (data-copy). Taking the map away this way counts as a download: say so to the panel.
(() => {
  "use strict";

  // The tag comes with the map's part of a page, which htmx may fetch again: one listener is enough.
  if (document.documentElement.dataset.copyReports) return;
  document.documentElement.dataset.copyReports = "on";

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy-report]");
    if (!button) return;
    fetch(button.dataset.copyReport, {
      method: "POST",
      headers: { "X-CSRFToken": button.dataset.token },
      credentials: "same-origin",
      keepalive: true,
    }).catch(() => {}); // the copy has worked all the same
  });
})();
