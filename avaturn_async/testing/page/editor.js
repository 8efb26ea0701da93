// The avatar that is being edited. The page's buttons and the SDK change it through the same functions.

import { defaultColor } from "/page/figure.js";

export const CATEGORIES = {
  clothing: "clothing", hair_and_headwear: "hairAndHeadwear", eyewear: "eyewear", footwear: "footwear",
};
export const ANIMATIONS = ["idle", "wave"];

export class Editor extends EventTarget {
  constructor({ assets, bodies }) {
    super();
    Object.assign(this, { assets, bodies, shownAssets: null, shownBodies: null });
    Object.assign(this, { avatarId: null, customization: null, eyes: "original", animation: ANIMATIONS[0] });
  }

  get loaded() { return this.customization !== null; }

  load(avatar) {
    this.avatarId = avatar.id;
    this.customization = structuredClone(avatar.customization);
    this.changed();
  }

  changed() { this.dispatchEvent(new Event("change")); }

  availableAssets() { return this.assets.filter(({ id }) => !this.shownAssets || this.shownAssets.includes(id)); }
  availableBodies() { return this.bodies.filter(({ id }) => !this.shownBodies || this.shownBodies.includes(id)); }
  body() { return this.bodies.find(({ id }) => id === this.customization?.body) ?? this.bodies[0]; }
  assetIn(slot) { return this.customization?.assets?.[slot]?.id ?? ""; }

  // An id that there is not changes nothing; whether there is one is the answer.
  setAsset(id) {
    const asset = this.assets.find((candidate) => candidate.id === id);
    if (asset) {
      const color = defaultColor(asset);
      const worn = color ? { id, color } : { id };
      this.customization.assets = { ...this.customization.assets, [asset.slot]: worn };
      this.changed();
    }
    return Boolean(asset);
  }

  clearSlot(slot) {
    delete this.customization.assets?.[slot];
    this.changed();
  }

  setBody(id) {
    const known = this.bodies.some((body) => body.id === id);
    if (known) {
      this.customization.body = id;
      this.changed();
    }
    return known;
  }

  setProportion(key, value) {
    if (!["head", "arms", "chest"].includes(key) || !Number.isFinite(value)) throw new Error(`no proportion ${key}`);
    this.customization.bone_scale = { ...this.customization.bone_scale, [key]: value };
    this.changed();
  }

  setSkinTone(value) {
    if (!Number.isFinite(value)) throw new Error("a skin tone is a number");
    this.customization.skin_tone_correction = value;
    this.changed();
  }

  color(slot) { return this.customization?.assets?.[slot]?.color ?? null; }

  setColor(slot, color) {
    if (!/^#([0-9a-f]{6}|[0-9a-f]{8})$/i.test(color)) throw new Error("a colour is #rrggbb");
    if (!this.assetIn(slot)) throw new Error(`nothing in ${slot}`);
    this.customization.assets[slot].color = color;
    this.changed();
  }
}
