// Speaks with the page that embeds this one: with the vendor's web SDK when the URL says sdk=true, and with
// the message that native apps listen to in any case.

import { ANIMATIONS, CATEGORIES } from "/page/editor.js";
import { assetPreview, avatarPreview } from "/page/figure.js";

const THEIRS = "v1.avaturn-sdk";
const OURS = "v1.avaturn-sdk-server";

export class Sdk {
  constructor(editor, exportAvatar) {
    Object.assign(this, { editor, exportAvatar, asked: new Map() });
    this.enabled = new URLSearchParams(location.search).get("sdk") === "true" && window.parent !== window;
    this.withoutUi = this.enabled && new URLSearchParams(location.search).get("noui") === "true";
    if (!this.enabled) return;
    window.addEventListener("message", (message) => this.receive(message));
    this.confirmed = new Promise((resolve) => { this.confirm = resolve; });
    this.handshake();
  }

  post(message) {
    window.parent.postMessage({ source: OURS, date: Date.now(), isOk: true, ...message }, "*");
  }

  handshake() {
    this.post({ type: "RESPONSE", eventName: "sdk_handshake", key: "sdk_handshake", data: { advancedFeatures: true } });
  }

  tell(name, data) {
    if (this.enabled) this.post({ type: "MESSAGE", eventName: "callback_event", key: name, data });
  }

  tellError(type, message) {
    if (this.enabled) this.post({ type: "MESSAGE", eventName: "report_error", key: `report_error${Date.now()}`, data: { type, message } });
  }

  tellExported(result) {
    this.tell("export", result);
    const message = { source: "avaturn", eventName: "v2.avatar.exported", data: result };
    if (window.parent !== window) window.parent.postMessage(message, "*");
    window.ReactNativeWebView?.postMessage(JSON.stringify(message));
  }

  // The assets that the embedding page wants a new avatar to wear, if it said so to the SDK.
  async defaults() {
    if (!this.enabled) return null;
    await this.confirmed;
    const key = `ask_for_defaults${Date.now()}`;
    const answer = new Promise((resolve) => this.asked.set(key, resolve));
    this.post({ type: "MESSAGE", eventName: "ask_for_defaults", key });
    return answer;
  }

  async receive({ source, data: message }) {
    if (source !== window.parent || message?.source !== THEIRS) return;
    if (message.type === "RESPONSE") {
      this.asked.get(message.key)?.(message.data);
      this.asked.delete(message.key);
    } else if (message.eventName === "sdk_handshake") {
      this.handshake();
    } else if (message.eventName === "sdk_handshake_confirmation") {
      this.confirm();
    } else {
      await this.answer(message);
    }
  }

  async answer({ eventName, key, data }) {
    let reply;
    try {
      if (!(eventName in this.questions)) throw new Error(`FakeAvaturn does not know ${eventName}`);
      if (!this.editor.loaded && !/^(get_.*_list|set_.*_list|get_avatar_id)$/.test(eventName)) {
        throw new Error("the avatar is not loaded yet");
      }
      reply = { isOk: true, data: (await this.questions[eventName](data)) ?? null };
    } catch (error) {
      reply = { isOk: false, data: error.message };
    }
    this.post({ type: "RESPONSE", eventName, key, ...reply });
  }

  // What does not exist changes nothing and is reported, as the SDK's own documentation describes it.
  orReport(known, what) {
    if (!known) this.tellError("scene_error", `there is no ${what}`);
  }

  get questions() {
    const { editor } = this;
    const preview = (body) => avatarPreview({ ...editor.customization, body: body.id }, editor.assets, editor.bodies);
    return {
      get_assets_list: () => editor.availableAssets().map((asset) => (
        { id: asset.id, alias: asset.alias, category: CATEGORIES[asset.slot], preview: assetPreview(asset) }
      )),
      set_assets_list: (ids) => { editor.shownAssets = ids; editor.changed(); },
      get_active_assets: () => Object.fromEntries(
        Object.entries(CATEGORIES).map(([slot, category]) => [category, editor.assetIn(slot)]),
      ),
      set_active_asset: (id) => this.orReport(editor.setAsset(id), `asset ${id}`),
      get_bodies_list: () => editor.availableBodies().map((body) => ({ ...body, preview: preview(body) })),
      set_bodies_list: (ids) => { editor.shownBodies = ids; editor.changed(); },
      get_avatar_info: () => ({ id: editor.body().id }),
      set_active_body: (id) => this.orReport(editor.setBody(id), `body ${id}`),
      get_animation_list: () => ANIMATIONS.map((id) => ({ id, alias: id, preview: preview(editor.body()) })),
      get_animation_info: () => ({ id: editor.animation }),
      set_active_animation: (id) => {
        if (ANIMATIONS.includes(id)) editor.animation = id;
        this.orReport(ANIMATIONS.includes(id), `animation ${id}`);
      },
      export_avatar: () => this.exportAvatar(),
      get_avatar_id: () => ({ id: editor.avatarId }),
      set_hair_color: (color) => editor.setColor("hair_and_headwear", color),
      get_hair_color: () => editor.color("hair_and_headwear"),
      // The API wants eight digits for eyewear; the SDK gives six, or a word.
      set_eyewear_color: (color) => editor.setColor("eyewear", color === "transparent" ? "#00000000" : `${color}ff`.slice(0, 9)),
      get_eyewear_color: () => editor.color("eyewear"),
      set_eye_color: (color) => { editor.eyes = color; },
      get_eye_color: () => editor.eyes,
      set_body_proportions: ({ key, value }) => editor.setProportion(key, value),
      get_body_proportions: () => ({ head: 0, arms: 0, chest: 0, ...editor.customization.bone_scale }),
      set_skin_tone: (value) => editor.setSkinTone(value),
      get_skin_tone: () => editor.customization.skin_tone_correction ?? 0,
    };
  }
}
