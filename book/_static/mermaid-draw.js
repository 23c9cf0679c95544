// Draws the page's diagrams in its colours, and again when the reader switches light and dark.
mermaid.initialize({ startOnLoad: false });
window.addEventListener("load", () => {
  const diagrams = [...document.querySelectorAll("pre.mermaid")];
  const sources = diagrams.map((diagram) => diagram.textContent);
  async function draw() {
    const dark = document.documentElement.dataset.theme === "dark";
    mermaid.initialize({
      startOnLoad: false, securityLevel: "strict", theme: dark ? "dark" : "neutral",
      fontFamily: getComputedStyle(document.body).fontFamily, // boxes are measured in it
    });
    for (let i = 0; i < diagrams.length; i++) {
      const { svg } = await mermaid.render(`diagram-${i}`, sources[i]);
      diagrams[i].innerHTML = svg;
      const drawing = diagrams[i].querySelector("svg"); // on a phone it is moved sideways rather than made tiny
      drawing.style.minWidth = `${0.7 * drawing.viewBox.baseVal.width}px`;
      diagrams[i].tabIndex = diagrams[i].scrollWidth > diagrams[i].clientWidth ? 0 : -1;
      diagrams[i].dataset.drawn = dark ? "dark" : "light";
    }
  }
  let queue = draw();
  new MutationObserver(() => { queue = queue.then(draw); })
    .observe(document.documentElement, { attributeFilter: ["data-theme"] });
});
