"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, at) => row.cells[at].dataset.value ?? row.cells[at].textContent.trim();
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows];
      const known = (row) => key(row, at) !== "" && key(row, at) !== "–";
      const number = (text) => parseFloat(text.replaceAll(",", ""));
      const compare = (a, b) => {
        const [x, y] = [key(a, at), key(b, at)];
        return number(x) - number(y) || x.localeCompare(y);
      };
      rows.sort((a, b) => known(b) - known(a) || (up ? 1 : -1) * compare(a, b));
      table.tBodies[0].append(...rows);
    });
  });
}
for (const form of document.querySelectorAll("form.filter")) {
  const section = form.parentElement;
  const apply = () => {
    const wanted = Object.fromEntries(new FormData(form));
    for (const list of section.querySelectorAll("ul.cards")) {
      let shown = 0;
      for (const card of list.children) {
        const fits = Object.entries(wanted).every(([name, value]) => value === "" || card.dataset[name].split(" ").includes(value));
        card.hidden = !fits;
        shown += fits;
      }
      const told = document.getElementById(list.dataset.count);
      told.textContent = shown === list.children.length ? "" : `${shown} of these ${list.children.length} shown`;
    }
  };
  form.hidden = false;
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
}
