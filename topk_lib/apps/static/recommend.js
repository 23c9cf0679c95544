const rated = [];

attempt(async () => {
  const told = await ask("/recommend/about");
  one("#about").textContent = `${told.films} films (${told.source}). Name some that you know.`;
  await offer();
});

async function offer() {
  const told = await ask("/recommend/offer", { history: rated.map(({ film, stars }) => ({ film, stars })), k: 10 });
  one("#offers").replaceChildren(...told.offers.map((row) => {
    const item = element("li", row.title);
    if (row.because) item.append(element("span", ` because of ${row.because}`, "small"));
    return item;
  }));
}

function list() {
  one("#rated").replaceChildren(...rated.map((row) => {
    const item = element("li", `${row.film}: ${count(row.stars, "star")} `);
    const drop = element("button", "drop", "plain");
    drop.setAttribute("aria-label", `drop ${row.film}`);
    drop.addEventListener("click", () => {
      rated.splice(rated.indexOf(row), 1);
      list();
      one("#rate input").focus();  // the button that had the focus is gone
      attempt(offer);
    });
    item.append(drop);
    return item;
  }));
}

let last = 0;
one("#rate input").addEventListener("input", async (event) => {
  const mine = ++last;
  const told = await ask(`/recommend/films?q=${encodeURIComponent(event.target.value)}`).catch(() => ({ films: [] }));
  if (mine === last) one("#films").replaceChildren(...told.films.map((row) => {
    const option = element("option", "");
    option.value = row.title;
    return option;
  }));
});

onSubmit(one("#rate"), async (form) => {
  const row = { film: form.get("film"), stars: Number(form.get("stars")) };
  rated.push(row);
  try {
    await offer();
  } catch (error) {
    rated.splice(rated.indexOf(row), 1);
    throw error;
  }
  list();
  one("#rate").reset();
  one("#rate input").focus();
});
