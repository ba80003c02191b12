// Parts of a page that htmx fetches: where one does not come, the page says so, and asks again after a pause that grows.
(() => {
  "use strict";

  const FIRST_PAUSE = 2000;
  const LONGEST_PAUSE = 60000;
  // Element → how long it pauses, and until when.
  const pauses = new Map();
  // Until when the window is on its way to where an answer sent it. Sent off again, it would begin anew and never arrive.
  let leavingUntil = 0;

  const box = () => document.getElementById("trouble");

  const say = (kind) => {
    const place = box();
    if (!place) return;
    place.textContent = place.dataset[kind];
    place.hidden = false;
  };

  const kindOf = (status) => {
    if (status === 0) return "offline";
    if (status === 429) return "limited";
    return status < 500 ? "refused" : "failed";
  };

  const fail = (event) => {
    const { elt, xhr, requestConfig } = event.detail;
    if (requestConfig.verb !== "get") {
      say("undone");
      return;
    }
    const status = event.type === "htmx:responseError" ? xhr.status : 0;
    say(kindOf(status));
    const asked = 1000 * (Number.parseInt(status === 429 ? xhr.getResponseHeader("Retry-After") : "", 10) || 0);
    const last = pauses.get(elt)?.length ?? FIRST_PAUSE / 2;
    const length = Math.max(Math.min(last * 2, LONGEST_PAUSE), asked);
    pauses.set(elt, { length, until: Date.now() + length });
    // What asks by itself goes on asking; what waited for an event is asked again here.
    if (!elt.getAttribute("hx-trigger")?.includes("every")) {
      setTimeout(() => {
        if (!elt.isConnected) return;
        pauses.delete(elt);
        window.htmx.ajax("GET", requestConfig.path, { source: elt, swap: elt.getAttribute("hx-swap") });
      }, length);
    }
  };

  for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) document.addEventListener(name, fail);

  document.addEventListener("htmx:beforeRequest", (event) => {
    // Only what nobody clicked pauses.
    const { elt, requestConfig } = event.detail;
    const until = Math.max(pauses.get(elt)?.until ?? 0, leavingUntil);
    if (!requestConfig.triggeringEvent && Date.now() < until) event.preventDefault();
  });

  document.addEventListener("htmx:beforeOnLoad", (event) => {
    if (!event.detail.xhr.getResponseHeader("HX-Redirect")) return;
    if (Date.now() < leavingUntil) event.preventDefault();
    else leavingUntil = Date.now() + LONGEST_PAUSE;
  });
  window.addEventListener("pageshow", () => { leavingUntil = 0; });

  document.addEventListener("htmx:afterRequest", (event) => {
    if (!event.detail.successful) return;
    pauses.delete(event.detail.elt);
    for (const elt of pauses.keys()) if (!elt.isConnected) pauses.delete(elt);
    const place = box();
    if (place && pauses.size === 0) place.hidden = true;
  });

  window.addEventListener("online", () => { for (const pause of pauses.values()) pause.until = 0; });
  window.addEventListener("offline", () => say("offline"));
})();
