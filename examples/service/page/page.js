// page: the drawing as lines, made 8 x 8 pixels as the data set has them, and the answer of the service
"use strict";

const SIDE = 8; // pixels of an image's side
const FINE = 8; // fine pixels along one of those
const PEN = 9; // width of the line in fine pixels, however large the drawing is
const SMALLEST = 40; // of the paper's pixels: what is smaller is not blown up to the full size
const STEP = 10; // of the paper's pixels, for a key

const at = (id) => document.getElementById(id);
const paper = at("paper"), ink = paper.getContext("2d"), seen = at("seen").getContext("2d");
const fine = new OffscreenCanvas(SIDE * FINE, SIDE * FINE).getContext("2d", { willReadFrequently: true });
let lines = []; // each an array of points
let pen = { x: paper.width / 2, y: paper.height / 2, down: false }; // of the keyboard
let latest = 0; // number of the last question: older answers come too late

function draw(context, width, place) {
  Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round", strokeStyle: "#111827" });
  for (const line of lines) {
    context.beginPath();
    context.moveTo(...place(line[0]));
    for (const point of line) context.lineTo(...place(point)); // a single point becomes a dot
    context.stroke();
  }
}

function show() {
  ink.clearRect(0, 0, paper.width, paper.height);
  draw(ink, 18, ({ x, y }) => [x, y]);
  if (document.activeElement !== paper || !paper.matches(":focus-visible")) return;
  ink.beginPath(); // where the keyboard's pen is
  ink.arc(pen.x, pen.y, 12, 0, 7);
  Object.assign(ink, { lineWidth: 3, strokeStyle: pen.down ? "#d03030" : "#1f5fd6" });
  ink.stroke();
}

// Centred, and as large as fits: the data set's images are made so of scanned forms.
function pixels() {
  const points = lines.flat(), size = SIDE * FINE;
  const most = (choose, axis) => points.reduce((most, point) => choose(most, point[axis]), points[0][axis]);
  const [left, right, top, bottom] = ["x", "y"].flatMap((axis) => [most(Math.min, axis), most(Math.max, axis)]);
  const scale = (size - PEN) / Math.max(right - left, bottom - top, SMALLEST);
  fine.clearRect(0, 0, size, size);
  draw(fine, PEN, (p) => [size / 2 + (p.x - (left + right) / 2) * scale, size / 2 + (p.y - (top + bottom) / 2) * scale]);
  const alpha = fine.getImageData(0, 0, size, size).data.filter((_, i) => i % 4 === 3);
  const mean = (row, column) => {
    let sum = 0;
    for (let i = 0; i < FINE * FINE; i++) {
      sum += alpha[(row * FINE + Math.floor(i / FINE)) * size + column * FINE + (i % FINE)];
    }
    return Math.round(sum / (FINE * FINE));
  };
  return Array.from({ length: SIDE }, (_, row) => Array.from({ length: SIDE }, (_, column) => mean(row, column)));
}

function showSeen(image) {
  const data = seen.createImageData(SIDE, SIDE);
  image.flat().forEach((value, i) => data.data.set([17, 24, 39, value], 4 * i));
  seen.putImageData(data, 0, 0);
}

function showAnswer(digit, probabilities) {
  at("digit").value = digit;
  [...at("bars").children].forEach((row, k) => {
    row.className = k === digit ? "best" : "";
    row.children[1].value = probabilities[k];
    row.children[2].textContent = `${(100 * probabilities[k]).toFixed(1)} %`;
  });
}

function showError(text) {
  at("error").hidden = !text;
  at("error").textContent = text;
}

async function ask() {
  const question = ++latest, image = pixels();
  showSeen(image);
  let error = "", answer;
  try {
    const reply = await fetch("predict", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ images: [image] }),
    });
    answer = await reply.json();
    if (!reply.ok) error = answer.error;
  } catch {
    error = "The service does not answer. Draw on to try again.";
  }
  if (question !== latest) return;
  showError(error);
  if (error) showAnswer("?", Array(10).fill(0));
  else showAnswer(answer.digits[0], answer.probabilities[0]);
}

function clear() {
  latest++;
  lines = [];
  pen.down = false;
  show();
  seen.clearRect(0, 0, SIDE, SIDE);
  showError("");
  showAnswer("?", Array(10).fill(0));
}

function place(event) {
  const box = paper.getBoundingClientRect(), scale = paper.width / box.width;
  return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
}

paper.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  paper.setPointerCapture(event.pointerId); // the line goes on outside of the paper
  pen.down = false;
  lines.push([place(event)]);
  show();
});
paper.addEventListener("pointermove", (event) => {
  if (!paper.hasPointerCapture(event.pointerId)) return;
  lines.at(-1)?.push(...(event.getCoalescedEvents?.() ?? []).concat(event).map(place));
  show();
});
paper.addEventListener("lostpointercapture", () => lines.length && ask());

paper.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (move) {
    pen.x = Math.min(Math.max(pen.x + move[0] * STEP, 0), paper.width);
    pen.y = Math.min(Math.max(pen.y + move[1] * STEP, 0), paper.height);
  } else if (event.key === " ") {
    pen.down = !pen.down;
    if (pen.down) lines.push([]);
  } else if (event.key === "Delete" || event.key === "Backspace") {
    clear();
  } else {
    return;
  }
  event.preventDefault();
  if (pen.down) lines.at(-1).push({ x: pen.x, y: pen.y });
  show();
  if (pen.down) ask();
});
for (const change of ["focus", "blur"]) paper.addEventListener(change, show);
at("clear").addEventListener("click", clear);

for (let k = 0; k < 10; k++) {
  const row = document.createElement("li");
  row.innerHTML = `<span>${k}</span><meter min="0" max="1" aria-label="${k}"></meter><span class="share"></span>`;
  at("bars").append(row);
}
clear();
