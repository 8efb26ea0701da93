// Draws an avatar, or one asset, as SVG. The figure stands in a box of 200 by 400.

const SKIN = [222, 170, 135];
const CLOTHING = {
  t_shirt: { color: "#3f7ddb", sleeve: 42 },
  hoodie: { color: "#5a8f5c", sleeve: 104, extra: '<path d="M76 92q24 30 48 0l-6 22h-36z" fill="#4a7a4c"/>' },
  suit: {
    color: "#39405a", sleeve: 106,
    extra: '<path d="M88 92h24l-12 46z" fill="#fff"/><path d="M97 98h6l3 30-6 9-6-9z" fill="#b3304d"/>',
  },
};
const HAIR = {
  short_hair: (c) => `<path d="M66 58q-4-44 34-44t34 44q-8-24-34-24t-34 24z" fill="${c}"/>`,
  long_hair: (c) => `<path d="M62 112q-10-98 38-98t38 98l-13-4q5-58-25-70-30 12-25 70z" fill="${c}"/>`,
  cap: (c) => `<path d="M66 48q0-34 34-34t34 34zm62-6h30q4 8-4 8h-30z" fill="${c}"/>`,
};
const EYEWEAR = {
  round_glasses: (c) =>
    `<g fill="${c}" stroke="#333" stroke-width="2.5"><circle cx="87" cy="58" r="9"/><circle cx="113" cy="58" r="9"/></g>` +
    '<path d="M96 58h8" stroke="#333" stroke-width="2.5"/>',
  sunglasses: (c) =>
    `<path d="M74 51h24v9q-12 10-24 0zm28 0h24v9q-12 10-24 0z" fill="${c}"/>` +
    '<path d="M74 52h52" stroke="#222" stroke-width="3"/>',
};
const FOOTWEAR = {
  sneakers: '<path d="M68 370h28v18H56q0-10 12-18zm36 0h28q12 8 12 18h-40z" fill="#f2f2f2" stroke="#aab" stroke-width="2"/>',
  boots: '<path d="M70 338h26v50H56q0-10 14-18zm34 0h26v32q14 8 14 18h-40z" fill="#6b452b"/>',
};
const COLORS = { short_hair: "#3b2417", long_hair: "#3b2417", cap: "#b3304d", round_glasses: "#cfe3ff55", sunglasses: "#222222cc" };
const BOX = { clothing: "40 80 120 270", hair_and_headwear: "50 4 116 112", eyewear: "66 38 68 40", footwear: "50 330 100 62" };

const svg = (box, content) => `<svg xmlns="http://www.w3.org/2000/svg" viewBox="${box}" role="img" aria-label="avatar">${content}</svg>`;
const dataUrl = (text) => `data:image/svg+xml,${encodeURIComponent(text)}`;

function layer(asset, color) {
  const known = { hair_and_headwear: HAIR, eyewear: EYEWEAR }[asset.slot];
  if (known) return known[asset.alias](color ?? COLORS[asset.alias]);
  return asset.slot === "footwear" ? FOOTWEAR[asset.alias] : clothes(asset.alias, 0, 1);
}

function clothes(alias, arms, chest) {
  const { color, sleeve, extra = "" } = CLOTHING[alias];
  const length = sleeve * (1 + arms / 400);
  return (
    `<g transform="translate(100 0) scale(${chest} 1) translate(-100 0)">` +
    `<path d="M64 96q36-14 72 0l-4 128h-64z" fill="${color}"/>${extra}</g>` +
    `<g fill="${color}"><rect x="44" y="94" width="24" height="${length}" rx="11"/><rect x="132" y="94" width="24" height="${length}" rx="11"/></g>` +
    '<path d="M68 216h64l-2 148h-24l-6-118-6 118h-24z" fill="#2f3646"/>'
  );
}

export function figure(customization, assets, bodies) {
  const scale = { head: 0, arms: 0, chest: 0, ...customization.bone_scale };
  const female = bodies.find((body) => body.id === customization.body)?.gender === "female";
  const skin = `rgb(${SKIN.map((part) => Math.round(part * (1 + (customization.skin_tone_correction ?? 0) / 150))).join(" ")})`;
  const chest = (female ? 0.9 : 1) * (1 + scale.chest / 600);
  const arm = 118 * (1 + scale.arms / 400);
  const worn = (slot) => {
    const chosen = customization.assets?.[slot];
    const asset = assets.find((candidate) => candidate.id === chosen?.id);
    return asset ? [asset, chosen.color] : null;
  };
  const draw = (slot) => (worn(slot) ? layer(...worn(slot)) : "");
  const clothing = worn("clothing");
  return svg("0 0 200 400", [
    '<ellipse cx="100" cy="388" rx="66" ry="9" fill="#0001"/>',
    `<g fill="${skin}"><rect x="46" y="96" width="20" height="${arm}" rx="10"/><rect x="134" y="96" width="20" height="${arm}" rx="10"/>`,
    '<rect x="72" y="200" width="24" height="180" rx="9"/><rect x="104" y="200" width="24" height="180" rx="9"/>',
    `<path d="M66 98q34-12 68 0l-4 122h-60z" transform="translate(100 0) scale(${chest} 1) translate(-100 0)"/>`,
    '<rect x="90" y="80" width="20" height="24"/></g><path d="M70 206h60v34h-27l-3-8-3 8h-27z" fill="#8a93a6"/>',
    clothing ? clothes(clothing[0].alias, scale.arms, chest) : "",
    draw("footwear"),
    `<g transform="translate(100 90) scale(${1 + scale.head / 500}) translate(-100 -90)">`,
    `<ellipse cx="100" cy="58" rx="32" ry="38" fill="${skin}"/>`,
    '<g fill="#2b2b33"><circle cx="87" cy="58" r="3.4"/><circle cx="113" cy="58" r="3.4"/></g>',
    '<path d="M90 78q10 7 20 0" stroke="#a4503f" stroke-width="3" fill="none" stroke-linecap="round"/>',
    draw("hair_and_headwear"), draw("eyewear"), "</g>",
  ].join(""));
}

// The colour of an asset before anybody chose one; null for what has none.
export const defaultColor = (asset) => COLORS[asset.alias] ?? null;
export const assetPreview = (asset) => dataUrl(svg(BOX[asset.slot], layer(asset)));
export const avatarPreview = (customization, assets, bodies) => dataUrl(figure(customization, assets, bodies));
