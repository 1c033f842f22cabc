// A model of the kit in a worker. At most one call at a time reaches a runtime: the worker answers them in turn.

export class Model {
  #worker = new Worker("model_worker.js");
  #waiting = new Map();
  #calls = 0;

  constructor() {
    this.#worker.onmessage = ({ data: { id, value, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(value);
      else reject(new Error(error));
    };
    this.#worker.onerror = (event) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(event.message || "its worker cannot be loaded"));
      this.#waiting.clear();
    };
  }

  ask(call, values) {
    return new Promise((resolve, reject) => {
      const id = this.#calls++;
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, call, values });
    });
  }

  close() {
    this.#worker.terminate();
  }
}

/** Threads that a model may use here: without cross-origin isolation, browsers share no memory between threads. */
export const threadsHere = () => (self.crossOriginIsolated ? navigator.hardwareConcurrency || 1 : 1);

/** What WebGPU computes on here, such as "nvidia ampere"; null where there is nothing. */
export async function adapterHere() {
  const info = (await navigator.gpu?.requestAdapter())?.info;
  return info ? [info.vendor, info.architecture].filter(Boolean).join(" ") || "not named" : null;
}

/** Both sides of a model's input: kit.json has one number for a square. */
export const heightWidth = (size) => (Array.isArray(size) ? size : [size, size]);

/** The kit's description beside the page. */
export async function readKit() {
  const response = await fetch("kit.json");
  if (!response.ok) throw new Error(`kit.json is not on the server (${response.status}); unpack the kit whole`);
  return response.json();
}
