let asked = "";
let threshold = null;

attempt(async () => {
  const told = await ask("/support/about");
  threshold = told.threshold;
  const read = told.tokens ? `It reads ${told.tokens} tokens of each.` : "It reads all of each.";
  one("#about").textContent = `Learned from ${told.examples} questions of ${told.intents} kinds (${told.source}). ${read} ` +
    `On held-out questions at most ${percent(told.wrong)} of its answers were wrong; what it is less sure of goes to a person.`;
});

async function put(question) {
  const told = await ask("/support/ask", { question });
  asked = question;
  const reply = one("#reply"), badge = one(".badge", reply);
  badge.textContent = told.answered ? "answered" : "handed to a person";
  badge.classList.toggle("handed", !told.answered);
  one(".guess", reply).textContent = `best guess: ${told.intent.replaceAll("_", " ")}; ${Math.round(told.milliseconds)} ms`;
  one(".answer", reply).textContent = told.answer;
  const at = threshold === null ? 1 : threshold, sure = Math.max(0, Math.min(1, told.confidence));
  const says = `confidence ${told.confidence.toFixed(2)}, ` +
    (threshold === null ? "and no confidence is enough" : `answers from ${at.toFixed(2)} on`);
  one(".meter", reply).setAttribute("aria-label", says);
  one(".meter i", reply).style.width = percent(sure);
  one(".meter b", reply).style.left = percent(Math.min(0.995, at));
  one(".sure", reply).textContent = says;
  one(".near", reply).replaceChildren(...told.near.map((near) =>
    element("li", `${near.question} (${near.intent.replaceAll("_", " ")}, cosine ${near.cosine.toFixed(2)})`)));
  reply.hidden = false;
  one("#teach").hidden = told.answered;
}

onSubmit(one("#ask"), (form) => put(form.get("question")));
onSubmit(one("#teach"), async (form) => {
  await ask("/support/teach", { question: asked, answer: form.get("answer") });
  one("#teach").reset();
  await put(asked);
  one("#ask textarea").focus();  // the form that had the focus is gone
});
for (const button of document.querySelectorAll(".try")) {
  button.addEventListener("click", () => {
    one("#ask textarea").value = button.textContent;
    one("#ask").requestSubmit();
  });
}
