// One model in one runtime, in a thread of its own: the page stays responsive, and a model that is dropped takes its
// memory with it. A classic worker, since LiteRT.js loads its WebAssembly with importScripts.
"use strict";

const BASE = new URL(".", self.location.href).href;
let model = null;

// Each runtime: open(bytes, artefact, shape, threads, provider) gives {feed(pixels), invoke(), answer()}; only invoke() is
// timed. The provider "webgpu" computes a whole file or none of it; otherwise WebAssembly does.
const RUNTIMES = {
  async onnxruntime(bytes, artefact, shape, threads, provider) {
    const folder = `${BASE}runtimes/onnxruntime-web/`;
    const gpu = provider === "webgpu";
    const ort = await import(`${folder}${gpu ? "ort-webgpu.js" : "ort.js"}`);
    ort.env.logLevel = "error";
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmPaths = gpu
      ? { mjs: `${folder}ort-webgpu-wasm.js`, wasm: `${folder}ort-wasm-simd-threaded.asyncify.wasm` }
      : { mjs: `${folder}ort-wasm.js`, wasm: `${folder}ort-wasm-simd-threaded.wasm` };
    const session = await ort.InferenceSession.create(bytes, {
      executionProviders: [gpu ? "webgpu" : "wasm"],
      extra: { session: { disable_cpu_ep_fallback: gpu ? "1" : "0" } },
    });
    const [input] = session.inputNames, [output] = session.outputNames;
    let feeds, results;
    return {
      feed(pixels) {
        const values = artefact.input_dtype === "uint8" ? pixels : Float32Array.from(pixels);
        feeds = { [input]: new ort.Tensor(artefact.input_dtype, values, shape) };
      },
      async invoke() {
        results = await session.run(feeds);
      },
      answer: () => results[output].data,
    };
  },

  async litert(bytes, artefact, shape, threads, provider) {
    const folder = `${BASE}runtimes/litert/`;
    const gpu = provider === "webgpu";
    if (gpu) threads = 1; // of WebAssembly, which only hands over what the GPU computes
    const litert = await import(`${folder}index.js`);
    // Threads of WebAssembly load this script again, and would take the worker's own for it.
    const script = `${folder}wasm/litert_wasm_threaded_internal.js`;
    if (threads > 1) self.Module = { mainScriptUrlOrBlob: script, locateFile: (name) => `${folder}wasm/${name}` };
    else self.Module = { locateFile: (name) => `${folder}wasm/${name}` };
    await litert.loadLiteRt(`${folder}wasm/`, { threads: threads > 1 });
    const compiled = await litert.loadAndCompile(bytes, gpu
      ? { accelerator: "webgpu" }
      : { accelerator: "wasm", cpuOptions: { numThreads: threads } });
    if (gpu && !compiled.isFullyAccelerated) throw new Error("LiteRT.js does not say which operators it lacks");
    let fed = null, results = [];
    const drop = () => results.forEach((tensor) => tensor.delete());
    return {
      feed(pixels) {
        fed?.delete();
        fed = new litert.Tensor(artefact.input_dtype === "uint8" ? pixels : Float32Array.from(pixels), shape);
      },
      async invoke() {
        drop(); // tensors are the caller's to delete
        results = [];
        results = await compiled.run([fed]);
        // Copied, since a GPU is done only when its answer is here.
        if (gpu) results = await Promise.all(results.map((tensor) => tensor.moveTo("wasm")));
      },
      answer: () => results[0].toTypedArray(),
    };
  },
};

// Open a file in its runtime and run it once: LiteRT.js finds some operators that it lacks only then.
async function begin(bytes, artefact, shape, threads, provider) {
  const started = performance.now();
  const opened = await RUNTIMES[artefact.runtime](bytes, artefact, shape, threads, provider);
  const loaded = performance.now();
  opened.feed(new Uint8Array(shape.reduce((product, side) => product * side)));
  const first = performance.now();
  await opened.invoke();
  const done = performance.now();
  model = { ...opened, artefact };
  return { load_ms: loaded - started, first_ms: done - first };
}

async function beginOnGpu(...values) {
  if (!(await navigator.gpu?.requestAdapter())) throw new Error("this browser has no adapter for WebGPU");
  try {
    return await begin(...values);
  } catch (error) {
    throw new Error(`WebGPU does not compute all of it: ${reasonOf(error)}`);
  }
}

const CALLS = {
  // Load and run once; times in ms, the digest of the file where the browser tells it (pages from https or this machine).
  async open({ artefact, size, threads, provider }) {
    const [height, width] = Array.isArray(size) ? size : [size, size];
    const response = await fetch(`${BASE}${artefact.file}`);
    if (!response.ok) throw new Error(`${artefact.file} is not on the server (${response.status})`);
    const bytes = new Uint8Array(await response.arrayBuffer());
    const digest = self.crypto.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)) : null;
    const sha256 = digest && [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const how = provider === "webgpu" ? beginOnGpu : begin;
    return { sha256, ...(await how(bytes, artefact, [1, height, width, 3], threads, provider)) };
  },

  // Probabilities of one image, and the ms that they took.
  async run({ pixels }) {
    model.feed(pixels);
    const started = performance.now();
    await model.invoke();
    const ms = performance.now() - started;
    const { output_scale: scale, output_zero_point: zero } = model.artefact;
    return { ms, probabilities: Array.from(model.answer(), (value) => (scale ? (value - zero) * scale : value)) };
  },

  // One round: ms of `samples` measurements, each the mean of `repeats` inferences.
  async measure({ warmup, warmup_ms, samples, repeats }) {
    const until = performance.now() + warmup_ms;
    for (let left = warmup; left > 0 || performance.now() < until; left--) await model.invoke();
    const taken = [];
    for (let i = 0; i < samples; i++) {
      const started = performance.now();
      for (let j = 0; j < repeats; j++) await model.invoke();
      taken.push((performance.now() - started) / repeats);
    }
    return taken;
  },
};

// Runtimes throw errors, numbers (addresses of C++ exceptions) and text.
const reasonOf = (error) => String(error?.message ?? error).trim().split("\n")[0].slice(0, 160);

self.onmessage = async ({ data: { id, call, values } }) => {
  try {
    self.postMessage({ id, value: await CALLS[call](values) });
  } catch (error) {
    self.postMessage({ id, error: reasonOf(error) });
  }
};
