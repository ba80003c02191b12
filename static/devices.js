// Parts of a page that fetch themselves again wait while somebody has something open or half typed in them; the lists of devices
// that are kept out, which are long, stay as they are meanwhile. Everything works without this.
(() => {
  "use strict";

  document.addEventListener("htmx:beforeRequest", (event) => {
    const part = event.target;
    if (!(part instanceof HTMLElement) || !("quiet" in part.dataset)) return;
    const isTyping = [...part.querySelectorAll("input:not([type=hidden])")].some((field) => field.value !== field.defaultValue);
    if (isTyping || part.querySelector("details[open]:not(.device-out), input:focus")) event.preventDefault();
  });

  const lists = () => document.querySelectorAll("details.device-out");
  const open = new Map();
  document.addEventListener("htmx:beforeSwap", () => { for (const list of lists()) open.set(list.id, list.open); });
  document.addEventListener("htmx:afterSwap", () => { for (const list of lists()) if (open.has(list.id)) list.open = open.get(list.id); });
})();
