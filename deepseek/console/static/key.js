// The visitor's API key: kept for this tab and its lifetime only, and sent to this server only.

const NAME = "api-key";
let held = "";
try { held = sessionStorage.getItem(NAME) ?? ""; } catch { /* refused: kept in this page alone */ }

export const hasKey = () => held !== "";

export function keepKey(key) {
  held = key;
  try { key ? sessionStorage.setItem(NAME, key) : sessionStorage.removeItem(NAME); } catch { /* as above */ }
}

// The headers that say who asks.
export const identity = () => (held ? { authorization: `Bearer ${held}` } : {});
