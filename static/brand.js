// The admin's page of the brand: a colour can also be picked, and a file that is too large is told of before it is sent.
(() => {
  "use strict";

  for (const field of document.querySelectorAll("input[data-colour]")) {
    const picker = document.createElement("input");
    picker.type = "color";
    picker.setAttribute("aria-label", field.labels[0] ? field.labels[0].textContent : "");
    const follow = () => {
      if (/^#[0-9a-f]{6}$/i.test(field.value)) picker.value = field.value;
    };
    picker.addEventListener("input", () => { field.value = picker.value; });
    field.addEventListener("input", follow);
    picker.value = field.placeholder;
    follow();
    field.after(" ", picker);
  }

  for (const field of document.querySelectorAll("input[data-most-bytes]")) {
    field.addEventListener("change", () => {
      const file = field.files[0];
      const isTooLarge = file && file.size > Number(field.dataset.mostBytes);
      field.setCustomValidity(isTooLarge ? field.dataset.tooLarge : "");
      if (isTooLarge) field.reportValidity();
    });
  }
})();
