// The stages that a person clicks through: dashboard or photos, progress, editor, done.

import { CATEGORIES, Editor } from "/page/editor.js";
import { assetPreview, avatarPreview, figure } from "/page/figure.js";
import { photoStage } from "/page/photos.js";
import { Sdk } from "/page/sdk.js";

const stage = document.querySelector("#stage");
const token = new URLSearchParams(location.search).get("token");
const TITLES = { clothing: "Clothes", hair_and_headwear: "Hair and headwear", eyewear: "Glasses", footwear: "Shoes" };

async function ask(what, body) {
  const headers = body === undefined || body instanceof FormData ? {} : { "Content-Type": "application/json" };
  const content = body === undefined || body instanceof FormData ? body : JSON.stringify(body);
  const url = `${location.pathname}/${what}?token=${encodeURIComponent(token)}`;
  const response = await fetch(url, { method: body === undefined ? "GET" : "POST", headers, body: content });
  const answer = await response.json();
  if (!response.ok) throw new Error(typeof answer.detail === "string" ? answer.detail : JSON.stringify(answer.detail));
  return answer;
}

function show(html) {
  stage.innerHTML = html;
  return (selector) => stage.querySelector(selector);
}

const state = await ask("state");
const editor = new Editor(state);
const sdk = new Sdk(editor, exportAvatar);

function failed(message) {
  sdk.tellError("avatar_load_error", message);
  const $ = show(`<div class="centre"><h1>That did not work</h1><p id="why"></p><button class="main">Try again</button></div>`);
  $("#why").textContent = message;
  $("button").onclick = start;
}

function dashboard(avatars) {
  const $ = show(`<h1>Your avatars</h1><p>Choose one to edit, or make a new one.</p><div class="cards" id="avatars"></div>
    <div class="row end"><button class="main" id="new">New avatar</button></div>`);
  for (const avatar of avatars) {
    const card = document.createElement("button");
    card.className = "card large";
    card.dataset.id = avatar.id;
    card.innerHTML = `<img alt="" src="${avatarPreview(avatar.customization, state.assets, state.bodies)}">${avatar.status}`;
    card.onclick = () => edit(avatar.id);
    $("#avatars").append(card);
  }
  $("#new").onclick = photos;
}

function photos() {
  photoStage(show, async (form) => {
    const { avatar_id } = await ask("photos", form);
    await edit(avatar_id);
  });
}

async function edit(avatarId) {
  show('<div class="centre"><h1>Your avatar is being made</h1><p>This takes a moment.</p><div class="bar"></div></div>');
  try {
    let avatar = await ask("edit", { avatar_id: avatarId });
    while (["pending", "processing"].includes(avatar.status)) {
      await new Promise((resolve) => setTimeout(resolve, 150));
      avatar = await ask("edit", { avatar_id: avatarId });
    }
    if (avatar.status === "failed") throw new Error("No avatar could be made of these photos.");
    editor.load(avatar);
    const defaults = await sdk.defaults();
    if (defaults && (avatar.untouched || defaults.overrideSaved)) defaults.assets.forEach((id) => editor.setAsset(id));
    editorStage();
    sdk.tell("load");
  } catch (error) {
    failed(error.message);
  }
}

function editorStage() {
  const $ = show(`<div class="editor ${sdk.withoutUi ? "alone" : ""}"><div class="figure"></div>
    ${sdk.withoutUi ? "" : '<div class="panel"></div>'}</div>`);
  const draw = () => {
    $(".figure").innerHTML = figure(editor.customization, editor.assets, editor.bodies);
    if ($(".panel")) panel($(".panel"));
  };
  editor.addEventListener("change", () => { if ($(".figure")) draw(); });
  draw();
}

function panel(place) {
  // Rebuilt at each change, so what has the focus is found again by its name.
  const focused = document.activeElement?.dataset?.name;
  place.innerHTML = "";
  section(place, "Body", editor.availableBodies().map((body) => card({
    name: body.id, title: body.id.replace("_", " "), on: body.id === editor.body().id,
    image: avatarPreview({ ...editor.customization, body: body.id }, editor.assets, editor.bodies),
    click: () => { editor.setBody(body.id); sdk.tell("bodySet", body.id); },
  })));
  for (const slot of Object.keys(CATEGORIES)) {
    const assets = editor.availableAssets().filter((asset) => asset.slot === slot);
    section(place, TITLES[slot], assets.map((asset) => card({
      name: asset.alias, title: asset.alias.replace("_", " "), on: asset.id === editor.assetIn(slot),
      image: assetPreview(asset),
      click: () => {
        // A second click takes it off; clothes stay on.
        if (asset.id === editor.assetIn(slot) && slot !== "clothing") editor.clearSlot(slot);
        else { editor.setAsset(asset.id); sdk.tell("assetSet", asset.id); }
      },
    })));
  }
  place.append(sliders());
  const next = document.createElement("div");
  next.className = "row end";
  next.innerHTML = '<button class="main" id="next" data-name="next">Next</button>';
  next.firstChild.onclick = (event) => { event.target.disabled = true; exportAvatar().catch((error) => failed(error.message)); };
  place.append(next);
  if (focused) place.querySelector(`[data-name="${focused}"]`)?.focus();
}

function section(place, title, cards) {
  if (!cards.length) return;
  const heading = document.createElement("h2");
  heading.textContent = title;
  const row = document.createElement("div");
  row.className = "cards";
  row.append(...cards);
  place.append(heading, row);
}

function card({ name, title, image, on, click }) {
  const button = document.createElement("button");
  button.className = "card";
  button.dataset.name = name;
  button.setAttribute("aria-pressed", on);
  button.innerHTML = `<img alt="" src="${image}">`;
  button.append(title);
  button.onclick = click;
  return button;
}

function sliders() {
  const place = document.createElement("div");
  const scale = { head: 0, arms: 0, chest: 0, ...editor.customization.bone_scale };
  const rows = [
    ...["head", "arms", "chest"].map((key) => [key, scale[key], 100, (value) => editor.setProportion(key, value)]),
    ["skin tone", editor.customization.skin_tone_correction ?? 0, 50, (value) => editor.setSkinTone(value)],
  ];
  place.innerHTML = `<h2>Proportions</h2><div class="sliders">${rows.map(([name, value, limit]) => `
    <label for="s-${name}">${name}</label><input id="s-${name}" data-name="s-${name}" type="range"
    min="${-limit}" max="${limit}" value="${value}"><output>${value}</output>`).join("")}</div>`;
  place.querySelectorAll("input").forEach((input, at) => { input.onchange = () => rows[at][3](Number(input.value)); });
  return place;
}

async function exportAvatar() {
  const result = await ask("finish", { avatar_id: editor.avatarId, customization: editor.customization });
  sdk.tellExported(result);
  if (!sdk.withoutUi) {
    const $ = show(`<div class="centre"><h1>Your avatar is ready</h1><p>You can close this page.</p>
      <div class="row" style="justify-content:center"><button id="again">Go on editing</button></div></div>`);
    $("#again").onclick = () => editorStage();
  }
  return result;
}

async function start() {
  const { type, avatars, can_create: canCreate } = await ask("state");
  if (!canCreate) await edit(avatars[0]?.id ?? null);
  else if (type === "create" || !avatars.length) photos();
  else dashboard(avatars);
}

await start();
