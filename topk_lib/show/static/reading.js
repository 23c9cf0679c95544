// Moves k over a text: a token is marked where its rank is below k.
(function () {
  function wake(root) {
    if (root.dataset.awake) return;
    root.dataset.awake = "1";
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const slider = root.querySelector("input[type=range]");
    const words = [...root.querySelectorAll(".topk-words > *")];
    const percent = (share) => `${Math.round(100 * share)}%`;

    function draw() {
      const rule = root.querySelector("input[type=radio]:checked").value;
      const k = data.budgets[slider.value], ranks = data.ranks[rule], sure = data.positive[rule][slider.value];
      words.forEach((word, i) => {
        const tag = ranks[i] < k ? "MARK" : "SPAN";
        if (word.tagName === tag) return;
        words[i] = document.createElement(tag);
        words[i].textContent = word.textContent;
        word.replaceWith(words[i]);
      });
      root.querySelector(".topk-at").textContent = root.querySelector(".topk-count").textContent = k;
      slider.setAttribute("aria-valuetext", `${k} of ${root.dataset.n} tokens`);
      root.querySelector(".topk-sure").textContent = percent(sure);
      root.querySelector(".topk-scale i").style.setProperty("--sure", sure);
    }

    root.querySelectorAll("input").forEach((input) => input.addEventListener("input", draw));
    draw();  // a browser may have kept where the slider was
    root.querySelector(".topk-controls").hidden = false;
  }

  function all() { document.querySelectorAll(".topk-reading").forEach(wake); }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all);
  else all();
})();
