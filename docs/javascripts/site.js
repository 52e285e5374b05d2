// What the theme leaves out for those who use a keyboard or a screen reader: a name for the dialog of the search and for
// the buttons of each block of code, and a focus for blocks and tables that scroll sideways. The lists within a table of
// contents are no landmarks: a module and its class may have one name.
window.addEventListener("load", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search");
  document.querySelectorAll(".md-code__nav").forEach((nav, index) => {
    nav.setAttribute("aria-label", `Block of code ${index + 1}`);
  });
  document.querySelectorAll(".md-nav--secondary .md-nav").forEach((nav) => {
    nav.setAttribute("role", "none");
    nav.removeAttribute("aria-label");
  });
  for (const block of document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")) {
    if (block.scrollWidth > block.clientWidth) block.tabIndex = 0;
  }
});
