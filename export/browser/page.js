// The page for people: a picture in, classes and milliseconds out.
import { Model, adapterHere, readKit, threadsHere } from "./model.js";
import { pixelsOf } from "./picture.js";

const SHOWN = 5;
const RUNTIME_NAMES = { onnxruntime: "onnxruntime-web", litert: "LiteRT.js" };
const $ = (id) => document.getElementById(id);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

// What can be chosen: each file in WebAssembly, and where there is a GPU those that it computes.
let kit, choices = [], chosen, model, opening, picture, turn = 0;

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

function openModel() {
  model?.close();
  chosen = choices[$("file").selectedIndex];
  model = new Model();
  opening = model.ask("open", { ...chosen, size: kit.image_size_px, threads: threadsHere() });
  opening.catch(() => {}); // said where it is waited for
}

async function classify() {
  const mine = ++turn; // a later picture or file takes over
  const asked = model, { artefact: file, provider } = chosen;
  $("answer").replaceChildren();
  try {
    say(`Loading ${file.name} (${megabytes(file.size_bytes)})…`);
    await opening;
    if (mine !== turn) return;
    if (!picture) return say("Ready.");
    say("Classifying…");
    const pixels = await pixelsOf(picture, kit.image_size_px, kit.resize);
    const { ms, probabilities } = await asked.ask("run", { pixels });
    if (mine !== turn) return;
    show(probabilities);
    const by = provider === "webgpu" ? "WebGPU" : threadsSaid();
    say(`${file.name} in ${RUNTIME_NAMES[file.runtime]}: ${ms.toFixed(1)} ms, ${by}.`);
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
}

function show(probabilities) {
  const order = probabilities.map((_, index) => index).sort((a, b) => probabilities[b] - probabilities[a]);
  $("answer").replaceChildren(...order.slice(0, SHOWN).map((index) => {
    const percent = `${(100 * probabilities[index]).toFixed(1)} %`;
    const line = document.createElement("li");
    line.style.setProperty("--share", percent.replace(" ", ""));
    line.append(...[kit.labels[index], percent].map((text) => Object.assign(document.createElement("span"), { textContent: text })));
    return line;
  }));
}

function threadsSaid() {
  const threads = threadsHere();
  return `${threads} ${threads === 1 ? "thread" : "threads"}`;
}

function take(file) {
  if (!file) return;
  picture = file;
  URL.revokeObjectURL($("picture").src);
  $("picture").src = URL.createObjectURL(file);
  $("picture").alt = file.name ? `The picture ${file.name}` : "The picture";
  $("picture").hidden = false;
  $("hint").hidden = true;
  classify();
}

function showExamples() {
  $("examples").hidden = kit.images.length === 0;
  $("examples").append(...kit.images.map(({ png, label }) => {
    const button = document.createElement("button");
    button.append(Object.assign(document.createElement("img"), { src: png, alt: `Example: ${label}` }));
    button.addEventListener("click", async () => take(new File([await (await fetch(png)).blob()], label)));
    return button;
  }));
}

function listen() {
  for (const id of ["choose", "photograph"]) {
    $(id).addEventListener("change", (event) => {
      take(event.target.files[0]);
      event.target.value = ""; // the same file may be chosen again
    });
  }
  $("file").addEventListener("change", () => {
    openModel();
    classify();
  });
  // Anywhere on the page: a picture dropped beside the box would replace the page.
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
  document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
}

async function begin() {
  kit = await readKit();
  $("classes").textContent = `Tells apart: ${kit.labels.join(", ")}.`;
  const adapter = await adapterHere();
  choices = kit.artefacts.map((artefact) => ({ artefact, provider: "wasm" }));
  if (adapter) {
    choices.push(...kit.artefacts.filter(({ webgpu }) => webgpu).map((artefact) => ({ artefact, provider: "webgpu" })));
  }
  $("file").append(...choices.map(({ artefact: { name, runtime, size_bytes: size }, provider }) => new Option(
    `${name} (${RUNTIME_NAMES[runtime]}${provider === "webgpu" ? " on WebGPU" : ""}, ${megabytes(size)})`,
  )));
  const isolation = self.crossOriginIsolated
    ? `Cross-origin isolated: ${threadsSaid()}.`
    : "One thread: the server does not isolate this page (see README.md).";
  $("here").textContent = adapter ? `${isolation} WebGPU: ${adapter}.` : isolation;
  showExamples();
  listen();
  openModel();
  await classify();
}

begin().catch((error) => say(error.message, true));
