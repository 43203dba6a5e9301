// The page to try it: a photo, or the browser's own camera; nothing is stored.

import { $, Talk, View, Words, call, guard, pause, settings, show, wait } from "./face.js";

const WIDTH = 960; // of the pictures that are sent, pixels
const PERIOD = 200; // milliseconds between two frames of the camera

guard();
const words = new Words(await settings());
const view = new View(words);
const talk = new Talk(words, ask, (answer) => view.mark(chosen()?.track, answer.evidence));
let video = null; // while the camera is used

const chosen = () => view.people.find((person) => person.track === view.selected) ?? view.people[0];
const hint = (name) => { $("hint").textContent = name ? words.say(name) : ""; };

// --- pictures -----------------------------------------------------------------------------------------------------

// A picture of at most WIDTH pixels, and what is found in it.
async function look(source, width, height, mirrored) {
  const scale = Math.min(1, WIDTH / Math.max(width, height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  canvas.getContext("2d").drawImage(source, 0, 0, canvas.width, canvas.height);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
  const found = await (await call("POST", "/v1/faces?parsing=1", blob, { "content-type": "image/jpeg" })).json();
  view.mirrored = mirrored;
  await view.draw(canvas, found.faces.map((face, i) => ({
    track: face.id,
    box: [face.box[0] / canvas.width, face.box[1] / canvas.height, face.box[2] / canvas.width, face.box[3] / canvas.height],
    labels: Object.fromEntries(face.labels.map(({ name, state, probability }) => [name, [state, probability]])),
    parsing: face.parsing,
  })));
  $("empty").hidden = true;
  if (!view.people.some((person) => person.track === view.selected)) view.selected = null;
  hint(found.faces.length ? null : mirrored ? "nobody" : "no_face");
}

async function photo(file) {
  stopCamera();
  talk.clear();
  view.selected = null;
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    return hint("no_picture");
  }
  hint("looking");
  try {
    await look(image, image.width, image.height, false);
  } catch (error) {
    await failed(error);
  } finally {
    image.close();
  }
}

async function failed(error) {
  if (error.status === 429) return;
  if (error.status >= 400 && error.status < 500) return hint("no_picture");
  pause(words);
  await settings();
  hint(null);
  show("live");
}

async function startCamera() {
  try {
    const source = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
    video = document.createElement("video");
    video.muted = video.playsInline = true;
    video.srcObject = source;
    await video.play();
  } catch {
    stopCamera();
    return hint("no_camera");
  }
  talk.clear();
  $("camera").textContent = words.say("stop_camera");
  const mine = video;
  while (video === mine) {
    const began = performance.now();
    if (!document.hidden && !talk.busy) {
      try {
        await look(mine, mine.videoWidth, mine.videoHeight, true);
      } catch (error) {
        await failed(error);
      }
    }
    await wait(Math.max(20, PERIOD - (performance.now() - began)));
  }
}

function stopCamera() {
  for (const track of video?.srcObject?.getTracks() ?? []) track.stop();
  video = null;
  $("camera").textContent = words.say("use_camera");
}

// --- questions ----------------------------------------------------------------------------------------------------

async function ask(question, after) {
  const face = chosen();
  if (!face) {
    const error = new Error("nobody is there");
    error.status = 409;
    throw error;
  }
  view.selected = face.track;
  const answer = await call("POST", `/v1/faces/${face.track}/ask`, { question, after, stream: true });
  view.selected = null;
  return answer;
}

async function forget() {
  stopCamera();
  view.clear();
  talk.clear();
  hint(null);
  $("empty").hidden = false;
  await call("DELETE", "/v1/faces").catch(() => {});
}

// --- buttons ------------------------------------------------------------------------------------------------------

$("choose").onclick = () => $("file").click();
$("file").onchange = () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) photo(file);
};
$("camera").onclick = () => (video ? forget() : startCamera());
$("forget").onclick = forget;
$("view").onclick = (event) => { view.selected = view.at(event)?.track ?? null; };
for (const name of ["dragover", "dragleave", "drop"]) {
  window.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) photo(event.dataTransfer.files[0]);
  });
}
window.addEventListener("pagehide", () => { fetch("/v1/faces", { method: "DELETE", keepalive: true }); });

const showWords = () => {
  talk.showChips();
  $("camera").textContent = words.say(video ? "stop_camera" : "use_camera");
};
words.show(showWords);
showWords();
show("live");
