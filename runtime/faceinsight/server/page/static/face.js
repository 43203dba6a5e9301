// What both pages need: the server, the words, the picture with what was found on it, and the talk about it.

const COLOURS = {
  skin: [255, 196, 160], nose: [255, 140, 105], eye_g: [64, 224, 255], l_eye: [70, 130, 255], r_eye: [70, 130, 255],
  l_brow: [150, 100, 70], r_brow: [150, 100, 70], l_ear: [255, 170, 60], r_ear: [255, 170, 60], mouth: [170, 30, 60],
  u_lip: [235, 60, 100], l_lip: [235, 60, 100], hair: [160, 110, 240], hat: [255, 220, 40], ear_r: [0, 255, 170],
  neck_l: [255, 0, 200], neck: [240, 170, 130], cloth: [70, 190, 110],
};
const SHOWN = 5; // labels of a face
const MARKED_MS = 6000; // for which the evidence of an answer is marked
// A question that is none without the one before it.
const FOLLOWS = /^(and|or|but|also|why|really|what about|how about|are you sure)\b|^\S+( \S+)?\W*$/i;

export const $ = (id) => document.getElementById(id);

export class ServerError extends Error {
  constructor(status) {
    super(`status ${status}`);
    this.status = status;
  }
}

export async function call(method, path, body, headers = {}) {
  const plain = body === undefined || body instanceof Blob;
  const answer = await fetch(path, {
    method,
    body: plain ? body : JSON.stringify(body),
    headers: plain ? headers : { "content-type": "application/json", ...headers },
    cache: "no-store",
  }).catch(() => { throw new ServerError(0); });
  if (!answer.ok) throw new ServerError(answer.status);
  return answer;
}

// --- words -------------------------------------------------------------------------------------------------------

export class Words {
  constructor(settings) {
    this.settings = settings;
    const wanted = new URLSearchParams(location.search).get("lang");
    const codes = Object.keys(settings.languages);
    const spoken = [wanted, ...navigator.languages.map((x) => x.slice(0, 2))];
    this.code = spoken.find((x) => codes.includes(x)) ?? codes[0];
  }

  get now() { return this.settings.languages[this.code]; }
  say(name) { return this.now.page[name] ?? ""; }
  label(name) { return this.now.labels[name] ?? name.replaceAll("_", " ").toLowerCase(); }

  // Into the page, and a button for each language.
  show(onChange) {
    document.documentElement.lang = this.code;
    document.title = this.say("title");
    for (const node of document.querySelectorAll("[data-words]")) node.textContent = this.say(node.dataset.words);
    for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", this.say(node.dataset.label));
    $("question").placeholder = this.say("type");
    $("view").setAttribute("aria-label", this.say("picture"));
    $("chips").setAttribute("aria-label", this.say("ask"));
    $("languages").setAttribute("aria-label", this.say("language"));
    $("languages").replaceChildren(...Object.entries(this.settings.languages).map(([code, words]) => {
      const button = element("button", words.name);
      button.lang = code;
      button.setAttribute("aria-pressed", code === this.code);
      button.onclick = () => { this.code = code; this.show(onChange); onChange(); };
      return button;
    }));
  }
}

export function element(tag, text, className = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  if (className) node.className = className;
  return node;
}

// --- states of the page ------------------------------------------------------------------------------------------

export function show(state) {
  if (document.body.dataset.state === state) return;
  document.body.dataset.state = state;
  document.querySelector(`#${state} h1, #${state} input`)?.focus({ preventScroll: true });
}

export function pause(words, name = "pause") {
  $("pause-title").textContent = words?.say(name) ?? "…";
  $("pause-more").textContent = words && name === "pause" ? words.say("pause_more") : "";
  show("pause");
}

// Ask the server for words and settings until it answers; where it wants a code, ask for that.
export async function settings() {
  for (;;) {
    try {
      return await (await call("GET", "/v1/page")).json();
    } catch (error) {
      if (error.status === 401) await login();
      else await wait(2000);
    }
  }
}

function login() {
  for (const node of document.querySelectorAll("#login [data-words]")) {
    node.textContent ||= { code: "Access code", enter: "Enter" }[node.dataset.words];
  }
  show("login");
  return new Promise((done) => {
    $("login-form").onsubmit = async (event) => {
      event.preventDefault();
      try {
        await call("POST", "/v1/login", { token: $("code").value });
        $("code").value = "";
        done();
      } catch {
        $("login-wrong").textContent = "That code is not right.";
      }
    };
  });
}

export const wait = (ms) => new Promise((done) => setTimeout(done, ms));

// --- the picture -------------------------------------------------------------------------------------------------

export function bytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

export class View {
  constructor(words, { mirrored = false } = {}) {
    this.words = words;
    this.mirrored = mirrored;
    this.people = [];
    this.selected = null;
    this.parsings = new Map(); // track -> classes, and pictures of them by what is marked
    this.marked = new Map(); // track -> {regions, until}
    this.canvas = $("view");
    this.context = this.canvas.getContext("2d", { alpha: false });
  }

  // image: anything that can be drawn; people: with boxes in shares of it.
  async draw(image, people, time = 0) {
    const { canvas, context } = this;
    if (canvas.width !== image.width || canvas.height !== image.height) {
      canvas.width = image.width;
      canvas.height = image.height;
    }
    for (const person of people) if (person.parsing) await this.read(person);
    for (const track of this.parsings.keys()) {
      if (!people.some((person) => person.track === track)) this.parsings.delete(track);
    }
    this.people = people;
    context.save();
    if (this.mirrored) context.setTransform(-1, 0, 0, 1, canvas.width, 0);
    context.drawImage(image, 0, 0);
    for (const person of people) this.drawPerson(person);
    context.restore();
    this.drawLabels();
    document.dispatchEvent(new CustomEvent("drawn", { detail: { people, time } }));
  }

  clear() {
    this.people = [];
    this.parsings.clear();
    this.marked.clear();
    this.selected = null;
    this.canvas.width = this.canvas.height = 1;
    $("labels").replaceChildren();
  }

  mark(track, regions) {
    this.marked.set(track, { regions, until: performance.now() + MARKED_MS });
  }

  async read(person) {
    const picture = await createImageBitmap(new Blob([bytes(person.parsing.png)], { type: "image/png" }));
    const side = picture.width;
    const flat = new OffscreenCanvas(side, side).getContext("2d", { willReadFrequently: true });
    flat.drawImage(picture, 0, 0);
    picture.close();
    const pixels = flat.getImageData(0, 0, side, side).data;
    const classes = new Uint8Array(side * side);
    for (let i = 0; i < classes.length; i++) classes[i] = pixels[4 * i];
    this.parsings.set(person.track, { classes, side, matrix: person.parsing.matrix, pictures: new Map() });
  }

  // The parsing as a picture: soft areas with bright edges, or only the marked regions.
  picture(parsing, regions) {
    const key = regions?.join() ?? "";
    const known = parsing.pictures.get(key);
    if (known) return known;
    const { classes, side } = parsing;
    const { classes: names, regions: parts } = this.words.settings;
    const marked = regions && new Set(regions.flatMap((region) => parts[region] ?? []));
    const strong = names.map((name) => (marked ? marked.has(name) : false));
    const canvas = new OffscreenCanvas(side, side);
    const context = canvas.getContext("2d");
    const image = context.createImageData(side, side);
    for (let i = 0; i < classes.length; i++) {
      const value = classes[i];
      const colour = COLOURS[names[value]];
      // Fades towards the edge of what was parsed.
      const far = Math.hypot((i % side) / side - 0.5, Math.floor(i / side) / side - 0.5) * 2;
      const fade = Math.min(1, Math.max(0, (1.05 - far) * 4));
      const edge = value !== classes[i + 1] || value !== classes[i + side];
      const alpha = marked ? (strong[value] ? (edge ? 255 : 150) : edge ? 40 : 0) : edge ? 150 : 46;
      image.data.set([...(colour ?? [0, 0, 0]), colour ? alpha * fade : 0], 4 * i);
    }
    context.putImageData(image, 0, 0);
    parsing.pictures.set(key, canvas);
    return canvas;
  }

  drawPerson(person) {
    const { canvas, context } = this;
    const [x, y, width, height] = person.box.map((part, i) => part * (i % 2 ? canvas.height : canvas.width));
    const parsing = this.parsings.get(person.track);
    const mark = this.marked.get(person.track);
    const regions = mark && mark.until > performance.now() ? mark.regions : null;
    if (parsing) {
      const [a, b, c, d, e, f] = parsing.matrix;
      const { side } = parsing;
      context.save();
      context.transform(a * width / side, b * height / side, c * width / side, d * height / side, x + e * width, y + f * height);
      context.drawImage(this.picture(parsing, regions), 0, 0);
      context.restore();
    }
    const reach = Math.min(width, height) * 0.22;
    context.lineWidth = Math.max(2, canvas.width / 320) * (this.selected === person.track ? 1.8 : 1);
    context.strokeStyle = this.selected === person.track ? "#5fd0ff" : "#ffffffd0";
    context.lineCap = "round";
    context.beginPath();
    for (const [cornerX, cornerY, right, down] of [[x, y, 1, 1], [x + width, y, -1, 1], [x, y + height, 1, -1], [x + width, y + height, -1, -1]]) {
      context.moveTo(cornerX + right * reach, cornerY);
      context.lineTo(cornerX, cornerY);
      context.lineTo(cornerX, cornerY + down * reach);
    }
    context.stroke();
  }

  // Where a point of the picture, in shares of it, lies on the screen, in pixels of the stage.
  get place() {
    const { canvas } = this;
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    const scale = Math.min(wide / canvas.width, high / canvas.height);
    const [width, height] = [canvas.width * scale, canvas.height * scale];
    return { width, height, left: canvas.offsetLeft + (wide - width) / 2, top: canvas.offsetTop + (high - height) / 2 };
  }

  drawLabels() {
    const { width, height, left, top } = this.place;
    const list = $("labels");
    while (list.children.length > this.people.length) list.lastChild.remove();
    const room = Math.max(110, (0.92 * width) / Math.max(this.people.length, 2));
    this.people.forEach((person, i) => {
      const node = list.children[i] ?? list.appendChild(document.createElement("li"));
      const [x, y, w, h] = person.box;
      const from = this.mirrored ? 1 - x - w : x;
      const under = (y + h) * height + 6;
      const middle = Math.min(Math.max((from + w / 2) * width, room / 2), width - room / 2);
      node.style.width = `${room}px`;
      node.style.transform = `translate(${left + middle - room / 2}px, ${top + Math.min(under, height - 70)}px)`;
      const texts = Object.entries(person.labels)
        .filter(([name, [state]]) => state === "yes" && name !== "No_Beard")
        .sort((a, b) => b[1][1] - a[1][1])
        .slice(0, SHOWN)
        .map(([name]) => this.words.label(name))
        .sort();
      if (node.dataset.texts === texts.join()) return;
      node.dataset.texts = texts.join();
      node.replaceChildren(...texts.map((text) => element("span", text)));
    });
  }

  // The person at a point of the screen, or null.
  at(event) {
    const { width, height, left, top } = this.place;
    const stage = this.canvas.parentElement.getBoundingClientRect();
    const across = (event.clientX - stage.left - left) / width;
    const u = this.mirrored ? 1 - across : across;
    const v = (event.clientY - stage.top - top) / height;
    return this.people.find(({ box: [x, y, w, h] }) => u >= x && u <= x + w && v >= y && v <= y + h) ?? null;
  }
}

// --- the talk ----------------------------------------------------------------------------------------------------

export class Talk {
  // ask: (question, after) -> a Response with a stream of events; onAnswer: called with the whole answer.
  constructor(words, ask, onAnswer) {
    Object.assign(this, { words, ask, onAnswer, before: null, busy: false });
    $("form").onsubmit = (event) => {
      event.preventDefault();
      const text = $("question").value.trim();
      if (text) this.put(text, text);
      $("question").value = "";
    };
    prepareSpeech(words, (text) => this.put(text, text));
  }

  showChips() {
    $("chips").replaceChildren(...this.words.now.questions.map(({ shown, asked }) => {
      const button = element("button", shown);
      button.onclick = () => this.put(shown, asked);
      return button;
    }));
  }

  clear() {
    this.before = null;
    $("talk").replaceChildren();
  }

  async put(shown, asked) {
    if (this.busy) return;
    this.busy = true;
    const talk = $("talk");
    talk.setAttribute("aria-busy", "true");
    while (talk.children.length > 6) talk.firstChild.remove();
    const line = element("p", "", "answer");
    line.lang = "en";
    talk.append(element("p", shown, "question"), line);
    try {
      const answer = await this.read(await this.ask(asked, FOLLOWS.test(asked) ? this.before : null), line);
      this.before = asked;
      if (answer) this.finish(answer);
    } catch (error) {
      line.lang = this.words.code;
      line.textContent = this.words.say(error.status === 409 || error.status === 404 ? "left" : "busy");
    } finally {
      this.busy = false;
      talk.removeAttribute("aria-busy");
      talk.scrollTop = talk.scrollHeight;
    }
  }

  async read(response, line) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "", answer = null;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return answer;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        if (!part.startsWith("data: ")) continue;
        const data = JSON.parse(part.slice(6));
        if (data.error) throw new ServerError(data.error.code === "camera_not_ready" ? 409 : 503);
        if (data.text) line.textContent += data.text;
        answer = data.answer ?? answer;
        $("talk").scrollTop = $("talk").scrollHeight;
      }
    }
  }

  finish(answer) {
    const { words } = this;
    // What there is first.
    const order = (label) => ["yes", "unsure"].indexOf(label.state) >>> 0;
    const labels = [...answer.labels].sort((a, b) => order(a) - order(b)).slice(0, 4);
    const found = labels.map(({ name, state }) => `${words.label(name)}: ${words.now.states[state]}`);
    if (found.length && words.code !== "en") {
      $("talk").append(element("p", `${words.say("english")} ${words.say("found")}: ${found.join(" · ")}`, "found"));
    }
    this.onAnswer(answer);
  }
}

// Speech to text, where the browser does it on this machine.
async function prepareSpeech(words, onText) {
  const Recognition = window.SpeechRecognition;
  const button = $("speak");
  if (!Recognition?.available || !button) return;
  const state = await Recognition.available({ langs: ["en-US"], processLocally: true }).catch(() => "unavailable");
  if (state !== "available") return;
  button.hidden = false;
  button.onclick = () => {
    const recognition = new Recognition();
    recognition.processLocally = true;
    recognition.lang = "en-US";
    $("question").placeholder = words.say("listening");
    recognition.onresult = (event) => onText(event.results[0][0].transcript);
    recognition.onend = () => { $("question").placeholder = words.say("type"); };
    recognition.start();
  };
}

// Whatever goes wrong, nobody sees it: the page rests, and begins again.
export function guard() {
  const again = () => {
    pause(null);
    setTimeout(() => location.reload(), 5000);
  };
  window.addEventListener("error", again);
  window.addEventListener("unhandledrejection", again);
  document.addEventListener("contextmenu", (event) => event.preventDefault());
}
