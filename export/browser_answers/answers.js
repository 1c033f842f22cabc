// The page of `tledge check --on browser`: every file answers every image. job.json says which files, and in which parts
// the images come; pixels are raw RGB bytes from the server, answers go back part by part.
import { Model, adapterHere, threadsHere } from "./model.js";
import { stayInTouch, tell } from "./tell.js";

async function answer({ artefact, size, provider, parts }) {
  const model = new Model();
  try {
    await model.ask("open", { artefact, size, threads: threadsHere(), provider });
    for (const { address, images } of parts) {
      const response = await fetch(address);
      if (!response.ok) throw new Error("its images are not on the server");
      const pixels = new Uint8Array(await response.arrayBuffer());
      const bytes = pixels.length / images, answers = [];
      for (let i = 0; i < images; i++) {
        const { probabilities } = await model.ask("run", { pixels: pixels.slice(i * bytes, (i + 1) * bytes) });
        answers.push(probabilities);
      }
      await tell({ answers });
    }
  } catch (error) {
    throw new Error(`${artefact.name} cannot be run: ${error.message}`);
  } finally {
    model.close();
  }
}

async function answerAll() {
  for (const job of await (await fetch("job.json")).json()) await answer(job);
  await tell({ result: { adapter: await adapterHere() } });
}

stayInTouch();
answerAll().catch((error) => tell({ error: error.message }));
