// A table that is wider than its column scrolls: with this, by the keyboard too.
function reachable() {
  for (const table of document.querySelectorAll(".bd-article table"))
    if (table.scrollWidth > table.clientWidth) table.tabIndex = 0;
    else table.removeAttribute("tabindex");
}
addEventListener("load", reachable);
addEventListener("resize", reachable);
