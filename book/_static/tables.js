// A table that is wider than its column scrolls: with this, by the keyboard too.
const sizes = new ResizeObserver((seen) => {
  for (const { target } of seen) {
    const table = target.closest("table");
    if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
    else table.removeAttribute("tabindex");
  }
});
addEventListener("DOMContentLoaded", () => {
  // the table is as wide as its column, its parts as what they hold: fonts, tabs and windows change either
  for (const part of document.querySelectorAll(".bd-article table, .bd-article table > *")) sizes.observe(part);
});
