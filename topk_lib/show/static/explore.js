// Wakes the controls of every explorer on the page; its first frame is there without this.
(function () {
  function wake(root) {
    if (root.dataset.awake) return;
    root.dataset.awake = "1";
    const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
    const inputs = [...root.querySelectorAll("input, select")];
    const view = root.querySelector(".topk-frame");
    const play = root.querySelector("button");
    let timer = 0;

    function draw() {
      let at = 0;
      inputs.forEach((input, i) => {
        const labels = data.labels[i];
        at = at * labels.length + Number(input.value);
        if (input.type === "range") {
          input.setAttribute("aria-valuetext", labels[input.value]);
          input.closest(".topk-control").querySelector("output").textContent = labels[input.value];
        }
      });
      const frame = data.frames[data.index[at]];
      if (data.alts.length) {
        const image = view.querySelector("img");
        image.src = frame;
        image.alt = data.alts[at];
      } else {
        view.innerHTML = frame;
      }
      root.dataset.frame = at;
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      if (play) play.textContent = "Play";
    }

    inputs.forEach((input) => input.addEventListener("input", () => { stop(); draw(); }));
    if (play) {
      const first = inputs[0];
      play.addEventListener("click", () => {
        if (timer) return stop();
        play.textContent = "Stop";
        if (Number(first.value) === Number(first.max)) { first.value = 0; draw(); }
        timer = setInterval(() => {
          first.value = Number(first.value) + 1;
          draw();
          if (Number(first.value) === Number(first.max)) stop();
        }, 700);
      });
    }
    root.querySelector(".topk-controls").hidden = false;
  }

  function all() { document.querySelectorAll(".topk-explore").forEach(wake); }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all);
  else all();
})();
