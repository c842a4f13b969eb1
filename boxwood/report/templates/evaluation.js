"use strict";
// Shapes of the gallery, in pixels of its small pictures:
//   truth    [class, x, y, width, height, score of the matching detection or null, 1 for a crowd region, outline, keypoints, surface]
//   found    [class, x, y, width, height, score, 1 true positive / 0 false positive / -1 ignored, outline, keypoints, surface], best first
//   surface  [picture, x, y, width, height, points [x, y, colour]] of dense pose, or null

const byId = (id) => document.getElementById(id);
const data = (id) => byId(id) && JSON.parse(byId(id).textContent);

function element(name, attributes = {}, ...children) {
  const drawn = ["svg", "rect", "path", "circle", "text", "title", "g", "image"].includes(name);
  const made = drawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// ---------------------------------------------------------------------------------------------------------- gallery

function gallery(facts) {
  const hidden = new Set();
  const slider = byId("score");
  const hue = byId("hue");
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

  function shape(image, [label, x, y, width, height, , , outline, keypoints, surface], color, wrong, text) {
    const color_and_dash = { stroke: color, fill: "none", "stroke-width": wrong ? 2 : 2.5, ...(wrong ? { "stroke-dasharray": "5 4" } : {}) };
    const made = element("g", {}, element("title", {}, text));
    if (surface && surface[0]) {
      const [href, left, top, wide, high] = surface;
      made.append(element("image", { href, x: left, y: top, width: wide, height: high, preserveAspectRatio: "none" }));
    }
    const tint = surface ? { fill: "none", "stroke-width": 1.2 } : { fill: color, "fill-opacity": 0.3 };
    if (outline) made.append(element("path", { d: outline, ...color_and_dash, ...tint, "fill-rule": "evenodd" }));
    for (const [px, py, of_part] of surface ? surface[5] : []) {
      made.append(element("circle", { class: "point", cx: px, cy: py, r: Math.max(1.8, image.width / 170), fill: of_part, stroke: "#fff", "stroke-width": 0.8 }));
    }
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

  const errors_first = (rows, is_error) => [...rows.filter(is_error), ...rows.filter((row) => !is_error(row))];

  function name(overlay, taken, image, [, x, y], color, text) {
    const size = Math.max(11, Math.sqrt(image.width * image.height) / 30);
    const [left, bottom, width] = [Math.max(2, x + 2), Math.max(size, y - 3), 0.55 * size * text.length];
    const covers = ([l, b, w]) => left < l + w && l < left + width && Math.abs(bottom - b) < size;
    if (taken.some(covers)) return;
    taken.push([left, bottom, width]);
    overlay.append(element("text", { class: "name", x: left, y: bottom, "font-size": size, fill: color }, text));
  }

  function draw() {
    const score = Number(slider.value);
    byId("score-shown").textContent = score.toFixed(2);
    for (const { image, tally, overlays } of figures) {
      const truth = image.truth.filter((row) => !hidden.has(row[0]));
      const detections = image.found.filter((row) => !hidden.has(row[0]) && row[5] >= score);
      const finds = (row) => row[5] !== null && row[5] >= score;
      const color = (row, outcome) => (hue.value === "class" && outcome !== "ignored" ? facts.colors[row[0]] : facts.outcomes[outcome]);
      const outcome_of_truth = (row) => (row[6] ? "ignored" : finds(row) ? "right" : "missed");
      const outcome_of_found = (row) => (row[6] === 1 ? "right" : row[6] === 0 ? "wrong" : "ignored");
      overlays.forEach((overlay) => overlay.replaceChildren());
      for (const row of truth) {
        const outcome = outcome_of_truth(row);
        const note = outcome === "ignored" ? " (region)" : outcome === "missed" ? " (missed)" : "";
        overlays[0].append(shape(image, row, color(row, outcome), outcome === "missed", `${facts.names[row[0]]}${note}`));
      }
      for (const row of detections.toReversed()) {  // the best on top
        const outcome = outcome_of_found(row);
        const label = `${facts.names[row[0]]} ${row[5].toFixed(2)}${outcome === "wrong" ? " (wrong)" : ""}`;
        overlays[1].append(shape(image, row, color(row, outcome), outcome === "wrong", label));
      }
      const free = [[], []];  // errors come first, since a name without room is left out
      for (const row of errors_first(truth, (row) => outcome_of_truth(row) === "missed")) {
        name(overlays[0], free[0], image, row, color(row, outcome_of_truth(row)), facts.names[row[0]]);
      }
      for (const row of errors_first(detections, (row) => outcome_of_found(row) === "wrong")) {
        name(overlays[1], free[1], image, row, color(row, outcome_of_found(row)), `${facts.names[row[0]]} ${row[5].toFixed(2)}`);
      }
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
  hue.addEventListener("change", draw);
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
