// Small helps that every page may use. Everything works without them.
(() => {
  "use strict";

  // data-suggest-from="id": an untouched field follows the local part of an e-mail address.
  document.querySelectorAll("[data-suggest-from]").forEach((field) => {
    const source = document.getElementById(field.dataset.suggestFrom);
    let touched = field.value !== "";
    field.addEventListener("input", () => { touched = field.value !== ""; });
    source?.addEventListener("input", () => {
      if (touched) return;
      const name = source.value.split("@")[0].toLowerCase().normalize("NFKC").replace(/[^a-z0-9\u3400-\u4dbf\u4e00-\u9fff_.-]/g, "").slice(0, 24);
      field.value = name.length > 1 ? name : "";
    });
  });

  // data-confirm="question" on a form: asked once before it is sent.
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  });

  // data-once on a form: a second click does not send it a second time.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!("once" in form.dataset) || event.defaultPrevented) return;
    if (form.dataset.once === "sent") event.preventDefault();
    form.dataset.once = "sent";
  });

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
      // Without TLS there is no clipboard: leave the text selected, ready for Ctrl-C.
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
