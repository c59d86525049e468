"use strict";

// Tables: a click on a heading sorts by its column; what cannot be read as a number or is missing comes last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const isText = heading.classList.contains("text");
      // Names begin at A, numbers with the largest.
      const first = isText ? "ascending" : "descending";
      const other = isText ? "descending" : "ascending";
      const order = heading.getAttribute("aria-sort") === first ? other : first;
      headings.forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => {
        const cell = row.classList.contains("failed") && column > 0 ? undefined : row.cells[column];
        const said = cell ? cell.textContent.trim() : "";
        return isText ? said : parseFloat(said.replace("<", ""));
      };
      const isMissing = (value) => (isText ? value === "" : Number.isNaN(value));
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => {
        if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
        return sign * (isText ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}

// Curves: where the pointer is, every object of the sequence says its values.
for (const chart of document.querySelectorAll(".curves")) {
  const list = (text) => (text ? text.split(",") : []);
  const score = (text) => (text ? (Number(text) / 1000).toFixed(3) : "–");
  const seconds = list(chart.dataset.seconds);
  const stride = Number(chart.dataset.stride);
  const where = chart.querySelector(".where");
  const rest = where.textContent;
  const strips = [...chart.querySelectorAll(".strip")].map((strip) => {
    const value = strip.nextElementSibling;
    const cursor = document.createElement("div");
    cursor.className = "cursor";
    cursor.hidden = true;
    strip.append(cursor);
    const series = [strip.dataset.jf, strip.dataset.j, strip.dataset.f].map(list);
    return { strip, value, cursor, series, rest: [...value.children].map((each) => each.textContent) };
  });
  const count = Number(chart.dataset.points);
  const show = (event) => {
    const plot = event.target.closest(".strip");
    if (!plot) return leave();
    const box = plot.getBoundingClientRect();
    const point = Math.min(count - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * count)));
    where.textContent = `frame ${point * stride}` + (seconds[point] ? ` · ${seconds[point]} s` : "");
    for (const { value, cursor, series } of strips) {
      const [jf, j, f] = series.map((values) => score(values[point]));
      value.children[0].textContent = jf;
      value.children[1].textContent = `J ${j} F ${f}`;
      cursor.hidden = false;
      cursor.style.left = `${(100 * (point + 0.5)) / count}%`;
    }
  };
  const leave = () => {
    where.textContent = rest;
    for (const { value, cursor, rest: said } of strips) {
      said.forEach((text, place) => (value.children[place].textContent = text));
      cursor.hidden = true;
    }
  };
  chart.addEventListener("pointermove", show);
  chart.addEventListener("pointerleave", leave);
}
