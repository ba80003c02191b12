// A list that goes on by itself: what stands in its cells becomes what is so now. Rows stay the same elements, so ticks, what is open and where the keyboard is stay too.
(() => {
  "use strict";

  const TABLES = "#result_list, table[data-live]";
  const nameOf = (row) => row.querySelector("a[href]")?.getAttribute("href") ?? "";
  const rowsOf = (table) => [...table.tBodies[0].rows];
  const isInUse = (cell) => cell.contains(document.activeElement) || cell.querySelector("details[open]");

  const mergeRow = (row, now) => {
    [...now.cells].forEach((fresh, number) => {
      const cell = row.cells[number];
      if (!cell || cell.classList.contains("action-checkbox") || isInUse(cell) || cell.innerHTML === fresh.innerHTML) return;
      cell.replaceChildren(...fresh.childNodes);
    });
  };

  const mergeTable = (table, now) => {
    const standing = new Map(rowsOf(table).map((row) => [nameOf(row), row]));
    const wanted = rowsOf(now).map((fresh) => {
      const row = standing.get(nameOf(fresh));
      if (!row) return fresh;
      standing.delete(nameOf(fresh));
      mergeRow(row, fresh);
      return row;
    });
    for (const gone of standing.values()) gone.remove();
    const focused = document.activeElement;
    wanted.forEach((row, place) => {
      const body = table.tBodies[0];
      if (body.rows[place] !== row) body.insertBefore(row, body.rows[place] ?? null);
    });
    if (document.activeElement !== focused) focused.focus({ preventScroll: true });
  };

  document.addEventListener("htmx:beforeRequest", (event) => {
    if (event.detail.elt.matches("[data-live-list]") && document.hidden) event.preventDefault();
  });
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { elt, xhr } = event.detail;
    if (!elt.matches("[data-live-list]") || xhr.status !== 200) return;
    const now = [...new DOMParser().parseFromString(xhr.responseText, "text/html").querySelectorAll(TABLES)];
    const tables = [...document.querySelectorAll(TABLES)];
    // From nothing to something, or back: another page.
    if (now.length !== tables.length) window.location.reload();
    else tables.forEach((table, number) => mergeTable(table, now[number]));
  });
})();
