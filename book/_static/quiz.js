// Questions can be answered: choices get controls, what was chosen is explained, first tries are counted.
// Without this script each explanation is one click away, and nothing on the page seems to be a control.
(() => {
  const questions = [...document.querySelectorAll("fieldset.quiz")];
  const score = make("p", { className: "quiz-score" });
  let answered = 0, atOnce = 0;

  function make(tag, set) { return Object.assign(document.createElement(tag), set); }

  function count() {
    score.textContent = `Answered: ${answered} of ${questions.length}. Right at the first try: ${atOnce}.`;
  }

  // 0.5, 0,5, 1/2, 50 %, 2,112
  function numberIn(text) {
    const bare = text.replace(/[\s\u2019']/g, "").replace("\u2212", "-");
    if (/^-?\d{1,3}(,\d{3})+$/.test(bare)) return Number(bare.replaceAll(",", ""));
    const found = /^(-?[\d.,]+)(?:\/([\d.,]+))?(%?)$/.exec(bare);
    if (!found) return NaN;
    const [above, below] = [found[1], found[2] || "1"].map((part) => Number(part.replace(",", ".")));
    return above / below / (found[3] ? 100 : 1);
  }

  function matches(item, value) {
    return "number" in item.dataset
      && Math.abs(value - Number(item.dataset.number)) <= Number(item.dataset.within) + 1e-9;
  }

  // For each kind: its controls, and what has been answered (what it lacks, or what was chosen and how well).
  const kinds = {
    one: (items, name) => choices(items, name, "radio"),
    several: (items, name) => choices(items, name, "checkbox"),

    number(items, name, question, check) {
      const details = question.querySelector(".quiz-number");
      const label = make("label", { className: "quiz-typed", textContent: "Your answer " });
      const input = make("input", { name, inputMode: "decimal", autocomplete: "off", size: 10 });
      input.addEventListener("keydown", (event) => { if (event.key === "Enter") check(); });
      label.append(input);
      details.before(label);
      details.replaceWith(details.querySelector("ul"));
      for (const item of items) item.querySelector(".quiz-choice").remove();  // it has just been typed
      return () => {
        const value = numberIn(input.value);
        if (Number.isNaN(value)) return { lacks: "Type a number first, such as 0.5 or 1/2." };
        const chosen = items.find((item) => matches(item, value)) || items.find((item) => !("number" in item.dataset));
        return { chosen: [chosen], right: chosen.dataset.mark === "x", hint: "" };
      };
    },

    order(items, name) {
      const places = items.map((_, i) => i + 1);
      const selects = items.map((item) => {
        const select = make("select", { name });
        select.append(...["?", ...places].map((place) => make("option", { textContent: place, value: place })));
        label(item, select);
        return select;
      });
      return () => {
        const given = selects.map((select) => select.value);
        if (new Set(given).size < items.length || given.includes("?"))
          return { lacks: "Give each line a place of its own first." };
        const off = items.filter((item, i) => item.dataset.mark !== given[i]);
        return {
          chosen: off.length ? off.slice(0, 1) : items, right: !off.length,
          hint: `${items.length - off.length} of ${items.length} lines stand in their place. `,
        };
      };
    },
  };

  function label(item, control) {
    const box = make("label");
    const words = item.querySelector(".quiz-choice");
    words.before(box);
    box.append(control, words);
  }

  function choices(items, name, type) {
    const inputs = items.map((item) => {
      const input = make("input", { type, name });
      label(item, input);
      return input;
    });
    return () => {
      const chosen = items.filter((_, i) => inputs[i].checked);
      if (!chosen.length) return { lacks: "Choose an answer first." };
      const good = chosen.filter((item) => item.dataset.mark === "x").length;
      const all = items.filter((item) => item.dataset.mark === "x").length;
      const hint = type === "radio" ? "" : `Of the right ones you have ${good} of ${all}, and ${chosen.length - good} wrong. `;
      return { chosen, right: good === all && good === chosen.length, hint };
    };
  }

  questions.forEach((question, q) => {
    const items = [...question.querySelectorAll("li[data-mark]")];
    const button = make("button", { type: "button", className: "quiz-check", textContent: "Check" });
    const said = make("p", { className: "quiz-said" });
    said.setAttribute("role", "status");
    let tried = false;
    const number = question.dataset.kind === "number";
    const answer = kinds[question.dataset.kind](items, `question-${q + 1}`, question, check);
    button.addEventListener("click", check);
    question.append(button, said);
    show([], false);

    function show(chosen, right) {
      question.classList.toggle("quiz-solved", right);
      for (const item of items) {
        const seen = chosen.includes(item), why = item.querySelector(".quiz-why");
        item.classList.toggle("quiz-seen", seen);
        if (number) item.hidden = !seen;
        else [why.hidden, why.open] = [!seen && !right, seen];  // the others' reasons, once it is solved
      }
    }

    function check() {
      const { lacks, chosen, right, hint } = answer();
      if (lacks) { said.textContent = lacks; return; }
      if (!tried) { tried = true; answered += 1; atOnce += right; count(); }
      show(chosen, right);
      said.textContent = right ? "Right." : `Not yet. ${hint}The explanation stands ${number ? "above" : "below what you chose"}; try again.`;
    }
  });

  count();
  questions.at(-1)?.after(score);
})();
