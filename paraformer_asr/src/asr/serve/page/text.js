// Small texts.

export function clock(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 60) % 60, String(whole % 60).padStart(2, "0")];
  if (whole >= 3600) parts.splice(0, 1, Math.floor(whole / 3600), String(parts[0]).padStart(2, "0"));
  return parts.join(":");
}

export function shellQuoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
