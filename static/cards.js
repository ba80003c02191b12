// The print button of the cards; the browser's own menu does the same.
document.querySelector("[data-print]").addEventListener("click", () => { window.print(); });
