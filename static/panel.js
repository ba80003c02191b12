// Small helps that every page may use. Everything works without them.
(() => {
  "use strict";

  // The eye in a password's field shows what was typed.
  const eye = document.getElementById("eye");
  if (eye) document.querySelectorAll('input[type="password"]').forEach((field) => {
    const box = document.createElement("div");
    box.className = "panel-password";
    field.before(box);
    box.append(field, eye.content.cloneNode(true));
    const button = box.querySelector("button");
    const show = (isShown) => {
      field.type = isShown ? "text" : "password";
      button.setAttribute("aria-pressed", String(isShown));
    };
    button.addEventListener("click", () => show(field.type === "password"));
    // Browsers keep what they take for text.
    field.form?.addEventListener("submit", () => show(false));
  });

  // data-once on a form: a second click does not send it a second time.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!("once" in form.dataset) || event.defaultPrevented) return;
    if (form.dataset.once === "sent") event.preventDefault();
    form.dataset.once = "sent";
    event.submitter?.setAttribute("aria-busy", "true");
  });
  // Back by the browser's button, the page is as it was left: it may be sent again.
  window.addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    document.querySelectorAll("form[data-once]").forEach((form) => { form.dataset.once = ""; });
    document.querySelectorAll("form[data-once] [aria-busy]").forEach((button) => { button.removeAttribute("aria-busy"); });
  });

  // Where the pages beside this one do not fit, the row of them begins with this one in sight.
  document.querySelectorAll(".panel-subnav, .panel-menu").forEach((row) => {
    const here = row.querySelector("[aria-current]");
    if (here) row.scrollLeft = here.offsetLeft - row.offsetLeft - (row.clientWidth - here.offsetWidth) / 2;
  });

  // A menu closes by a click elsewhere and by Escape, which leads back to what opened it.
  document.addEventListener("click", (event) => {
    document.querySelectorAll("details.panel-drop[open]").forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; });
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    document.querySelectorAll("details.panel-drop[open]").forEach((menu) => {
      menu.open = false;
      menu.querySelector("summary").focus();
    });
  });

  // Tabs (role="tablist"): a click, or an arrow key, shows the panel that aria-controls names.
  const show = (tab) => {
    tab.closest('[role="tablist"]').querySelectorAll('[role="tab"]').forEach((other) => {
      const chosen = other === tab;
      other.classList.toggle("active", chosen);
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).classList.toggle("active", chosen);
    });
  };
  document.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) show(tab);
  });
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const tab = step && event.target.closest('[role="tab"]');
    if (!tab) return;
    const tabs = [...tab.closest('[role="tablist"]').querySelectorAll('[role="tab"]')];
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    show(next);
    next.focus();
    event.preventDefault();
  });

  // Toasts: good news goes by itself unless somebody is on it; the rest stays until it is put away.
  const GOOD_NEWS_MS = 8000;
  const watch = (toast) => {
    if (!toast.matches(".is-success, .is-info")) return;
    setTimeout(function go() {
      if (toast.matches(":hover, :focus-within")) setTimeout(go, GOOD_NEWS_MS);
      else toast.remove();
    }, GOOD_NEWS_MS);
  };
  document.querySelectorAll(".panel-toast").forEach(watch);
  document.addEventListener("htmx:oobAfterSwap", () => document.querySelectorAll(".panel-toast:not([data-watched])").forEach((toast) => { toast.dataset.watched = ""; watch(toast); }));
  document.addEventListener("click", (event) => { event.target.closest("[data-dismiss]")?.closest(".panel-toast").remove(); });

  // data-copy="#id": copies that element's text and says so in its own label (data-copied) for two seconds.
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.querySelector(button.dataset.copy);
    const text = source.value ?? source.textContent;
    try {
      await navigator.clipboard.writeText(text);
      // What the browser says of itself when a selection is copied, as below.
      source.dispatchEvent(new Event("copy", { bubbles: true }));
    } catch {
      // Without TLS there is no clipboard: leave the text selected, ready for Ctrl-C. What is folded cannot be selected.
      const fold = source.previousElementSibling;
      if (fold?.matches("details")) fold.open = true;
      const range = document.createRange();
      range.selectNodeContents(source);
      const selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      if (!document.execCommand("copy")) return;
    }
    const label = button.textContent;
    button.textContent = button.dataset.copied;
    setTimeout(() => { button.textContent = label; }, 2000);
  });

  // A code is what the page is for: it gets the focus and the digits' keyboard stays out of the way of letters.
  const code = document.querySelector('input[name="code"]:not([data-serial-input], [type="hidden"])');
  if (code) {
    code.setAttribute("autocomplete", "one-time-code");
    code.setAttribute("autocapitalize", "characters");
    code.focus();
  }
})();
