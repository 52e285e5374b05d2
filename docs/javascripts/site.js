// What the theme leaves out for those who use a keyboard or a screen reader: a name for the dialog of the search and for
// the buttons of each block of code, and a focus for blocks and tables that scroll sideways.
window.addEventListener("load", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-code__nav").forEach((nav, index) => {
    nav.setAttribute("aria-label", `Block of code ${index + 1}`);
  });
  for (const block of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) {
    if (block.scrollWidth > block.clientWidth) block.tabIndex = 0;
  }
});
