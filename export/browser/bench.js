// Compare every file's answers with those expected, then measure all in turn, round by round. Settings come from the
// address: ?threads=1,2&rounds=10&samples=5&warmup=2&provider=webgpu; with &post the numbers go to the server as well.
import { Model, adapterHere, readKit, threadsHere } from "./model.js";
import { stayInTouch, tell } from "./tell.js";

const WARMUP_MS = 100; // threads that slept start on one core; the system spreads them within that time
const STEPS_PER_SAMPLE = 100; // so that the clock's step is at most a hundredth of a sample

const asked = new URLSearchParams(location.search);
const count = (name, otherwise) => Number(asked.get(name) ?? otherwise);
const settings = { rounds: count("rounds", 10), samples: count("samples", 5), warmup: count("warmup", 2) };
const provider = asked.get("provider") ?? "wasm";
const $ = (id) => document.getElementById(id);

const report = async (message) => { if (asked.has("post")) await tell(message); };

async function progress(what, done, all) {
  $("status").textContent = `${what}: ${done} of ${all}`;
  await report({ progress: [what, done, all] });
}

// Browsers make the clock coarse: 0.005 ms on isolated pages, up to 0.1 and more elsewhere.
function clockStep() {
  let smallest = Infinity;
  for (let changes = 0, last = performance.now(); changes < 100;) {
    const now = performance.now();
    if (now === last) continue;
    smallest = Math.min(smallest, now - last);
    last = now;
    changes++;
  }
  return Number(smallest.toFixed(4));
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

async function open(kit, artefact, threads) {
  const model = new Model();
  try {
    const opened = await model.ask("open", { artefact, size: kit.image_size_px, threads, provider });
    if (opened.sha256 !== null && opened.sha256 !== artefact.sha256) throw new Error("the file is not the one that was packed");
    return { artefact, threads, model, ...opened, samples_ms: [] };
  } catch (error) {
    model.close();
    throw new Error(`${artefact.name} cannot be run: ${error.message}`);
  }
}

async function verify(kit, artefact, { model }) {
  let worst = 0;
  for (const [number, expected] of artefact.expected.entries()) {
    const pixels = new Uint8Array(await (await fetch(kit.images[number].rgb)).arrayBuffer());
    const { probabilities } = await model.ask("run", { pixels });
    const off = Math.max(...expected.map((wanted, index) => Math.abs(wanted - probabilities[index])));
    const [best, second] = [...expected].sort((a, b) => b - a);
    const swapped = probabilities.indexOf(Math.max(...probabilities)) !== artefact.top1[number];
    if (!(off <= artefact.tolerance) || (swapped && best - second > artefact.tolerance)) {
      throw new Error(`${artefact.name} answers otherwise here: one probability is off by ${off.toPrecision(3)}`);
    }
    worst = Math.max(worst, off);
  }
  return { name: artefact.name, images: artefact.expected.length, max_difference: Number(worst.toFixed(6)) };
}

async function measure(kit, threads, step, verified) {
  const running = [];
  try {
    for (const [done, artefact] of kit.artefacts.entries()) {
      await progress(`opening and checking files, ${threads} threads`, done, kit.artefacts.length);
      running.push(await open(kit, artefact, threads));
      verified.set(artefact.name, await verify(kit, artefact, running.at(-1)));
    }
    const round = { ...settings, warmup_ms: WARMUP_MS, repeats: 1 };
    for (const one of running) {
      const guess = median(await one.model.ask("measure", { ...round, samples: 3 }));
      one.repeats = Math.max(1, Math.ceil((STEPS_PER_SAMPLE * step) / Math.max(guess, step)));
    }
    for (let done = 0; done < settings.rounds; done++) {
      await progress(`measuring rounds, ${threads} threads`, done, settings.rounds);
      for (const one of running) {
        one.samples_ms.push(await one.model.ask("measure", { ...round, repeats: one.repeats }));
      }
    }
  } finally {
    for (const { model } of running) model.close();
  }
  return running.map(({ artefact, load_ms, first_ms, repeats, samples_ms }) => (
    { name: artefact.name, sha256: artefact.sha256, threads, load_ms, first_ms, repeats, samples_ms }
  ));
}

function show(results, verified) {
  $("results").hidden = false;
  $("results").tBodies[0].append(...results.map(({ name, threads, samples_ms }) => {
    const row = document.createElement("tr");
    for (const text of [name, threads, median(samples_ms.flat()).toFixed(2), verified.get(name).max_difference]) {
      row.insertCell().textContent = text;
    }
    return row;
  }));
}

async function bench() {
  const kit = await readKit();
  const most = threadsHere();
  const threads = asked.has("threads") ? asked.get("threads").split(",").map(Number) : [most];
  const step = clockStep();
  const adapter = provider === "webgpu" ? await adapterHere() : null;
  $("here").textContent = `${self.crossOriginIsolated ? "" : "Not "}cross-origin isolated: at most ${most} threads; `
    + `the clock has steps of ${step} ms.`;
  if (Math.max(...threads) > most) {
    const why = self.crossOriginIsolated ? "this browser tells of no more cores" : "this page is not cross-origin isolated";
    throw new Error(`${Math.max(...threads)} threads were asked for, but ${why}`);
  }
  const verified = new Map(), results = [];
  for (const number of threads) results.push(...await measure(kit, number, step, verified));
  $("status").textContent = "Done.";
  show(results, verified);
  await report({
    result: {
      user_agent: navigator.userAgent,
      isolated: self.crossOriginIsolated,
      adapter,
      clock_step_ms: step,
      warmup_ms: WARMUP_MS,
      verified: [...verified.values()],
      results,
    },
  });
}

if (asked.has("post")) stayInTouch();
bench().catch(async (error) => {
  $("status").textContent = error.message;
  $("status").classList.add("bad");
  await report({ error: error.message });
});
