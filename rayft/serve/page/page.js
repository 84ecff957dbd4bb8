"use strict";

const at = (id) => document.getElementById(id);
const state = { models: [], picture: null, name: "", pictureUrl: "", heatUrl: "", asked: 0, heated: 0 };

class Refused extends Error {}

/** Ask the endpoint; a reply that is no success becomes an error in words. */
async function ask(path, options = {}) {
  const key = at("key").value.trim();
  if (key && !/^[\x21-\x7e]+$/.test(key)) throw new Refused("The API key has characters that no key has. Copy it anew.");
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  // With a key of the page's own, the browser is not to ask for one, nor to add what it knows.
  const credentials = key ? "omit" : "same-origin";
  let reply;
  try {
    reply = await fetch(path, { ...options, headers, credentials, cache: "no-store" });
  } catch {
    throw new Refused("The endpoint does not answer. Is it running, and is this machine connected to it?");
  }
  if (reply.ok) return reply;
  if (reply.status === 401) at("keybox").open = true;
  let words = "";
  try {
    words = (await reply.json()).error;
  } catch {
    // Something in between answered in its own way.
  }
  const wait = reply.headers.get("retry-after");
  throw new Refused([words || `The endpoint answered with status ${reply.status}.`, wait ? `Try again in ${wait} s.` : ""].join(" "));
}

/** Run a step; whatever goes wrong is told in words. */
async function telling(step) {
  at("problem").textContent = "";
  try {
    await step();
  } catch (error) {
    if (!(error instanceof Refused)) console.error(error);
    at("status").textContent = "";
    at("problem").textContent = error instanceof Refused ? error.message : `This page failed: ${error.message}`;
  }
}

function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

async function showModels() {
  const before = chosen();
  state.models = (await (await ask("/v1/models")).json()).models;
  const select = at("model");
  select.replaceChildren(...state.models.map((model, index) => make("option", `${model.name}, version ${model.version}`, { value: index })));
  const same = state.models.findIndex((model) => before && model.name === before.name);
  if (same >= 0) select.selectedIndex = same;
  at("models").replaceChildren(...state.models.map(card));
  markChosen();
  if (!state.models.length) throw new Refused("No model is served to this key.");
}

const chosen = () => state.models[at("model").value];

function card(model) {
  const item = make("li");
  item.append(make("h3", model.name));
  const metrics = Object.entries(model.metrics).sort(([a], [b]) => a.localeCompare(b));
  const facts = [["version", model.version], ["aliases", model.aliases.join(", ") || "none"], ...metrics];
  const list = make("dl");
  for (const [name, value] of facts) {
    const row = make("div");
    row.append(make("dt", name), make("dd", typeof value === "number" ? String(Number(value.toPrecision(4))) : value));
    list.append(row);
  }
  item.append(list);
  return item;
}

function markChosen() {
  [...at("models").children].forEach((item, index) => item.setAttribute("aria-current", index === Number(at("model").value)));
}

/** Take the first picture of what was chosen, dropped or pasted. */
function take(files, from) {
  const picture = [...files].find((file) => file.type.startsWith("image/"));
  if (!picture) throw new Refused(`There is no picture in what you ${from}. JPEG, PNG, GIF, BMP and WebP are read.`);
  state.picture = picture;
  state.name = picture.name || "picture";
  state.pictureUrl = fresh(state.pictureUrl, picture);
  return classify();
}

function fresh(old, blob) {
  if (old) URL.revokeObjectURL(old);
  return URL.createObjectURL(blob);
}

function target(verb, query) {
  return `/v1/models/${encodeURIComponent(chosen().name)}:${verb}?${new URLSearchParams(query)}`;
}

const sent = () => ({ method: "POST", body: state.picture, headers: { "Content-Type": state.picture.type } });

async function classify() {
  if (!state.picture) throw new Refused("Choose a picture first.");
  const mine = ++state.asked;
  at("answer").hidden = true;
  at("status").textContent = "Asking ...";
  at("go").setAttribute("aria-disabled", "true");
  try {
    // A picture may come before the list does, or after the list could not be had.
    if (!state.models.length) await showModels();
    if (mine !== state.asked) return;
    const begun = performance.now();
    const reply = await ask(target("predict", { top: at("top").value }), sent());
    const [row] = (await reply.json()).predictions;
    const elapsed = performance.now() - begun;
    // An answer that comes after a later question is of no use.
    if (mine !== state.asked) return;
    const model = { name: chosen().name, version: reply.headers.get("x-model-version") };
    showAnswer(row, model, elapsed, reply.headers.get("server-timing"));
    if (model.version !== chosen().version) await showModels();
  } finally {
    if (mine === state.asked) at("go").removeAttribute("aria-disabled");
  }
}

function showAnswer(row, model, elapsed, timing) {
  showPicture();
  const present = new Set(row.labels || []);
  at("bars").replaceChildren(...row.top.map((entry) => bar(entry, present.has(entry.label))));
  const parts = [...(timing || "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, part, value]) => `${part} ${round(value)} ms`);
  at("latency").textContent = `Round trip ${round(elapsed)} ms${parts.length ? `; in the endpoint: ${parts.join(", ")}` : ""}.`;
  at("answer").hidden = false;
  const said = row.labels ? row.labels.join(", ") || "no class above 50 %" : `${row.label}, ${percent(row.probability)}`;
  // On a phone it lies below what is seen.
  if (at("answer").getBoundingClientRect().top > innerHeight * 0.6) at("status").scrollIntoView();
  at("status").textContent = `${model.name} version ${model.version} says: ${said}.`;
}

const round = (ms) => (ms < 10 ? Number(ms).toFixed(1) : Math.round(ms));
const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(share * 100).toFixed(1)} %`);

function bar(entry, present) {
  const button = make("button", "", { type: "button", "aria-pressed": "false" });
  button.append(make("span", entry.label + (present ? " ✓" : "")), make("span", percent(entry.probability), { class: "share" }));
  button.style.setProperty("--share", `${entry.probability * 100}%`);
  button.addEventListener("click", () => telling(() => explain(entry.label, button)));
  const item = make("li");
  item.append(button);
  return item;
}

async function explain(label, button) {
  const mine = ++state.heated;
  const question = state.asked;
  at("status").textContent = "Drawing the heat map ...";
  const begun = performance.now();
  const reply = await ask(target("explain", { label }), sent());
  const map = await reply.blob();
  if (mine !== state.heated || question !== state.asked) return;
  state.heatUrl = fresh(state.heatUrl, map);
  press(button);
  at("picture").src = state.heatUrl;
  at("picture").alt = `Heat map over ${state.name}: red where it speaks most for ${label}`;
  at("caption").textContent = `What speaks for ${label}: red most, blue least.`;
  at("plain").hidden = false;
  at("status").textContent = `Heat map for ${label}, after ${round(performance.now() - begun)} ms.`;
}

function press(button) {
  for (const each of at("bars").querySelectorAll("button")) each.setAttribute("aria-pressed", each === button);
}

function showPicture() {
  state.heated += 1;
  press(null);
  at("picture").src = state.pictureUrl;
  at("picture").alt = `The picture ${state.name}`;
  at("caption").textContent = state.name;
  at("plain").hidden = true;
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  telling(classify);
});
at("file").addEventListener("change", (event) => event.target.files.length && telling(() => take(event.target.files, "chose")));
at("model").addEventListener("change", () => {
  markChosen();
  if (state.picture) telling(classify);
});
at("key").addEventListener("change", () => telling(showModels));
at("plain").addEventListener("click", () => {
  const pressed = at("bars").querySelector('[aria-pressed="true"]');
  showPicture();
  if (pressed) pressed.focus();
});
document.addEventListener("paste", (event) => {
  // Text belongs into the field that has the focus.
  if (event.clipboardData.files.length || !event.target.matches("input")) {
    telling(() => take(event.clipboardData.files, "pasted"));
  }
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") telling(() => take(event.dataTransfer.files, "dropped"));
  });
}
telling(showModels);
