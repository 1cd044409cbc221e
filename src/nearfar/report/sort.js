document.querySelectorAll("#combinations th button").forEach((button, column) => button.addEventListener("click", () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0];
  const value = (row) => row.cells[column].textContent.trim();
  const number = (text) => parseFloat(text.replace("−", "-").replace("[", ""));
  const numeric = [...body.rows].every((row) => !Number.isNaN(number(value(row))));
  const firstClick = head.getAttribute("aria-sort") === null && numeric && column > 0;
  const descending = firstClick || head.getAttribute("aria-sort") === "ascending";
  const order = (a, b) => numeric ? number(value(a)) - number(value(b)) : value(a).localeCompare(value(b));
  body.append(...[...body.rows].sort((a, b) => descending ? order(b, a) : order(a, b)));
  head.parentNode.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
}));
