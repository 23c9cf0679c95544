attempt(async () => {
  const told = await ask("/monitor/about");
  one("#about").textContent = `Learned from ${told.n_train} sentences (${told.source}); right on ${percent(told.accuracy)} of ${told.n_test} others. ` +
    `Those are replayed over ${told.days} days. The set has no dates: the replay gives it some, and the surge is planted.`;
});

const H = 300, LEFT = 46, RIGHT = 12, TOP = 32, BOTTOM = 34;
let last = null;

function draw(told) {
  const svg = one("#watched svg"), days = told.lines[0].length;
  const W = Math.max(280, svg.clientWidth);  // drawn as wide as it is shown, so that letters keep their size
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  const least = Math.min(0, ...told.lines.flat());
  // What matters is who crosses the threshold: a line that climbs far beyond it leaves the picture.
  const most = Math.min(1.12 * Math.max(told.threshold, ...told.lines.flat()), 2.5 * told.threshold);
  const x = (day) => LEFT + ((W - LEFT - RIGHT) * day) / Math.max(1, days - 1);
  const y = (value) => H - BOTTOM - ((H - TOP - BOTTOM) * (value - least)) / (most - least);
  const add = (tag, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    svg.append(made);
  };
  svg.replaceChildren();
  if (told.surge) {
    const from = x(told.surge.day);
    add("rect", { class: "planted", x: from, y: TOP, width: W - RIGHT - from, height: H - TOP - BOTTOM });
    add("text", { x: W - RIGHT, y: TOP - 6, "text-anchor": "end" }, "surge planted");
  }
  add("path", { class: "axis", fill: "none", d: `M${LEFT} ${TOP}V${H - BOTTOM}H${W - RIGHT}` });
  const step = W < 500 ? 10 : 5;
  for (let day = 0; day < days; day += step) add("text", { x: x(day), y: H - 16, "text-anchor": "middle" }, day);
  add("text", { x: W / 2, y: H - 2, "text-anchor": "middle" }, "day");
  add("text", { x: LEFT, y: TOP - 20 }, told.log ? "evidence, log scale" : "evidence");
  told.lines.forEach((line, topic) => add("polyline", {
    class: told.surge && topic === told.surge.topic ? "topic surge" : "topic",
    points: line.map((value, day) => `${x(day).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
  }));
  add("path", { class: "threshold", d: `M${LEFT} ${y(told.threshold)}H${W - RIGHT}` });
  add("text", { x: LEFT + 4, y: y(told.threshold) - 5 }, "rings from here on");
  const scale = told.log ? (value) => Math.round(10 ** value).toLocaleString("en") : (value) => value.toFixed(1);
  for (const value of [0, told.threshold]) add("text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, scale(value));
  for (const alarm of told.alarms) add("circle", { class: "alarm", r: 6, cx: x(alarm.day), cy: y(told.threshold) });
}

const words = (told, topic) => told.words[topic].join(", ");

onSubmit(one("#replay"), async (form) => {
  const told = await ask("/monitor/replay", {
    seed: Number(form.get("seed")), rule: form.get("rule"), surge: form.has("surge"),
    false_alarm: Number(form.get("false_alarm")),
  });
  one("#caption").textContent = `${told.sentences} sentences. ` + (told.surge
    ? `A surge on the topic “${words(told, told.surge.topic)}” is planted from day ${told.surge.day} on (blue).`
    : "Nothing is planted.");
  one("#watched").hidden = false;
  draw(told);
  last = told;
  one("#alarms").replaceChildren(...told.alarms.map((alarm) => {
    const card = element("section", "", "card");
    const right = told.surge && alarm.topic === told.surge.topic && !alarm.early;
    const kind = right ? `rang ${count(alarm.day - told.surge.day, "day")} after the surge began` : "false alarm";
    card.append(element("span", kind, right ? "badge" : "badge handed"));
    card.append(element("p", `Day ${alarm.day}, topic “${words(told, alarm.topic)}”. The most negative sentences of late:`));
    const list = element("ol", "");
    list.append(...alarm.evidence.map((row) => element("li", `${row.text} (${percent(row.probability)})`)));
    card.append(list);
    return card;
  }), ...(told.alarms.length ? [] : [element("p", "Nothing rang.", "card")]));
});

addEventListener("resize", () => { if (last) draw(last); });

onSubmit(one("#read"), async (form) => {
  const told = await ask("/monitor/read", { sentence: form.get("sentence") });
  const opinion = one("#opinion");
  opinion.replaceChildren(element("span", told.polarity, "badge"),
    element("span", ` ${percent(told.probability)}; topic “${told.words.join(", ")}”`));
  opinion.hidden = false;
});
