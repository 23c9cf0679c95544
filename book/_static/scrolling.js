// A table or a listing that is wider than its column scrolls: with this, by the keyboard too.
// The theme looks at listings only when the page loads and when the window changes.
const scrolling = "table, pre";
const sizes = new ResizeObserver((seen) => {
  for (const { target } of seen) {
    const part = target.closest(scrolling);
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
});
addEventListener("DOMContentLoaded", () => {
  // the table is as wide as its column, its parts as what they hold: fonts, tabs and windows change either
  for (const part of document.querySelectorAll(`.bd-article :is(${scrolling}, table > *)`)) sizes.observe(part);
});
