// The page for the public: asks first, shows what the camera sees, answers, forgets.

import { $, Talk, View, Words, bytes, call, element, guard, pause, settings, show, wait } from "./face.js";

const PREVIEW = 800; // width of the picture, pixels
const THANKS_MS = 4000;
const SILENT_MS = 4000; // without a frame after which the page rests
const KEYS = "qwertyuiopasdfghjkl'zxcvbnm,?";

guard();
const words = new Words(await settings());
const { asks, seconds } = words.settings;
const idleMs = asks ? Math.min(20, seconds / 2) * 1000 : 20000;
const view = new View(words, { mirrored: true });
const talk = new Talk(words, ask, (answer) => {
  for (const track of answer.tracks ?? []) view.mark(track, answer.evidence);
});

let stream = null;
let camera = "starting";
let busy = false; // with a frame
let drawnAt = 0; // when the last frame was drawn
let here = 0; // when somebody was last there, or touched something
let renewedAt = 0;

const running = () => stream !== null;

function showWords() {
  $("sentences").replaceChildren(...words.now.notice.map((text) => element("li", text)));
  $("keyboard").replaceChildren(...[...KEYS].map((key) => keyButton(key, key)), keyButton("␣", " ", "wide", "space"), keyButton("⌫", "", "wide", "clear"));
  $("keyboard").setAttribute("aria-label", words.say("keys"));
  talk.showChips();
}

function keyButton(shown, key, className = "", name = "") {
  const button = element("button", shown, className);
  button.type = "button";
  if (name) button.setAttribute("aria-label", words.say(name));
  button.onclick = () => {
    const field = $("question");
    field.value = key ? field.value + key : field.value.slice(0, -1);
  };
  return button;
}

// --- a visit -----------------------------------------------------------------------------------------------------

async function begin() {
  here = performance.now();
  if (asks) {
    try {
      await call("POST", "/v1/consent");
    } catch {
      return rest();
    }
    renewedAt = performance.now();
  }
  talk.clear();
  $("hint").textContent = words.say("looking");
  listen();
  show("live");
}

async function end({ thank = true } = {}) {
  stream?.close();
  stream = null;
  view.clear();
  talk.clear();
  $("question").value = "";
  $("keyboard").hidden = true;
  $("keys").setAttribute("aria-expanded", "false");
  const wiped = call("DELETE", "/v1/consent").catch(() => {});
  if (thank) {
    show("thanks");
    await Promise.all([wiped, wait(THANKS_MS)]);
  } else await wiped;
  home();
}

function home() {
  if (!asks) return begin();
  show("attract");
}

// The server cannot be reached, or has no camera: rest, and look again.
async function rest() {
  pause(words);
  for (;;) {
    await wait(1500);
    try {
      const status = await (await call("GET", "/v1/camera")).json();
      if (status.state !== "off") return home();
      pause(words, "paused");
    } catch {
      pause(words);
    }
  }
}

function listen() {
  stream?.close();
  drawnAt = performance.now();
  const mine = new EventSource(`/v1/camera/events?preview=${PREVIEW}`);
  stream = mine;
  mine.addEventListener("people", (event) => onPeople(mine, JSON.parse(event.data)));
  mine.addEventListener("state", (event) => onState(JSON.parse(event.data)));
  mine.addEventListener("bye", () => pause(words));
  mine.onerror = () => {
    pause(words);
    // The browser tries again by itself, but not after an answer that is an error.
    if (mine.readyState === EventSource.CLOSED && stream === mine) setTimeout(() => stream === mine && listen(), 2000);
  };
}

async function onPeople(from, found) {
  if (busy || from !== stream || !found.jpeg) return;
  busy = true;
  try {
    const image = await createImageBitmap(new Blob([bytes(found.jpeg)], { type: "image/jpeg" }));
    // The visit may have ended meanwhile.
    if (from === stream) await view.draw(image, found.people, found.time);
    image.close();
  } finally {
    busy = false;
  }
  if (from !== stream) return;
  drawnAt = performance.now();
  if (found.people.length) here = drawnAt;
  if (!found.people.some((person) => person.track === view.selected)) view.selected = null;
  $("hint").textContent = found.people.length === 0 ? words.say("nobody")
    : found.people.length > 1 && !view.selected ? words.say("people") : "";
  if (document.body.dataset.state === "pause") show("live");
}

function onState(state) {
  camera = state.camera;
  if (asks && state.consent === "closed" && running()) end();
  else if (camera === "off") pause(words, "paused");
  else if (camera === "down" || camera === "frozen") pause(words);
}

async function ask(question, after) {
  here = performance.now();
  return call("POST", "/v1/camera/ask", { question, after, track: view.selected, mirrored: true, stream: true });
}

// --- once a second ------------------------------------------------------------------------------------------------

setInterval(() => {
  if (!running()) return;
  const now = performance.now();
  if (now - drawnAt > SILENT_MS && document.body.dataset.state === "live") pause(words);
  if (!asks) return;
  if (now - here > idleMs) end({ thank: false });
  else if (now - renewedAt > seconds * 333) {
    renewedAt = now;
    call("POST", "/v1/consent").catch(() => {});
  }
}, 1000);

// --- buttons ------------------------------------------------------------------------------------------------------

$("begin").onclick = () => show("notice");
$("agree").onclick = () => (running() ? show("live") : begin());
$("refuse").onclick = () => (running() ? end() : show("attract"));
$("forget").onclick = () => end();
$("more").onclick = () => show("notice");
$("keys").onclick = () => {
  $("keyboard").hidden = !$("keyboard").hidden;
  $("keys").setAttribute("aria-expanded", String(!$("keyboard").hidden));
};
$("view").onclick = (event) => {
  const person = view.at(event);
  view.selected = person && person.track !== view.selected ? person.track : null;
};
document.addEventListener("pointerdown", () => { here = performance.now(); });
document.addEventListener("keydown", () => { here = performance.now(); });
// Nobody decides on the notice: back to the beginning.
setInterval(() => {
  if (document.body.dataset.state === "notice" && performance.now() - here > 60000) (running() ? show("live") : home());
}, 5000);

words.show(showWords);
showWords();
home();
