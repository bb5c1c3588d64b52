// Sorts tables by a click on the head of a column, and shows the methods that the field at the top names, in tables and pictures.
const value = (cell) => parseFloat(cell.textContent);

function sort(table, column, head) {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const sign = down ? -1 : 1;
  const compare = (a, b) => {
    const [x, y] = [a.cells[column], b.cells[column]];
    if (column === 0) return sign * x.textContent.localeCompare(y.textContent);
    const [left, right] = [value(x), value(y)];
    if (isNaN(left) || isNaN(right)) return isNaN(left) - isNaN(right);   // what has no number comes last
    return sign * (left - right);
  };
  for (const body of table.tBodies) body.append(...[...body.rows].sort(compare));   // controls have a body of their own
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.tabIndex = 0;
    head.title = "sort";
    head.addEventListener("click", () => sort(table, column, head));
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(table, column, head); });
  });
}

const field = document.querySelector("#methods");
if (field) {
  field.parentElement.hidden = false;
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    for (const element of document.querySelectorAll("[data-line]")) {
      const label = element.dataset.line.toLowerCase();
      element.style.display = !wanted.length || wanted.some((word) => label.includes(word)) ? "" : "none";
    }
  });
}
