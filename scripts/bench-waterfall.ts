/** Draws what a browser asked for, and when it got it: a visit before and one after, one below the other. */

export interface Visit {
  /** Times in milliseconds since the first request. */
  requests: { url: string; from: number; until: number; bytes: number; isEncoded: boolean }[];
  bytes: number;
  paintMs: number;
  launcherMs: number;
}

const WIDTH = 900;
const LEFT = 12;
const BAR = 4;
const HEAD = 62;
const COLOURS = { plain: "#d9822b", compressed: "#2b7bb9", other: "#8a8f98" };
const LEGEND = [
  ["plain", "script or style as it is"],
  ["compressed", "compressed"],
  ["other", "everything else"],
] as const;

/** The picture as SVG. It is readable on a light and on a dark page. */
export function drawWaterfall(before: Visit, after: Visit): string {
  const spanMs = Math.max(before.launcherMs, after.launcherMs) * 1.02;
  const scale = (ms: number) => LEFT + (ms / spanMs) * (WIDTH - 2 * LEFT);
  const panels: string[] = [];
  let top = 34;
  for (const [title, visit] of [
    ["jupyter lab", before],
    ["jupyter-server", after],
  ] as const) {
    panels.push(drawPanel(title, visit, top, scale));
    top += HEAD + visit.requests.length * BAR + 24;
  }
  const seconds = Array.from({ length: Math.floor(spanMs / 1000) + 1 }, (_, second) => {
    const x = scale(second * 1000).toFixed(1);
    return `<path d="M${x} 34V${top - 18}" stroke="#dde1e6"/><text x="${x}" y="${top - 4}" text-anchor="middle">${second} s</text>`;
  });
  const legend = LEGEND.map(
    ([colour, text], index) =>
      `<rect x="${LEFT + index * 190}" y="12" width="12" height="12" fill="${COLOURS[colour]}"/><text x="${LEFT + 18 + index * 190}" y="22">${text}</text>`,
  );
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${top + 6}" font-family="sans-serif" font-size="12" fill="#333">`,
    "<title>What a browser loads until JupyterLab's launcher is there, and when</title>",
    '<rect width="100%" height="100%" fill="#fff"/>',
    ...legend,
    ...seconds,
    ...panels,
    "</svg>\n",
  ].join("\n");
}

function drawPanel(title: string, visit: Visit, top: number, scale: (ms: number) => number): string {
  const { requests, bytes, paintMs, launcherMs } = visit;
  const bars = [...requests]
    .sort((a, b) => a.from - b.from)
    .map(({ url, from, until, isEncoded }, index) => {
      const isAsset = /\.(m?js|css)(\?|$)/.test(url);
      const colour = isEncoded ? COLOURS.compressed : isAsset ? COLOURS.plain : COLOURS.other;
      const [x, width] = [scale(from), Math.max(1, scale(until) - scale(from))];
      return `<rect x="${x.toFixed(1)}" y="${top + HEAD + index * BAR}" width="${width.toFixed(1)}" height="${BAR - 1}" fill="${colour}"/>`;
    });
  const bottom = top + HEAD + requests.length * BAR;
  const marks = [
    ["first paint", paintMs, 40],
    ["launcher", launcherMs, 56],
  ] as const;
  const lines = marks.map(([text, ms, y]) => {
    const x = scale(ms);
    const anchor = x > WIDTH / 2 ? "end" : "start";
    const label = `<text x="${(x + (anchor === "end" ? -4 : 4)).toFixed(1)}" y="${top + y}" text-anchor="${anchor}">${text} ${(ms / 1000).toFixed(1)} s</text>`;
    return `<path d="M${x.toFixed(1)} ${top + y - 10}V${bottom}" stroke="#333" stroke-dasharray="3 2"/>${label}`;
  });
  const facts = `${requests.length} requests, ${(bytes / 1e6).toFixed(2)} MB`;
  const head = `<text x="${LEFT}" y="${top + 22}" font-size="15" font-weight="bold">${title}</text><text x="${LEFT + 130}" y="${top + 22}">${facts}</text>`;
  return [head, ...bars, ...lines].join("\n");
}
