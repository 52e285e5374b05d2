"""The style of the pages, and the one script that plays their frames and reads values off their charts."""

STYLE = """
:root { color-scheme: light dark; --ink: #1a1d21; --pale: #565c64; --paper: #f6f7f9; --card: #fff; --line: #d9dde3;
  --alarm: #a40000; --accent: #1d4ed8; --good: #166534; --heat: #1d4ed8; --heat-most: 60%;
  --s0: #1d4ed8; --s1: #c2410c; --s2: #15803d; --s3: #7e22ce; --s4: #a16207; --s5: #0e7490; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9ebee; --pale: #a9b0ba; --paper: #121417; --card: #1b1e23;
  --line: #363b43; --alarm: #ff9a8f; --accent: #8ab4ff; --good: #86d99a; --heat: #60a5fa; --heat-most: 42%;
  --s0: #7cacff; --s1: #ff9d5c; --s2: #6fd08c; --s3: #c99bff; --s4: #e5c04a; --s5: #5fd0e0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0 .25rem; }
h2 { font-size: 1.2rem; margin: 0 0 .75rem; }
h3 { font-size: .95rem; font-weight: 400; margin: .5rem 0; }
h3 em { font-style: normal; font-weight: 600; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: .2rem; }
.sub, .id { color: var(--pale); margin: 0 0 .5rem; }
.id { font-size: .8125rem; margin: .5rem 0 0; }
.alarm { color: var(--alarm); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; margin: .75rem 0 1rem; padding: 0; }
nav a { display: inline-block; padding: .2rem 0; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem;
  margin: 0 0 1rem; }
.tiles { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); margin: 1rem 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .6rem .8rem; }
.tiles dt { color: var(--pale); font-size: .875rem; }
.tiles dd { margin: 0; font-size: 1.5rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles small { display: block; font-size: .8125rem; font-weight: 400; color: var(--pale); }
.charts { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.chart { max-width: 37rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .875rem; }
.readout { color: var(--pale); font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; touch-action: pan-y; }
.grid { stroke: var(--line); stroke-width: 1; }
.axis { stroke: var(--pale); stroke-width: 1; }
.tick { font-size: 11px; fill: var(--pale); font-variant-numeric: tabular-nums; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.line path { fill: none; stroke: currentColor; stroke-width: 1.75; stroke-linejoin: round; }
.line circle { fill: currentColor; }
.cross { stroke: var(--pale); stroke-dasharray: 2 2; visibility: hidden; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); }
.s3 { color: var(--s3); } .s4 { color: var(--s4); } .s5 { color: var(--s5); }
.d1 path { stroke-dasharray: 6 2; } .d2 path { stroke-dasharray: 2 2; } .d3 path { stroke-dasharray: 8 2 2 2; }
.d4 path { stroke-dasharray: 10 3; } .d5 path { stroke-dasharray: 1 3; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0 1rem; margin: .1rem 0 0; padding: 0; }
.key { display: inline-block; width: 2rem; height: .5rem; margin-right: .4rem; vertical-align: middle; }
details { margin: .5rem 0; }
summary { cursor: pointer; color: var(--accent); padding: .2rem 0; }
.scroll { overflow-x: auto; max-width: 100%; margin: 0 0 .75rem; }
table { border-collapse: collapse; overflow-wrap: normal; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--pale); padding: .25rem 0; }
th, td { overflow-wrap: break-word; text-align: left;
  vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); }
thead th { color: var(--pale); font-weight: 600; }
tbody th { font-weight: 400; }
.numeric td, td:has(.bar) { white-space: nowrap; }
.wide { width: 100%; max-width: 60rem; table-layout: fixed; }
.wide th, .wide td { overflow-wrap: anywhere; }
.wide th:first-child { width: 42%; }
thead th { overflow-wrap: normal; }
.numeric td, .numeric thead th:not(:first-child) { text-align: right; padding: .3rem 0 .3rem .75rem; }
.pair { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.pair > * { min-width: 0; }
.bar { display: inline-block; width: clamp(2.5rem, 14vw, 5rem); height: .6rem; margin-right: .5rem;
  border-radius: .15rem;
  background: linear-gradient(to right, var(--accent) calc(var(--share) * 100%), var(--line) 0); }
.matrix td, .matrix thead th { text-align: center; padding: .25rem; min-width: 2.1rem; border: 1px solid var(--card); }
.matrix thead th { vertical-align: bottom; border: 0; }
.matrix thead th:first-child { text-align: left; }
.matrix thead th span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 13rem;
  overflow-wrap: anywhere; }
.matrix tbody th { white-space: nowrap; border: 0; padding-right: .6rem; }
.matrix td { background: color-mix(in srgb, var(--heat) calc(var(--share) * var(--heat-most)), transparent);
  vertical-align: middle; }
.matrix .own { font-weight: 700; } .none { color: var(--pale); }
.heat img { width: min(100%, 40rem); height: auto; image-rendering: pixelated; border: 1px solid var(--line); }
.heat figcaption { color: var(--pale); margin: .25rem 0 .75rem; }
.cards { list-style: none; margin: 0; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; min-width: 0; }
.window { overflow: hidden; aspect-ratio: var(--wide) / var(--high); max-height: 15rem; margin: 0 auto;
  max-width: 100%; border-radius: .3rem; background: var(--line); }
.window img { display: block; width: calc(var(--frames) * 100%); height: 100%; max-width: none; }
.controls { display: flex; align-items: center; gap: .6rem; margin-top: .4rem; }
.controls label { flex: 1; display: flex; min-width: 3rem; }
.controls input { width: 100%; accent-color: var(--accent); min-height: 1.5rem; margin: 0; }
.controls output { font-size: .8125rem; color: var(--pale); min-width: 4.9rem; font-variant-numeric: tabular-nums; }
button { font: inherit; font-size: .875rem; color: var(--ink); background: var(--paper); border: 1px solid var(--pale);
  border-radius: .4rem; padding: .25rem .7rem; min-width: 4.2rem; cursor: pointer; }
button:hover { border-color: var(--accent); }
.scores { list-style: none; margin: 0; padding: 0; font-size: .875rem; }
.scores li { display: grid; grid-template-columns: 3.5rem 1fr auto; align-items: center; gap: .5rem; }
.scores .bar { width: 100%; }
.scores .true { color: var(--good); font-weight: 600; }
.scores .true .bar { background: linear-gradient(to right, var(--good) calc(var(--share) * 100%), var(--line) 0); }
pre { overflow-x: auto; font-size: .8125rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
@media print { nav, button, .controls { display: none; } section { break-inside: avoid; } }
"""

SCRIPT = """
"use strict";
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const players = [...document.querySelectorAll(".player")].map((box) => {
  const picture = box.querySelector("img"), slider = box.querySelector("input"), output = box.querySelector("output");
  const button = box.querySelector("button"), indices = output.dataset.indices.split(" ");
  const name = button.getAttribute("aria-label").slice("Play ".length);
  const player = { playing: false };
  player.show = (frame) => {
    slider.value = frame;
    picture.style.transform = `translateX(${(-100 * frame) / indices.length}%)`;
    output.textContent = `frame ${indices[frame]}`;
    slider.setAttribute("aria-valuetext", `frame ${indices[frame]}`);
  };
  player.step = () => player.playing && player.show((Number(slider.value) + 1) % indices.length);
  player.play = (on) => {
    player.playing = on;
    button.textContent = on ? "Pause" : "Play";
    button.setAttribute("aria-label", `${on ? "Pause" : "Play"} ${name}`);
  };
  button.addEventListener("click", () => { player.play(!player.playing); updateAll(); });
  const pause = () => { player.play(false); updateAll(); };
  slider.addEventListener("input", () => { pause(); player.show(Number(slider.value)); });
  // at the first or last frame an arrow key changes nothing, and gives no input event
  slider.addEventListener("keydown", (event) => { if (event.key.startsWith("Arrow")) pause(); });
  player.show(0);
  return player;
});
const all = document.querySelector("button.all");
function updateAll() {
  const playing = players.some((player) => player.playing);
  all.textContent = playing ? "Pause all" : "Play all";
  all.setAttribute("aria-pressed", String(playing));
}
if (all) {
  const playAll = (on) => { players.forEach((player) => player.play(on)); updateAll(); };
  all.addEventListener("click", () => playAll(!players.some((player) => player.playing)));
  playAll(!still);
  setInterval(() => players.forEach((player) => player.step()), 200);
}
for (const chart of document.querySelectorAll("svg[data-lines]")) {
  const lines = Object.entries(JSON.parse(chart.dataset.lines));
  const [low, high, left, right] = JSON.parse(chart.dataset.scale);
  const readout = chart.parentElement.querySelector(".readout"), cross = chart.querySelector(".cross");
  const format = (value) => (value === null ? "–" : String(Number(value.toPrecision(4))));
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    const at = low + ((x - left) / (right - left)) * (high - low);
    const nearest = (points) => points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
    const found = lines.map(([name, points]) => [name, nearest(points)]);
    const position = found.map(([, point]) => point[0]).reduce((a, b) => (Math.abs(b - at) < Math.abs(a - at) ? b : a));
    cross.setAttribute("x1", left + ((position - low) / (high - low)) * (right - left));
    cross.setAttribute("x2", cross.getAttribute("x1"));
    cross.style.visibility = "visible";
    const values = found.map(([name, point]) => (lines.length > 1 ? name + " " : "") + format(point[1])).join(", ");
    readout.textContent = `at ${format(position)}: ${values}`;
  });
  chart.addEventListener("pointerleave", () => { readout.textContent = ""; cross.style.visibility = "hidden"; });
}
"""
