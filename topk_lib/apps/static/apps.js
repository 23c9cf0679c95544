// What the three pages share: asking, saying what went wrong, and the way to the other pages.
const one = (selector, root = document) => root.querySelector(selector);
const percent = (share) => `${Number((100 * share).toFixed(share < 0.1 ? 1 : 0))}%`;
const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

function element(tag, text, name) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer: is it still running?");
  }
  const told = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(told.detail || `the server says ${response.status}`);
  return told;
}

// Runs what a form asks for, once at a time, and shows what went wrong. No button is disabled meanwhile: one
// that has the focus would lose it.
async function attempt(work, form) {
  if (form?.ariaBusy === "true") return;
  const problem = one("#problem");
  problem.hidden = true;
  if (form) {
    form.ariaBusy = "true";
    form.after(problem);  // where one is looking
  }
  try {
    await work();
  } catch (error) {
    problem.textContent = error.message;
    problem.hidden = false;
  } finally {
    if (form) form.ariaBusy = null;
  }
}

function onSubmit(form, work) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(() => work(new FormData(form)), form);
  });
}

attempt(async () => {
  const names = { support: "Support desk", monitor: "Opinion monitor", recommend: "Recommender" };
  const health = await ask("/health");
  for (const app of health.apps) {
    const link = element("a", names[app]);
    link.href = `/${app}`;
    if (app === document.body.dataset.app) link.setAttribute("aria-current", "page");
    one("nav").append(link);
  }
  const kept = one("#kept");
  if (kept) kept.textContent = health.keeps_texts
    ? "This desk was told to keep what is asked and answered."
    : "What you ask is not kept, only when, how sure the desk was, and whether it answered. What you teach is kept.";
});
