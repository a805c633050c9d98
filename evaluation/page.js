"use strict";

// Makes a table sortable by the buttons in its head, one per column. The first click sorts in descending order (names: ascending),
// the second reverses it, the third restores the initial order. `sorted` is called after each.
// Cells sort by their data-value; those without come last in either order, and among themselves sort by text.
function makeSortable(table, sorted = () => {}) {
  const body = table.tBodies[0], rows = Array.from(body.rows);
  const buttons = Array.from(table.querySelectorAll("thead button"));
  buttons.forEach((button, column) => button.addEventListener("click", () => {
    const head = button.closest("th"), orders = column ? ["descending", "ascending"] : ["ascending", "descending"];
    const order = [...orders, "none"][orders.indexOf(head.getAttribute("aria-sort")) + 1];
    buttons.forEach(each => each.closest("th").setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", order);
    const sign = {ascending: 1, descending: -1, none: 0}[order];
    body.append(...(sign ? [...rows].sort((a, b) => compare(a.cells[column], b.cells[column], sign)) : rows));
    sorted();
  }));

  function compare(a, b, sign) {
    const [x, y] = [a.dataset.value, b.dataset.value];
    if (!x && !y) return sign * a.textContent.localeCompare(b.textContent, undefined, {numeric: true});
    if (!x || !y) return x ? -1 : 1;
    return Number(x) === Number(y) ? 0 : sign * (x - y); // equal infinities have no difference
  }
}
