const data = JSON.parse(document.getElementById("data").textContent);
const get = id => document.getElementById(id);

// --- images

const cards = [...document.querySelectorAll("li.card")].map((element, index) => ({element, shots: data.cards[index], seed: null}));
const strip = [...document.querySelectorAll(".strip button")];
let noise = 0;

// The shots of the most evaluations that are within the budget; else those of the fewest there are.
function within(shots, budget) {
  const most = Math.max(...shots.map(shot => shot.nfe).filter(nfe => nfe <= budget));
  const nfe = Number.isFinite(most) ? most : Math.min(...shots.map(shot => shot.nfe));
  return shots.filter(shot => shot.nfe === nfe);
}

function showCard(card, budget) {
  const part = selector => card.element.querySelector(selector);
  const shown = within(card.shots, budget), seeds = part("select");
  const shot = shown.find(one => one.seed === card.seed) || shown[0];
  const name = part("h3").textContent, count = shot.nfe.toLocaleString("en");
  const other = shot.nfe < budget ? ", the most it was run with" : shot.nfe > budget ? ", the fewest it was run with" : "";
  card.element.classList.toggle("within", shot.nfe !== budget);
  part(".tile").style.setProperty("--row", shot.row);
  part(".tile").setAttribute("aria-label", `What ${name} makes of noise ${noise + 1} with ${count} network evaluations`);
  part(".nfe").textContent = `${count} NFE${other}`;
  part(".away").textContent = `${shot.distances[noise].toFixed(2)} from its teacher's`;
  part(".bar i").style.width = `${Math.min(100, 100 * shot.distances[noise])}%`;
  part(".figures").replaceChildren(...(shot.figures.length ? shot.figures : [["not measured", ""]]).map(([text, of]) => {
    const line = document.createElement("p"), note = document.createElement("small");
    line.textContent = `FD ${text}`;
    note.textContent = of;
    line.append(note);
    return line;
  }));
  seeds.hidden = shown.length < 2;
  if (shown.length > 1) {
    seeds.replaceChildren(...shown.map((one, index) => new Option(`seed ${one.seed}`, index, false, one === shot)));
    seeds.onchange = () => { card.seed = shown[seeds.value].seed; showImages(); };
  }
}

function showImages() {
  const slider = get("nfe"), place = Number(slider.value), budget = data.steps[place];
  document.documentElement.style.setProperty("--noise", noise);
  get("which").textContent = `Noise ${noise + 1} of ${data.noises}`;
  document.querySelector(".controls .tile").setAttribute("aria-label", `Noise ${noise + 1}`);
  get("spent").textContent = budget.toLocaleString("en");
  slider.setAttribute("aria-valuetext", `${budget} network evaluation${budget > 1 ? "s" : ""}`);
  strip.forEach((button, index) => button.setAttribute("aria-pressed", index === place));
  cards.forEach(card => showCard(card, budget));
  document.querySelectorAll("[data-nfe]").forEach(cell => cell.classList.toggle("here", Number(cell.dataset.nfe) === budget));
}

function turn(by) {
  noise = (noise + by + data.noises) % data.noises;
  showImages();
}

get("nfe").addEventListener("input", showImages);
get("next").addEventListener("click", () => turn(1));
get("before").addEventListener("click", () => turn(-1));
strip.forEach((button, index) => button.addEventListener("click", () => { get("nfe").value = index; showImages(); }));

// --- ways

function unpacked(way) {
  const bytes = Uint8Array.from(atob(way.states), letter => letter.charCodeAt(0)), view = new DataView(bytes.buffer);
  const numbers = Float32Array.from({length: bytes.length / 2}, (_, index) => view.getInt16(2 * index, true) / data.unit);
  return {angles: way.angles, numbers, points: numbers.length / way.angles.length / 2};
}

const ode = unpacked(data.ode), ways = data.walks.map(unpacked);
const FIRST = ode.angles[0], LAST = ode.angles[ode.angles.length - 1], HALF = 1.9, MOMENTS = 64;

// Writes where every point of a way is at an angle: on the arc that a constant denoiser draws between two states.
function at(way, angle, into) {
  const {angles, numbers, points} = way;
  let knot = 0;
  while (knot < angles.length - 2 && angles[knot + 1] > angle) knot++;
  const from = angles[knot], to = angles[knot + 1], inside = Math.min(from, Math.max(to, angle));
  const before = Math.sin(inside - to) / Math.sin(from - to), after = Math.sin(from - inside) / Math.sin(from - to);
  const start = 2 * points * knot, end = start + 2 * points;
  for (let index = 0; index < 2 * points; index++) into[index] = before * numbers[start + index] + after * numbers[end + index];
}

function moments(way) {
  if (!way.moments) {
    way.moments = Array.from({length: MOMENTS + 1}, (_, index) => {
      const place = new Float32Array(2 * way.points);
      at(way, FIRST + (LAST - FIRST) * index / MOMENTS, place);
      return place;
    });
  }
  return way.moments;
}

function paint(canvas, way, angle, wanted) {
  const size = Math.round(canvas.clientWidth * devicePixelRatio), pen = canvas.getContext("2d");
  if (!size) return;
  if (canvas.width !== size) canvas.width = canvas.height = size;
  const scale = size / (2 * HALF), x = value => (value + HALF) * scale, y = value => (HALF - value) * scale, style = getComputedStyle(document.body);
  const unit = size / 480, past = moments(way), done = MOMENTS * (FIRST - angle) / (FIRST - LAST), whole = Math.floor(done), here = new Float32Array(2 * way.points);
  at(way, angle, here);
  pen.clearRect(0, 0, size, size);
  pen.globalAlpha = 0.35;
  pen.strokeStyle = style.color;
  pen.lineWidth = unit;
  for (const [u, v] of data.modes) {
    pen.beginPath();
    pen.arc(x(u), y(v), 2 * data.spread * scale, 0, 2 * Math.PI);
    pen.stroke();
  }
  data.palette.forEach((colour, mode) => {
    pen.strokeStyle = pen.fillStyle = colour;
    pen.globalAlpha = 0.28;
    pen.lineWidth = 0.8 * unit;
    pen.beginPath();
    for (let point = 0; point < way.points; point++) {
      if (data.ends[point] !== mode) continue;
      pen.moveTo(x(past[0][2 * point]), y(past[0][2 * point + 1]));
      for (let index = 1; index <= whole; index++) pen.lineTo(x(past[index][2 * point]), y(past[index][2 * point + 1]));
      pen.lineTo(x(here[2 * point]), y(here[2 * point + 1]));
    }
    pen.stroke();
  });
  if (wanted) {
    const place = new Float32Array(2 * way.points);
    at(wanted, angle, place);
    pen.strokeStyle = style.getPropertyValue("--bad");
    pen.globalAlpha = 0.75 * Math.max(0, 1 - 8 * (angle - LAST) / (FIRST - LAST));
    pen.lineWidth = unit;
    pen.beginPath();
    for (let index = 0; index < 2 * way.points; index += 2) {
      pen.moveTo(x(here[index]), y(here[index + 1]));
      pen.lineTo(x(place[index]), y(place[index + 1]));
    }
    pen.stroke();
  }
  pen.globalAlpha = 0.95;
  data.palette.forEach((colour, mode) => {
    pen.fillStyle = colour;
    for (let point = 0; point < way.points; point++) {
      if (data.ends[point] !== mode) continue;
      pen.beginPath();
      pen.arc(x(here[2 * point]), y(here[2 * point + 1]), 2.3 * unit, 0, 2 * Math.PI);
      pen.fill();
    }
  });
}

function showWays() {
  const slider = get("time"), rest = 1 - slider.value / slider.max, chosen = Number(get("sampler").value);
  const angle = LAST + (FIRST - LAST) * rest, walk = data.walks[chosen];
  get("at").textContent = rest.toFixed(2);
  slider.setAttribute("aria-valuetext", `t = ${rest.toFixed(2)}${rest === 0 ? ", data" : rest === 1 ? ", noise" : ""}`);
  get("few-text").textContent = `${walk.title}. ${walk.text}`;
  get("few").setAttribute("aria-label", `The same points, ${walk.title}. ${walk.text}`);
  paint(get("ode"), ode, angle, null);
  paint(get("few"), ways[chosen], angle, ode);
}

let playing = null;

function play() {
  const slider = get("time");
  if (playing !== null) {
    cancelAnimationFrame(playing);
    playing = null;
    get("play").textContent = "Play";
    return;
  }
  get("play").textContent = "Pause";
  if (slider.value === slider.max) slider.value = 0;
  const offset = slider.value / slider.max;
  let begun = null;
  const frame = now => {
    begun ??= now;
    const done = Math.min(1, offset + (now - begun) / 6000);
    slider.value = Math.round(done * slider.max);
    showWays();
    playing = requestAnimationFrame(frame);
    if (done === 1) play();
  };
  playing = requestAnimationFrame(frame);
}

get("play").addEventListener("click", play);
get("time").addEventListener("input", () => { if (playing !== null) play(); showWays(); });
get("sampler").addEventListener("change", showWays);
addEventListener("resize", showWays);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showWays);
showImages();
showWays();
