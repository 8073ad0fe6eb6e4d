/** Numbers as people read them. */

export function count(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 10_000 && value < 99_950) return `${(value / 1000).toFixed(1)}k`;
  if (value >= 99_950) return `${Math.round(value / 1000).toLocaleString("en")}k`;
  return (value > 0 && value < 10 ? Math.round(value * 10) / 10 : Math.round(value)).toLocaleString("en");
}

/** @param {number | null} ms */
export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  const s = ms / 1000;
  if (s < 1) return "< 1 s";
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 100) return `${Math.round(s)} s`;
  if (s < 6000) return `${Math.round(s / 60)} min`;
  if (s < 172_800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86_400)} d`;
}
