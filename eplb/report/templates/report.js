"use strict";
// Comfort only: the page says everything without this script.

// Sort a table by the column whose heading is clicked; numbers as numbers, the rest as text.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const number = (text) => parseFloat(text.replace(/[,$]/g, "").replace("−", "-"));
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") === "descending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [number(key(a)), number(key(b))];
        if (isNaN(x) || isNaN(y)) {
          // What has no number goes last, whichever way the column is sorted.
          if (isNaN(x) !== isNaN(y)) return isNaN(x) ? 1 : -1;
          return (up ? 1 : -1) * key(a).localeCompare(key(b));
        }
        return (up ? 1 : -1) * (x - y);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}

// Show what a mark stands for at once, instead of after the browser's delay.
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
document.body.append(tip);
for (const mark of document.querySelectorAll(".mark")) {
  const title = mark.querySelector("title");
  if (!title) continue;
  const text = title.textContent;
  title.remove();
  mark.addEventListener("pointerenter", () => {
    tip.textContent = text;
    tip.hidden = false;
  });
  mark.addEventListener("pointermove", (event) => {
    const left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 16 + tip.offsetHeight < innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below ? event.clientY + 16 : event.clientY - tip.offsetHeight - 8}px`;
  });
  mark.addEventListener("pointerleave", () => { tip.hidden = true; });
}

// A link to a program opens the table that its row is in.
const reveal = () => {
  const row = location.hash.startsWith("#program-") && document.getElementById(location.hash.slice(1));
  if (!row) return;
  row.closest("details").open = true;
  row.scrollIntoView({ block: "center" });
};
addEventListener("hashchange", reveal);
reveal();
