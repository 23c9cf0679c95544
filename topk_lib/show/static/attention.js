// A token that is picked shows where its attention goes, in the head that is picked.
(function () {
  function wake(root) {
    if (root.dataset.awake) return;
    root.dataset.awake = "1";
    const { tokens, percent, said } = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const head = root.querySelector("select");
    let at = Number(root.dataset.token);
    const buttons = [...root.querySelectorAll(".topk-tokens > *")].map((word, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = word.textContent;
      button.addEventListener("click", () => { at = i; draw(); });
      word.replaceWith(button);
      return button;
    });

    function draw() {
      const row = percent[head.value][at], most = Math.max(...row);
      buttons.forEach((button, i) => {
        button.style.setProperty("--w", Math.round((10 * row[i]) / most));
        button.setAttribute("aria-pressed", i === at);
      });
      const order = tokens.map((_, i) => i).sort((i, j) => row[j] - row[i]).slice(0, said);
      const shares = order.filter((i) => row[i]).map((i) => `${tokens[i]} ${row[i]}%`);
      root.querySelector(".topk-reads").textContent = `${tokens[at]} reads ${shares.join(", ")}`;
    }

    head.addEventListener("input", draw);
    draw();  // a browser may have kept which head it was
    root.querySelector(".topk-controls").hidden = false;
  }

  function all() { document.querySelectorAll(".topk-attention").forEach(wake); }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all);
  else all();
})();
