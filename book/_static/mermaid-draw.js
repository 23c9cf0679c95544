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
      diagrams[i].dataset.drawn = dark ? "dark" : "light";
    }
  }
  let queue = draw();
  new MutationObserver(() => { queue = queue.then(draw); })
    .observe(document.documentElement, { attributeFilter: ["data-theme"] });
});
