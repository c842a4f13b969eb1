"use strict";
// Shapes of the gallery, in pixels of its small pictures:
//   truth  [class, x, y, width, height, score of the matching detection or null, 1 for a crowd region, outline, keypoints]
//   found  [class, x, y, width, height, score, 1 true positive / 0 false positive / -1 ignored, outline, keypoints], best first

const byId = (id) => document.getElementById(id);
const data = (id) => byId(id) && JSON.parse(byId(id).textContent);

function element(name, attributes = {}, ...children) {
  const drawn = ["svg", "rect", "path", "circle", "text", "title", "g"].includes(name);
  const made = drawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// ---------------------------------------------------------------------------------------------------------- gallery

function gallery(facts) {
  const hidden = new Set();
  const slider = byId("score");
  const figures = facts.images.map((image, place) => {
    const tally = element("span", { class: "tally" });
    const overlays = [element("svg", {}), element("svg", {})];
    const panes = overlays.map((overlay, side) => {
      overlay.setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
      const about = { width: image.width, height: image.height, alt: `${image.name}: ${side ? "detected" : "truth"}` };
      const blank = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==";
      const picture = element("img", { ...about, src: image.picture || blank, style: `aspect-ratio: ${image.width} / ${image.height}` });
      return element("div", { class: "pane" }, picture, overlay, element("span", {}, side ? "detected" : "truth"));
    });
    const caption = element("figcaption", {}, element("b", {}, image.name), tally);
    if (image.note) caption.append(` (${image.note})`);
    byId(place < facts.worst ? "worst" : "best").append(
      element("figure", { "data-image": image.id }, caption, element("div", { class: "panes" }, ...panes)));
    return { image, tally, overlays };
  });

  function shape(image, [label, x, y, width, height, , , outline, keypoints], color, wrong, text) {
    const color_and_dash = { stroke: color, fill: "none", "stroke-width": wrong ? 2 : 2.5, ...(wrong ? { "stroke-dasharray": "5 4" } : {}) };
    const made = element("g", {}, element("title", {}, text));
    if (outline) made.append(element("path", { d: outline, ...color_and_dash, fill: color, "fill-opacity": 0.3, "fill-rule": "evenodd" }));
    made.append(element("rect", { x, y, width, height, ...color_and_dash, ...(outline ? { "stroke-opacity": 0.5, "stroke-width": 1 } : {}) }));
    for (const [from, to] of keypoints.length ? facts.skeleton : []) {
      const [a, b] = [keypoints[from], keypoints[to]];
      if (a[2] && b[2]) made.append(element("path", { d: `M${a[0]} ${a[1]}L${b[0]} ${b[1]}`, stroke: color, "stroke-width": 2 }));
    }
    for (const [px, py, seen] of keypoints) {
      if (seen) made.append(element("circle", { cx: px, cy: py, r: Math.max(2, image.width / 160), fill: color, stroke: "#000" }));
    }
    return made;
  }

  function name(image, [, x, y], color, text) {
    const size = Math.max(11, Math.sqrt(image.width * image.height) / 30);
    return element("text", { class: "name", x: Math.max(2, x + 2), y: Math.max(size, y - 3), "font-size": size, fill: color }, text);
  }

  function draw() {
    const score = Number(slider.value);
    byId("score-shown").textContent = score.toFixed(2);
    for (const { image, tally, overlays } of figures) {
      const truth = image.truth.filter((row) => !hidden.has(row[0]));
      const detections = image.found.filter((row) => !hidden.has(row[0]) && row[5] >= score);
      const finds = (row) => row[5] !== null && row[5] >= score;
      overlays.forEach((overlay) => overlay.replaceChildren());
      for (const row of truth) {
        const color = row[6] ? "#bbb" : facts.colors[row[0]];
        const missed = !row[6] && !finds(row);
        overlays[0].append(shape(image, row, color, missed, `${facts.names[row[0]]}${row[6] ? " (region)" : missed ? " (missed)" : ""}`));
      }
      for (const row of detections.toReversed()) {  // the best on top
        const label = `${facts.names[row[0]]} ${row[5].toFixed(2)}`;
        overlays[1].append(shape(image, row, facts.colors[row[0]], row[6] === 0, `${label}${row[6] === 0 ? " (wrong)" : ""}`));
      }
      for (const row of truth.slice(0, 25)) overlays[0].append(name(image, row, row[6] ? "#ddd" : facts.colors[row[0]], facts.names[row[0]]));
      for (const row of detections.slice(0, 25)) overlays[1].append(name(image, row, facts.colors[row[0]], `${facts.names[row[0]]} ${row[5].toFixed(2)}`));
      const right = detections.filter((row) => row[6] === 1).length;
      const wrong = detections.filter((row) => row[6] === 0).length;
      const missed = truth.filter((row) => !row[6] && !finds(row)).length;
      tally.textContent = `${right} right, ${wrong} wrong, ${missed} missed`;
    }
  }

  const boxes = facts.names.map((title, label) => {
    const box = element("input", { type: "checkbox", checked: "" });
    box.addEventListener("change", () => { box.checked ? hidden.delete(label) : hidden.add(label); draw(); });
    byId("chips").append(element("label", {}, box, element("i", { class: "swatch", style: `background: ${facts.colors[label]}` }), title));
    return box;
  });
  for (const [title, all] of [["all", true], ["none", false]]) {
    const button = element("button", { type: "button" }, title);
    button.addEventListener("click", () => {
      boxes.forEach((box, label) => { box.checked = all; all ? hidden.delete(label) : hidden.add(label); });
      draw();
    });
    byId("chips").append(button);
  }
  slider.addEventListener("input", draw);
  draw();
}

// ------------------------------------------------------------------------------------------------ curves and the table

function curves(facts) {
  const select = byId("curve");
  const lines = [0, 1, 2].map((n) => document.querySelector(`.line-${n}`));
  select.addEventListener("change", () => {
    const shown = select.value === "mean" ? facts.mean : facts.lines[select.value];
    lines.forEach((line, n) => line.setAttribute("d", shown[n]));
  });
}

function sortable(table) {
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = Number(text.replaceAll(",", ""));
    return text === "-" ? -1 : Number.isNaN(number) ? text : number;
  };
  [...table.querySelectorAll("thead th")].forEach((head, column) => {
    let order = column ? -1 : 1;
    head.firstElementChild.addEventListener("click", () => {
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const [x, y] = [value(a, column), value(b, column)];
        return order * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
      });
      order = -order;
      table.tBodies[0].append(...rows);
    });
  });
}

if (data("curve-data")) curves(data("curve-data"));
if (data("gallery-data")) gallery(data("gallery-data"));
if (byId("classes")) sortable(byId("classes"));
